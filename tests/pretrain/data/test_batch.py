"""Batches: orientation, parts, digests, and the copy to a device."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import torch
import xxhash

from data_prep.corpus.dataset import Corpus
from finetune.data.frames import model_frames
from finetune.data.image_stack import ImageStack
from finetune.data.season import Season
from pretrain.data.batch import Batch, batches_on_device, orient
from pretrain.data.stream import Stream
from tests.support.pretraining import assert_equal_batches, stream_config


def test_orientations_are_the_symmetries_of_a_square() -> None:
    image = np.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    turned = orient(torch.from_numpy(np.stack([image] * 8)).float(), torch.arange(8, dtype=torch.uint8)).numpy().astype(int)
    expected = {np.rot90(part, turns, (-2, -1)).tobytes() for turns in range(4) for part in (image, image[..., ::-1])}
    assert {part.tobytes() for part in turned} == expected
    assert len(expected) == 8
    np.testing.assert_array_equal(turned[0], image)


def test_maps_are_turned_as_the_pixels() -> None:
    """Each pixel and each place of the maps holds the number of its place."""
    places = torch.arange(36).reshape(6, 6)
    orientation = torch.arange(8, dtype=torch.uint8)
    pixels = orient(places.float().expand(8, 3, 2, 6, 6), orientation)
    codes = orient(places.to(torch.uint8).expand(8, 6, 6), orientation)
    counts = orient(torch.stack([places + 100 * code for code in range(5)]).float().expand(8, 5, 6, 6), orientation)
    assert codes.dtype == torch.uint8
    for sample in range(8):
        for frame in pixels[sample].flatten(0, 1):
            np.testing.assert_array_equal(codes[sample].numpy(), frame.numpy())
        for code, of_code in enumerate(counts[sample]):
            np.testing.assert_array_equal(of_code.numpy() - 100 * code, codes[sample].numpy())
    assert len({of_sample.numpy().tobytes() for of_sample in codes}) == 8


def test_a_batch_splits_into_equal_parts(corpus: Corpus) -> None:
    batch = Stream(corpus, "train", stream_config(global_batch_size=6)).batch(0)
    for parts in (1, 2, 3, 6):
        split = batch.split(parts)
        assert [len(part.keys) for part in split] == [6 // parts] * parts
        assert [key for part in split for key in part.keys] == batch.keys
        for name, value in vars(batch).items():
            if isinstance(value, torch.Tensor):
                np.testing.assert_array_equal(torch.cat([getattr(part, name) for part in split]).numpy(), value.numpy())
        assert sum(part.digest for part in split) % 2**63 == batch.digest
    for parts in (0, 4, 7):
        with pytest.raises(ValueError, match=f"a batch of 6 samples of source .* cannot be split into {parts} equal parts"):
            batch.split(parts)


def test_pretraining_and_fine_tuning_normalise_alike(corpus: Corpus) -> None:
    batch = Stream(corpus, "train", stream_config()).batch(0)
    bands, frames = batch.pixels.shape[2], batch.pixels.shape[1]
    mean, std = np.linspace(1000, 2000, bands), np.linspace(400, 600, bands)
    plain = {"mean": mean.tolist(), "std": std.tolist()}
    season = Season(times=np.arange(frames), days=np.arange(frames) + 0.5, length=frames, periods=frames)
    for limits in (None, np.stack([mean - 2 * std, mean + 2 * std])):
        given = plain if limits is None else plain | {"low": limits[0].tolist(), "high": limits[1].tolist()}
        tensors = [None if array is None else torch.as_tensor(array, dtype=torch.float32) for array in (mean, std, limits)]
        found = batch.normalized(*tensors).numpy()
        for sample, pixels, valid in zip(found, batch.pixels.numpy(), batch.valid.numpy(), strict=True):
            assert limits is None or np.abs(sample).max() == pytest.approx(2, abs=1e-5)
            expected = model_frames(ImageStack(pixels=pixels, valid=valid), season, given)
            np.testing.assert_allclose(sample, expected, atol=1e-5)


def test_digests_of_ranks_add_up(corpus: Corpus) -> None:
    alone = Stream(corpus, "train", stream_config())
    digests = set()
    for step in range(6):
        whole = alone.batch(step)
        hashes = [
            xxhash.xxh3_64(key.encode() + dates.tobytes()).intdigest()
            for key, dates in zip(whole.keys, whole.dates.numpy(), strict=True)
        ]
        assert whole.digest == sum(hashes) % 2**63 == whole.to("cpu").digest
        for world_size in (2, 4):
            ranks = [Stream(corpus, "train", stream_config(), rank, world_size).batch(step).digest for rank in range(world_size)]
            assert sum(ranks) % 2**63 == whole.digest
        digests.add(whole.digest)
    assert len(digests) == 6


def test_batches_for_the_cpu_pass_through(corpus: Corpus) -> None:
    stream = Stream(corpus, "train", stream_config(num_workers=2))
    for batch, expected in zip(stream.batches(0, 6, torch.device("cpu")), stream.batches(0, 6), strict=True):
        assert_equal_batches(batch, expected)


def test_copies_to_a_gpu_go_ahead(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for what needs a GPU: the order of what is asked of it."""
    events: list[str] = []

    class FakeStream:
        def __init__(self, name: Any = "copies") -> None:
            self.name = name if isinstance(name, str) else "copies"

        def record_event(self) -> str:
            events.append(f"event {len([e for e in events if e.startswith('event')])} on {self.name}")
            return events[-1].removesuffix(f" on {self.name}")

        def wait_event(self, event: str) -> None:
            events.append(f"{self.name} waits for {event}")

    @contextlib.contextmanager
    def enter(stream: FakeStream) -> Any:
        current.append(stream)
        yield
        current.pop()

    current = [FakeStream("compute")]
    kept: list[tuple[int, str]] = []
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "stream", enter)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: current[-1])
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: kept.append((tensor.data_ptr(), stream.name)))

    def copied(self: Batch, device: torch.device) -> Batch:
        assert device.type == "cuda"
        events.append(f"copy {source.index(self.keys)} on {current[-1].name}")
        return self

    def pinned(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
    monkeypatch.setattr(Batch, "to", copied)
    batches = [Stream(corpus, "train", stream_config()).batch(step) for step in range(3)]
    source = [batch.keys for batch in batches]
    for number, batch in enumerate(batches_on_device((batch for batch in batches), torch.device("cuda"))):
        events.append(f"compute {number}")
        assert_equal_batches(batch, batches[number])
        tensors = [value.data_ptr() for value in vars(batch).values() if isinstance(value, torch.Tensor)]
        assert kept == [(place, "compute") for place in tensors]
        kept.clear()
    assert events == [
        *(
            "copy 0 on copies",
            "event 0 on copies",
            "copy 1 on copies",
            "event 1 on copies",
            "compute waits for event 0",
            "compute 0",
        ),
        *("copy 2 on copies", "event 2 on copies", "compute waits for event 1", "compute 1"),
        *("compute waits for event 2", "compute 2"),
    ]
