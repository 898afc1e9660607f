"""The command quicklook on a small corpus; tests/data_prep/plots/test_contact_sheet.py looks at the figure."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from common.command_line import run_command
from data_prep.corpus.dataset import load_corpus
from data_prep.plots.contact_sheet import contact_sheet, evenly_spread_samples
from data_prep.quicklook import quicklook
from tests.support.sharding import write_small_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_corpus(tmp_path_factory.mktemp("quicklook"))


def test_command_draws_every_source(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "samples.png"
    with pytest.raises(SystemExit) as ended:
        run_command(quicklook, [str(corpus), "--output", str(output), "--samples", "2", "--frames", "6"], positional=True)
    assert ended.value.code == 0
    assert "shows 4 samples of modis, sentinel2" in capsys.readouterr().out
    loaded = load_corpus(corpus)
    chosen = {source: evenly_spread_samples(loaded, source, "train", 2) for source in ("modis", "sentinel2")}
    expected = tmp_path / "expected.png"
    contact_sheet(loaded, chosen, 6).savefig(expected, dpi=110)
    picture = matplotlib.image.imread(output)
    np.testing.assert_array_equal(picture, matplotlib.image.imread(expected))
    forest = np.array([0x2B, 0x7A, 0x3F]) / 255  # a colour of the land-cover legend
    assert (np.abs(picture[..., :3] - forest).max(axis=-1) < 0.01).sum() > 100
    assert sorted(path.name for path in output.parent.iterdir()) == ["samples.png"]

    first = output.read_bytes()
    quicklook(corpus, output, samples=2, frames=6)
    assert output.read_bytes() == first, "the same command gives the same bytes"
    quicklook(corpus, output, samples=99, frames=99)  # more than there are: draws all


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
