"""Encoder and decoder as one model, and the one file a trained model is, baselines among them."""

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
        frames: images a source (T).
        num_classes: classes of the map.
        channels: width of the decoder.
        detail_channels: of the decoder's own look at the pixels; 0 for none.

    Attributes:
        freeze_encoder: the encoder stays in evaluation mode while the rest trains, without stochastic depth.
    """

    def __init__(
        self,
        encoder: VideoSwin,
        sources: tuple[str, ...],
        frames: int,
        num_classes: int,
        channels: int,
        detail_channels: int = 0,
    ) -> None:
        super().__init__()
        self.sources = sources
        self.channels = channels
        self.encoder = encoder
        self.freeze_encoder = False
        widths = encoder.output_channels(frames)
        inputs = frames * sum(encoder.config.sources[source] for source in sources)
        self.decoder = FusionDecoder(dict.fromkeys(sources, widths), channels, num_classes, detail_channels, inputs)

    def forward(self, data: Mapping[str, torch.Tensor], size: tuple[int, int], part: BatchPart | None = None) -> torch.Tensor:
        """Normalised pixels (B, T, C, H, W) of each source -> class scores (B, classes, *size).

        `part`: which windows of a batch they are, for the encoder's stochastic depth; default: all.
        """
        maps = {source: self.encoder(data[source], source=source, part=part) for source in self.sources}
        scores: torch.Tensor = self.decoder(maps, size, data)
        return scores

    def train(self, mode: bool = True) -> CropMapper:
        """Training or evaluation mode, as of any module, for what is not frozen."""
        super().train(mode)
        if self.freeze_encoder:
            self.encoder.eval()
        return self


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that is needed beside the weights to use a trained model; stands as JSON in the head of the model's file.

    Attributes:
        task: the task, with every override.
        sensors: meaning of the pixels of each source.
        normalization: mean and standard deviation of each band of each source, in stored numbers.
        pixel: size of a pixel of the map in units of its CRS.
        encoder: `EncoderConfig.to_dict()`, or the name of a baseline.
        channels: width of the decoder or the baseline.
        origin: where the encoder's weights came from, `scratch` or the checkpoint's path.
        detail_channels: of the decoder's own look at the pixels; 0 for none, as for a baseline.
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

    Its weights are random, but for those of `encoder` when one is given. Raises ValueError for an unknown baseline.
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
    """The model's weights with what LoRA learned added to them, under the names they have without it.

    Without LoRA these are those of `model.state_dict()`. The model stays as it is and may go on learning.
    """
    weights = {name.replace(".base_layer.", "."): w for name, w in model.state_dict().items() if ".lora_" not in name}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):  # a LoRA layer of peft, which need not be installed
            for adapter in module.active_adapters:
                weights[f"{name}.weight"] = weights[f"{name}.weight"] + module.get_delta_weight(adapter).detach()
    return weights


def save_model(path: Path, model: nn.Module, recipe: Recipe) -> None:
    """Write weights and recipe as one safetensors file; the final name appears only when the file is whole.

    What LoRA learned is merged into the weights, so that whoever reads them needs nothing of it.
    """
    head = {"format": FORMAT, "recipe": json.dumps(asdict(recipe), sort_keys=True)}
    with whole_file(path) as temporary:
        # save() and not save_file(): the latter makes files that only their owner may read.
        temporary.write_bytes(
            save({name: weight.detach().cpu().contiguous() for name, weight in merged_weights(model).items()}, head)
        )


def load_model(path: Path) -> tuple[nn.Module, Recipe]:
    """The model in `path`, a run's folder or its `model.safetensors`, in evaluation mode. Strict: every weight must fit.

    Raises ValueError when there is no model, the file is another one, or weights and recipe disagree.
    """
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"no model at {file}: give a folder that finetune/run.py wrote, or its {MODEL_FILE}")
    try:
        with safe_open(file, framework="pt") as opened:
            head = opened.metadata() or {}
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a dict
    except SafetensorError as error:
        raise ValueError(f"{file} is no readable safetensors file: {error}") from error
    if head.get("format") != FORMAT:
        raise ValueError(f"{file} is no model of finetune/run.py (format {head.get('format')!r}, expected {FORMAT!r})")
    values = json.loads(head["recipe"])
    task = task_from_dict(values.pop("task"), origin=str(file))
    sensors = {name: sensor_from_dict(sensor, origin=str(file)) for name, sensor in values.pop("sensors").items()}
    recipe = Recipe(task=task, sensors=sensors, **values)
    model = build_model(recipe)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{file}: weights do not fit the recipe in the same file: {error}") from error
    return model.eval(), recipe
