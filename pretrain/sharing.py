"""Descriptions of an encoder, beside its file: a model card and a STAC item with the Machine Learning Model extension.

They say what the encoder's file says, and what config.json and metrics.json of its pretraining run say, where these are known.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open

from common.atomic_files import whole_file
from common.checksums import sha256_of
from common.hub import HubPath
from common.json_files import read_json, write_json
from common.model_card import CARD_FILE, LIBRARY, ModelCard
from common.model_item import (
    ITEM_FILE,
    ModelBand,
    ModelDescription,
    ModelInput,
    ModelOutput,
    library_version,
    model_item,
)
from data_prep.archive.sensor import Sensor, load_sensors
from pretrain.model.encoder_files import DECODER, ENCODER_FILE
from pretrain.model.video_swin import EncoderConfig
from pretrain.run_folder import CONFIG_FILE, METRICS_FILE

ARTIFACT = "safetensors.torch.save"
NOT_RECORDED = "not recorded"
# Options of config.json that a card shows, by dotted names.
_SHOWN = (
    *("fingerprint", "num_steps", "seed", "precision", "objective.predict", "objective.loss", "objective.consistency_weight"),
    *("stream.global_batch_size", "stream.num_frames", "stream.mixture", "optimizer.learning_rate", "optimizer.weight_decay"),
)


@dataclass(frozen=True, kw_only=True)
class EncoderRecord:
    """An encoder's file and what is known of its pretraining.

    Attributes:
        config: shape of the encoder.
        normalization: mean and standard deviation of each band of each source, in stored numbers.
        has_decoder: whether a decoder that was pretrained with it lies in the file.
        parameters: number of parameters of the encoder.
        size, sha256: of the file.
        run: content of the run's config.json; empty where it is not known.
        metrics: content of the run's metrics.json; empty where it is not known.
        weights: sentence on which weights of which step it holds; "" for those of a finished run.
    """

    config: EncoderConfig
    normalization: Mapping[str, Mapping[str, list[float]]]
    has_decoder: bool
    parameters: int
    size: int
    sha256: str
    run: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""


def encoder_record(
    file: Path, run: Path | None = None, weights: str = "", metrics: Mapping[str, Any] | None = None
) -> EncoderRecord:
    """The record of a file that `save_encoder` wrote.

    Args:
        file: the file.
        run: folder of the pretraining run; None where it is not known.
        weights: sentence on which weights of which step it holds, with a space at its end; "" for those of a finished run.
        metrics: content of metrics.json, where it is not read from `run`.
    """
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata()
        sizes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
    of_run = {} if weights else _content(run, METRICS_FILE)  # those of a finished run are not of other weights
    return EncoderRecord(
        config=EncoderConfig.from_dict(json.loads(metadata["config"])),
        normalization=json.loads(metadata["normalization"]) or {},
        has_decoder="decoder" in metadata,
        parameters=sum(math.prod(shape) for name, shape in sizes.items() if not name.startswith(DECODER)),
        size=file.stat().st_size,
        sha256=sha256_of(file),
        run=_content(run, CONFIG_FILE),
        metrics=of_run if metrics is None else metrics,
        weights=weights,
    )


def describe_encoder(file: Path, record: EncoderRecord) -> None:
    """Write the card and the item beside an encoder's file: `encoder.README.md` and `encoder.stac_item.json`."""
    card, item = (file.with_name(f"{file.stem}.{name}") for name in (CARD_FILE, ITEM_FILE))
    with whole_file(card) as temporary:
        temporary.write_text(encoder_card(record), encoding="utf-8")
    write_json(item, encoder_item(record, file.name, card.name))


