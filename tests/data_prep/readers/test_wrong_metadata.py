"""Attributes of wrong types in files are errors about the data: ValueErrors that name what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from data_prep.readers.opening import open_reader
from tests.support.series import CRS, DAYS, SENSORS, TRANSFORM, numbers, scene

SENSOR = SENSORS["landsat"]


@pytest.mark.parametrize("container", ["hdf5_cube", "hdf5_sample"])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("bands", 5, r"band names \['5'\]"),
        ("bands", "abc", r"band names \['abc'\]"),
        ("_FillValue", np.array([]), "_FillValue, missing_value or nodata is .*; expected a number"),
        ("missing_value", np.array([]), "_FillValue, missing_value or nodata is .*; expected a number"),
        ("transform", np.array(["a", "b"], dtype="S1"), "transform is .*; expected the six numbers"),
    ],
)
def test_attributes_of_hdf5(tmp_path: Path, container: str, name: str, value: Any, message: str) -> None:
    pixels, quality = numbers(SENSOR)
    dataset = "reflectance" if container == "hdf5_cube" else "landsat"
    attributes = {"crs": CRS, "transform": tuple(TRANSFORM)[:6], "bands": list(SENSOR.bands)}
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file[dataset], file[SENSOR.quality.name], file["dates"] = pixels, quality, DAYS
        file[dataset].attrs.update(attributes | {name: value})
    with pytest.raises(ValueError, match=message):
        open_reader(scene(tmp_path, "landsat", container=container, path="a.h5"), "landsat", SENSORS)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("transform", {"a": 1}, "transform is .*; expected the six numbers"),
        ("transform", None, "transform is .*; expected the six numbers"),
        ("_FillValue", {"a": 1}, "_FillValue, missing_value or nodata is .*; expected a number"),
        ("_FillValue", [], "_FillValue, missing_value or nodata is .*; expected a number"),
    ],
)
def test_attributes_of_zarr(tmp_path: Path, name: str, value: Any, message: str) -> None:
    pixels, quality = numbers(SENSOR)
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    arrays = {"reflectance": pixels, SENSOR.quality.name: quality, "time": DAYS}
    for array, values in arrays.items():
        group.create_array(array, data=values)
    group.attrs.update({"crs": CRS, "transform": list(TRANSFORM)[:6]} | ({name: value} if name == "transform" else {}))
    if name != "transform":
        group["reflectance"].attrs[name] = value
    options = {"container": "zarr_cube", "path": "a.zarr", "bands": list(SENSOR.bands)}
    with pytest.raises(ValueError, match=message):
        open_reader(scene(tmp_path, "landsat", **options), "landsat", SENSORS)
