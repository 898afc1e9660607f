"""What a mapping task is for series of single pixels."""

from __future__ import annotations

from dataclasses import replace

from finetune.task import Task


def pixel_task(task: Task, patch_px: int) -> Task:
    """The task with windows of one pixel.

    A patch of the encoder is `patch_px` x `patch_px` pixels. So the pixels of each source are repeated that often along rows and
    columns, and the encoder gets one patch, in which the series of the point fills all pixels. Models without patches get the
    pixel itself, with `patch_px` 1.
    """
    upsample = {} if patch_px == 1 else dict.fromkeys(task.sources, patch_px)
    return replace(task, window_px=1, upsample=upsample)
