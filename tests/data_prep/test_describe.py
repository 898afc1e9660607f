"""The command describe: its numbers against the arrays that a stock reader gives, and its figures."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import webdataset

from common.command_line import run_command
from data_prep.corpus.dataset import load_corpus
from data_prep.corpus.summary import by_source_and_split, read_summary
from data_prep.describe import describe_corpus
from data_prep.plots.contact_sheet import contact_sheet, evenly_spread_samples
from data_prep.plots.corpus_figure import SPLIT_COLORS, corpus_figure
from tests.support.sharding import write_small_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_corpus(tmp_path_factory.mktemp("describe"))


def test_numbers_are_those_of_the_samples(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(describe_corpus, [str(corpus), "--json", str(tmp_path / "corpus.json"), "--workers", "2"], positional=True)
    assert ended.value.code == 0
    out = capsys.readouterr().out
    values = json.loads((tmp_path / "corpus.json").read_text())
    loaded = load_corpus(corpus)
    assert values["fingerprint"] == loaded.fingerprint
    assert values["rejected"] == 8
    assert all(of_source["has_land_cover_maps"] for of_source in values["sources"].values())
    assert "8 samples rejected; land-cover maps of modis, sentinel2; fingerprint" in out
    groups: dict[tuple[str, str], list[dict[str, np.ndarray]]] = {}
    for sample in webdataset.WebDataset([str(s.path) for s in loaded.shards], shardshuffle=False).decode():
        groups.setdefault((sample["json"]["source"], sample["json"]["split"]), []).append(sample)
    assert {(source, split) for source in values["sources"] for split in values["sources"][source]["splits"]} == set(groups)
    for (source, split), samples in groups.items():
        about = values["sources"][source]["splits"][split]
        assert about["samples"] == len(samples)
        assert about["bytes"] == sum(s.bytes for s in loaded.shards if (s.source, s.split) == (source, split))
        dates = np.concatenate([sample["dates.npy"] for sample in samples]).astype("datetime64[D]")
        assert (about["first_date"], about["last_date"]) == (str(dates.min()), str(dates.max()))
        lengths = [len(sample["dates.npy"]) for sample in samples]
        median = sorted(lengths)[(len(lengths) - 1) // 2]
        assert about["frames"] == {"min": min(lengths), "median": median, "max": max(lengths)}
        valid = np.concatenate([sample["valid.npy"] for sample in samples])
        assert about["valid_share"] == pytest.approx(valid.mean(), rel=1e-12)
        pixels = np.concatenate([np.moveaxis(s["pixels.npy"], 1, 0)[:, s["valid.npy"]] for s in samples], axis=1)
        np.testing.assert_allclose(about["mean"], pixels.mean(axis=1), rtol=1e-9)
        np.testing.assert_allclose(about["std"], pixels.std(axis=1), rtol=1e-9)
        assert f"{about['first_date']} to {about['last_date']}" in out
    for source, legend_name in (("sentinel2", "scl"), ("modis", "glc_fcs30d")):
        split = {"scl": "test", "glc_fcs30d": "train"}[legend_name]
        legend = loaded.legends[legend_name]
        counts = sum(sample["landcover.npy"] for sample in groups[source, split])
        shares: dict[str, float] = {}
        for group, count in zip(legend.groups, counts.tolist(), strict=True):
            shares[group] = shares.get(group, 0) + count / counts.sum()
        fractions = values["sources"][source]["splits"][split]["class_fractions"][legend_name]
        assert fractions == pytest.approx({name: shares.get(name, 0) for name in legend.classes})


def test_pictures_are_drawn_and_are_the_same_each_time(corpus: Path, tmp_path: Path) -> None:
    """tests/data_prep/plots looks at the figures; here each file is the figure of this corpus."""
    folder = tmp_path / "new" / "pictures"
    describe_corpus(corpus, folder, samples=1, frames=4)
    pictures = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(pictures) == {"overview.png", "samples.png"}
    loaded = load_corpus(corpus)
    groups = by_source_and_split(read_summary(shard.index) for shard in loaded.shards)
    chosen = {
        source: [entry for split in splits for entry in evenly_spread_samples(loaded, source, split, 1)]
        for source, splits in (("modis", ["train"]), ("sentinel2", ["train", "test"]))
    }
    figures = {"overview.png": corpus_figure(loaded, groups), "samples.png": contact_sheet(loaded, chosen, 4)}
    for name, figure in figures.items():
        figure.savefig(tmp_path / name, dpi=110)
        np.testing.assert_array_equal(matplotlib.image.imread(folder / name), matplotlib.image.imread(tmp_path / name))
    overview = matplotlib.image.imread(folder / "overview.png")[..., :3]
    for color in SPLIT_COLORS["train"], SPLIT_COLORS["test"], "#2b7a3f":  # the last is forest
        rgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        assert (np.abs(overview - rgb).max(axis=-1) < 0.01).sum() > 300, color
    describe_corpus(corpus, folder, samples=1, frames=4)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == pictures


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finished corpus"):
        describe_corpus(tmp_path)
    with pytest.raises(ValueError, match="at least 1"):
        describe_corpus(tmp_path, samples=0)
