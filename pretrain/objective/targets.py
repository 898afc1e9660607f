"""Targets: from the land cover of a batch to the classes that the model predicts."""

from __future__ import annotations

import numpy as np
import torch

from data_prep.corpus.dataset import Corpus
from data_prep.landcover.legend import Legend, load_legend
from data_prep.landcover.sample_map import NOT_MAPPED
from pretrain.data.batch import Batch, orient
from pretrain.objective.model import FRACTIONS, MAP, Prediction


class LandCoverTargets:
    """Fine land-cover codes -> shares of the classes to predict, the same classes for every legend of the corpus.

    Batches must lie on the device of the targets: the CPU, or the one of `to`.

    Args:
        corpus: its legends.
        groupings: for a legend of the corpus, the name or path of another legend that groups the same codes differently.
        has_map: whether the targets hold the map.

    Raises ValueError when a grouping does not fit the corpus, or when the legends have different classes.
    """

    def __init__(self, corpus: Corpus, groupings: dict[str, str], has_map: bool = False):
        legends = {name: load_legend(groupings[name]) if name in groupings else legend for name, legend in corpus.legends.items()}
        unknown = sorted(set(groupings) - set(corpus.legends))
        if unknown:
            raise ValueError(f"groupings name legends {unknown}, but the corpus has {sorted(corpus.legends)}")
        for name, legend in legends.items():
            if legend.codes != corpus.legends[name].codes:
                raise ValueError(f"the grouping {groupings[name]} lists other codes than legend {name} of the corpus")
        self.legend: Legend = next(iter(legends.values()))
        for name, legend in legends.items():
            if legend.classes != self.legend.classes:
                raise ValueError(
                    f"legend {name} groups into {list(legend.classes)}, {self.legend.name} into {list(self.legend.classes)}; "
                    "give groupings with equal classes (--objective.groupings)"
                )
        self.legends = legends
        self._has_map = has_map
        self._matrices = {n: torch.from_numpy(g.grouping_matrix()).float() for n, g in legends.items()}
        self._shares_of_code = {n: torch.from_numpy(_shares_of_code(g)) for n, g in legends.items()}

    def to(self, device: torch.device) -> LandCoverTargets:
        """These targets, with their matrices on the device of the batches."""
        for matrices in (self._matrices, self._shares_of_code):
            matrices |= {name: matrix.to(device) for name, matrix in matrices.items()}
        return self

    @property
    def classes(self) -> tuple[str, ...]:
        return self.legend.classes

    def __call__(self, batch: Batch) -> Prediction:
        """`fractions`: float32 (B, classes), which sum to 1; if asked for `map`: float32 (B, classes, H, W).

        The map holds the shares of the classes in each pixel of the batch, turned as the student sees them; they sum to 1, or
        to 0 where nothing is mapped.
        """
        grouped = batch.land_cover.float() @ self._matrices[batch.legend].T
        targets = {FRACTIONS: grouped / grouped.sum(dim=-1, keepdim=True).clamp_min(1)}
        if self._has_map:
            targets[MAP] = orient(self._map(batch), batch.orientation)
        return targets

    def _map(self, batch: Batch) -> torch.Tensor:
        """Shares of the classes in each pixel, float32 (B, classes, H, W)."""
        codes = batch.land_cover_map
        assert codes is not None, "setting up the run checks that the corpus has maps"
        if codes.ndim == 4:  # counts of each code
            counts = torch.einsum("bfhw,cf->bchw", codes.float(), self._matrices[batch.legend])
            return counts / counts.sum(dim=1, keepdim=True).clamp_min(1)
        return self._shares_of_code[batch.legend][codes.long()].movedim(-1, 1)


def _shares_of_code(legend: Legend) -> np.ndarray:
    """Shares of the classes for each number in a map: float32 (256, classes), zeros for what is no position in the legend."""
    shares = np.zeros((NOT_MAPPED + 1, len(legend.classes)), np.float32)
    shares[: len(legend.codes)] = legend.grouping_matrix().T
    return shares
