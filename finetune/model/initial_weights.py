"""The weights that fine-tuning starts from (`--checkpoint`): their identity, whether they fit the task, which are taken over."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from common.hub import HubPath, ModelPath
from data_prep.archive.sensor import Sensor
from finetune.model.crop_mapper import CropMapper
from finetune.task import Task
from pretrain.model import MapDecoder, VideoSwin
from pretrain.model.encoder_files import ENCODER_FILE, weights_file


def check_bands(encoder: VideoSwin, task: Task, sensors: Mapping[str, Sensor], checkpoint: ModelPath) -> None:
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


def check_decoder(decoder: MapDecoder, task: Task, channels: int, pixel_channels: int, checkpoint: ModelPath) -> None:
    """Raises ValueError unless the task's decoder would have the shape of the pretrained one."""
    wanted = {"--override.frames": task.frames, "--decoder.channels": channels, "--decoder.skip_channels": pixel_channels}
    there = decoder.config.frames, decoder.config.channels, decoder.config.pixel_channels
    wrong = [
        f"{option} {has} instead of {value}" for (option, value), has in zip(wanted.items(), there, strict=True) if has != value
    ]
    if wrong:
        raise ValueError(
            f"the decoder of checkpoint {checkpoint} has another shape; take it over with {', '.join(wrong)}, "
            "or begin with a new one, --decoder.kind fusion"
        )


def take_over(decoder: MapDecoder, model: CropMapper) -> None:
    """Copy the weights of a pretrained decoder into a model with a map decoder, all but the last layer, which is the task's.

    Both have the same shape but for the classes; the model may have fewer sources.
    """
    ours, last = model.decoder.state_dict(), f"head.{len(decoder.head) - 1}."
    model.decoder.load_state_dict(
        {name: weight if name.startswith(last) else decoder.state_dict()[name] for name, weight in ours.items()}
    )


def fingerprint(checkpoint: ModelPath | None) -> str | None:
    """SHA-256 of the checkpoint's file, so that a run cannot resume with other weights under the same path; None without one.

    Raises ValueError when there is no such file, and what `common.hub.fetch` raises.
    """
    if checkpoint is None:
        return None
    if isinstance(checkpoint, HubPath):
        file = weights_file(checkpoint)
    else:
        file = checkpoint / ENCODER_FILE if checkpoint.is_dir() else checkpoint
    if not file.is_file():
        raise ValueError(f"no encoder at {file}: give a finished pretraining run, an encoder.safetensors or AgriFM.pth")
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
