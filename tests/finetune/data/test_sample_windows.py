"""Windows of samples: items against NumPy, samples without a source, dates or labels, and errors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from common.notes import collected_notes
from data_prep.archive.sensor import load_sensors
from finetune.data.augmentation import Augmentation
from finetune.data.sample_windows import SampleWindows
from finetune.task import IGNORE, MapClass, load_task
from tests.support.labelled_samples import FACTOR, FRAMES, SIDE, YEAR, make_sample

SENSORS = load_sensors()
RICE = replace(load_task("paddy_rice"), season=("01-01", "12-31"), frames=FRAMES, window_px=SIDE)
ALLOW = replace(RICE, missing_sources="allow")
SMALL = replace(RICE, window_px=FACTOR)


def windows(samples: list[dict[str, Any]], task: Any = RICE, **options: Any) -> SampleWindows:
    result = SampleWindows(samples, task, SENSORS, **options)
    result.normalization = {
        source: {"mean": [2000.0] * len(SENSORS[source].bands), "std": [500.0] * len(SENSORS[source].bands)}
        for source in task.sources
    }
    return result


def test_without_dates_as_many_images_as_frames_are_the_frames_in_their_order() -> None:
    sample = make_sample(0)
    item = windows([sample])[0]
    for source, pixels in sample["data"].items():
        np.testing.assert_allclose(item["data"][source], (pixels.astype(float) - 2000) / 500, atol=1e-6)
        assert item["data"][source].dtype == torch.float32
    np.testing.assert_array_equal(item["label"], sample["label"])
    assert item["label"].dtype == torch.int64
    assert item["file_name"] == "s0-r00000-c00000"


def test_tensors_floats_and_windows_are_the_same_numbers() -> None:
    sample = make_sample(1)
    plain = windows([sample], SMALL)
    tensors = {s: torch.from_numpy(p.astype(np.float32)) for s, p in sample["data"].items()}
    other = windows([{"data": tensors, "label": torch.from_numpy(sample["label"]), "file_name": "t"}], SMALL)
    assert len(plain) == len(other) == 4
    for i, (row, col) in enumerate((r, c) for r in (0, FACTOR) for c in (0, FACTOR)):
        fine = sample["data"]["landsat"][..., row : row + FACTOR, col : col + FACTOR]
        coarse = sample["data"]["modis"][..., row // FACTOR, col // FACTOR][..., None, None]
        for one in (plain[i], other[i]):
            np.testing.assert_allclose(one["data"]["landsat"], (fine - 2000.0) / 500, atol=1e-6)
            np.testing.assert_allclose(one["data"]["modis"], (coarse - 2000.0) / 500, atol=1e-6)
            np.testing.assert_array_equal(one["label"], sample["label"][row : row + FACTOR, col : col + FACTOR])


def test_dates_deal_series_of_any_length_into_periods() -> None:
    rng = np.random.default_rng(0)
    samples = []
    for number, frames in enumerate((1, 5, 30)):
        sample = make_sample(number, frames)
        days = np.sort(rng.choice(500, frames, replace=False)) - 60  # some before the season, some after it
        sample["dates"] = dict.fromkeys(sample["data"], (YEAR + days).astype(str).tolist())
        sample["days"] = days
        samples.append(sample)
    batch = windows(samples, ALLOW, year=2021).batch(range(3))
    for sample, found in zip(samples, batch["data"]["landsat"].numpy(), strict=True):
        for period in range(FRAMES):
            inside = [n for n, day in enumerate(sample["days"]) if period <= (day + 0.5) / 365 * FRAMES < period + 1]
            middle = (period + 0.5) * 365 / FRAMES
            best = min(inside, key=lambda n: abs(sample["days"][n] + 0.5 - middle), default=None)
            pixels = 2000.0 if best is None else sample["data"]["landsat"][best].astype(float)
            np.testing.assert_allclose(found[period], np.broadcast_to((pixels - 2000) / 500, found[period].shape), atol=1e-6)
    with pytest.raises(ValueError, match="s0: no image of landsat in the season"):
        windows([samples[0] | {"dates": {"landsat": ["2019-01-01"]}}], year=2021)


@pytest.mark.parametrize("fill", [np.nan, np.inf, -9999.0, 0.0])
def test_no_data_is_never_a_value(fill: float) -> None:
    sample = make_sample(0)
    gaps = np.random.default_rng(3).random((FRAMES, SIDE, SIDE)) < 0.3
    pixels = sample["data"]["landsat"].astype(np.float32)
    clean = windows([sample], replace(RICE, sources=("landsat",)))
    # One band alone spoils an observation; zeros only when all bands are zero, since a dark band may be 0.
    bands = slice(None) if fill == 0 else [2]
    pixels[:, bands] = np.where(gaps[:, None], fill, pixels[:, bands])
    spoilt = windows([sample | {"data": {"landsat": pixels}}], clean.task)
    expected = np.where(gaps[:, None], 0, clean[0]["data"]["landsat"].numpy())
    np.testing.assert_allclose(spoilt[0]["data"]["landsat"], expected, atol=1e-6)
    clear = sample["data"]["landsat"].transpose(1, 0, 2, 3)[:, ~gaps].astype(float)
    found = spoilt.statistics("landsat", robust=False)
    assert found.keys() == {"mean", "std"}
    np.testing.assert_allclose(found["mean"], clear.mean(axis=1))
    np.testing.assert_allclose(found["std"], clear.std(axis=1))


def test_snow_does_not_count_in_the_statistics_and_is_clipped() -> None:
    """A third of the observations as snow of a winter: white in red, green and blue, and dark in the shortwave infrared."""
    sample = make_sample(0)
    rng = np.random.default_rng(5)
    ground = rng.integers(200, 2500, sample["data"]["landsat"].shape).astype(np.int16)
    snow = rng.random((FRAMES, SIDE, SIDE)) < 1 / 3
    pixels = np.where(snow[:, None], np.array([8500, 8600, 8400, 8000, 900, 700])[None, :, None, None], ground).astype(np.int16)
    data = windows([sample | {"data": {"landsat": pixels}}], replace(RICE, sources=("landsat",)))
    found = data.statistics("landsat")
    rest = ground.transpose(1, 0, 2, 3)[:, ~snow].astype(float)
    mean, std = rest.mean(axis=1), rest.std(axis=1)
    for name, expected in (("mean", mean), ("std", std), ("low", mean - 4 * std), ("high", mean + 4 * std)):
        np.testing.assert_allclose(found[name], expected)
    assert data.statistics("landsat", robust=False)["std"][0] > 3 * std[0]

    data.normalization = {"landsat": found}
    item = data[0]["data"]["landsat"].numpy()
    by_band = {name: np.reshape(values, (-1, 1, 1)) for name, values in found.items()}
    limited = np.minimum(np.maximum(pixels.astype(float), by_band["low"]), by_band["high"])
    np.testing.assert_allclose(item, (limited - by_band["mean"]) / by_band["std"], atol=1e-5)
    assert item[:, :3].max() == pytest.approx(4.0)

    white = windows([sample | {"data": {"landsat": np.full_like(pixels, 9000)}}], data.task)
    found = white.statistics("landsat")
    assert (found["mean"], found["std"]) == ([9000.0] * 6, [1.0] * 6), "nothing but snow: it counts"


def test_the_year_of_the_label_is_that_of_the_season() -> None:
    sample = make_sample(0, 34)
    dates = np.concatenate([YEAR + 20 * np.arange(14), YEAR + 370 + 15 * np.arange(20)]).astype("datetime64[D]")
    sample["dates"] = dict.fromkeys(sample["data"], dates)
    with collected_notes() as notes:
        chosen = windows([sample])
    assert chosen.years == {2022: 1}
    (found,) = notes
    assert "1 of 1 samples have many images of several seasons, such as s0 of those that end in 2021 and 2022" in found
    with collected_notes() as notes:
        stated = windows([sample | {"year": 2021}])
    assert (stated.years, stated.window(0).year, notes) == ({2021: 1}, 2021, [])
    with pytest.raises(ValueError, match="s0: its label is of 2021, but --year is 2022; leave --year out"):
        windows([sample | {"year": 2021}], year=2022)


def test_class_indices_above_127_stay_themselves() -> None:
    names = [f"crop_{number}" for number in range(255)]
    task = replace(RICE, target=None, classes=tuple(MapClass(name=n, color="#00ff00", labels=(n,)) for n in names))
    label = np.random.default_rng(0).choice([5, 127, 128, 254, 255], (SIDE, SIDE)).astype(np.uint8)
    dataset = windows([make_sample(0) | {"label": label}], task)
    np.testing.assert_array_equal(dataset[0]["label"], np.where(label == 255, IGNORE, label.astype(int)))
    np.testing.assert_array_equal(dataset.class_pixels(), np.bincount(label.ravel(), minlength=256)[:255])


def test_stated_validity_counts_and_a_dark_band_does_not() -> None:
    sample = make_sample(0)
    valid = np.random.default_rng(4).random((FRAMES, SIDE, SIDE)) < 0.5
    sample["data"]["landsat"][:, 1] = 0
    item = windows([sample | {"valid": {"landsat": valid}}])[0]
    pixels = (sample["data"]["landsat"].astype(float) - 2000) / 500
    np.testing.assert_allclose(item["data"]["landsat"], np.where(valid[:, None], pixels, 0), atol=1e-6)


def test_a_sample_without_a_source_has_zeros_there_and_fits_into_a_batch() -> None:
    whole, without, dark = make_sample(0), make_sample(1), make_sample(2)
    del without["data"]["modis"]
    dark["data"]["landsat"] = np.full((FRAMES, 6, SIDE, SIDE), np.nan)
    for task in (ALLOW, replace(ALLOW, upsample={"modis": 4})):
        both = windows([without, whole, dark], task)  # the one without comes first: its size is known from the other
        for rng in (None, np.random.default_rng(0)):
            batch = both.batch(range(3), rng)
            assert all(torch.isfinite(pixels).all() for pixels in batch["data"].values())
            assert (batch["data"]["modis"][0] == 0).all()
            assert (batch["data"]["modis"][1] != 0).any()
            assert (batch["data"]["landsat"][2] == 0).all()
            side = SIDE // FACTOR * task.upsample.get("modis", 1)
            assert batch["data"]["modis"].shape == (3, FRAMES, 7, side, side)
        assert np.isfinite(both.statistics("modis")["mean"]).all()
    finer = whole | {"data": whole["data"] | {"modis": np.ones((FRAMES, 7, 4, 4), np.int16)}}
    assert windows([without, finer], ALLOW).batch(range(2))["data"]["modis"].shape == (2, FRAMES, 7, 4, 4)
    # Where no sample has it, MODIS is as large as its usual pixels: 463 m beside 30 m.
    assert windows([without], ALLOW)[0]["data"]["modis"].shape == (FRAMES, 7, 2, 2)
    with pytest.raises(ValueError, match=r"s1: has no modis, .* it has landsat; .* with --missing_sources allow"):
        windows([whole, without])
    with pytest.raises(ValueError, match=r"source modis has no clear pixel"):
        windows([without], ALLOW).statistics("modis")


def test_dropped_sources_and_crops_make_batches_of_one_size() -> None:
    how = Augmentation(drop_sources=0.5, drop_images=0.2, crop_px=FACTOR, shift_days=10)
    dataset = windows([make_sample(i) for i in range(4)], augmentation=how)
    batch = dataset.batch(range(4), np.random.default_rng(1))
    assert batch["data"]["landsat"].shape == (4, FRAMES, 6, FACTOR, FACTOR)
    assert batch["data"]["modis"].shape == (4, FRAMES, 7, 1, 1)
    assert batch["label"].shape == (4, FACTOR, FACTOR)
    assert dataset.batch(range(4))["label"].shape == (4, SIDE, SIDE)  # evaluation sees all
    with pytest.raises(ValueError, match="crop_px is 24; expected a multiple of 16"):
        windows([make_sample(0)], augmentation=Augmentation(crop_px=24))


def test_samples_of_other_sizes_are_cut_and_padded_and_unlabelled_windows_left_out() -> None:
    large, small = make_sample(0, side=48), make_sample(1, side=16)
    large["label"][32:, :32] = IGNORE
    small["label"] = small["label"].astype(np.uint8)
    small["label"][0, :3] = 255
    dataset = windows([large, small])
    assert dataset.windows == [(0, 0, 0), (0, 0, 32), (0, 32, 32), (1, 0, 0)]
    last = dataset[len(dataset) - 1]
    assert (last["label"][16:] == IGNORE).all()
    assert (last["label"][:, 16:] == IGNORE).all()
    assert (last["label"][0, :3] == IGNORE).all()
    assert (last["label"][:16, :16] != IGNORE).sum() == 16 * 16 - 3
    assert (last["data"]["landsat"][:, :, 16:] == 0).all()
    counts = np.bincount(np.concatenate([s["label"][(s["label"] >= 0) & (s["label"] < 255)].ravel() for s in (large, small)]))
    np.testing.assert_array_equal(dataset.class_pixels(), counts)
    assert dataset.pixel_sizes == {30.0}


def test_a_share_of_the_labels_is_spread_over_scenes() -> None:
    samples = [make_sample(i) | {"scene": "ab"[i // 4]} for i in range(8)]  # four samples of four windows in each of two scenes
    whole, part = (windows(samples, SMALL) for _ in range(2))
    part.keep_share(0.25, seed=3)
    assert len(part) == 8
    assert sorted(str(part.scene_of(i)) for i in range(8)) == ["a"] * 4 + ["b"] * 4
    by_name = {whole[i]["file_name"]: whole[i] for i in range(len(whole))}
    for item in (part[i] for i in range(8)):
        assert torch.equal(item["data"]["landsat"], by_name[item["file_name"]]["data"]["landsat"])
        assert torch.equal(item["label"], by_name[item["file_name"]]["label"])


def spoilt(**changes: Any) -> dict[str, Any]:
    return make_sample(7) | changes


def test_datasets_that_are_wrong_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="no labelled pixel in 1 samples"):
        windows([spoilt(label=np.full((SIDE, SIDE), -1))])
    message = r"do not hold whole pixels of modis .* multiple of 16, for instance --override.window_px 16"
    with pytest.raises(ValueError, match=message):
        windows([make_sample(0)], replace(RICE, window_px=20))
    finer = make_sample(1) | {"data": make_sample(0)["data"] | {"modis": np.ones((8, 7, 4, 4), np.int16)}}
    with pytest.raises(ValueError, match=r"s1: modis has 0.125 pixels per pixel of the label, in s0 0.0625"):
        windows([make_sample(0), finer])
    with pytest.raises(ValueError, match="s0: has no dates, and task paddy_rice scores by date"):
        windows([make_sample(0)], replace(RICE, cut_dates=("06-01",)))
