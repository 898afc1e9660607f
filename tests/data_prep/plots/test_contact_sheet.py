"""The contact sheet: which samples and frames are drawn, and what is drawn of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from data_prep.corpus.dataset import Corpus, load_corpus
from data_prep.plots.contact_sheet import (
    GAP_PX,
    NOT_OBSERVED,
    clearest_frames,
    contact_sheet,
    evenly_spread_samples,
    stretched,
    veiled,
)
from data_prep.shards.shard_index import SampleEntry, read_array
from tests.support.sharding import stock_samples, write_small_corpus

FRAMES = 4


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return load_corpus(write_small_corpus(tmp_path_factory.mktemp("sheet")))


@pytest.fixture(scope="module")
def samples(corpus: Corpus) -> dict[str, dict[str, Any]]:
    """Samples of the stock reader by key."""
    return {sample["__key__"]: sample for group in stock_samples(Path(corpus.folder)).values() for sample in group}


@pytest.fixture(scope="module")
def chosen(corpus: Corpus) -> dict[str, list[SampleEntry]]:
    return {source: evenly_spread_samples(corpus, source, "train", 2) for source in ("modis", "sentinel2")}


@pytest.fixture(scope="module")
def figure(corpus: Corpus, chosen: dict[str, list[SampleEntry]]) -> Figure:
    return contact_sheet(corpus, chosen, FRAMES)


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def rows_of(figure: Figure, chosen: dict[str, list[SampleEntry]]) -> dict[str, tuple[Axes, Axes]]:
    """The two axes of each heading, by source, and of each sample, by key."""
    names = [name for source, entries in chosen.items() for name in (source, *(entry.key for entry in entries))]
    assert len(figure.axes) == 2 * len(names)
    return {name: (figure.axes[2 * n], figure.axes[2 * n + 1]) for n, name in enumerate(names)}


def test_headings_name_sensor_bands_width_and_legend(
    figure: Figure, chosen: dict[str, list[SampleEntry]], corpus: Corpus
) -> None:
    for source, width in (("modis", "1.9 km"), ("sentinel2", "120 m")):
        left, right = rows_of(figure, chosen)[source]
        sensor = corpus.sensors[source]
        assert texts(left) == [sensor.title, f"{', '.join(sensor.rgb)} as red, green, blue; {width} wide"]
        assert texts(right) == [corpus.legends["glc_fcs30d"].title]
    (legend,) = figure.legends
    classes = [label.replace("_", " ") for label in corpus.legends["glc_fcs30d"].classes]
    shown = [text.get_text() for text in legend.get_texts()]
    assert shown == [*classes, "cloud, shadow or other not clear", "not observed"]


def test_strips_show_the_clearest_frames_with_their_dates(
    figure: Figure, chosen: dict[str, list[SampleEntry]], corpus: Corpus, samples: dict[str, dict[str, Any]]
) -> None:
    for source, entries in chosen.items():
        bands = [corpus.sensors[source].bands.index(band) for band in corpus.sensors[source].rgb]
        for entry in entries:
            axes, sample = rows_of(figure, chosen)[entry.key][0], samples[entry.key]
            times = clearest_frames(sample["valid.npy"], FRAMES)
            dates = [day.item() for day in sample["dates.npy"][times].astype("datetime64[D]")]
            assert texts(axes) == [*(f"{date.day} {date:%b}" for date in dates), f"delta {dates[0].year}"]
            (image,) = axes.images
            strip = np.asarray(image.get_array())
            side = strip.shape[0] // sample["pixels.npy"].shape[-1]  # drawn pixels per pixel
            width = sample["pixels.npy"].shape[-1] * side
            assert strip.shape == (width, FRAMES * (width + GAP_PX) - GAP_PX, 3)
            colours = stretched(sample["pixels.npy"][:, bands], sample["valid.npy"], sample["pixels.npy"][times][:, bands])
            for position, time in enumerate(times):
                tile = strip[:, position * (width + GAP_PX) :][:, :width]
                clear = sample["valid.npy"][time]
                np.testing.assert_allclose(tile[::side, ::side][clear], colours[position][clear])
                assert not np.allclose(tile[::side, ::side][~clear], colours[position][~clear]), "clouds are veiled"


def test_bars_are_the_largest_land_cover_fractions(
    figure: Figure, chosen: dict[str, list[SampleEntry]], corpus: Corpus, samples: dict[str, dict[str, Any]]
) -> None:
    legend = corpus.legends["glc_fcs30d"]
    for entries in chosen.values():
        for entry in entries:
            axes = rows_of(figure, chosen)[entry.key][1]
            fractions = legend.fractions(samples[entry.key]["landcover.npy"])
            largest = [label for label in np.argsort(-fractions, kind="stable")[:4] if fractions[label] > 0]
            bars = {to_hex(bar.get_facecolor()): bar.get_width() for bar in axes.patches}
            for label in largest:
                assert bars[legend.colors[label]] == pytest.approx(fractions[label])
                assert f"{fractions[label]:.1%}" in texts(axes)
                assert legend.classes[label].replace("_", " ") in texts(axes)
            assert len(texts(axes)) == 2 * len(largest)


def test_samples_are_spread_over_the_shards(corpus: Corpus) -> None:
    every = corpus.samples("sentinel2", "train")
    first, _, last = sorted({entry.shard for entry in every})
    assert [entry.shard for entry in evenly_spread_samples(corpus, "sentinel2", "train", 2)] == [first, last]
    assert evenly_spread_samples(corpus, "sentinel2", "train", 99) == every
    assert evenly_spread_samples(corpus, "sentinel2", "validation", 2) == []


def test_members_are_those_of_the_stock_reader(corpus: Corpus, samples: dict[str, dict[str, Any]]) -> None:
    entries = [entry for source in corpus.sensors for entry in corpus.samples(source, "train")]
    assert len(entries) == 9
    for entry in entries:
        for name in ("pixels.npy", "valid.npy", "dates.npy"):
            np.testing.assert_array_equal(read_array(entry, name), samples[entry.key][name])


def test_clearest_of_each_part() -> None:
    valid = np.zeros((10, 2, 2), dtype=bool)
    valid[[1, 4, 9], 0] = True
    valid[4] = True
    assert clearest_frames(valid, 3).tolist() == [1, 4, 9]
    assert clearest_frames(valid, 10).tolist() == clearest_frames(valid, 50).tolist() == list(range(10))
    assert clearest_frames(valid, 1).tolist() == [4]


def test_stretch_ignores_clouds() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.integers(1000, 2000, (4, 3, 8, 8))
    valid = np.ones((4, 8, 8), dtype=bool)
    expected = stretched(numbers, valid, numbers)
    assert expected.shape == (4, 8, 8, 3)
    assert 0 <= expected.min() < 0.02
    assert 0.98 < expected.max() <= 1
    cloudy, where = np.concatenate([numbers, numbers + 9000]), np.concatenate([valid, ~valid])
    np.testing.assert_array_equal(stretched(cloudy, where, numbers), expected)
    assert np.isfinite(stretched(numbers, ~valid, numbers)).all(), "a sample that is never clear is drawn, too"


def test_veil() -> None:
    image = np.full((3, 1, 3), 0.2)
    clear, observed = np.array([[True], [False], [False]]), np.array([[True], [True], [False]])
    shown = veiled(image, clear, observed, side=20)
    assert shown.shape == (60, 20, 3)
    assert (shown[:20] == 0.2).all()
    assert len(np.unique(shown[20:40])) == 2, "hatched: the veiled image and the lines"
    assert (shown[40:] == NOT_OBSERVED).all()
