"""A training step on meta tensors, whose kernels and bytes are counted by part."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import torch

from pretrain.data.batch import Batch, normalize
from pretrain.model import EncoderConfig, build_encoder
from pretrain.model.weight_shards import WeightShards
from pretrain.objective.losses import LossWeights, land_cover_loss
from pretrain.objective.mean_teacher import MeanTeacher, as_student_sees, views
from pretrain.objective.model import FRACTIONS, LandCoverModel, Prediction
from tests.support.counted_kernels import KernelCounter, attention_in, bytes_of

CLASSES = 8
META = torch.device("meta")
STAGES = tuple(f"stage {number}" for number in (1, 2, 3, 4))
MODEL = ("patch embedding", *STAGES, "head")
BESIDE_THE_MODEL = ("views", "loss", "teacher's update")
PARTS = (
    "views",
    *(f"{part}, teacher" for part in MODEL),
    *(f"{part}, forward" for part in MODEL),
    "loss",
    *(f"{part}, backward" for part in reversed(MODEL)),
    "teacher's update",
)


def batch_of(source: str, pixels: tuple[int, int, int, int, int]) -> Batch:
    """A batch of B samples (B, T, C, H, W) without numbers."""
    size, frames, _, rows, cols = pixels
    with META:
        return Batch(
            source=source,
            legend="none",
            keys=[str(number) for number in range(size)],
            digests=[0] * size,
            pixels=torch.empty(pixels, dtype=torch.uint16),
            valid=torch.empty(size, frames, rows, cols, dtype=torch.bool),
            dates=torch.empty(size, frames, dtype=torch.int32),
            day_of_year=torch.empty(size, frames, dtype=torch.int16),
            land_cover=torch.empty(size, CLASSES, dtype=torch.int64),
            orientation=torch.empty(size, dtype=torch.uint8),
            usable=torch.empty(size, dtype=torch.bool),
        )


def count_step(
    config: EncoderConfig,
    source: str,
    pixels: tuple[int, int, int, int, int],
    dtype: torch.dtype,
    kernels: bool,
    is_normalize_fused: bool = False,
) -> KernelCounter:
    """Count a step of student and teacher on the fractions of a batch (B, T, C, H, W), and the teacher's update.

    The counter's parts are `PARTS`. What AdamW and DeepSpeed do with the gradients is not counted.

    Args:
        config: shape of the encoder.
        source: one of its sources.
        pixels: B, T, C, H and W.
        dtype: of weights and activations.
        kernels: attention in the kernels of `cuda.py`, else in the operators of `cpu.py`.
        is_normalize_fused: whether `normalize` is one kernel, as torch.compile makes of it.
    """
    with META:
        masters = LandCoverModel(build_encoder(config), CLASSES)
        student = copy.deepcopy(masters).to(dtype).train()
        teacher = MeanTeacher(copy.deepcopy(student), WeightShards.whole(masters), 0.99)
        statistics = torch.empty(pixels[2]), torch.empty(pixels[2])
        target = {FRACTIONS: torch.empty(pixels[0], CLASSES)}
    batch, counter = batch_of(source, pixels), KernelCounter()
    _follow(student, counter, "forward", "backward")
    _follow(teacher.model, counter, "teacher", None)
    with attention_in(kernels), mock.patch.object(torch, "is_autocast_enabled", return_value=False):  # does not know meta
        with KernelCounter():  # makes the layouts of windows and their tables, which are kept
            teacher(batch.pixels, source)
        normalized_by = partial(_fused, counter) if is_normalize_fused else normalize
        _count_into(
            counter, student, teacher, partial(views, batch, *statistics, None, None, dtype, normalized_by), batch, target
        )
    return counter


def _fused(counter: KernelCounter, pixels: torch.Tensor, valid: torch.Tensor, *others: Any) -> torch.Tensor:
    """Take the place of `normalize`: one kernel that reads integers and writes `others[-1]`."""
    normalized = torch.empty(pixels.shape, dtype=others[-1], device=META)
    counter.count("normalize", 1, bytes_of(pixels) + bytes_of(valid) + bytes_of(normalized))
    return normalized


def _count_into(
    counter: KernelCounter,
    student: LandCoverModel,
    teacher: MeanTeacher,
    views_of_batch: Callable[[], tuple[torch.Tensor, torch.Tensor]],
    batch: Batch,
    target: Prediction,
) -> None:
    source = batch.source
    with counter:
        counter.part = "views"
        for_student, for_teacher = views_of_batch()
        taught = as_student_sees(teacher(for_teacher, source), batch)
        predicted = student(for_student, source)
        loss, *_ = land_cover_loss(predicted, target, taught, LossWeights(consistency_weight=1.0), batch.usable)
        loss.backward()
        counter.part = "teacher's update"
        teacher.update(0)


def _follow(model: LandCoverModel, counter: KernelCounter, forward: str, backward: str | None) -> None:
    """Let the counter know which part of the model runs: by hooks of modules, backward by hooks of their results."""

    def begin(part: str) -> Callable[..., None]:
        def set_part(*_: object) -> None:
            counter.part = part

        return set_part

    encoder = model.encoder
    modules = encoder.patch_embeds, *encoder.stages
    for name, following, module in zip(MODEL, MODEL[1:], modules, strict=False):
        module.register_forward_pre_hook(begin(f"{name}, {forward}"))

        def after(_: object, __: object, out: torch.Tensor, following: str = following, name: str = name) -> None:
            counter.part = f"{following}, {forward}"
            if backward is not None:
                out.register_hook(begin(f"{name}, {backward}"))

        module.register_forward_hook(after)

    def after_head(_: object, __: object, out: torch.Tensor) -> None:
        counter.part = "loss"
        if backward is not None:
            out.register_hook(begin(f"head, {backward}"))

    model.head.register_forward_hook(after_head)
