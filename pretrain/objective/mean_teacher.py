"""The mean teacher: an average of the student over its steps, with which the student is to agree.

Sources: Tarvainen & Valpola (NeurIPS 2017); AgriFM (arXiv 2505.21357), which pretrains with it against the noise of maps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from common import ranks
from pretrain.data.batch import Batch, normalize, orient
from pretrain.model.weight_shards import WeightShards
from pretrain.objective.model import MAP, LandCoverModel, Prediction


class MeanTeacher:
    """Exponential moving average of the student's weights. It sees samples without flips, rotations and stochastic depth.

    The average is that of the fp32 weights of the optimizer: a step that is small against its weight is lost in bf16. Each rank
    averages the pieces that its optimizer updates; only the model that computes is whole.

    Attributes:
        model: the model that computes, with the averaged weights in the precision of training.
        average: this rank's pieces of the averaged weights, float32, like the pieces of `student`.

    Args:
        model: a copy of the student in the precision of training, which becomes the teacher's model.
        student: the student's weights. Every rank gives its own pieces.
        decay: of the average, per step; see `update`.
    """

    def __init__(self, model: LandCoverModel, student: WeightShards, decay: float) -> None:
        self.model = model.eval().requires_grad_(False)
        self.average = [piece.clone() for piece in student.pieces]
        self._student, self._decay, self._refresh_model = student, decay, student.refresher(model)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Set weights = decay * weights + (1 - decay) * student's weights, after optimizer step `step` (from 0).

        Also after a step that was skipped: the student is then the one of the step before, and the decay depends on the step
        alone, so a run that resumes has the same teacher. Every rank calls this.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.average, self._student.pieces, 1 - decay)
        self._refresh_model(self.average)

    @torch.no_grad()
    def load(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Set the average to whole weights, by the names of `LandCoverModel`. Every rank calls this."""
        for piece, loaded in zip(self.average, self._student.cut(weights), strict=True):
            piece.copy_(loaded)
        self._refresh_model(self.average)

    @torch.no_grad()
    def gather(self) -> dict[str, torch.Tensor]:
        """The whole averaged weights by name, float32 on the CPU of rank 0; other ranks get nothing. Every rank calls this."""
        is_main = ranks.rank_and_world_size()[0] == 0
        whole = self._student.gather(self.average, self._device)
        return {name: weight.to("cpu", copy=True) for name, weight in whole if is_main}

    @torch.no_grad()
    def __call__(self, pixels: torch.Tensor, source: str) -> Prediction:
        """What the averaged model predicts for normalised pixels (B, T, C, H, W); see `LandCoverModel.forward`."""
        return self.model(pixels.to(self.model.head.weight.dtype), source)

    @torch.no_grad()
    def features(self, pixels: torch.Tensor, source: str) -> torch.Tensor:
        """Features float32 (B, C) of normalised pixels (B, T, C, H, W)."""
        return self.model.features(pixels.to(self.model.head.weight.dtype), source).float()

    @torch.no_grad()
    def distance(self) -> float:
        """Distance of the averaged weights from the student's: ||average - student|| / ||student||, L2 over all parameters.

        Every rank calls this. It waits for the device.
        """
        pairs = zip(self.average, self._student.pieces, strict=True)
        norms = [torch.stack(((mine - theirs).norm(), theirs.norm())).double() for mine, theirs in pairs]
        squares = torch.stack([torch.zeros(2, dtype=torch.float64, device=self._device), *(n.to(self._device) for n in norms)])
        distance, size = ranks.sum_over_ranks(squares.square().sum(dim=0)).sqrt().tolist()
        return float(distance / size)

    @property
    def _device(self) -> torch.device:
        return self.model.head.weight.device


Normalize = Callable[..., torch.Tensor]  # `pretrain.data.batch.normalize`, or that compiled


def views(
    batch: Batch,
    mean: torch.Tensor,
    std: torch.Tensor,
    limits: torch.Tensor | None = None,
    num_frames: int | None = None,
    dtype: torch.dtype = torch.float32,
    normalize: Normalize = normalize,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two views of a batch: normalised pixels for the student, flipped and rotated, and for the teacher, unchanged.

    `num_frames`: frames of a view, default: all. The student's are the first ones of the batch, the teacher's the last ones; they
    are the same unless the batch holds two draws (`--stream.teacher_dates own`). `dtype`: of both.
    """
    frames, statistics = num_frames or batch.pixels.shape[1], (mean, std, limits, dtype)
    pixels, valid = batch.pixels[:, -frames:], batch.valid[:, -frames:]
    # Integers are turned, which are half as large as float32.
    of_student = [orient(images[:, :frames], batch.orientation) for images in (batch.pixels, batch.valid)]
    return normalize(*of_student, *statistics), normalize(pixels, valid, *statistics)


def as_student_sees(taught: Prediction, batch: Batch) -> Prediction:
    """What the teacher said of its view, turned to the student's: the map is flipped and rotated as the student's pixels."""
    return taught | {MAP: orient(taught[MAP], batch.orientation)} if MAP in taught else taught
