"""The stream against the stock WebDataset reader, and its order against counting."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import webdataset
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.corpus.dataset import Corpus, load_corpus
from pretrain.data import reader as sample_reader
from pretrain.data.batch import Batch, on_device, orient
from pretrain.data.order import drawn_frames, mix, mixture_cycle, named_key, shuffled
from pretrain.data.sample_table import SampleTable
from pretrain.data.storage import Storage, Wanted
from pretrain.data.stream import Skipped, Stream
from pretrain.data.workers import ReaderProcess
from tests.support.pretraining import assert_equal_batches, stream_config
from tests.support.small_corpus import damage, write_corpus

SIDE = 6
SAMPLES = {"landsat": 13, "modis": 7}


def _environment() -> dict[str, str]:
    """For a Python that imports what this one does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return load_corpus(write_corpus(tmp_path_factory.mktemp("corpus"), SAMPLES))


@pytest.fixture(params=["samples read whole", "frames read by runs"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to read: the samples of these tests are small enough to be read whole."""
    if request.param == "frames read by runs":
        monkeypatch.setattr(sample_reader, "_SMALL_FRAME_BYTES", 0)


@pytest.mark.usefixtures("reading")
def test_batches_hold_what_the_stock_reader_reads(corpus: Corpus) -> None:
    stock = {}
    for path in sorted(Path(corpus.folder).glob("*.tar")):
        for sample in webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False).decode():
            stock[sample["__key__"]] = sample
    stream = Stream(corpus, "train", stream_config())
    seen = set()
    for step in range(12):
        batch, draw = stream.batch(step), stream.draws.draw(step)
        assert batch.keys == stream.draws.keys(step)
        assert batch.source == stream.draws.source_of(step) == draw.source
        for i, key in enumerate(batch.keys):
            sample, frames = stock[key], draw.frames[i]
            assert len(set(frames.tolist())) == 5
            assert (np.diff(frames) > 0).all()
            pixels = batch.pixels[i].numpy()
            assert pixels.dtype == sample["pixels.npy"].dtype
            np.testing.assert_array_equal(pixels, sample["pixels.npy"][frames])
            np.testing.assert_array_equal(batch.valid[i].numpy(), sample["valid.npy"][frames])
            np.testing.assert_array_equal(batch.dates[i].numpy(), sample["dates.npy"][frames])
            np.testing.assert_array_equal(batch.land_cover[i].numpy(), sample["landcover.npy"])
            days = [int(str(date.astype("datetime64[D]").item().timetuple().tm_yday)) for date in batch.dates[i].numpy()]
            assert batch.day_of_year[i].tolist() == days
            seen.add(key)
    assert len(seen) > 15


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_global_batches_do_not_depend_on_the_number_of_ranks(corpus: Corpus, world_size: int) -> None:
    alone = Stream(corpus, "train", stream_config())
    ranks = [Stream(corpus, "train", stream_config(), rank, world_size) for rank in range(world_size)]
    for step in (0, 1, 2, 5, 1_000_003):
        parts = [stream.batch(step) for stream in ranks]
        whole = alone.batch(step)
        assert {part.source for part in parts} == {whole.source}
        assert [key for part in parts for key in part.keys] == whole.keys == ranks[-1].draws.keys(step)
        for name in ("pixels", "valid", "dates", "day_of_year", "land_cover", "orientation"):
            together = torch.cat([getattr(part, name) for part in parts])
            np.testing.assert_array_equal(together.numpy(), getattr(whole, name).numpy())


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_every_sample_once_an_epoch(corpus: Corpus, world_size: int, num_workers: int) -> None:
    size = 6
    ranks = [
        Stream(corpus, "train", stream_config(global_batch_size=size, num_workers=num_workers), rank, world_size)
        for rank in range(world_size)
    ]
    steps = 2 * 7  # seven batches of either source hold three epochs of the larger one
    keys: dict[str, list[str]] = {source: [] for source in SAMPLES}
    for parts in zip(*(stream.batches(0, steps) for stream in ranks), strict=True):
        for part in parts:
            keys[part.source] += part.keys
    for source, count in SAMPLES.items():
        expected = Counter(entry.key for entry in corpus.samples(source, "train"))
        epochs = [keys[source][i * count : (i + 1) * count] for i in range(3)]
        assert all(Counter(epoch) == expected for epoch in epochs)
        assert epochs[0] != epochs[1] != epochs[2]


def test_starts_anywhere_and_workers_change_nothing(corpus: Corpus) -> None:
    read = {workers: list(Stream(corpus, "train", stream_config(num_workers=workers)).batches(0, 20)) for workers in (0, 1, 3)}
    late = list(Stream(corpus, "train", stream_config(num_workers=2)).batches(13, 20))
    for step, batch in enumerate(read[0]):
        assert_equal_batches(batch, read[1][step])
        assert_equal_batches(batch, read[3][step])
        if step >= 13:
            assert_equal_batches(batch, late[step - 13])


def test_same_order_in_another_process_and_another_order_for_another_seed(corpus: Corpus) -> None:
    program = (
        "import sys, json; from pathlib import Path; from data_prep.corpus.dataset import load_corpus;"
        "from pretrain.data.config import StreamConfig; from pretrain.data.stream import Stream;"
        "s = Stream(load_corpus(Path(sys.argv[1])), 'train', StreamConfig(num_frames=5, global_batch_size=4)).draws;"
        "d = [s.draw(k) for k in range(9)];"
        "print(json.dumps([[s.keys(k) for k in range(9)], [x.frames.tolist() for x in d], [x.orientation.tolist() for x in d]]))"
    )
    command = [sys.executable, "-c", program, corpus.folder]
    done = subprocess.run(
        command, env={"PYTHONHASHSEED": "77", "PYTHONPATH": ":".join(sys.path)}, capture_output=True, check=True
    )

    def described(seed: int) -> list[Any]:
        stream = Stream(corpus, "train", stream_config(seed=seed))
        draws = [stream.draws.draw(step) for step in range(9)]
        keys = [stream.draws.keys(step) for step in range(9)]
        return [keys, [d.frames.tolist() for d in draws], [d.orientation.tolist() for d in draws]]

    assert json.loads(done.stdout) == described(0)
    assert all(a != b for a, b in zip(described(0), described(1), strict=True))


def test_frames_and_orientations_change_from_epoch_to_epoch(corpus: Corpus) -> None:
    stream = Stream(corpus, "train", stream_config(mixture={"modis": 1.0}, global_batch_size=SAMPLES["modis"]))
    first, second = stream.draws.draw(0), stream.draws.draw(1)
    a, b = first.samples.argsort(), second.samples.argsort()
    assert (first.frames[a] != second.frames[b]).any(axis=1).all()
    assert (first.orientation[a] != second.orientation[b]).any()
    assert stream.draws.epoch_of(3) == 3.0
    assert stream.draws.micro_steps_per_epoch("modis") == 1.0
    plain = Stream(corpus, "train", stream_config(augment=False))
    assert not any(plain.draws.draw(step).orientation.any() for step in range(10))


def test_draws_are_functions_of_position_alone(corpus: Corpus) -> None:
    """Batch by batch and position by position, as `order.py` says; the stream draws many batches at once."""
    changes: dict[str, Any] = {"mixture": {"landsat": 1.0}, "global_batch_size": {"landsat": 6}}
    stream = Stream(corpus, "train", stream_config(**changes))
    table = SampleTable(corpus, "landsat", "train")
    order, frames, orientation = (
        named_key(corpus.fingerprint, 0, "train", "landsat", what) for what in ("order", "frames", "orientation")
    )
    for step in (0, 1, 84, 85, 86, 170, 2**33):
        draw = stream.draws.draw(step)
        for place in range(6):
            epoch = np.array([(6 * step + place) // SAMPLES["landsat"]])
            sample = shuffled(np.array([6 * step + place]), SAMPLES["landsat"], order)
            assert draw.samples[place] == sample[0]
            expected = drawn_frames(sample, epoch, table.frames[sample], 5, frames)
            np.testing.assert_array_equal(draw.frames[place], expected[0])
            assert draw.orientation[place] == int(mix(sample, mix(epoch, orientation))[0]) >> 61


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2])
def test_several_draws_from_one_read(corpus: Corpus, world_size: int, num_workers: int) -> None:
    stock = {}
    for path in sorted(Path(corpus.folder).glob("*.tar")):
        for sample in webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False).decode():
            stock[sample["__key__"]] = sample
    single = Stream(corpus, "train", stream_config(mixture={"landsat": 1.0}))
    together: list[list[Batch]] = []
    for rank in range(world_size):
        stream = Stream(corpus, "train", stream_config(data_echoing=3, num_workers=num_workers), rank, world_size)
        together.append(list(stream.batches(0, 24)))
        late = Stream(corpus, "train", stream_config(data_echoing=3, num_workers=num_workers), rank, world_size)
        for step, batch in enumerate(late.batches(5, 11), 5):  # begins and ends in the middle of groups of both sources
            assert_equal_batches(batch, together[-1][step])
        assert_equal_batches(late.batch(22), together[-1][22])
    draws: dict[str, list[Any]] = {source: [] for source in SAMPLES}
    for step in range(24):
        parts = [batches[step] for batches in together]
        keys = [key for part in parts for key in part.keys]
        draw = stream.draws.draw(step)
        assert keys == stream.draws.keys(step)
        pixels = torch.cat([part.pixels for part in parts]).numpy()
        valid, dates = (torch.cat([getattr(part, name) for part in parts]).numpy() for name in ("valid", "dates"))
        for i, key in enumerate(keys):
            np.testing.assert_array_equal(pixels[i], stock[key]["pixels.npy"][draw.frames[i]])
            np.testing.assert_array_equal(valid[i], stock[key]["valid.npy"][draw.frames[i]])
            np.testing.assert_array_equal(dates[i], stock[key]["dates.npy"][draw.frames[i]])
        draws[parts[0].source].append((keys, draw))
    for source, of_source in draws.items():
        for first in range(0, len(of_source), 3):
            group = of_source[first : first + 3]
            assert group[0][0] == group[1][0] == group[2][0]
            assert all((a[1].frames != b[1].frames).any() for a, b in ((group[0], group[1]), (group[1], group[2])))
            if source == "landsat":  # the first draw is the one that there is without the others
                np.testing.assert_array_equal(group[0][1].frames, single.draws.draw(first // 3).frames)
                np.testing.assert_array_equal(group[0][1].orientation, single.draws.draw(first // 3).orientation)
        # An epoch shows every sample as often as it is drawn.
        seen = Counter(key for keys, _ in of_source for key in keys)
        assert max(seen.values()) - min(seen.values()) <= 3
        assert all(count % 3 == 0 for count in seen.values())
    assert stream.draws.micro_steps_per_epoch("modis") == 3 * SAMPLES["modis"] / 4
    step = next(step for step in range(50) if stream.draws.epoch_of(step) >= 1 and stream.draws.source_of(step) == "modis")
    before = [stream.draws.keys(k) for k in range(step) if stream.draws.source_of(k) == "modis"]
    assert len(before) == 6  # 5.25 of them


def test_draws_of_a_group_are_read_once(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[list[Wanted]] = []
    original = Storage.open

    def record(self: Storage, samples: list[Wanted], again: bool = False) -> Any:
        opened.append(list(samples))
        return original(self, samples, again)

    monkeypatch.setattr(Storage, "open", record)
    monkeypatch.setattr(sample_reader, "_SMALL_FRAME_BYTES", 0)  # or small samples would be read whole
    stream = Stream(corpus, "train", stream_config(mixture={"landsat": 1.0}, data_echoing=4))
    list(stream.batches(2, 12))  # the second half of a group, and two groups
    assert len(opened) == 3
    frame_bytes = 6 * SIDE * SIDE * 2
    expected = set()
    for group in range(3):
        frames = [stream.draws.draw(4 * group + number).frames for number in range(4)]
        expected.add(sum(len(set(np.concatenate([each[i] for each in frames]).tolist())) for i in range(4)) * frame_bytes)
    read = set()
    for batch in opened:
        read.add(sum(len(buffer) for wanted in batch for buffer, _, first, last in wanted.reads if last > first))
    assert read == expected
    assert not stream._groups


def test_processes_read_a_group_once(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Any, Any]] = []
    read_group, read = ReaderProcess.read_group, ReaderProcess.read

    def note_group(self: ReaderProcess, name: Any, draws: Any) -> None:
        asked.append(("group", self, name))
        read_group(self, name, draws)

    def note(self: ReaderProcess, draw: Any, block: Any, group: Any = None, last: bool = True) -> None:
        asked.append(("last" if last else "batch", self, group))
        read(self, draw, block, group, last)

    monkeypatch.setattr(ReaderProcess, "read_group", note_group)
    monkeypatch.setattr(ReaderProcess, "read", note)
    list(Stream(corpus, "train", stream_config(mixture={"landsat": 1.0}, data_echoing=4, num_workers=2)).batches(2, 12))
    groups = {name: process for what, process, name in asked if what == "group"}
    assert [name for what, _, name in asked if what == "group"] == [("landsat", number) for number in range(3)]
    assert len(set(map(id, groups.values()))) == 2  # by turns
    assert all(process is groups[name] for _, process, name in asked)
    ends = [("batch", 0), ("last", 0), *[("batch", 1)] * 3, ("last", 1), *[("batch", 2)] * 3, ("last", 2)]
    assert [(what, name[1]) for what, _, name in asked if what != "group"] == ends


@given(size=st.integers(1, 300), epoch=st.integers(0, 2**40), key=st.integers(0, 2**64 - 1))
@settings(max_examples=60, deadline=None)
def test_an_epoch_is_a_permutation(size: int, epoch: int, key: int) -> None:
    items = shuffled(np.arange(epoch * size, (epoch + 1) * size), size, key)
    assert sorted(items.tolist()) == list(range(size))


def test_all_orders_of_four_items_are_equally_likely() -> None:
    rounds = 24 * 200
    orders = Counter(map(tuple, shuffled(np.arange(4 * rounds), 4, key=9).reshape(rounds, 4).tolist()))
    # Chi-squared with 23 degrees of freedom: 49.7 is passed once in a thousand keys; this key is fixed.
    assert len(orders) == 24
    assert sum((count - 200) ** 2 / 200 for count in orders.values()) < 49.7


def test_frames_are_drawn_evenly_from_those_a_sample_has() -> None:
    samples = np.arange(6000)
    available = np.where(samples % 2, 20, 8)
    frames = drawn_frames(samples, np.zeros_like(samples), available, 5, key=3)
    assert (np.diff(frames, axis=1) > 0).all()
    for length, rows in ((8, frames[::2]), (20, frames[1::2])):
        share = np.bincount(rows.ravel(), minlength=length) / len(rows)
        assert len(share) == length
        np.testing.assert_allclose(share, 5 / length, atol=4 * (0.25 / len(rows)) ** 0.5)  # four standard errors


def test_mixture_proportions(corpus: Corpus) -> None:
    stream = Stream(corpus, "train", stream_config(mixture={"landsat": 3.0, "modis": 1.0}))
    names = [stream.draws.source_of(step) for step in range(400)]
    assert Counter(names) == {"landsat": 300, "modis": 100}
    assert all(names[i : i + 4].count("modis") == 1 for i in range(0, 400, 4))
    assert len({tuple(names[i : i + 4]) for i in range(0, 400, 4)}) == 4
    assert [stream.draws.epoch_of(k) for k in range(9)] == [names[:k].count(names[k]) * 4 / SAMPLES[names[k]] for k in range(9)]
    assert mixture_cycle({"a": 1.0, "b": 1.0, "c": 1.0}) == ["a", "b", "c"]
    thirds = Counter(mixture_cycle({"a": 2**0.5, "b": 1.0}))
    assert abs(thirds["a"] / thirds.total() - 2**0.5 / (1 + 2**0.5)) < 0.005


def test_orientations_are_the_symmetries_of_a_square() -> None:
    image = np.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    turned = orient(torch.from_numpy(np.stack([image] * 8)).float(), torch.arange(8, dtype=torch.uint8)).numpy().astype(int)
    expected = {np.rot90(part, turns, (-2, -1)).tobytes() for turns in range(4) for part in (image, image[..., ::-1])}
    assert {part.tobytes() for part in turned} == expected
    assert len(expected) == 8
    np.testing.assert_array_equal(turned[0], image)


def test_leaving_early_ends_the_processes_and_closing_closes_the_shards(corpus: Corpus) -> None:
    def open_shards() -> int:
        return sum(link.resolve().suffix == ".tar" for link in Path("/proc/self/fd").iterdir())

    before, others = open_shards(), set(psutil.Process().children())
    stream = Stream(corpus, "train", stream_config(num_workers=3))
    batches = stream.batches(0, 1000)
    next(batches)
    processes = set(psutil.Process().children()) - others
    assert len(processes) == 3
    batches.close()
    assert not any(process.is_running() for process in processes)
    stream.batch(0)
    assert open_shards() > before
    stream.close()
    assert open_shards() == before


def test_a_process_that_was_killed_is_named(corpus: Corpus) -> None:
    others = set(psutil.Process().children())
    batches = Stream(corpus, "train", stream_config(num_workers=2)).batches(0, 1000)
    next(batches)
    for process in set(psutil.Process().children()) - others:
        process.kill()
    with pytest.raises(RuntimeError, match="reads batches ended with exit code -9: the system lacked memory, or someone killed"):
        list(batches)
    assert set(psutil.Process().children()) == others


def test_signals_for_all_processes_of_a_job_are_for_the_one_that_trains(corpus: Corpus) -> None:
    others = set(psutil.Process().children())
    stream = Stream(corpus, "train", stream_config(num_workers=2))
    batches = stream.batches(0, 30)
    first = next(batches)
    processes = set(psutil.Process().children()) - others
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        for process in processes:
            process.send_signal(number)
    assert_equal_batches(first, stream.batch(0))
    assert len(list(batches)) == 29
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize("draws", [1, 3])
def test_batches_of_thousands_of_samples_do_not_fill_the_socket(tmp_path: Path, draws: int) -> None:
    """A request, and an answer, of some megabytes: more than a socket holds."""
    loaded = load_corpus(write_corpus(tmp_path, {"modis": 40}, frames=(17, 18), side=1))
    changes = {"num_frames": 16, "global_batch_size": 16_000, "data_echoing": draws}
    expected = Stream(loaded, "train", stream_config(**changes)).batches(0, 3)
    for batch, other in zip(
        Stream(loaded, "train", stream_config(**changes, num_workers=1)).batches(0, 3), expected, strict=True
    ):
        assert_equal_batches(batch, other)


def test_what_a_process_raises_is_raised_here(tmp_path: Path) -> None:
    loaded = load_corpus(write_corpus(tmp_path, {"modis": 8}, frames=(20, 21)))
    stream = Stream(loaded, "train", stream_config(num_workers=2, skip_damaged=8))
    for path in tmp_path.glob("*.tar"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"modis-train-00000\d.tar"):
        list(stream.batches(0, 4))


def test_processes_end_with_the_one_that_asks(corpus: Corpus) -> None:
    program = (
        "import os, signal, sys, psutil; from pathlib import Path; from data_prep.corpus.dataset import load_corpus;"
        "from pretrain.data.config import StreamConfig; from pretrain.data.stream import Stream;"
        "stream = Stream(load_corpus(Path(sys.argv[1])), 'train', StreamConfig(num_frames=5, global_batch_size=4));"
        "batches = stream.batches(0, 99); next(batches); print(*(p.pid for p in psutil.Process().children()), flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, corpus.folder], capture_output=True, text=True, env=_environment())
    assert done.returncode == -signal.SIGKILL
    processes = [int(number) for number in done.stdout.split()]
    assert len(processes) == 2
    _, left = psutil.wait_procs([psutil.Process(number) for number in processes if psutil.pid_exists(number)], timeout=10)
    assert not left
    assert done.stderr == ""


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


@pytest.mark.parametrize(
    ("changes", "world_size", "match"),
    [
        ({"mixture": {"landsat": 1.0, "sentinel3": 1.0}}, 1, r"sentinel3.*holds \['landsat', 'modis'\]"),
        ({"mixture": {"landsat": -1.0}}, 1, "positive"),
        ({"mixture": {"landsat": 1.0, "modis": 1e-6}}, 1, "below 1 in 100"),
        ({"global_batch_size": 5}, 2, "5, which 2 ranks cannot share equally; take 4"),
        ({"global_batch_size": {"landsat": 2}}, 1, "no entry for source 'modis'"),
        ({"num_frames": 18}, 1, r"of \d+ samples of source 'landsat' have fewer than num_frames=18.*lower num_frames"),
        ({"num_frames": 0}, 1, "at least 1"),
        ({"data_echoing": 0}, 1, "data_echoing is 0; expected 1"),
        ({"skip_damaged": -1}, 1, "skip_damaged is -1; expected 0"),
        ({"cache_keep_free_gb": -2.0}, 1, "cache_keep_free_gb is -2.0; expected 0 or more GB"),
    ],
)
def test_mistakes_are_named(corpus: Corpus, changes: dict[str, Any], world_size: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Stream(corpus, "train", stream_config(**changes), 0, world_size)


def test_empty_split_is_named(corpus: Corpus) -> None:
    with pytest.raises(ValueError, match=r"no samples of source 'landsat' in split 'val'"):
        Stream(corpus, "val", stream_config())


@pytest.mark.usefixtures("reading")
def test_damaged_shards_are_named(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path, {"modis": 4})
    stream = Stream(load_corpus(folder), "train", stream_config())
    shard = folder / "modis-train-000001.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"modis-train-000001\.tar ends at byte"):
        stream.batch(0)
    shard.write_bytes(data.replace(b"'shape': (", b"'shape': [", 3))
    with pytest.raises(ValueError, match=r"modis-train-000001\.tar: modis-scene-2021-r0000\d-c00000\.\w+\.npy is not"):
        stream.batch(0)


@pytest.mark.usefixtures("reading")
def test_what_is_read_is_compared_with_its_checksums(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path, {"modis": 4}, frames=(20, 21))
    loaded = load_corpus(folder)
    stream, unchecked = (Stream(loaded, "train", stream_config(check_reads=check)) for check in (True, False))
    entry = loaded.samples("modis", "train")[3]
    sound = entry.shard.read_bytes()
    for member in ("pixels.npy", "valid.npy", "dates.npy", "landcover.npy", "checksums.npy"):
        flipped = bytearray(sound)
        place = entry.members[member]
        # Every frame is hit, so that the drawn ones are: a bit of each 8 bytes behind the header.
        for at in range(place.offset + 128, place.offset + place.size, 8):
            flipped[at] ^= 1
        entry.shard.write_bytes(flipped)
        unchecked.batch(0)
        with pytest.raises(
            ValueError, match=rf"modis-train-000001.tar: \d+ of \d+ frames read of {entry.key} are not as they were"
        ):
            stream.batch(0)
    entry.shard.write_bytes(sound)
    stream.batch(0)


@pytest.mark.usefixtures("reading")
def test_shards_under_each_others_names_are_noticed(tmp_path: Path) -> None:
    """Their samples are of equal sizes, so all offsets, headers and shapes fit."""
    folder = write_corpus(tmp_path, {"modis": 4}, frames=(20, 21))
    stream = Stream(load_corpus(folder), "train", stream_config())
    one, other = folder / "modis-train-000000.tar", folder / "modis-train-000001.tar"
    assert one.stat().st_size == other.stat().st_size
    one.rename(folder / "third")
    other.rename(one)
    (folder / "third").rename(other)
    with pytest.raises(ValueError, match="are not as they were written"):
        stream.batch(0)


@pytest.mark.usefixtures("reading")
@pytest.mark.parametrize("draws", [1, 2])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_damaged_samples_are_passed_over_and_named(tmp_path: Path, num_workers: int, draws: int) -> None:
    folder = write_corpus(tmp_path, {"modis": 8}, frames=(20, 21))
    loaded = load_corpus(folder)
    changes: dict[str, Any] = {"num_workers": num_workers, "data_echoing": draws}
    sound = list(Stream(loaded, "train", stream_config(**changes)).batches(0, 12))
    keys = damage(folder, loaded, [1, 6])
    stream = Stream(loaded, "train", stream_config(**changes, skip_damaged=2))
    assert stream.take_skipped() == []
    batches = list(stream.batches(0, 12))  # three epochs (or two of two draws)
    skipped = stream.take_skipped()
    assert sorted(sample.key for sample in skipped) == keys
    for sample in skipped:
        assert Path(sample.shard).name == f"modis-train-00000{int(sample.key == keys[1])}.tar"
        assert f"5 of 5 frames read of {sample.key}" in sample.reason or draws == 2
    assert stream.take_skipped() == []
    for batch, before in zip(batches, sound, strict=True):
        assert batch.keys == before.keys
        for i, key in enumerate(batch.keys):
            assert bool(batch.usable[i]) == (key not in keys)
            assert before.usable[i]
            for name in ("pixels", "valid", "dates", "land_cover"):
                expected = getattr(before, name)[i].numpy()
                np.testing.assert_array_equal(getattr(batch, name)[i].numpy(), 0 * expected if key in keys else expected)
    stream = Stream(loaded, "train", stream_config(**changes, skip_damaged=1))
    with pytest.raises(ValueError, match=r"2 damaged samples, more than skip_damaged=1; the last: .*modis-train-00000\d.tar: "):
        list(stream.batches(0, 12))
    with pytest.raises(ValueError, match=r"modis-train-00000\d.tar: \d+ of \d+ frames read of "):
        list(Stream(loaded, "train", stream_config(**changes)).batches(0, 12))


def test_which_micro_step_stops_does_not_depend_on_workers(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path, {"modis": 40}, frames=(20, 21))
    loaded = load_corpus(folder)
    damage(folder, loaded, [3, 17, 21, 30])
    for allowed in (0, 1, 3):
        made = set()
        for num_workers in (0, 1, 3):
            batches = Stream(loaded, "train", stream_config(num_workers=num_workers, skip_damaged=allowed)).batches(0, 10)
            whole: list[Batch] = []
            with pytest.raises(ValueError, match="frames read of"):
                whole.extend(batches)  # which keeps those before the error
            made.add(len(whole))
        assert len(made) == 1


@pytest.mark.usefixtures("reading")
def test_a_shard_that_is_cut_off_is_damage_and_a_lost_mount_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_corpus(tmp_path, {"modis": 8}, frames=(20, 21))
    loaded = load_corpus(folder)
    monkeypatch.setattr("common.retries.time.sleep", lambda _: None)
    stream = Stream(loaded, "train", stream_config(skip_damaged=8))
    expected = [stream.batch(step) for step in range(2)]
    original = os.preadv
    stale = {path.stat().st_ino for path in folder.glob("*.tar")}
    tries: list[int] = []

    def stale_at_first(fd: int, buffers: list[memoryview], offset: int) -> int:
        """As of a mount that was lost: files that were opened before stay unusable."""
        tries.append(fd)
        if os.fstat(fd).st_ino in stale or len(tries) < 4:
            raise OSError(errno.ESTALE, "Stale file handle")
        return original(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", stale_at_first)
    for path in folder.glob("*.tar"):
        (folder / "copy").write_bytes(path.read_bytes())
        (folder / "copy").rename(path)
    for step in range(2):
        assert_equal_batches(stream.batch(step), expected[step])
    stale |= {path.stat().st_ino for path in folder.glob("*.tar")}
    with pytest.raises(OSError, match="Stale"):
        stream.batch(0)
    monkeypatch.undo()
    shard = folder / "modis-train-000001.tar"
    with shard.open("r+b") as file:
        file.truncate(10_000)
    cut = [stream.batch(step) for step in range(2)]
    assert 0 < sum(int(batch.usable.sum()) for batch in cut) < 8
    skipped = stream.take_skipped()
    assert all("ends at byte" in sample.reason and sample.shard == str(shard) for sample in skipped)
    assert {sample.key for sample in skipped} == {
        key for batch in cut for key, usable in zip(batch.keys, batch.usable.tolist(), strict=True) if not usable
    }
    assert isinstance(skipped[0], Skipped)
    shard.unlink()
    with pytest.raises(FileNotFoundError):
        list(Stream(loaded, "train", stream_config(skip_damaged=8)).batches(0, 2))


@pytest.mark.usefixtures("reading")
def test_members_may_lie_in_any_order(tmp_path: Path) -> None:
    loaded = load_corpus(write_corpus(tmp_path, {"modis": 8}))
    expected = [Stream(loaded, "train", stream_config()).batch(step) for step in range(4)]
    entries = loaded.samples("modis", "train")
    names = ["pixels.npy", "valid.npy", "dates.npy", "landcover.npy", "checksums.npy"]
    for seed in range(4):
        stream = Stream(loaded, "train", stream_config())
        table = stream.draws.tables["modis"]
        rng = np.random.default_rng(seed)
        offsets, content = table.offsets.copy(), bytearray()
        for i, entry in enumerate(entries):
            for member in rng.permutation(5):
                place = entry.members[names[member]]
                content += bytes(512 * int(rng.integers(0, 20)))
                offsets[i, member] = len(content)
                data = Path(entry.shard).read_bytes()[place.offset : place.offset + place.size]
                content += data + bytes(-len(data) % 512)
        (tmp_path / "shuffled").write_bytes(content)
        table.offsets, table.shards = offsets, [str(tmp_path / "shuffled")] * 2
        for step, batch in enumerate(expected):
            assert_equal_batches(stream.batch(step), batch)


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
    for number, batch in enumerate(on_device((batch for batch in batches), torch.device("cuda"))):
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


@pytest.mark.slow
@pytest.mark.parametrize("draws", [1, 3])
def test_memory_does_not_grow(tmp_path: Path, draws: int) -> None:
    """Resident memory after 200 batches and after 1,000, in a process of its own."""
    folder = write_corpus(tmp_path, {"modis": 40, "landsat": 40}, frames=(20, 60), side=32)
    program = (
        "import sys, psutil; from pathlib import Path; from data_prep.corpus.dataset import load_corpus;"
        "from pretrain.data.config import StreamConfig; from pretrain.data.stream import Stream;"
        f"s = Stream(load_corpus(Path(sys.argv[1])), 'train', StreamConfig(global_batch_size=16, data_echoing={draws}));"
        "r = [psutil.Process().memory_info().rss for k, _ in enumerate(s.batches(0, 1000)) if k in (199, 999)];"
        "print(*r)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        capture_output=True,
        check=True,
        text=True,
        env=_environment(),
    )
    early, late = map(int, done.stdout.split())
    assert late - early < 20_000_000, (early, late)  # 25 kB a batch; a batch has 1 MB
