"""The figure of a corpus against the arrays that a stock reader gives: titles, labels, legends and every bar."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from data_prep.corpus.dataset import Corpus, load_corpus
from data_prep.corpus.summary import by_source_and_split, read_summary
from data_prep.plots.corpus_figure import SPLIT_COLORS, corpus_figure
from tests.support.sharding import stock_samples, write_small_corpus

SOURCES = ("modis", "sentinel2")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return load_corpus(write_small_corpus(tmp_path_factory.mktemp("figure")))


@pytest.fixture(scope="module")
def samples(corpus: Corpus) -> dict[tuple[str, str], list[dict[str, Any]]]:
    return stock_samples(Path(corpus.folder))


@pytest.fixture(scope="module")
def figure(corpus: Corpus) -> Figure:
    return corpus_figure(corpus, by_source_and_split(read_summary(shard.index) for shard in corpus.shards if shard.samples))


def row(figure: Figure, source: str) -> tuple[Axes, Axes, Axes]:
    """The axes of land cover, frames and bands of a source."""
    first = 3 * SOURCES.index(source)
    cover, frames, bands = figure.axes[first : first + 3]
    return cover, frames, bands


def splits_of(samples: dict[tuple[str, str], Any], source: str) -> list[str]:
    return [split for split in ("train", "validation", "test") if (source, split) in samples]


def legend_texts(holder: Axes | Figure) -> list[str]:
    legend = holder.get_legend() if isinstance(holder, Axes) else holder.legends[0]
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def test_a_row_of_three_axes_for_each_source(figure: Figure, corpus: Corpus, samples: dict[tuple[str, str], Any]) -> None:
    assert len(figure.axes) == 3 * len(SOURCES)
    for source in SOURCES:
        count = sum(len(samples[source, split]) for split in splits_of(samples, source))
        size = sum(shard.bytes for shard in corpus.shards if shard.source == source) / 1e9
        title = row(figure, source)[0].get_title(loc="left")
        assert title == f"{corpus.sensors[source].title}: {count} samples, {size:.2g} GB"


def test_bars_of_land_cover_are_the_shares_of_the_area(
    figure: Figure, corpus: Corpus, samples: dict[tuple[str, str], Any]
) -> None:
    shown = set()
    for source in SOURCES:
        axes, splits = row(figure, source)[0], splits_of(samples, source)
        assert axes.get_xlabel() == "land cover, share of the area"
        assert [label.get_text() for label in axes.get_yticklabels()] == splits
        bars = {(round(bar.get_y() + bar.get_height() / 2), to_hex(bar.get_facecolor())): bar.get_width() for bar in axes.patches}
        for position, split in enumerate(splits):
            (name,) = {sample["json"]["legend"] for sample in samples[source, split]}
            legend = corpus.legends[name]
            shown |= {label.replace("_", " ") for label in legend.classes}
            counts = sum(sample["landcover.npy"] for sample in samples[source, split])
            expected: Counter[str] = Counter()
            for group, count in zip(legend.groups, counts.tolist(), strict=True):
                expected[group] += count / counts.sum()
            widths = [bars[position, color] for color in legend.colors]
            assert widths == pytest.approx([expected[label] for label in legend.classes])
            assert sum(widths) == pytest.approx(1)
    assert set(legend_texts(figure)) == shown


def test_bars_of_frames_count_the_samples(figure: Figure, samples: dict[tuple[str, str], Any]) -> None:
    for source in SOURCES:
        axes, splits = row(figure, source)[1], splits_of(samples, source)
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("frames per sample", "samples")
        assert legend_texts(axes) == splits
        for split in splits:
            found: Counter[int] = Counter()
            for bar in axes.patches:
                if to_hex(bar.get_facecolor()) == SPLIT_COLORS[split]:
                    assert bar.get_width() == 1
                    found[round(bar.get_x() + 0.5)] += round(bar.get_height())
            assert +found == Counter(len(sample["dates.npy"]) for sample in samples[source, split])


def test_bars_of_bands_are_mean_and_deviation_of_valid_pixels(
    figure: Figure, corpus: Corpus, samples: dict[tuple[str, str], Any]
) -> None:
    for source in SOURCES:
        axes, splits, sensor = row(figure, source)[2], splits_of(samples, source), corpus.sensors[source]
        assert axes.get_ylabel() == "reflectance, mean and deviation"
        assert [label.get_text() for label in axes.get_xticklabels()] == list(sensor.bands)
        bars = [container for container in axes.containers if isinstance(container, BarContainer)]
        errors = [container.lines[2][0] for container in axes.containers if not isinstance(container, BarContainer)]
        for split, of_bands, deviations in zip(splits, bars, errors, strict=True):
            pixels = [np.moveaxis(s["pixels.npy"], 1, 0)[:, s["valid.npy"]] for s in samples[source, split]]
            values = np.concatenate(pixels, axis=1) * sensor.scale
            mean, std = values.mean(axis=1), values.std(axis=1)
            np.testing.assert_allclose([bar.get_height() for bar in of_bands], mean, rtol=1e-9)
            np.testing.assert_allclose([ends[:, 1] for ends in deviations.get_segments()], np.stack([mean - std, mean + std], 1))
        shares = [np.concatenate([s["valid.npy"] for s in samples[source, split]]).mean() for split in splits]
        assert legend_texts(axes) == [f"{split}: {share:.0%} valid" for split, share in zip(splits, shares, strict=True)]
