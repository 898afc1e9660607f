"""Contents of shards are joined in any order and division with the same result."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.corpus.dataset import load_corpus
from data_prep.corpus.sample_index import open_sample_index
from data_prep.corpus.shard_contents import CorpusContents, contents_of, joined, shards_together
from data_prep.corpus.summary import read_summary
from data_prep.shards.shard_index import read_index
from tests.support.archives import CHIPS, write_archive
from tests.support.sharding import run_shard


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contents")
    write_archive(folder / "scenes")
    assert run_shard("--input", folder / "scenes", "--output", folder / "corpus", *CHIPS, "--shard_mb", "0.1") == 0
    return folder / "corpus"


def plain(contents: CorpusContents) -> dict[str, Any]:
    groups = {
        name: {
            field: getattr(group, field) for field in ("samples", "frames", "counted", "statistics", "snow", "rejected", "days")
        }
        | {"shares": group.mean_shares(), "cover": {legend: counts.tolist() for legend, counts in group.land_cover.items()}}
        for name, group in contents.groups.items()
    }
    rows = {name: np.concatenate([*contents.rows(name)]).tobytes() for name in contents.groups if contents.groups[name].samples}
    return {"shards": contents.shards, "groups": groups, "rows": rows, "rejected": b"".join(contents.rejected())}


@pytest.mark.parametrize("together", [1, 2, 100])
def test_any_order_and_any_division_give_the_same(corpus: Path, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_corpus(corpus)
    monkeypatch.setattr("data_prep.corpus.shard_contents._SHARDS_TOGETHER", together)
    counts = [len(loaded.shards_of(*group)) for group in loaded.splits]
    jobs = shards_together(counts)
    assert [number for job in jobs for number in job] == list(range(len(loaded.shards)))
    random.Random(together).shuffle(jobs)
    with tempfile.TemporaryFile() as file:
        contents = CorpusContents(file)
        for job in jobs:
            contents.add(job.start, joined([contents_of(read_index(loaded.shards[number].index)) for number in job]))
        found = plain(contents)
    assert [shard.shard for shard in found["shards"]] == [shard.name for shard in loaded.shards]
    for group, rows in found["rows"].items():
        assert rows == open_sample_index(loaded, *group).tobytes()
        assert found["groups"][group]["samples"] == loaded.splits[group].samples
        for legend, shares in found["groups"][group]["shares"].items():
            assert shares == loaded.splits[group].mean_shares[legend].tolist()
    assert (corpus / "rejected.jsonl").read_bytes().endswith(found["rejected"])


def test_mean_shares_are_those_of_numpy(corpus: Path) -> None:
    loaded = load_corpus(corpus)
    summary = read_summary(loaded.shards[0].index)
    land_cover = read_index(loaded.shards[0].index)["samples"]["land_cover"]
    shares = [np.array(counts) / sum(counts) for counts in land_cover]
    (found,) = summary.mean_shares().values()
    np.testing.assert_allclose(found, np.mean(shares, axis=0), rtol=1e-14)
