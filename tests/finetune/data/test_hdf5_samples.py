"""HDF5 samples in the published layout: items against the files."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from data_prep.archive.sensor import load_sensors
from finetune.data.hdf5_samples import Hdf5Samples
from finetune.data.sample_windows import SampleWindows
from finetune.task import load_task
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
