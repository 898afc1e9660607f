"""Encoder and decoder as one model, and the file of a trained model, which may also be a baseline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from common.atomic_files import whole_file
from data_prep.archive.sensor import Sensor, sensor_from_dict
from finetune.model.baselines import BASELINES
from finetune.model.decoder import FusionDecoder
from finetune.task import Task, task_from_dict
from pretrain.model import BatchPart, EncoderConfig, VideoSwin, build_encoder

FORMAT = "agrifm crop mapper 1"
MODEL_FILE = "model.safetensors"


class CropMapper(nn.Module):
    """A map from the series of several sources: shared encoder, fusion decoder.

    Args:
        encoder: `pretrain.model.VideoSwin`.
        sources: the sources to read, in decoder order.
        frames: images per source (T).
        num_classes: classes of the map.
        channels: width of the decoder.
        skip_channels: width of the skip connection from the input pixels to the decoder's head; 0 for none.
    """

    def __init__(
        self,
        encoder: VideoSwin,
        sources: tuple[str, ...],
        frames: int,
        num_classes: int,
        channels: int,
        skip_channels: int = 0,
    ) -> None:
        super().__init__()
        self.sources = sources
        self.channels = channels
        self.encoder = encoder
        self._encoder_in_evaluation_mode = False
        widths = encoder.output_channels(frames)
        inputs = frames * sum(encoder.config.sources[source] for source in sources)
        self.decoder = FusionDecoder(dict.fromkeys(sources, widths), channels, num_classes, skip_channels, inputs)

    def forward(self, data: Mapping[str, torch.Tensor], size: tuple[int, int], part: BatchPart | None = None) -> torch.Tensor:
        """Normalised pixels (B, T, C, H, W) of each source -> class scores (B, classes, *size).

        `part`: which windows of a batch they are, for the encoder's stochastic depth; default: all.
        """
        maps = {source: self.encoder(data[source], source=source, part=part) for source in self.sources}
        scores: torch.Tensor = self.decoder(maps, size, data)
        return scores

    def freeze_encoder(self, *, in_evaluation_mode: bool) -> None:
        """Train none of the encoder's weights; `in_evaluation_mode` keeps it there, without stochastic depth."""
        self.encoder.requires_grad_(False)
        self._encoder_in_evaluation_mode = in_evaluation_mode

    def train(self, mode: bool = True) -> CropMapper:
        """Set training or evaluation mode, as for any module; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self._encoder_in_evaluation_mode:
            self.encoder.eval()
        return self


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything beside the weights that is needed to use a trained model; stored as JSON in the header of the model's file.

    Attributes:
        task: the task, with every override.
        sensors: meaning of the pixels of each source.
        normalization: mean and standard deviation of each band of each source, in stored numbers.
        pixel: size of a pixel of the map in units of its CRS.
        encoder: `EncoderConfig.to_dict()`, or the name of a baseline.
        channels: width of the decoder or the baseline.
        origin: where the encoder's weights came from: `scratch` or the checkpoint's path.
        detail_channels: width of the skip connection from the input pixels (`CropMapper`'s `skip_channels`); 0 for none, as for
            a baseline. Models on disk have this name.
    """

    task: Task
    sensors: dict[str, Sensor]
    normalization: dict[str, dict[str, list[float]]]
    pixel: float
    encoder: dict[str, Any] | str
    channels: int
    origin: str
    detail_channels: int = 0

    @property
    def model_name(self) -> str:
        """The model in a few words, for people."""
        return f"{self.encoder} from scratch" if isinstance(self.encoder, str) else f"encoder from {self.origin}"


def build_model(recipe: Recipe, encoder: VideoSwin | None = None) -> nn.Module:
    """The model of a recipe, a CropMapper or a baseline: ({source: (B, T, C, H, W)}, size) -> class scores (B, classes, *size).

    The weights are random, except those of `encoder` if one is given. Raises ValueError for an unknown baseline.
    """
    task = recipe.task
    if isinstance(recipe.encoder, str):
        if recipe.encoder not in BASELINES:
            raise ValueError(f"unknown baseline {recipe.encoder!r}; expected one of {', '.join(BASELINES)}")
        bands = {source: len(recipe.sensors[source].bands) for source in task.sources}
        return BASELINES[recipe.encoder](bands, task.frames, len(task.classes), recipe.channels)
    encoder = build_encoder(EncoderConfig.from_dict(recipe.encoder)) if encoder is None else encoder
    return CropMapper(encoder, task.sources, task.frames, len(task.classes), recipe.channels, recipe.detail_channels)


def merged_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The model's weights with the LoRA adapters merged into them, under the names of a model without LoRA.

    Without LoRA, these are the weights of `model.state_dict()`. The model itself does not change and can be trained further.
    """
    weights = {name.replace(".base_layer.", "."): w for name, w in model.state_dict().items() if ".lora_" not in name}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):  # a LoRA layer; no isinstance, because peft may not be installed
            for adapter in module.active_adapters:
                weights[f"{name}.weight"] = weights[f"{name}.weight"] + module.get_delta_weight(adapter).detach()
    return weights


def save_model(path: Path, model: nn.Module, recipe: Recipe) -> None:
    """Write weights and recipe as one safetensors file; the final name appears only when the file is whole.

    LoRA adapters are merged into the weights, so that reading the file does not need peft.
    """
    header = {"format": FORMAT, "recipe": json.dumps(asdict(recipe), sort_keys=True)}
    with whole_file(path) as temporary:
        # save() and not save_file(): the latter makes files that only their owner may read.
        temporary.write_bytes(
            save({name: weight.detach().cpu().contiguous() for name, weight in merged_weights(model).items()}, header)
        )


def load_model(path: Path) -> tuple[nn.Module, Recipe]:
    """The model in `path`, a run's folder or its `model.safetensors`, in evaluation mode. Strict: every weight must fit.

    Raises ValueError when there is no model, when the file is of another kind, or when weights and recipe disagree.
    """
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
