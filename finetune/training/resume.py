"""How far a training is; the checkpoint from which it goes on, and the one before it, each with its checksum.

    RUN/last_epoch.pt, RUN/previous_epoch.pt      what torch.save writes, then 16 bytes: the XXH3 checksum of all before

Nothing in a file is executed when it is read.
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

LAST_EPOCH_FILE = "last_epoch.pt"
PREVIOUS_EPOCH_FILE = "previous_epoch.pt"
_CHECKSUM_BYTES = 16


@dataclass
class Progress:
    """How far a training is: epochs done, the best so far and its validation scores, each epoch's numbers.

    Attributes:
        losses: of the steps of an epoch that was begun; none between two epochs.
    """

    epoch: int = 0
    best_epoch: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def save_newest(output: Path, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the checkpoint of a training in `output`; the one before stays. A kill at any moment leaves one that is whole."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": json.dumps(vars(progress))}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with whole_file(output / LAST_EPOCH_FILE) as temporary:
        with temporary.open("wb") as file:
            file.write(buffer.getbuffer())
            file.write(xxhash.xxh3_128(buffer.getbuffer()).digest())
        if (output / LAST_EPOCH_FILE).exists():
            (output / LAST_EPOCH_FILE).replace(output / PREVIOUS_EPOCH_FILE)


def load_newest(output: Path, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> Progress:
    """Load the newest checkpoint in `output` that is whole into model and optimizer; a fresh Progress where there is none.

    A damaged one is named and passed over. Raises ValueError when all are damaged, or one belongs to another model.
    """
    found = [path for path in (output / LAST_EPOCH_FILE, output / PREVIOUS_EPOCH_FILE) if path.is_file()]
    for path in found:
        content = path.read_bytes()
        payload, checksum = memoryview(content)[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
        if xxhash.xxh3_128(payload).digest() != checksum:
            print(f"checkpoint {path} is damaged and passed over: it is not as it was written", flush=True)
            continue
        try:
            state = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            progress = Progress(**json.loads(state["progress"]))
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} does not continue this run ({error}); start again in another --output") from error
        after = f" and {len(progress.losses)} steps" if progress.losses else ""
        print(f"continuing after epoch {progress.epoch}{after}", flush=True)
        return progress
    if found:
        raise ValueError(f"no checkpoint in {output} is as it was written; remove the folder, or start again in another --output")
    return Progress()
