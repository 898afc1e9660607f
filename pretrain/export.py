"""The encoder of a run that is not finished: `python -m pretrain.export runs/agrifm encoder.safetensors`.

A finished run has an `encoder.safetensors` already; this command writes the same file from the newest good checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, NoReturn

from safetensors import safe_open

from common.command_line import run_command
from pretrain.checkpoint import finished_steps, newest_good, step_of
from pretrain.model import EncoderConfig, MapDecoder, VideoSwin, build_encoder, load_encoder, save_encoder
from pretrain.model.encoder_files import CHECKPOINTS, DECODER, build_decoder
from pretrain.sharing import describe_encoder, encoder_record

_PREFIX = "encoder."  # of the names of the encoder's weights in a LandCoverModel


def export(run: Path, output: Path, step: int | None = None, weights: Literal["teacher", "student"] = "teacher") -> None:
    """Write the encoder of a pretraining run's newest good checkpoint, and its decoder, if it has one, as one safetensors file.

    Beside it lie its model card, `encoder.README.md`, and its STAC item, `encoder.stac_item.json`.

    Args:
        run: folder of the run, which may still be training.
        output: file to write, ending in .safetensors.
        step: use the checkpoint after this optimizer step; default: the newest.
        weights: `teacher`, the moving average, which a finished run exports; or `student`, the trained weights themselves.

    Raises:
        ValueError: there is no run or no good checkpoint, or the output does not end in .safetensors.
        OSError: the output cannot be written.
    """
    if output.suffix != ".safetensors":
        raise ValueError(f"output is {output}; expected a name that ends in .safetensors, by which load_encoder recognises it")
    folder = run / CHECKPOINTS
    if not folder.is_dir():
        raise ValueError(
            f"no checkpoints in {run}; expected the --output of a pretraining run that has saved a checkpoint (--save_every)"
        )
    checkpoint, encoder, decoder = _newest_encoder(folder, step, weights)
    output.parent.mkdir(parents=True, exist_ok=True)
    save_encoder(encoder, output, decoder)
    about = f"These are the weights of the {weights} after step {step_of(checkpoint)}. "
    describe_encoder(output, encoder_record(output, run, about))
    print(f"{output}: the {weights}'s encoder after step {step_of(checkpoint)} of {run}")
    load_encoder(output)  # checks that the file can be read, and prints what it holds


def _newest_encoder(folder: Path, step: int | None, weights: str) -> tuple[Path, VideoSwin, MapDecoder | None]:
    """The newest good checkpoint, or the one after `step`, its encoder and its decoder, if it has one."""
    while True:
        checkpoint = newest_good(folder, step)
        if checkpoint is None:
            there = sorted(finished_steps(folder))
            wanted = "checkpoint" if step is None else f"checkpoint after step {step}"
            raise ValueError(f"no {wanted} in {folder} is complete and undamaged; there are {there or 'none'}")
        try:
            return checkpoint, *_models(checkpoint / f"{weights}.safetensors")
        except FileNotFoundError:
            if checkpoint.exists():
                raise  # else the running training has removed the checkpoint, as it has newer ones


def _models(path: Path) -> tuple[VideoSwin, MapDecoder | None]:
    """The encoder and the decoder, if there is one, whose weights a file of a checkpoint holds."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    encoder = build_encoder(EncoderConfig.from_dict(json.loads(metadata["config"])), json.loads(metadata["normalization"]))
    decoder = build_decoder(encoder, json.loads(metadata["decoder"])) if "decoder" in metadata else None
    for prefix, model in ((_PREFIX, encoder), (DECODER, decoder)):
        if model is not None:
            state = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            model.load_state_dict(state, strict=True)
    return encoder, decoder


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(export, positional=True)


if __name__ == "__main__":
    main()
