"""What is sent to the hub: a model's weights, its card and its STAC item. No settings, paths or logs of this machine are sent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from common.hub import HubPath, is_hub_url
from common.json_files import without_nan
from common.model_card import CARD_FILE
from common.model_item import ITEM_FILE
from finetune.model import model_file
from finetune.model.model_file import MODEL_FILE, model_header
from finetune.model.recipe import SCRATCH
from finetune.sharing.run_card import run_card
from finetune.sharing.run_item import run_item
from finetune.sharing.trained_run import TrainedRun, trained_run
from pretrain.model import encoder_files, load_encoder
from pretrain.model.encoder_files import ENCODER_FILE
from pretrain.sharing import encoder_card, encoder_item, encoder_record


def published_files(model: Path, place: HubPath, license: str, datasets: Sequence[str]) -> Mapping[str, Path | bytes]:
    """The files of a model at the hub by name: of a fine-tuned model, or of an encoder.

    Args:
        model: folder of a run of fine-tuning or pretraining, or a safetensors file of one.
        place: where they will lie.
        license: identifier of the licence under which the model is given away.
        datasets: names of data sets at the hub that it was trained on.

    Raises ValueError when there is no model, when it is damaged, and for a run that is not finished.
    """
    file = _weights(model)
    kind = _format(file)
    weights: Path | bytes = file
    if kind == model_file.FORMAT:
        run = trained_run(model)
        weights = without_local_paths(file, run)
        if isinstance(weights, bytes):
            run = replace(run, size=len(weights), sha256=hashlib.sha256(weights).hexdigest())
        card, item, name = run_card(run, license, datasets, place), run_item(run, license), MODEL_FILE
    elif kind == encoder_files.FORMAT:
        load_encoder(file)  # checks every weight
        # Beside a file of its own lie files of whatever else is in that folder.
        record = encoder_record(file, model if model.is_dir() else None)
        card, item, name = encoder_card(record, license, place), encoder_item(record, license=license), ENCODER_FILE
    else:
        raise ValueError(f"{file} is of format {kind!r}; expected a model of finetune/run.py or an encoder of pretraining")
    return {name: weights, CARD_FILE: card.encode(), ITEM_FILE: json.dumps(without_nan(item), indent=2).encode()}


def without_local_paths(file: Path, run: TrainedRun) -> Path | bytes:
    """A model's file as it may be given away: without the path of the checkpoint that its training began with."""
    origin = run.recipe.origin
    if origin == SCRATCH or is_hub_url(origin):
        return file
    recipe = replace(run.recipe, origin=f"a checkpoint with sha256 {run.settings.get('checkpoint', 'not recorded')}")
    return save(load_file(file), model_header(recipe))


def _weights(model: Path) -> Path:
    """The file of the weights in a run's folder, or the file itself. Raises ValueError when there is none."""
    candidates = [model / MODEL_FILE, model / ENCODER_FILE] if model.is_dir() else [model]
    found = next((file for file in candidates if file.is_file()), None)
    if found is None:
        raise ValueError(
            f"no model at {model}: expected the folder of a finished run of fine-tuning ({MODEL_FILE}) or of pretraining "
            f"({ENCODER_FILE}), or such a file"
        )
    return found


def _format(file: Path) -> str | None:
    """The format that a safetensors file states. Raises ValueError when it is no safetensors file."""
    try:
        with safe_open(file, framework="pt") as opened:
            return (opened.metadata() or {}).get("format")
    except SafetensorError as error:
        raise ValueError(f"{file} cannot be read as safetensors: {error}") from error
