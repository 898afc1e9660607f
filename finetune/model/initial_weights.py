"""The encoder weights that fine-tuning starts from (`--checkpoint`): their identity, and whether they fit the task."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from data_prep.archive.sensor import Sensor
from finetune.task import Task
from pretrain.model import VideoSwin
from pretrain.model.encoder_files import ENCODER_FILE


def check_bands(encoder: VideoSwin, task: Task, sensors: Mapping[str, Sensor], checkpoint: Path) -> None:
    """Raises ValueError unless the encoder has every source of the task, with the same number of bands."""
    for source in task.sources:
        bands = encoder.config.sources.get(source)
        if bands is None:
            raise ValueError(
                f"checkpoint {checkpoint} was pretrained on {', '.join(encoder.config.sources)}, not on {source}; "
                "choose sources with --override.sources"
            )
        if bands != len(sensors[source].bands):
            raise ValueError(
                f"checkpoint {checkpoint} knows {source} with {bands} bands; here it has {len(sensors[source].bands)} "
                f"({', '.join(sensors[source].bands)})"
            )


def fingerprint(checkpoint: Path | None) -> str | None:
    """SHA-256 of the checkpoint's file, so that a run cannot resume with other weights under the same path; None without one.

    Raises ValueError when there is no such file.
    """
    if checkpoint is None:
        return None
    file = checkpoint / ENCODER_FILE if checkpoint.is_dir() else checkpoint
    if not file.is_file():
        raise ValueError(f"no encoder at {file}: give a finished pretraining run, an encoder.safetensors or AgriFM.pth")
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
