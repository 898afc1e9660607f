"""The mean teacher: an average of the student over its steps, with which the student is to agree.

Sources: Tarvainen & Valpola (NeurIPS 2017); AgriFM (arXiv 2505.21357), which pretrains with it against the noise of maps.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import nn

from pretrain.data.batch import Batch, orient
from pretrain.objective.model import MAP, LandCoverModel, Prediction


class MeanTeacher:
    """Exponential moving average of the student's weights. It sees samples without flips, rotations and stochastic depth.

    Attributes:
        average: the model with the averaged weights, fp32, as bf16 would lose small steps to rounding.
        model: the model that computes: `average`, or a copy of it in the precision of training.
    """

    def __init__(self, student: LandCoverModel, decay: float, dtype: torch.dtype = torch.float32):
        self.average = copy.deepcopy(student).float().eval().requires_grad_(False)
        self.model = self.average if dtype == torch.float32 else copy.deepcopy(self.average).to(dtype)
        self.decay = decay

    @torch.no_grad()
    def update(self, student: nn.Module, step: int) -> None:
        """Set weights = decay * weights + (1 - decay) * student's weights, after optimizer step `step` (from 0).

        Also after a step that was skipped: the student is then the one of the step before, and the decay depends on the step
        alone, so a run that resumes has the same teacher.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        for mine, theirs in zip(self.average.parameters(), student.parameters(), strict=True):
            mine.lerp_(theirs.to(mine.dtype), 1 - decay)
        self._refresh()

    def load_state_dict(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Load averaged weights, by the names of `LandCoverModel`."""
        self.average.load_state_dict(dict(weights))
        self._refresh()

    @torch.no_grad()
    def __call__(self, pixels: torch.Tensor, source: str) -> Prediction:
        """What the averaged model predicts for normalised pixels (B, T, C, H, W); see `LandCoverModel.forward`."""
        return self.model(pixels.to(self.model.head.weight.dtype), source)

    @torch.no_grad()
    def features(self, pixels: torch.Tensor, source: str) -> torch.Tensor:
        """Features float32 (B, C) of normalised pixels (B, T, C, H, W)."""
        return self.model.features(pixels.to(self.model.head.weight.dtype), source).float()

    @torch.no_grad()
    def distance(self, student: nn.Module) -> float:
        """Distance of the averaged weights from the student's: ||average - student|| / ||student||, L2 over all parameters."""
        pairs = zip(student.parameters(), self.average.parameters(), strict=True)
        norms = [torch.stack(((t.float() - s.float()).norm(), s.float().norm())) for s, t in pairs]
        distance, size = torch.stack(norms).double().norm(dim=0).tolist()
        return float(distance / size)

    @torch.no_grad()
    def _refresh(self) -> None:
        if self.model is not self.average:
            for run, averaged in zip(self.model.parameters(), self.average.parameters(), strict=True):
                run.copy_(averaged)


def views(
    batch: Batch,
    mean: torch.Tensor,
    std: torch.Tensor,
    limits: torch.Tensor | None = None,
    num_frames: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two views of a batch: normalised pixels for the student, flipped and rotated, and for the teacher, unchanged.

    `num_frames`: frames of a view, default: all. The student's are the first ones of the batch, the teacher's the last ones; they
    are the same unless the batch holds two draws (`--stream.teacher_dates own`).
    """
    pixels, frames = batch.normalized(mean, std, limits), num_frames or batch.pixels.shape[1]
    return orient(pixels[:, :frames], batch.orientation), pixels[:, -frames:]


def as_student_sees(taught: Prediction, batch: Batch) -> Prediction:
    """What the teacher said of its view, turned to the student's: the map is flipped and rotated as the student's pixels."""
    return taught | {MAP: orient(taught[MAP], batch.orientation)} if MAP in taught else taught
