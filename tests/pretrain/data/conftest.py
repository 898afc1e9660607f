"""The corpus and the ways of reading that tests of the data loading share."""

from __future__ import annotations

import pytest

from data_prep.corpus.dataset import Corpus, load_corpus
from pretrain.data import reader as sample_reader
from tests.support.small_corpus import SMALL_CORPUS, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return load_corpus(write_corpus(tmp_path_factory.mktemp("corpus"), SMALL_CORPUS, maps=True))


@pytest.fixture(params=["samples read whole", "frames read by runs"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to read: the samples of these tests are small enough to be read whole."""
    if request.param == "frames read by runs":
        monkeypatch.setattr(sample_reader, "_SMALL_FRAME_BYTES", 0)
