"""Damaged samples are listed once in a whole run, and `skip_damaged` counts them over restarts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from common import ranks
from data_prep.corpus.dataset import Corpus, load_corpus
from pretrain.data.storage import DamagedSampleError
from pretrain.data.stream import Stream
from pretrain.log.skipped_samples import SKIPPED_FILE, TRAINING, VALIDATION, SkippedSamples
from tests.support.pretraining import stream_config
from tests.support.small_corpus import damage, write_corpus


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Eight samples to train on, four of them damaged, and eight to validate on, of which one is damaged."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    loaded = load_corpus(write_corpus(folder, {"modis": 8}, validation={"modis": 8}))
    damage(folder, loaded, [0, 2, 4, 6])
    damage(folder, loaded, [3], split="validation")
    return loaded


class Run:
    """One start of a run on one rank: it reads an epoch of training, then all validation samples."""

    def __init__(self, corpus: Corpus, output: Path, **changes: Any) -> None:
        self.training = Stream(corpus, "train", stream_config(**changes))
        self.validation = Stream(corpus, "validation", stream_config(**changes))
        self.skipped = SkippedSamples(output, {TRAINING: [self.training], VALIDATION: [self.validation]})

    def read(self) -> None:
        list(self.training.batches(0, 2))
        list(self.validation.batches(0, 2))
        self.skipped.list_new()


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / SKIPPED_FILE).read_text().splitlines()]


def damaged_keys(corpus: Corpus) -> set[str]:
    entries = corpus.samples("modis", "train")
    return {entries[number].key for number in (0, 2, 4, 6)}


def test_a_sample_is_listed_once_by_a_run_that_is_started_again(corpus: Corpus, tmp_path: Path) -> None:
    Run(corpus, tmp_path, skip_damaged=4).read()
    path = tmp_path / SKIPPED_FILE
    first = path.read_text()
    path.write_text(first[: first.rindex("{") + 9])  # a kill cuts the last line
    for _ in range(2):
        Run(corpus, tmp_path, skip_damaged=4).read()
    cut = [line for line in path.read_text().splitlines() if not line.endswith("}")]
    assert len(cut) == 1
    path.write_text(path.read_text().replace(cut[0] + "\n", ""))
    assert Counter(line["found_in"] for line in lines(tmp_path)) == {TRAINING: 4, VALIDATION: 1}
    assert {line["key"] for line in lines(tmp_path) if line["found_in"] == TRAINING} == damaged_keys(corpus)
    assert {(line["rank"], line["source"]) for line in lines(tmp_path)} == {(0, "modis")}
    assert {line["split"] for line in lines(tmp_path) if line["found_in"] == VALIDATION} == {"validation"}


def test_the_limit_is_one_for_the_whole_run(corpus: Corpus, tmp_path: Path) -> None:
    Run(corpus, tmp_path, skip_damaged=4).read()
    (line,) = (line for line in lines(tmp_path) if line["found_in"] == VALIDATION)
    # As if three of the four had been found before the run stopped, and one after.
    kept = [line for line in lines(tmp_path) if line["found_in"] == TRAINING][:3]
    (tmp_path / SKIPPED_FILE).write_text("".join(json.dumps(each) + "\n" for each in [*kept, line]))
    with pytest.raises(DamagedSampleError, match="4 damaged samples, more than skip_damaged=3"):
        Run(corpus, tmp_path, skip_damaged=3).read()


def test_a_sample_that_ends_a_run_was_not_skipped(corpus: Corpus, tmp_path: Path) -> None:
    run = Run(corpus, tmp_path, skip_damaged=0)
    with pytest.raises(DamagedSampleError):
        list(run.training.batches(0, 2))
    run.skipped.list_new()
    assert not (tmp_path / SKIPPED_FILE).exists()


def test_each_rank_counts_its_own(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"rank": 1, "found_in": TRAINING, "source": "modis", "split": "train", "shard": "", "reason": ""}
    others = [json.dumps({**found, "key": f"modis-{number}"}) for number in range(4)]
    (tmp_path / SKIPPED_FILE).write_text("\n".join(others))
    monkeypatch.setattr(ranks, "rank_and_world_size", lambda: (0, 2))
    list(Run(corpus, tmp_path, skip_damaged=4).training.batches(0, 2))
    monkeypatch.setattr(ranks, "rank_and_world_size", lambda: (0, 1))  # the only rank counts for both
    with pytest.raises(DamagedSampleError, match="more than skip_damaged=4"):
        list(Run(corpus, tmp_path, skip_damaged=4).training.batches(0, 2))


def test_a_list_of_an_earlier_version_counts_for_training(corpus: Corpus, tmp_path: Path) -> None:
    old = [json.dumps({"shard": "a.tar", "key": f"modis-{number}", "reason": "b"}) for number in range(2)]
    (tmp_path / SKIPPED_FILE).write_text("\n".join(old) + "\n")
    run = Run(corpus, tmp_path, skip_damaged=2)
    list(run.validation.batches(0, 2))
    with pytest.raises(DamagedSampleError, match="damaged samples, more than skip_damaged=2"):
        list(run.training.batches(0, 2))
