"""Whether optimizer steps were taken, found out when the host waits for the device anyway and not after each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from common import ranks
from common.json_files import write_json
from pretrain.log.skipped_steps import SKIPPED_STEPS_FILE, list_skipped_step
from pretrain.setup import TrainingRun

MOST_SKIPPED_IN_A_ROW = 20


@dataclass(frozen=True)
class _Step:
    """A step that has not been checked.

    Attributes:
        number: from 0.
        micro_batches: source and keys of this rank's share of each micro-batch.
        losses: of these, (micro-batches,), on the device.
        gradient_norm: of all ranks; it is not finite when the step was skipped. Maybe a scalar on the device.
    """

    number: int
    micro_batches: Sequence[tuple[str, list[str]]]
    losses: torch.Tensor
    gradient_norm: torch.Tensor | float


class StepChecks:
    """Remembers the results of optimizer steps until they are checked, which waits for the device.

    No rank takes a step whose loss or gradient is not finite; that is decided without this class (`pretrain.engine.wrap`). Here
    such steps are counted and listed, and they end the run if they must.
    """

    def __init__(self, run: TrainingRun) -> None:
        self._run = run
        self._unchecked: list[_Step] = []

    def add(self, number: int, micro_batches: Sequence[tuple[str, list[str]]], losses: torch.Tensor) -> None:
        """Remember the step that was just done. `losses`: of this rank's share of each micro-batch, on the device."""
        self._unchecked.append(_Step(number, micro_batches, losses, self._run.engine.get_global_grad_norm()))

    def check(self) -> None:
        """Check the steps since the last call. Every rank calls this after the same step.

        Raises FloatingPointError on all ranks: when any rank's loss was NaN or infinite, after writing the keys of the batches;
        and after `MOST_SKIPPED_IN_A_ROW` skipped steps, as such a run learns nothing.
        """
        steps, self._unchecked = self._unchecked, []
        if not steps:
            return
        losses = torch.stack([step.losses for step in steps]).tolist()
        is_bad = ranks.any_rank([not all(map(math.isfinite, of_step)) for of_step in losses])
        for step, of_step, has_bad_loss in zip(steps, losses, is_bad, strict=True):
            if not has_bad_loss and math.isfinite(step.gradient_norm):
                self._run.skipped_in_a_row = 0
                continue
            micro_batches = ranks.gather([
                {"source": source, "loss": repr(loss), "keys": keys}
                for (source, keys), loss in zip(step.micro_batches, of_step, strict=True)
            ])  # fmt: skip
            if has_bad_loss:
                self._end(step.number, micro_batches)
            self._count_skipped(step.number, micro_batches)

    def _end(self, step: int, micro_batches: list[list[dict[str, object]]]) -> None:
        path = self._run.config.output / f"non_finite_step_{step}.json"
        if self._run.is_main:
            write_json(path, {"step": step, "ranks": micro_batches})
        raise FloatingPointError(f"the loss of step {step} is not finite; no rank took the step; the batches' keys are in {path}")

    def _count_skipped(self, step: int, micro_batches: list[list[dict[str, object]]]) -> None:
        run = self._run
        run.skipped_steps += 1
        run.skipped_in_a_row += 1
        if run.is_main:
            list_skipped_step(run.config.output, step + 1, micro_batches)
        if run.skipped_in_a_row == MOST_SKIPPED_IN_A_ROW:
            raise FloatingPointError(
                f"{MOST_SKIPPED_IN_A_ROW} steps in a row were skipped, up to step {step + 1}: their gradients were not finite; "
                f"look at the samples in {run.config.output / SKIPPED_STEPS_FILE}, or lower the learning rate"
            )
