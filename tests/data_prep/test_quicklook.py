"""The picture of samples: what is chosen, stretched and veiled, and the command on a real small corpus."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import webdataset

from common.command_line import run_command
from data_prep.corpus.dataset import load_corpus
from data_prep.plots.contact_sheet import NOT_OBSERVED, clearest, read_member, stretched, veiled
from data_prep.quicklook import quicklook
from data_prep.shard import ShardConfig, shard
from tests.support.archives import write_archive


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quicklook")
    write_archive(folder / "scenes")
    shard(ShardConfig(input=folder / "scenes", output=folder / "corpus", chip_px={"sentinel2": 12, "modis": 4}))
    return folder / "corpus"


def test_command_draws_every_source(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "samples.png"
    with pytest.raises(SystemExit) as ended:
        run_command(quicklook, [str(corpus), "--output", str(output), "--samples", "2", "--frames", "6"], positional=True)
    assert ended.value.code == 0
    assert "shows 4 samples of modis, sentinel2" in capsys.readouterr().out
    picture = matplotlib.image.imread(output)[..., :3]
    assert min(picture.shape[:2]) > 300
    forest = np.array([0x2B, 0x7A, 0x3F]) / 255  # a colour of the land-cover legend
    assert (np.abs(picture - forest).max(axis=-1) < 0.01).sum() > 100
    assert sorted(path.name for path in output.parent.iterdir()) == ["samples.png"]

    first = output.read_bytes()
    quicklook(corpus, output, samples=2, frames=6)
    assert output.read_bytes() == first, "the same command gives the same bytes"
    quicklook(corpus, output, samples=99, frames=99)  # more than there is: draws what there is


def test_mistakes_are_named(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finished corpus"):
        quicklook(tmp_path, tmp_path / "samples.png")
    with pytest.raises(ValueError, match=r"no samples in the split 'validation'; it has \['test', 'train'\]"):
        quicklook(corpus, tmp_path / "samples.png", split="validation")
    with pytest.raises(ValueError, match=r"ends in \.png"):
        quicklook(corpus, tmp_path / "samples.jpg")
    with pytest.raises(ValueError, match="at least 1"):
        quicklook(corpus, tmp_path / "samples.png", samples=0)
    assert list(tmp_path.iterdir()) == []


def test_members_are_those_of_the_stock_reader(corpus: Path) -> None:
    loaded = load_corpus(corpus)
    entries = {entry.key: entry for source in loaded.sensors for entry in loaded.samples(source, "train")}
    tars = [str(shard.path) for shard in loaded.shards if shard.split == "train"]
    seen = 0
    for sample in webdataset.WebDataset(tars, shardshuffle=False).decode():
        for name in ("pixels.npy", "valid.npy", "dates.npy"):
            np.testing.assert_array_equal(read_member(entries[sample["__key__"]], name), sample[name])
        seen += 1
    assert seen == len(entries)


def test_clearest_of_each_part() -> None:
    valid = np.zeros((10, 2, 2), dtype=bool)
    valid[[1, 4, 9], 0] = True
    valid[4] = True
    assert clearest(valid, 3).tolist() == [1, 4, 9]
    assert clearest(valid, 10).tolist() == clearest(valid, 50).tolist() == list(range(10))
    assert clearest(valid, 1).tolist() == [4]


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
