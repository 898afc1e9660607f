"""The encoder of a run that goes on or was ended early: `python -m pretrain.export runs/agrifm encoder.safetensors`.

A run that is done has its `encoder.safetensors` already; this writes the same file from the newest checkpoint that is whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from safetensors import safe_open

from common.command_line import run_command
from pretrain.checkpoint import CHECKPOINTS, finished_steps, newest_good, step_of
from pretrain.model import EncoderConfig, VideoSwin, build_encoder, load_encoder, save_encoder

_PREFIX = "encoder."  # of the encoder's weights in a FractionsModel


def export(run: Path, output: Path, step: int | None = None, weights: Literal["teacher", "student"] = "teacher") -> None:
    """Write the encoder of a pretraining run's newest good checkpoint as one safetensors file.

    Args:
        run: folder of the run; it may be going on.
        output: file to write, ending in .safetensors.
        step: take the checkpoint after this optimizer step instead of the newest.
        weights: the moving average, which a finished run exports, or the weights that were trained.

    Raises:
        ValueError: no run, no (such) checkpoint that is whole, or an output that is no .safetensors.
        OSError: the output cannot be written.
    """
    if output.suffix != ".safetensors":
        raise ValueError(f"output is {output}; expected a name that ends in .safetensors, by which load_encoder knows it")
    folder = run / CHECKPOINTS
    if not folder.is_dir():
        raise ValueError(f"no checkpoints in {run}; expected the --output of a pretraining that has saved (--save_every)")
    checkpoint, encoder = _newest_encoder(folder, step, weights)
    output.parent.mkdir(parents=True, exist_ok=True)
    save_encoder(encoder, output)
    print(f"{output}: the {weights}'s encoder after step {step_of(checkpoint)} of {run}")
    load_encoder(output)  # what was written is what can be read, and says what it is


def _newest_encoder(folder: Path, step: int | None, weights: str) -> tuple[Path, VideoSwin]:
    """The newest good checkpoint (or the one after `step`) and its encoder."""
    while True:
        checkpoint = newest_good(folder, step)
        if checkpoint is None:
            there = sorted(finished_steps(folder))
            wanted = "checkpoint" if step is None else f"checkpoint after step {step}"
            raise ValueError(f"no {wanted} in {folder} is whole; there are {there or 'none'}")
        try:
            return checkpoint, _encoder(checkpoint / f"{weights}.safetensors")
        except FileNotFoundError:
            if checkpoint.exists():
                raise  # else the run goes on and has removed it, as it has newer ones


def _encoder(path: Path) -> VideoSwin:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        encoder = build_encoder(EncoderConfig.from_dict(json.loads(metadata["config"])))
        names = [name for name in file.keys() if name.startswith(_PREFIX)]  # noqa: SIM118
        encoder.load_state_dict({name.removeprefix(_PREFIX): file.get_tensor(name) for name in names}, strict=True)
        encoder.normalization = json.loads(metadata["normalization"])
        return encoder


if __name__ == "__main__":
    run_command(export, positional=True)