def encoder_card(record: EncoderRecord, license: str | None = None, place: HubPath | None = None) -> str:
    """The model card of an encoder as Markdown with Hugging Face's metadata.

    `license`: identifier of the licence under which it is given away; None where nobody has stated one. `place`: where it lies at
    the hub; None for a file on this machine.
    """
    sources = list(record.config.sources)
    tags = ["earth-observation", "remote-sensing", "agriculture", "foundation-model", *sources]
    metadata = {"license": license, "library_name": LIBRARY, "pipeline_tag": "image-feature-extraction", "tags": tags}
    card = ModelCard(metadata, "AgriFM encoder")
    beside = " Beside it lies the decoder of maps that was pretrained with it." if record.has_decoder else ""
    card.paragraph(
        f"An encoder for series of {' and '.join(sources)} images, {record.parameters / 1e6:.2f} M parameters, pretrained to "
        f"predict land cover. {record.weights}Written by {LIBRARY} {library_version()}.{beside}"
    )
    card.heading("Input")
    sensors = load_sensors()
    rows: list[list[Any]] = []
    for source, count in record.config.sources.items():
        names = _bands(sensors.get(source), count)
        statistics = record.normalization.get(source, {})
        for index, name in enumerate(names):
            cells = [f"{statistics[key][index]:.6g}" if key in statistics else "" for key in ("mean", "std", "low", "high")]
            rows.append([source, name, *cells])
    card.table(["source", "band", "mean", "standard deviation", "lower limit", "upper limit"], rows)
    card.paragraph(
        "Pixels (batch, time, bands, rows, columns) are numbers as the products store them, without additive offset, normalised "
        "as (number − mean) / standard deviation; numbers beyond the limits, where there are some, count as these. Pixels that "
        "are not clear are zero after that."
    )
    card.heading("Shape")
    card.table(["setting", "value"], [[name, value] for name, value in record.config.to_dict().items() if name != "sources"])
    card.heading("Pretraining")
    options = _dotted(record.run)
    shown = [[name, options[name]] for name in _SHOWN if name in options]
    if shown:
        card.table(["setting", "value"], shown)
    else:
        card.paragraph(f"{NOT_RECORDED.capitalize()}: there is no {CONFIG_FILE} of the run beside the encoder.")
    card.heading("Scores")
    validation = record.metrics.get("validation") or {}
    if validation:
        header = ["source", "error of the fractions", "R2", "R2, linear probe", "samples"]
        keys = ("mae", "r2", "probe_r2")
        card.table(header, [[s, *(_number(v.get(key)) for key in keys), v.get("samples", "")] for s, v in validation.items()])
        card.paragraph("On the validation split of the corpus.")
    else:
        card.paragraph("No scores are recorded.")
    card.heading("Limits")
    card.bullets(
        [
            "It makes features, not maps: fine-tune it for a task, and compare it with a baseline on data of your own.",
            "Years, regions and whether images were simulated are those of the corpus; the encoder's file does not record them.",
        ]
    )
    card.heading("Use")
    model = "encoder.safetensors" if place is None else str(place)
    card.code(f'from pretrain.model import load_encoder\n\nencoder = load_encoder("{model}")', "python")
    card.code(f"agrifm finetune --task TASK --data DATA --checkpoint {model} --output RUN")
    card.heading("Licence")
    card.paragraph(license or "Not stated. Ask its authors before you use it.")
    return card.text()


def encoder_item(
    record: EncoderRecord, file: str = ENCODER_FILE, card: str = CARD_FILE, license: str | None = None
) -> dict[str, Any]:
    """The STAC item of an encoder, as JSON values. `file` and `card`: names of its file and card, beside which the item lies."""
    sensors = load_sensors()
    inputs = [
        ModelInput(
            name=source,
            description=f"{source}: normalised numbers, zero where nothing was clear.",
            bands=band_descriptions(source, count, sensors.get(source), record.normalization.get(source)),
            shape=(-1, -1, count, -1, -1),
        )
        for source, count in record.config.sources.items()
    ]
    options = _dotted(record.run)
    description = ModelDescription(
        name="agrifm-encoder",
        title="AgriFM encoder",
        description=f"Features of series of {', '.join(record.config.sources)} images, pretrained to predict land cover.",
        architecture="Video Swin Transformer (AgriFM)",
        inputs=inputs,
        output=ModelOutput(
            name="feature maps",
            description="Five maps of features, from fine to coarse: (batch, channels * frames, rows, columns).",
            tasks=["similarity-search"],
            shape=[-1, -1, -1, -1],
            axes=["batch", "channel", "height", "width"],
        ),
        parameters=record.parameters,
        pretrained_source=f"corpus {options['fingerprint']}" if "fingerprint" in options else f"corpus {NOT_RECORDED}",
        hyperparameters={name: options[name] for name in _SHOWN if options.get(name) is not None},
        file=file,
        card=card,
        artifact=ARTIFACT,
        size=record.size,
        sha256=record.sha256,
        license=license,
    )
    return model_item(description)


def band_descriptions(
    source: str, count: int, sensor: Sensor | None, statistics: Mapping[str, Sequence[float]] | None
) -> list[ModelBand]:
    """Descriptions of the `count` bands of a source, with what its sensor says, where it is known and has so many bands.

    `statistics`: mean and standard deviation of each band, in stored numbers; None where they are not known.
    """
    bands = []
    for index, name in enumerate(_bands(sensor, count)):
        known: dict[str, Any] = {}
        if statistics is not None:
            known |= {"mean": statistics["mean"][index], "std": statistics["std"][index]}
        if sensor is not None and len(sensor.bands) == count:
            known |= {
                "data_type": sensor.dtype,
                "nodata": sensor.nodata,
                "scale": sensor.scale,
                "gsd_m": sensor.gsd_m,
                "common_name": sensor.common_names.get(name),
                "wavelength_nm": sensor.wavelengths_nm.get(name),
            }
        title = source if sensor is None else sensor.title
        bands.append(ModelBand(name=f"{source}_{name}", description=f"{title}, band {name}", **known))
    return bands


def _bands(sensor: Sensor | None, count: int) -> list[str]:
    """Names of the bands of a source; numbers where its sensor is not one of the built-in ones."""
    return list(sensor.bands) if sensor is not None and len(sensor.bands) == count else [str(n) for n in range(count)]


def _content(run: Path | None, name: str) -> dict[str, Any]:
    return read_json(run / name) if run is not None and (run / name).is_file() else {}


def _dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options by dotted names."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        result |= _dotted(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
    return result


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
