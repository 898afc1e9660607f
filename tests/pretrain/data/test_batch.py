"""Batches: orientation, parts, digests, and the copy to a device."""

from __future__ import annotations

import contextlib
import gc
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from torch._inductor import metrics

from data_prep.corpus.dataset import Corpus
from finetune.data.frames import model_frames
from finetune.data.image_stack import ImageStack
from finetune.data.season import Season
from pretrain.data.batch import Batch, batches_on_device, normalize, orient
from pretrain.data.stream import Stream
from pretrain.objective.mean_teacher import views
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


@pytest.mark.parametrize("limits", [False, True])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_turned_integers_are_normalised_as_normalised_numbers_are_turned(dtype: type, limits: bool) -> None:
    """Bit for bit, in numpy's float32, for all orientations; the student's frames are the first, the teacher's the last."""
    rng = np.random.default_rng(0)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    pixels = rng.integers(low, high, (8, 5, 3, 6, 6), dtype, endpoint=True)
    valid, orientation = rng.random((8, 5, 6, 6)) < 0.7, np.arange(8, dtype=np.uint8)
    mean, std = rng.uniform(-500, 2000, 3).astype(np.float32), rng.uniform(100, 900, 3).astype(np.float32)
    bounds = np.stack([mean - 2 * std, mean + 2 * std])
    numbers = pixels.astype(np.float32)
    if limits:
        numbers = numbers.clip(*bounds[:, :, None, None])
    expected = (numbers - mean[:, None, None]) / std[:, None, None] * valid[:, :, None]
    turned = np.stack([
        np.swapaxes(each, -1, -2) if number & 4 else each
        for number, each in enumerate(e[..., :: -1 if n & 2 else 1, :: -1 if n & 1 else 1] for n, e in enumerate(expected))
    ])  # fmt: skip
    tensors = [torch.from_numpy(each) for each in (pixels, valid, orientation, mean, std, bounds)]
    batch = SimpleNamespace(**dict(zip(("pixels", "valid", "orientation"), tensors[:3], strict=True)))
    statistics = tensors[3], tensors[4], tensors[5] if limits else None
    student, teacher = views(batch, *statistics, num_frames=3)
    np.testing.assert_array_equal(student.numpy(), turned[:, :3])
    np.testing.assert_array_equal(teacher.numpy(), expected[:, -3:])
    in_bf16 = views(batch, *statistics, num_frames=3, dtype=torch.bfloat16)
    assert torch.equal(in_bf16[0], student.bfloat16())
    assert torch.equal(in_bf16[1], teacher.bfloat16())


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


class FakeEvent:
    """An event of a GPU that is done when the test says so."""

    def __init__(self, name: str) -> None:
        self.name, self.is_done = name, False

    def query(self) -> bool:
        return self.is_done

    def synchronize(self) -> None:
        self.is_done = True


class FakeGpu:
    """Stands in for what `batches_on_device` asks of a GPU, and keeps the order in which it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.events: list[FakeEvent] = []
        self.copied: list[list[str]] = []  # keys of the batches
        self.kept: list[tuple[int, str]] = []
        gpu = self

        class FakeStream:
            def __init__(self, name: Any = "copies") -> None:
                self.name = name if isinstance(name, str) else "copies"

            def record_event(self) -> FakeEvent:
                gpu.events.append(FakeEvent(f"event {len(gpu.events)}"))
                gpu.asked.append(f"{gpu.events[-1].name} on {self.name}")
                return gpu.events[-1]

            def wait_event(self, event: FakeEvent) -> None:
                gpu.asked.append(f"{self.name} waits for {event.name}")

        @contextlib.contextmanager
        def enter(stream: FakeStream) -> Any:
            current.append(stream)
            yield
            current.pop()

        def to_gpu(batch: Batch, device: torch.device) -> Batch:
            assert device.type == "cuda"
            gpu.asked.append(f"copy {len(gpu.copied)} on {current[-1].name}")
            gpu.copied.append(batch.keys)
            tensors = {name: value.clone() for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
            return replace(batch, **tensors)

        current = [FakeStream("compute")]
        monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
        monkeypatch.setattr(torch.cuda, "stream", enter)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _: current[-1])
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, by: gpu.kept.append((tensor.data_ptr(), by.name)))
        monkeypatch.setattr(Batch, "to", to_gpu)


def test_copies_to_a_gpu_go_ahead(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu(monkeypatch)
    batches = [Stream(corpus, "train", stream_config()).batch(step) for step in range(3)]
    for number, batch in enumerate(batches_on_device((batch for batch in batches), torch.device("cuda"))):
        gpu.asked.append(f"compute {number}")
        assert_equal_batches(batch, batches[number])
        tensors = [value.data_ptr() for value in vars(batch).values() if isinstance(value, torch.Tensor)]
        assert gpu.kept == [(place, "compute") for place in tensors]
        gpu.kept.clear()
    assert gpu.asked == [
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


@pytest.mark.parametrize("num_workers", [0, 2])
def test_memory_is_pinned_once_and_not_reused_before_the_gpu_has_copied_it(
    num_workers: int, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = FakeGpu(monkeypatch)
    pinned: dict[int, int] = {}  # address -> bytes

    class FakeCudart:
        def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:
            assert flags == 0
            assert not any(other <= address < other + size for other, size in pinned.items())
            pinned[address] = nbytes
            return 0

        def cudaHostUnregister(self, address: int) -> int:
            del pinned[address]
            return 0

    monkeypatch.setattr(torch.cuda, "cudart", FakeCudart)
    monkeypatch.setattr(torch.cuda, "check_error", lambda error: None if error == 0 else pytest.fail("an error"))
    on_gpu, places = Batch.to, []

    def noting_the_place(batch: Batch, device: torch.device) -> Batch:
        places.append(batch.pixels.data_ptr())
        assert any(address <= places[-1] < address + nbytes for address, nbytes in pinned.items())
        return on_gpu(batch, device)

    monkeypatch.setattr(Batch, "to", noting_the_place)
    steps, done_after = 30, 10
    stream = Stream(corpus, "train", stream_config(num_workers=num_workers, mixture={"landsat": 1.0}))
    for number, _ in enumerate(stream.batches(0, steps, torch.device("cuda"))):
        if number >= done_after:  # from here on the GPU is fast
            for event in gpu.events:
                event.is_done = True
        if len(places) <= done_after:
            assert len(set(places)) == len(places), "memory that is not copied yet was filled again"
    assert len(places) == steps
    assert len(pinned) == len(set(places)) < steps
    assert all(event.is_done for event in gpu.events), "the memory was given back before the GPU had copied it"
    del stream, _
    gc.collect()
    assert not pinned


@pytest.mark.slow
@pytest.mark.parametrize("limits", [False, True])
def test_compiled_normalisation_is_one_kernel_with_the_same_numbers(limits: bool) -> None:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 10_000, (2, 3, 4, 8, 8), np.uint16))
    valid = torch.from_numpy(rng.random((2, 3, 8, 8)) < 0.7)
    mean, std = (torch.from_numpy(rng.uniform(100, 900, 4).astype(np.float32)) for _ in range(2))
    bounds = torch.stack([mean - 2 * std, mean + 2 * std]) if limits else None
    metrics.reset()
    found = torch.compile(normalize, dynamic=False)(pixels, valid, mean, std, bounds, torch.bfloat16)
    assert metrics.generated_kernel_count == 1
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, normalize(pixels, valid, mean, std, bounds, torch.bfloat16), rtol=2**-8, atol=0)
