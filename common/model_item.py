"""Descriptions of models as STAC items with the Machine Learning Model extension (MLM), made by pystac.

See https://github.com/stac-extensions/mlm. Equal models give equal items: nothing in them depends on when they were made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import shapely
from shapely.geometry import box, mapping
from shapely.geometry.base import BaseGeometry

from common.model_card import CARD_FILE, LIBRARY

ITEM_FILE = "stac_item.json"
EO_SCHEMA = "https://stac-extensions.github.io/eo/v2.0.0/schema.json"
RASTER_SCHEMA = "https://stac-extensions.github.io/raster/v2.0.0/schema.json"
FILE_SCHEMA = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
# What STAC states for a time that is not known or not limited.
_ANY_TIME = (date(1900, 1, 1), date(9999, 12, 31))
_ALMOST_A_DAY = timedelta(hours=23, minutes=59, seconds=59)
_SEMANTIC_VERSION = re.compile(r"\d+\.\d+\.\d+([-+][0-9A-Za-z.-]+)?")

Box = tuple[float, float, float, float]  # west, south, east, north in degrees; west > east across the antimeridian


@dataclass(frozen=True, kw_only=True)
class ModelBand:
    """A band that a model reads.

    Attributes:
        name: unique among all bands of the model.
        description: for people.
        data_type, nodata, scale: of the stored numbers; reflectance = number * scale. None where they are not known.
        gsd_m: ground sampling distance in metres; None where it is not known.
        common_name: as in the STAC EO extension; None where the band has none.
        wavelength_nm: centre wavelength; None where it is not known.
        mean, std: by which numbers are normalised; None where they are not known.
    """

    name: str
    description: str
    data_type: str | None = None
    nodata: int | None = None
    scale: float | None = None
    gsd_m: float | None = None
    common_name: str | None = None
    wavelength_nm: float | None = None
    mean: float | None = None
    std: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The band as STAC 1.1 describes it."""
        values = {
            "name": self.name,
            "description": self.description,
            "data_type": self.data_type,
            "nodata": self.nodata,
            "gsd": self.gsd_m,
            "raster:scale": self.scale,
            "eo:common_name": self.common_name,
            "eo:center_wavelength": None if self.wavelength_nm is None else round(self.wavelength_nm / 1000, 6),
        }
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class ModelInput:
    """One input array of a model.

    Attributes:
        name: name of the input.
        description: for people.
        bands: in the order of the channel axis.
        shape: sizes of the axes (batch, time, channel, height, width); -1 for any.
    """

    name: str
    description: str
    bands: Sequence[ModelBand]
    shape: tuple[int, int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class ModelOutput:
    """The output array of a model.

    Attributes:
        name, description: for people.
        tasks: names of tasks as the extension has them, such as semantic-segmentation.
        shape, axes: sizes of the axes, -1 for any, and their names.
        classes: (index, name, description, colour `#rrggbb`) of each class; none for features.
    """

    name: str
    description: str
    tasks: Sequence[str]
    shape: Sequence[int]
    axes: Sequence[str]
    classes: Sequence[tuple[int, str, str, str]] = ()


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """What an item says of a model.

    Attributes:
        name: short name of the model.
        title, description: for people.
        architecture: name of the architecture.
        inputs, output: the arrays.
        parameters: number of parameters.
        pretrained_source: what the weights were pretrained on; None for random initial weights.
        hyperparameters: plain values by name.
        file: name of the file with the weights, beside which the item lies.
        card: name of the file with the model card beside it.
        artifact: what wrote that file.
        size, sha256: of that file.
        boxes: where the training data lie; None where it is not known.
        period: first and last day of the training data; None where it is not known.
        license: SPDX identifier; None where it is not stated.
    """

    name: str
    title: str
    description: str
    architecture: str
    inputs: Sequence[ModelInput]
    output: ModelOutput
    parameters: int
    pretrained_source: str | None
    file: str
    artifact: str
    size: int
    sha256: str
    card: str = CARD_FILE
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    boxes: Sequence[Box] | None = None
    period: tuple[date, date] | None = None
    license: str | None = None


def model_item(model: ModelDescription) -> dict[str, Any]:
    """The STAC item that describes a model, as JSON values. Its assets are relative: the item lies beside the model's file."""
    import pystac
    from pystac.extensions.mlm import AssetGeneralMLMExtension, Hyperparameters, MLMExtension

    first, last = model.period or _ANY_TIME
    bands = [band.to_dict() for source in model.inputs for band in source.bands]
    properties: dict[str, Any] = {"title": model.title, "description": model.description}
    if model.license is not None:
        properties["license"] = model.license
    item = pystac.Item(
        id=f"{_name(model.name)}-{model.sha256[:12]}",
        geometry=None if model.boxes is None else mapping(_polygons(model.boxes)),
        bbox=None if model.boxes is None else _bounding_box(model.boxes),
        datetime=None,
        start_datetime=_moment(first),
        end_datetime=_moment(last) + _ALMOST_A_DAY,
        properties=properties | {"bands": bands},
        stac_extensions=[EO_SCHEMA, RASTER_SCHEMA, FILE_SCHEMA],
    )
    torch_version = _installed("torch")
    MLMExtension.ext(item, add_if_missing=True).apply(
        name=_name(model.name),
        architecture=model.architecture,
        tasks=[_task(name) for name in model.output.tasks],
        input=[_input(each) for each in model.inputs],
        output=[_output(model.output)],
        framework="PyTorch",
        framework_version=torch_version if torch_version and _SEMANTIC_VERSION.fullmatch(torch_version) else None,
        total_parameters=model.parameters,
        pretrained=model.pretrained_source is not None,
        pretrained_source=model.pretrained_source,
        hyperparameters=Hyperparameters(dict(model.hyperparameters)) if model.hyperparameters else None,
    )
    weights = pystac.Asset(
        href=f"./{model.file}",
        title="weights",
        media_type="application/octet-stream",
        roles=["mlm:model", "mlm:weights", "data"],
        # The checksum is the multihash of a sha256. STAC wants the bands at an asset, the extension at the item as well.
        extra_fields={"file:size": model.size, "file:checksum": f"1220{model.sha256}", "bands": bands},
    )
    item.add_asset("weights", weights)
    AssetGeneralMLMExtension.ext(weights).apply(artifact_type=model.artifact)
    card = pystac.Asset(href=f"./{model.card}", title="model card", media_type="text/markdown", roles=["metadata"])
    item.add_asset("card", card)
    values: dict[str, Any] = item.to_dict(include_self_link=False)
    return values


def _input(source: ModelInput) -> Any:
    from pystac.extensions.mlm import InputStructure
    from pystac.extensions.mlm import ModelInput as Input
    from pystac.extensions.raster import DataType

    structure = InputStructure.create(list(source.shape), ["batch", "time", "channel", "height", "width"], DataType.FLOAT32)
    made = Input.create(source.name, [band.name for band in source.bands], structure, description=source.description)
    # The extension wants a list, one scaling for each band; pystac's own class knows a single one.
    scalings = [{"type": "z-score", "mean": b.mean, "stddev": b.std} for b in source.bands if b.mean is not None]
    made.properties["value_scaling"] = scalings if len(scalings) == len(source.bands) else None
    return made


def _output(output: ModelOutput) -> Any:
    from pystac.extensions.classification import Classification
    from pystac.extensions.mlm import ModelOutput as Output
    from pystac.extensions.mlm import ResultStructure
    from pystac.extensions.raster import DataType

    classes = [
        Classification.create(
            value, description, name=re.sub(r"[^0-9A-Za-z_-]+", "_", name), color_hint=color.lstrip("#").upper()
        )
        for value, name, description, color in output.classes
    ]
    result = ResultStructure.create(list(output.shape), list(output.axes), DataType.FLOAT32)
    tasks = [_task(name) for name in output.tasks]
    return Output.create(output.name, tasks, result, description=output.description, classes=classes or None)


def _task(name: str) -> Any:
    from pystac.extensions.mlm import TaskType

    return TaskType(name)


def _polygons(boxes: Sequence[Box]) -> BaseGeometry:
    """The ground of boxes in longitude and latitude; one across the antimeridian is cut there."""
    parts = []
    for west, south, east, north in boxes:
        spans = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
        parts += [box(left, south, right, north) for left, right in spans]
    return shapely.union_all(parts)


def _bounding_box(boxes: Sequence[Box]) -> list[float]:
    """West, south, east, north of the smallest box around all; west is larger than east across the antimeridian (RFC 7946)."""
    spans = sorted((west % 360, west % 360 + (east - west) % 360) for west, _, east, _ in boxes)
    # The widest gap between spans, on the circle, lies outside.
    reached = np.array([end for _, end in spans])
    ends = np.maximum(np.maximum.accumulate(reached), reached.max() - 360)  # one of the last may go round to the first
    begins = np.array([begin for begin, _ in spans])
    gaps = np.append(begins[1:], begins[0] + 360) - ends
    last = int(np.argmax(gaps))
    if gaps[last] <= 0:
        west, east = -180.0, 180.0
    else:
        west, east = (float((at + 180) % 360 - 180) for at in (begins[(last + 1) % len(begins)], ends[last]))
        east = 180.0 if east == -180 else east
    return [west, min(box[1] for box in boxes), east, max(box[3] for box in boxes)]


def _moment(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _name(text: str) -> str:
    """A name as the extension allows it: at least three letters, digits, `_`, `-` and `.`, with a letter first."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("_.-")
    return name if len(name) > 2 and name[0].isalpha() else f"model_{name}".rstrip("_")


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def library_version() -> str:
    """The version of this package; "unknown" where it is not installed."""
    return _installed(LIBRARY) or "unknown"
