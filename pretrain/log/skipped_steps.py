"""The list of optimizer steps that were skipped because the gradient was not finite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.json_files import append_json_lines, keep_lines_until, without_nan

SKIPPED_STEPS_FILE = "skipped_steps.jsonl"


def forget_skipped_steps_after(output: Path, step: int) -> None:
    """Remove the steps after `step` from the list, as a run that resumes after `step` takes them again."""
    keep_lines_until(output / SKIPPED_STEPS_FILE, step)


def list_skipped_step(output: Path, step: int, micro_batches: Sequence[Sequence[dict[str, Any]]]) -> None:
    """Append a step to the list in the run's folder, and print it.

    Args:
        output: folder of the run.
        step: number of the step, from 1.
        micro_batches: by rank, then by micro-batch, the source, loss and keys of its samples.
    """
    path = output / SKIPPED_STEPS_FILE
    append_json_lines(path, [without_nan({"step": step, "ranks": micro_batches})])
    sources = ", ".join(dict.fromkeys(str(each["source"]) for each in micro_batches[0]))
    print(
        f"step {step} was skipped: its losses are finite, its gradient is not; sources {sources}; samples' keys are in {path}",
        flush=True,
    )
