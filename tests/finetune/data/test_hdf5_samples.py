"""HDF5 samples in the published layout: items against the files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from data_prep.archive.sensor import load_sensors
from data_prep.readers.hdf5_sample import Hdf5Sample
from finetune.data.hdf5_samples import Hdf5Samples
from finetune.data.sample_windows import SampleWindows
from finetune.task import IGNORE, load_task
from tests.support.labelled_samples import FRAMES, SIDE, YEAR, make_sample, write_hdf5, write_published


@pytest.fixture
def published(tmp_path: Path) -> Path:
    samples = [make_sample(seed) for seed in (8, 9)]
    write_published(tmp_path, {"val": samples}, {"landsat": "Landsat", "modis": "Modis"})
    return tmp_path


def test_items_are_what_the_files_hold(published: Path) -> None:
    samples = Hdf5Samples(published, "validation", ("landsat", "modis"))
    assert samples.names == ["s8", "s9"]
    for index, item in enumerate(samples[i] for i in range(2)):
        with h5py.File(published / "h5_samples" / f"s{8 + index}.h5") as file:
            np.testing.assert_array_equal(item["data"]["landsat"][()], file["Landsat"][()])
            np.testing.assert_array_equal(item["data"]["modis"][..., 1:], file["Modis"][..., 1:])
            np.testing.assert_array_equal(item["label"], file["label"][()])
        assert item["file_name"] == f"s{8 + index}"


def test_dates_and_validity_beside_the_images_are_read(tmp_path: Path) -> None:
    sample = make_sample(0)
    sample["valid"] = {"landsat": np.random.default_rng(0).random((FRAMES, SIDE, SIDE)) < 0.5}
    days = (YEAR + np.arange(FRAMES) * 40).astype("datetime64[D]")
    zoned = np.array([f"{day + 1}T08:30:00+12:00" for day in days]).astype("S")  # on the day before in UTC
    hours = ((days - days[0]).astype(np.int64) * 24).astype(np.float64)
    for name, dates in (("a", days.astype(np.int32)), ("b", days.astype("S10")), ("c", zoned), ("d", hours)):
        write_hdf5(tmp_path / f"{name}.h5", sample | {"dates": {"landsat": dates, "modis": dates}})
        if dates is hours:
            with h5py.File(tmp_path / "d.h5", "a") as file:
                for source in ("landsat", "modis"):
                    file[f"dates/{source}"].attrs["units"] = f"hours since {days[0]} 00:00:00+00:00"
        (tmp_path / "train.txt").write_text(f"{name}.h5\n\n")
        item = Hdf5Samples(tmp_path, "train", ("landsat", "modis"))[0]
        window = SampleWindows([item], load_task("paddy_rice"), load_sensors()).window(0)
        assert window.year == 2021
        begin, end = load_task("paddy_rice").season_of(2021)
        inside = (days >= begin) & (days < end)
        assert 0 < inside.sum() < FRAMES
        assert window.seasons["modis"].days.tolist() == ((days[inside] - begin).astype(int) + 0.5).tolist()
        np.testing.assert_array_equal(window.stacks["landsat"].valid[:, :SIDE, :SIDE], sample["valid"]["landsat"][inside])


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"scale_factor": 0.0001, "add_offset": 0.0, "_FillValue": np.int16(-9999)}, None),
        (
            {"scale_factor": 0.0001, "add_offset": -0.1},
            "landsat: the file states the offset -1000, but source landsat has none",
        ),
        ({"scale_factor": 0.0000275}, "landsat: the file states reflectance = 2.75e-05"),
        ({"_FillValue": np.int16(0)}, "landsat: no data is 0 in the file, but -9999 for source landsat"),
    ],
)
def test_attributes_that_contradict_the_sensor(tmp_path: Path, attributes: dict[str, Any], message: str | None) -> None:
    write_hdf5(tmp_path / "a.h5", make_sample(0))
    with h5py.File(tmp_path / "a.h5", "a") as file:
        dataset = next(file[name] for name in ("landsat", "Landsat") if name in file)
        dataset.attrs.update(attributes)
    (tmp_path / "train.txt").write_text("a")
    samples = Hdf5Samples(tmp_path, "train", ("landsat", "modis"))
    if message is None:
        SampleWindows(samples, load_task("paddy_rice"), load_sensors())
    else:
        with pytest.raises(ValueError, match=message):
            SampleWindows(samples, load_task("paddy_rice"), load_sensors())


SENTINEL = replace(load_task("paddy_rice"), sources=("sentinel2",), season=("01-01", "12-31"), frames=FRAMES, window_px=SIDE)


def sentinel_windows(folder: Path, pixels: np.ndarray, fill: Callable[[h5py.File], None]) -> SampleWindows:
    """Windows of a sample with `pixels` (T, C, H, W) of the published name, whose file `fill` completes."""
    with h5py.File(folder / "a.h5", "w") as file:
        file["S2"] = pixels
        file["label"] = np.ones((SIDE, SIDE), np.uint8)
        fill(file)
    (folder / "train.txt").write_text("a")
    return SampleWindows(Hdf5Samples(folder, "train", ("sentinel2",)), SENTINEL, load_sensors())


def test_bands_and_dates_in_the_file_count_as_in_scenes(tmp_path: Path) -> None:
    """Bands in an order of their own, with one that the sensor does not have; dates of a whole year beside the images."""
    order = ["B01", "B12", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11"]
    pixels = np.random.default_rng(0).integers(500, 4000, (FRAMES, len(order), SIDE, SIDE)).astype(np.uint16)
    dates = (YEAR + 45 * np.arange(FRAMES)).astype("datetime64[D]")

    def fill(file: h5py.File) -> None:
        file["S2"].attrs["bands"] = order
        file["dates"] = dates.astype(np.int64)
        file["dates"].attrs["units"] = "days since 1970-01-01"
        file["label"].attrs["year"] = 2021

    data = sentinel_windows(tmp_path, pixels, fill)
    window = data.window(0)
    bands = load_sensors()["sentinel2"].bands
    np.testing.assert_array_equal(window.stacks["sentinel2"].pixels, pixels[:, [order.index(band) for band in bands]])
    assert window.seasons["sentinel2"].days.tolist() == (45 * np.arange(FRAMES) + 0.5).tolist()
    assert (window.year, data.years) == (2021, {2021: 1})

    # The container of scenes reads the same.
    with Hdf5Sample(str(tmp_path / "a.h5"), load_sensors()["sentinel2"], dataset="S2", offset=0) as reader:
        series = reader.read(0, 0, SIDE, SIDE, slice(None))
    np.testing.assert_array_equal(series.pixels, window.stacks["sentinel2"].pixels)
    np.testing.assert_array_equal(series.valid, window.stacks["sentinel2"].valid)
    np.testing.assert_array_equal(series.dates, dates)


def test_names_of_bands_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    pixels = np.ones((FRAMES, 10, SIDE, SIDE), np.uint16)
    with pytest.raises(ValueError, match=r"a: sentinel2: has 10 channels, but 2 band names \['B02', 'B03'\]"):
        sentinel_windows(tmp_path, pixels, lambda file: file["S2"].attrs.update({"bands": ["B02", "B03"]}))
    with pytest.raises(ValueError, match=r"needs 10 and misses \['B03', 'B04'"):
        sentinel_windows(tmp_path, pixels, lambda file: file["S2"].attrs.update({"bands": [*"abcdefghi", "B02"]}))


def test_fill_range_and_offset_are_those_of_scenes(tmp_path: Path) -> None:
    """A stored offset is added, also to floats; what was never written, and numbers out of range, were not observed."""
    pixels = np.random.default_rng(0).integers(1500, 5000, (FRAMES, 10, SIDE, SIDE))
    stated = {"scale_factor": 1e-4, "add_offset": -0.1}
    for dtype in (np.uint16, np.float32):

        def fill(file: h5py.File, dtype: type = dtype) -> None:
            del file["S2"]
            chunks = (1, 10, SIDE, SIDE)
            images = file.create_dataset("S2", (FRAMES + 1, 10, SIDE, SIDE), dtype, chunks=chunks, fillvalue=7)
            images[:FRAMES] = pixels  # the last image was never written
            images[0, 3, 5, 6] = 0 if dtype is np.uint16 else np.nan
            images.attrs.update(stated)

        stack = sentinel_windows(tmp_path, pixels[:1], fill).window(0).stacks["sentinel2"]
        valid = np.ones((FRAMES + 1, SIDE, SIDE), bool)
        valid[0, 5, 6] = valid[FRAMES] = False
        np.testing.assert_array_equal(stack.valid, valid)
        np.testing.assert_array_equal(stack.pixels[:FRAMES], np.where(valid[:FRAMES, None], pixels - 1000, 0))

    sample = make_sample(0)
    sample["data"]["landsat"][2, 1, 3, 4] = 16_001  # above the valid range of the product
    valid = SampleWindows([sample], load_task("paddy_rice"), load_sensors()).window(0).stacks["landsat"].valid
    assert np.argwhere(~valid[:, :SIDE, :SIDE]).tolist() == [[2, 3, 4]]


def test_fill_of_a_label_is_not_labelled_and_never_a_class(tmp_path: Path) -> None:
    pixels = np.full((FRAMES, 10, SIDE, SIDE), 2000, np.uint16)

    def fill(file: h5py.File, value: int) -> None:
        file["label"][:4] = 99
        file["label"].attrs["_FillValue"] = np.uint8(value)

    label = sentinel_windows(tmp_path, pixels, lambda file: fill(file, 99)).labels[0]
    assert (label[:4] == IGNORE).all()
    assert (label[4:] == 1).all()
    with pytest.raises(ValueError, match="an attribute of label says that 0 means no data, but it is the index of class 'other'"):
        sentinel_windows(tmp_path, pixels, lambda file: fill(file, 0))


def test_reflectance_is_no_stored_number() -> None:
    """A model of reflectance would map scenes of stored numbers to nonsense."""
    sample = make_sample(0)
    sample["data"] = {source: pixels.astype(np.float32) for source, pixels in sample["data"].items()}
    SampleWindows([sample], load_task("paddy_rice"), load_sensors())  # stored numbers in another type
    sample["data"]["landsat"] = sample["data"]["landsat"] * np.float32(0.0001)
    sample["data"]["landsat"][:3] = np.nan
    with pytest.raises(ValueError, match=r"landsat: its largest number is 0\.\d+, as of reflectance; .* reflectance / 0\.0001"):
        SampleWindows([sample], load_task("paddy_rice"), load_sensors()).stacks(0)  # read when windows are stored


def test_what_was_never_written_of_a_label_is_not_labelled(tmp_path: Path) -> None:
    """HDF5 reads it as 0, the index of a class. `missing_value` means the same as `_FillValue`."""

    def fill(file: h5py.File) -> None:
        del file["label"]
        label = file.create_dataset("label", (SIDE, SIDE), np.uint8, chunks=(SIDE // 2, SIDE))
        label[: SIDE // 2] = 1
        label[:2] = 77
        label.attrs["missing_value"] = np.uint8(77)

    (label,) = sentinel_windows(tmp_path, np.full((FRAMES, 10, SIDE, SIDE), 2000, np.uint16), fill).labels
    assert (label[:2] == IGNORE).all()
    assert (label[2 : SIDE // 2] == 1).all()
    assert (label[SIDE // 2 : SIDE] == IGNORE).all()


def test_validity_and_names_of_bands_lie_in_datasets_too(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(500, 4000, (FRAMES, 10, SIDE, SIDE)).astype(np.uint16)
    valid = np.random.default_rng(1).random((FRAMES, SIDE, SIDE)) < 0.5
    bands = load_sensors()["sentinel2"].bands

    def fill(file: h5py.File) -> None:
        file["valid"] = valid
        file["bands"] = bands[::-1]

    stack = sentinel_windows(tmp_path, pixels, fill).window(0).stacks["sentinel2"]
    np.testing.assert_array_equal(stack.valid[:, :SIDE, :SIDE], valid)
    np.testing.assert_array_equal(stack.pixels[:, :, :SIDE, :SIDE], np.where(valid[:, None], pixels[:, ::-1], 0))


def test_dates_and_validity_of_other_images_are_refused(tmp_path: Path) -> None:
    """A name that is written otherwise must not mean that there are no dates and no clouds."""
    pixels = np.full((FRAMES, 10, SIDE, SIDE), 2000, np.uint16)
    with pytest.raises(ValueError, match="its dates are those of Sentinel-2; none is called as the images are, S2 or"):
        sentinel_windows(tmp_path, pixels, lambda file: file.update({"dates/Sentinel-2": np.arange(FRAMES)}))
    with pytest.raises(ValueError, match="valid holds s2, as no images are called; the file holds S2, label, valid"):
        sentinel_windows(tmp_path, pixels, lambda file: file.update({"valid/s2": np.ones((FRAMES, SIDE, SIDE), bool)}))
