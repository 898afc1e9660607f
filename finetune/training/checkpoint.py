"""Checkpoints of a fine-tuning run: the newest and the one before it, each with its checksum.

    RUN/last_epoch.pt, RUN/previous_epoch.pt      the bytes of torch.save, then their XXH3 checksum of 16 bytes

Loading a checkpoint executes no code from the file.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import nn

from common.atomic_files import whole_file

NEWEST_CHECKPOINT = "last_epoch.pt"
PREVIOUS_CHECKPOINT = "previous_epoch.pt"
_CHECKSUM_BYTES = 16


@dataclass
class Progress:
    """How far the training of a fine-tuning run has come.

    Attributes:
        epoch: finished epochs.
        best_epoch: the best epoch so far, counted from 1; 0 before the first.
        best: validation scores of the best epoch.
        history: loss and scores of each finished epoch.
        losses: loss of each finished step of the unfinished epoch; empty between two epochs.
        skipped_steps: steps whose gradient was not finite, so that they changed nothing; they count as finished.
        skipped_in_a_row: how many of them came last.
    """

    epoch: int = 0
    best_epoch: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    skipped_steps: int = 0
    skipped_in_a_row: int = 0


def save_checkpoint(output: Path, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write a checkpoint of a fine-tuning run into `output`, and keep the one before it.

    Killed at any moment, it leaves at least one whole checkpoint.
    """
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": json.dumps(vars(progress))}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with whole_file(output / NEWEST_CHECKPOINT) as temporary:
        with temporary.open("wb") as file:
            file.write(buffer.getbuffer())
            file.write(xxhash.xxh3_128(buffer.getbuffer()).digest())
        if (output / NEWEST_CHECKPOINT).exists():
            (output / NEWEST_CHECKPOINT).replace(output / PREVIOUS_CHECKPOINT)


def load_newest_checkpoint(output: Path, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> Progress:
    """Load the newest whole checkpoint of a fine-tuning run into model and optimizer; without any, return a fresh Progress.

    Names a damaged checkpoint and uses the one before it. Raises ValueError when all are damaged, or when one belongs to another
    model.
    """
    found = [path for path in (output / NEWEST_CHECKPOINT, output / PREVIOUS_CHECKPOINT) if path.is_file()]
    for path in found:
        content = path.read_bytes()
        payload, checksum = memoryview(content)[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
        if xxhash.xxh3_128(payload).digest() != checksum:
            print(f"checkpoint {path} is damaged and is not used: its checksum is wrong", flush=True)
            continue
        try:
            state = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
            _check_groups(state["optimizer"]["param_groups"], optimizer)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            progress = Progress(**json.loads(state["progress"]))
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} does not continue this run ({error}); start again in another --output") from error
        after = f" and {len(progress.losses)} steps" if progress.losses else ""
        print(f"continuing after epoch {progress.epoch}{after}", flush=True)
        return progress
    if found:
        raise ValueError(f"every checkpoint in {output} is damaged; remove the folder, or start again in another --output")
    return Progress()


def _check_groups(stored: list[dict[str, Any]], optimizer: torch.optim.Optimizer) -> None:
    """Raises ValueError unless the stored groups of weights are those of `optimizer`, which would take their rates over."""
    found, expected = (
        [(len(group["params"]), group.get("scale"), group.get("weight_decay")) for group in groups]
        for groups in (stored, optimizer.param_groups)
    )
    if found != expected:
        raise ValueError(
            "its optimizer has other groups of weights: they are (number, factor of the learning rate, weight decay) "
            f"{found}, now {expected}; versions before weight decay spared norms and biases had others, and a run is resumed by "
            "the version that began it"
        )
