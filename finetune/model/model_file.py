"""The file of a trained model, `model.safetensors`: weights and recipe."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from common.atomic_files import whole_file
from common.hub import HubPath, ModelPath, fetch
from data_prep.archive.sensor import sensor_from_dict
from finetune.model.recipe import Recipe, build_model
from finetune.model.tuning import merged_weights
from finetune.task import task_from_dict

FORMAT = "agrifm crop mapper 1"
MODEL_FILE = "model.safetensors"


def save_model(path: Path, model: nn.Module, recipe: Recipe) -> None:
    """Write weights and recipe as one safetensors file; the final name appears only when the file is whole.

    LoRA adapters are merged into the weights, so that reading the file does not need peft.
    """
    with whole_file(path) as temporary:
        # save() and not save_file(): the latter makes files that only their owner may read.
        weights = {name: weight.detach().cpu().contiguous() for name, weight in merged_weights(model).items()}
        temporary.write_bytes(save(weights, model_header(recipe)))


def model_header(recipe: Recipe) -> dict[str, str]:
    """The header of a model's safetensors file."""
    return {"format": FORMAT, "recipe": json.dumps(asdict(recipe), sort_keys=True)}


def local_model(path: ModelPath) -> Path:
    """A path as it is; of a model at the hub (`hf://OWNER/NAME`) its file in the cache. Raises what `common.hub.fetch` raises."""
    return fetch(path, MODEL_FILE) if isinstance(path, HubPath) else path


def load_model(path: ModelPath) -> tuple[nn.Module, Recipe]:
    """The model in `path`, a run's folder, its `model.safetensors` or `hf://OWNER/NAME`, in evaluation mode.

    Strict: every weight must fit. Raises ValueError when there is no model, when the file is of another kind, or when weights
    and recipe disagree; and what `common.hub.fetch` raises.
    """
    path = local_model(path)
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"no model at {file}: give a folder that finetune/run.py wrote, or its {MODEL_FILE}")
    try:
        with safe_open(file, framework="pt") as opened:
            header = opened.metadata() or {}
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a dict
    except SafetensorError as error:
        raise ValueError(f"{file} cannot be read as safetensors: {error}") from error
    if header.get("format") != FORMAT:
        raise ValueError(f"{file} is no model of finetune/run.py (format {header.get('format')!r}, expected {FORMAT!r})")
    values = json.loads(header["recipe"])
    task = task_from_dict(values.pop("task"), origin=str(file))
    sensors = {name: sensor_from_dict(sensor, origin=str(file)) for name, sensor in values.pop("sensors").items()}
    recipe = Recipe(task=task, sensors=sensors, **values)
    model = build_model(recipe)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{file}: weights do not fit the recipe in the same file: {error}") from error
    return model.eval(), recipe
