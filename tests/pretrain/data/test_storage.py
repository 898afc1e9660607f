"""Shards at URLs against the same shards on disk: in fsspec's memory and on a web server, with failures, and with a cache."""

from __future__ import annotations

import errno
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from common.errors import InfrastructureError, RefusedError
from data_prep.corpus.dataset import Corpus, load_corpus
from pretrain.data import reader as sample_reader
from pretrain.data import storage as shard_storage
from pretrain.data.batch import Batch
from pretrain.data.config import StreamConfig
from pretrain.data.storage import DamagedSampleError, FetchedBytes, OpenShards, SampleCache, Storage, Wanted
from pretrain.data.stream import Stream
from tests.support.small_corpus import damage, write_corpus
from tests.support.web_server import web_server

STEPS = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "corpus").mkdir()
    return write_corpus(tmp_path / "corpus", {"landsat": 8, "modis": 8}, frames=(20, 25))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("common.retries.time.sleep", lambda _: None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # of the tables' copies


@pytest.fixture
def requests() -> list[str]:
    """What the web server is asked for: "path range"."""
    return []


@pytest.fixture
def serve(requests: list[str]) -> Iterator[Callable[[Path], str]]:
    """A function that serves a folder by aiohttp, which knows byte ranges, and returns the URL."""
    with web_server() as server:
        yield lambda folder: server(folder, lambda request: requests.append(f"{request.path} {request.headers.get('Range', '')}"))


def publish(folder: Path) -> str:
    fsspec.filesystem("memory").put(f"{folder}/", "/published/", recursive=True)
    return "memory://published"


@pytest.fixture(autouse=True)
def _empty_memory() -> Iterator[None]:
    yield
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


@pytest.fixture(params=["memory", "http"])
def url(request: pytest.FixtureRequest, folder: Path) -> str:
    serve = request.getfixturevalue("serve")
    return publish(folder) if request.param == "memory" else str(serve(folder))


def config(**changes: Any) -> StreamConfig:
    return StreamConfig(**{"num_frames": 5, "global_batch_size": 4, "num_workers": 0, "cache_keep_free_gb": 0.0, **changes})


def batches(corpus: Corpus | Path | str, **changes: Any) -> list[Batch]:
    corpus = corpus if isinstance(corpus, Corpus) else load_corpus(corpus)
    return list(Stream(corpus, "train", config(**changes)).batches(0, STEPS))


def assert_equal(ours: list[Batch], expected: list[Batch]) -> None:
    assert [batch.keys for batch in ours] == [batch.keys for batch in expected]
    for one, other in zip(ours, expected, strict=True):
        for name, value in vars(one).items():
            if isinstance(value, torch.Tensor):
                np.testing.assert_array_equal(value.numpy(), getattr(other, name).numpy(), err_msg=name)


class Calls:
    """Counts what fsspec's memory is asked for, and fails as often as it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.together: list[int] = []
        self.ranges: list[tuple[str, int, int]] = []
        self.failures: list[Exception] = []
        cat_ranges, cat_file = MemoryFileSystem.cat_ranges, MemoryFileSystem.cat_file

        def counted(files: Any, paths: Any, *arguments: Any, **options: Any) -> Any:
            self.together.append(len(paths))
            return cat_ranges(files, paths, *arguments, **options)

        def failing(files: Any, path: str, start: Any = None, end: Any = None, **options: Any) -> Any:
            self.ranges.append((path, start, end))
            if self.failures:
                raise self.failures.pop()
            return cat_file(files, path, start, end, **options)

        monkeypatch.setattr(MemoryFileSystem, "cat_ranges", counted)
        monkeypatch.setattr(MemoryFileSystem, "cat_file", failing)


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("small_frame_bytes", [0, 3_000])
@pytest.mark.parametrize("cached", [False, True])
def test_urls_hold_what_the_disk_holds(
    folder: Path, url: str, cached: bool, small_frame_bytes: int, draws: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_reader, "_SMALL_FRAME_BYTES", small_frame_bytes)
    changes: dict[str, Any] = {"data_echoing": draws, "cache": tmp_path / "cache" if cached else None}
    expected = batches(folder, data_echoing=draws)
    assert_equal(batches(url, **changes), expected)
    if url.startswith("http"):  # other processes do not see what is in the memory of this one
        assert_equal(batches(url, num_workers=2, **changes), expected)  # from the cache, where there is one


def test_a_file_url_is_read_as_a_file(folder: Path) -> None:
    assert_equal(batches(f"file://{folder}"), batches(folder))
    assert isinstance(Storage().open([Wanted(f"file://{folder}/modis-train-000000.tar", 0, 1, [])])[0], shard_storage.OpenShard)


def test_ranges_of_a_batch_are_asked_for_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_reader, "_SMALL_FRAME_BYTES", 0)
    monkeypatch.setattr(shard_storage, "_GAP_BYTES", 0)
    corpus = load_corpus(publish(folder))
    calls = Calls(monkeypatch)
    stream = Stream(corpus, "train", config(mixture={"modis": 1.0}))
    stream.batch(0)
    assert len(calls.together) == 1
    apart = calls.together[0]
    assert apart > 4 * 3
    frames = sum(int(table.frames[stream.draws.draw(0).samples].sum()) for table in stream.draws.tables.values())
    assert sum(stop - start for _, start, stop in calls.ranges) < frames * (7 * 36 * 2 + 36)  # less than the samples
    monkeypatch.setattr(shard_storage, "_GAP_BYTES", 1_000_000)
    stream.batch(0)
    assert calls.together[1] <= 2  # the samples of both shards lie near each other


@pytest.mark.parametrize("cached", [False, True])
def test_what_fails_is_asked_for_again(folder: Path, cached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_storage, "_GAP_BYTES", 0)
    monkeypatch.setattr(sample_reader, "_SMALL_FRAME_BYTES", 0)
    corpus = load_corpus(publish(folder))
    stream = Stream(corpus, "train", config(cache=tmp_path / "cache" if cached else None))
    calls = Calls(monkeypatch)
    calls.failures = [TimeoutError("slow"), ConnectionResetError(104, "reset"), OSError(errno.EIO, "gone")]
    assert_equal([stream.batch(0)], batches(folder)[:1])
    assert len(calls.together) == 2
    assert calls.together[1] == 3  # only what failed
    calls.failures = [PermissionError(13, "not yours")]
    with pytest.raises(RefusedError, match=r"memory://published/\w+-train-000000\.tar: reading is refused: .*not yours; are th"):
        Stream(corpus, "train", config()).batch(0)
    assert not calls.failures
    calls.failures = [ConnectionResetError(104, "reset") for _ in range(10_000)]
    with pytest.raises(InfrastructureError, match=r"memory://published/\w+-train-000000\.tar: reading failed, 7 tries in 0 s"):
        Stream(corpus, "train", config(skip_damaged=100)).batch(0)


def test_a_shard_that_is_cut_off_is_damage(folder: Path, url: str) -> None:
    corpus = load_corpus(url)
    shard = folder / "modis-train-000001.tar"
    with shard.open("r+b") as file:
        file.truncate(20_000)
    if url.startswith("memory"):
        publish(folder)
    with pytest.raises(DamagedSampleError, match=r"modis-train-000001.tar.* ends at byte \d+ in the middle of a sample"):
        list(Stream(corpus, "train", config()).batches(0, STEPS))
    stream = Stream(corpus, "train", config(skip_damaged=4))
    usable = sum(int(batch.usable.sum()) for batch in stream.batches(0, 4))
    skipped = stream.take_skipped()
    assert usable == 16 - len(skipped) < 16
    assert {sample.shard for sample in skipped} == {f"{url}/{shard.name}"}


def test_a_missing_shard_is_no_damage(folder: Path, url: str) -> None:
    corpus = load_corpus(url)
    for shard in folder.glob("*.tar"):
        shard.unlink()
        if url.startswith("memory"):
            fsspec.filesystem("memory").rm(f"/published/{shard.name}")
    with pytest.raises(FileNotFoundError):
        batches(corpus, skip_damaged=100)


def test_later_epochs_and_other_ranks_read_the_cache(
    folder: Path, serve: Callable[[Path], str], requests: list[str], tmp_path: Path
) -> None:
    expected = batches(folder)
    corpus = load_corpus(serve(folder))
    cache = tmp_path / "cache"
    two_epochs = list(Stream(corpus, "train", config(cache=cache)).batches(0, 8))
    assert_equal(two_epochs[:STEPS], expected)
    asked = Counter(request for request in requests if ".tar" in request)
    assert asked
    assert max(asked.values()) == 1
    files = samples_in(cache)
    assert len(files) == 16
    entries = [*corpus_entries(folder)]
    assert sum(path.stat().st_size for path in files) >= sum(
        member.size for entry in entries for member in entry.members.values()
    )
    assert not list(cache.rglob("*.tmp"))
    requests.clear()
    for shard in folder.glob("*.tar"):
        shard.unlink()
    for rank in range(2):
        stream = Stream(corpus, "train", config(cache=cache, num_workers=2), rank, 2)
        for batch, whole in zip(stream.batches(0, STEPS), expected, strict=True):
            assert batch.keys == whole.keys[2 * rank : 2 * rank + 2]
            np.testing.assert_array_equal(batch.pixels.numpy(), whole.pixels[2 * rank : 2 * rank + 2].numpy())
    assert not [request for request in requests if ".tar" in request]


def samples_in(cache: Path) -> list[Path]:
    """The samples that a cache keeps, beside which lie copies of tables."""
    return [path for path in sorted(cache.rglob("*")) if path.is_file() and path.parent.suffix == ".tar"]


def corpus_entries(folder: Path) -> Iterator[Any]:
    corpus = load_corpus(folder)
    for source in ("landsat", "modis"):
        yield from corpus.samples(source, "train")


@pytest.mark.parametrize("harm", ["cut off", "bits flipped", "emptied", "removed"])
def test_harmed_files_of_the_cache_are_fetched_again(
    folder: Path, harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_reader, "_SMALL_FRAME_BYTES", 0)  # the end of a sample is not always asked for
    corpus = load_corpus(publish(folder))
    cache = tmp_path / "cache"
    expected = batches(corpus, cache=cache)
    files = samples_in(cache)
    sound = {path: path.read_bytes() for path in files}
    for path in files[::2]:
        content = sound[path]
        if harm == "removed":
            path.unlink()
        else:
            flipped = bytes(byte ^ 1 for byte in content)
            path.write_bytes({"cut off": content[:-7], "bits flipped": flipped, "emptied": b""}[harm])
    calls = Calls(monkeypatch)
    stream = Stream(corpus, "train", config(cache=cache))
    assert_equal(list(stream.batches(0, STEPS)), expected)
    assert stream.take_skipped() == []
    assert 0 < len(calls.ranges) <= len(files[::2])
    assert {path: path.read_bytes() for path in files} == sound


def test_damage_of_the_shard_itself_is_damage_with_a_cache_too(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = damage(folder, load_corpus(folder), [2, 5])
    corpus = load_corpus(publish(folder))
    calls = Calls(monkeypatch)
    stream = Stream(corpus, "train", config(cache=tmp_path / "cache", skip_damaged=2, mixture={"modis": 1.0}))
    list(stream.batches(0, 2))
    assert sorted(sample.key for sample in stream.take_skipped()) == keys
    assert len([size for size in calls.together if size == 1]) >= 2  # each was fetched a second time
    with pytest.raises(DamagedSampleError):
        batches(corpus, cache=tmp_path / "cache", mixture={"modis": 1.0})


@pytest.mark.parametrize("reason", ["little is free", "no space left"])
def test_a_full_disk_adds_nothing_and_is_told_once(
    folder: Path, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = load_corpus(publish(folder))
    cache = tmp_path / "cache"
    stream = Stream(corpus, "train", config(cache=cache, cache_keep_free_gb=50.0))
    usage = shutil.disk_usage(tmp_path)
    if reason == "little is free":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=50_000_010_000))
    else:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**15))

        def full(path: Path, _: bytes) -> None:
            path.touch()
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full)
    assert_equal(list(stream.batches(0, STEPS)), batches(folder))
    assert samples_in(cache) == list(cache.rglob("*.tmp")) == []
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert f"the cache {cache}" in warnings[0]
    why = {
        "little is free": "50.0 GB of its disk are free, and stream.cache_keep_free_gb=50 leaves as many; set it lower",
        "no space left": "No space left on device; free some of its disk",
    }
    assert why[reason] in warnings[0]
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**15))
    assert_equal(list(stream.batches(0, STEPS)), batches(folder))
    assert len(samples_in(cache)) == 16


@pytest.mark.parametrize(("num_workers", "rank"), [(0, 0), (2, 0), (2, 1)])
def test_a_cache_without_room_is_told_once_by_one_rank(
    folder: Path, serve: Callable[[Path], str], num_workers: int, rank: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also where several processes find it, for training and validation."""
    corpus, cache = load_corpus(serve(folder)), tmp_path / "cache"
    for _ in range(2):
        changes = {"cache": cache, "cache_keep_free_gb": 1e9, "num_workers": num_workers}
        assert len(list(Stream(corpus, "train", config(**changes), rank, 2).batches(0, 6))) == 6
    assert capfd.readouterr().out.count(f"warning: the cache {cache}") == (rank == 0)


def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"cache .*file/cache cannot be made: .*give another folder"):
        SampleCache(tmp_path / "file" / "cache", 1.0)


