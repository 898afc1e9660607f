"""Recipe of a trained model: everything beside the weights, from which the model is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from data_prep.archive.sensor import Sensor
from finetune.model.baselines import BASELINES
from finetune.model.crop_mapper import CropMapper
from finetune.model.decoder import DecoderKind
from finetune.model.initial_weights import take_over
from finetune.task import Task
from pretrain.model import EncoderConfig, MapDecoder, VideoSwin, build_encoder

SCRATCH = "scratch"  # the origin of an encoder with random weights


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything beside the weights that is needed to use a trained model; stored as JSON in the header of the model's file.

    Attributes:
        task: the task, with every override.
        sensors: meaning of the pixels of each source.
        normalization: mean and standard deviation of each band of each source, and perhaps limits, in stored numbers.
        pixel: size of a pixel of the map in units of its CRS.
        encoder: `EncoderConfig.to_dict()`, or the name of a baseline.
        channels: width of the decoder or the baseline.
        origin: where the encoder's weights came from: `scratch` or the checkpoint's path.
        detail_channels: width of the skip connection from the input pixels (`CropMapper`'s `skip_channels`); 0 for none, as for
            a baseline. With the map decoder the width of its convolutions over the pixels. Models on disk have this name.
        decoder: kind of the decoder.
    """

    task: Task
    sensors: dict[str, Sensor]
    normalization: dict[str, dict[str, list[float]]]
    pixel: float
    encoder: dict[str, Any] | str
    channels: int
    origin: str
    detail_channels: int = 0
    decoder: DecoderKind = "fusion"

    @property
    def model_name(self) -> str:
        """The model in a few words, for people."""
        return f"{self.encoder} from scratch" if isinstance(self.encoder, str) else f"encoder from {self.origin}"


def reads_single_pixels(recipe: Recipe) -> bool:
    """Whether what a model says of a pixel depends on the series of this pixel alone, whatever surrounds it."""
    return recipe.encoder in ("temporal_cnn", "random_forest")


def encoder_of_recipe(
    chosen: EncoderConfig | str, sensors: Mapping[str, Sensor], pretrained: VideoSwin | None
) -> dict[str, Any] | str:
    """The encoder in a recipe: its shape, with its sources and their bands, or the name of a baseline.

    Args:
        chosen: shape of an encoder without pretraining, whatever its sources, or the name of a baseline.
        sensors: sensor of each source of the task, in the task's order.
        pretrained: the pretrained encoder; with one, `chosen` does not count.
    """
    if pretrained is not None:
        return pretrained.config.to_dict()
    if isinstance(chosen, str):
        return chosen
    return replace(chosen, sources={source: len(sensor.bands) for source, sensor in sensors.items()}).to_dict()


def build_model(recipe: Recipe, encoder: VideoSwin | None = None, decoder: MapDecoder | None = None) -> nn.Module:
    """The model of a recipe, a CropMapper or a baseline: ({source: (B, T, C, H, W)}, size) -> class scores (B, classes, *size).

    The weights are random, except those of `encoder` if one is given, and those of `decoder` but for its last layer. Raises
    ValueError for an unknown baseline.
    """
    task = recipe.task
    if isinstance(recipe.encoder, str):
        if recipe.encoder not in BASELINES:
            raise ValueError(f"unknown baseline {recipe.encoder!r}; expected one of {', '.join(BASELINES)}")
        bands = {source: len(recipe.sensors[source].bands) for source in task.sources}
        return BASELINES[recipe.encoder](bands, task.frames, len(task.classes), recipe.channels)
    encoder = build_encoder(EncoderConfig.from_dict(recipe.encoder)) if encoder is None else encoder
    sizes = task.frames, len(task.classes), recipe.channels, recipe.detail_channels
    model = CropMapper(encoder, task.sources, *sizes, recipe.decoder)
    if decoder is not None:
        take_over(decoder, model)
    return model
