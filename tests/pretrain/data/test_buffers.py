"""The memory of batches is reused only when nothing refers to it."""

from __future__ import annotations

import torch

from data_prep.corpus.dataset import Corpus
from pretrain.data.stream import Stream
from tests.support.pretraining import stream_config


def test_memory_is_used_again_only_when_nobody_looks_at_it(corpus: Corpus) -> None:
    stream = Stream(corpus, "train", stream_config(mixture={"landsat": 1.0}))
    batch = stream.batch(0)
    place, kept, copy = batch.pixels.data_ptr(), batch.pixels[1, 2:], batch.pixels[1, 2:].clone()
    array, array_copy = batch.valid.numpy()[2], batch.valid[2].clone()
    del batch
    others = [stream.batch(step) for step in range(1, 6)]
    assert torch.equal(kept, copy)
    assert (array == array_copy.numpy()).all()
    assert place not in {other.pixels.data_ptr() for other in others}
    del kept, array, others
    assert place in {other.pixels.data_ptr() for other in [stream.batch(step) for step in range(1, 7)]}