def test_fetched_bytes_are_found_by_their_offset() -> None:
    content = np.random.default_rng(0).integers(0, 256, 1000, dtype=np.uint8).tobytes()
    fetched = FetchedBytes("shard", {100: content[100:300], 500: content[500:600]})
    for start, stop in ((100, 300), (100, 101), (299, 300), (150, 200), (500, 600), (520, 530)):
        buffer = bytearray(stop - start)
        fetched.read_into(memoryview(buffer), start)
        assert bytes(buffer) == content[start:stop]
    with pytest.raises(DamagedSampleError, match="shard ends at byte 600"):
        fetched.read_into(memoryview(bytearray(50)), 580)


def test_open_shards_make_room_for_those_used_last(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / name).write_bytes(name.encode() * 10)
    shards = OpenShards(limit=2)
    first = shards[f"{tmp_path}/a"]
    for name in "bcdbd":
        buffer = bytearray(3)
        shards[f"{tmp_path}/{name}"].read_into(memoryview(buffer), 4)
        assert bytes(buffer) == name.encode() * 3
    assert list(shards._open) == [f"{tmp_path}/b", f"{tmp_path}/d"]
    first.read_into(memoryview(bytearray(3)), 0)  # whoever still has it can read
    assert shards[f"{tmp_path}/a"].fd != first.fd
