"""How fast the stream is: against bare `preadv` of the same bytes, and against the published way to load; its start; its memory.

    python tests/bench/bench_stream.py --output tests/bench/results/stream.json

`floor`: bare `preadv` from the page cache, knowing every place beforehand, of what a batch is made of: for each sample the small
members in one read, and each run of neighbouring drawn frames, into memory that is used again and lies in huge pages. As many
threads (`share_of_threads`) or processes (`share_of_processes`, which is stricter: small reads in threads wait for Python's lock)
do it as the stream has processes. Where the stream reads small samples whole, `share_of_own_reads` compares it with processes
that do its own fewer reads. All take turns in one run, with and without checksums; shares are medians of the ratios of a round.

`published`: an HDF5 file a sample, a dataset a source of (T, C, H, W), not compressed, read whole; 16 frames are picked, turned
into float32 and normalised on the CPU by a torch DataLoader with two worker processes. Ours has two, too, and leaves normalising
to the device; once more with normalising on the CPU. They take turns too.

What was read ahead when a round of the stream began is not counted as read in it.

`first_batch_s`: from opening the corpus to the first batch, at micro-step one million. `memory`: what is resident after 200 and
after 1,000 batches, in the process that asks.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler

sys.path[:0] = [str(Path(__file__).parents[2])]

from report import write_report  # noqa: E402

from common.command_line import run_command  # noqa: E402
from data_prep.corpus.dataset import load_corpus  # noqa: E402
from pretrain.data import reader as sample_reader  # noqa: E402
from pretrain.data.batch import Batch  # noqa: E402
from pretrain.data.config import StreamConfig  # noqa: E402
from pretrain.data.stream import Stream  # noqa: E402
from tests.support.small_corpus import write_corpus  # noqa: E402

CASES = (("modis", 8, 400, 32), ("landsat", 64, 60, 32), ("sentinel2", 64, 40, 32), ("sentinel2", 128, 30, 16))
BYTES_A_ROUND = 2e9
SETTLES_S = 0.2  # until what is read ahead is there
WORKERS = 2
FRAMES = 16

Read = tuple[int, int, int]  # file descriptor, offset, bytes


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


class Reading:
    """A stream that goes on from round to round."""

    def __init__(self, folder: Path, config: StreamConfig, use: Callable[[Batch], object] = lambda _: None) -> None:
        self._batches, self._ahead, self._use = Stream(load_corpus(folder), "train", config).batches(0, 1 << 40), 0, use
        self._ahead = config.num_workers + 1
        next(self._batches)

    def __call__(self, steps: int) -> None:
        """Read so many batches, besides those that were ahead."""
        for _ in range(steps + self._ahead):
            self._use(next(self._batches))

    def close(self) -> None:
        self._batches.close()


def recorded_reads(folder: Path, config: StreamConfig, steps: int) -> list[list[Read]]:
    """Every read of every batch, as the stream does them."""
    stream, reads, original = Stream(load_corpus(folder), "train", config), [], os.preadv

    def record(file: int, buffers: Any, offset: int) -> int:
        if file not in kept:
            kept[file] = os.dup(file)  # the stream closes its own
        reads[-1].append((kept[file], offset, len(buffers[0])))
        return original(file, buffers, offset)

    kept: dict[int, int] = {}
    os.preadv = record
    try:
        for step in range(steps):
            reads.append([])
            stream.batch(step)
    finally:
        os.preadv = original
    return reads


def read_share(batches: list[list[Read]], size: int) -> Callable[[], None]:
    """A function that does the reads of some batches into memory of one."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    prepared = []
    for batch in batches:
        ends = np.cumsum([count for _, _, count in batch]).tolist()
        prepared += [
            (file, (memoryview(memory)[end - count : end],), offset)
            for (file, offset, count), end in zip(batch, ends, strict=True)
        ]

    def work() -> None:
        for file, buffers, offset in prepared:
            os.preadv(file, buffers, offset)

    return work


def by_threads(reads: list[list[Read]], count: int) -> Callable[[], None]:
    """A function that does these reads, each thread every `count`-th batch."""
    size = max(sum(read[2] for read in batch) for batch in reads)
    shares = [read_share(reads[first::count], size) for first in range(count)]

    def work() -> None:
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda share: share(), shares))

    return work


class ByProcesses:
    """Does these reads, each process every `count`-th batch."""

    def __init__(self, reads: list[list[Read]], count: int) -> None:
        size = max(sum(read[2] for read in batch) for batch in reads)
        self._ends = []
        for first in range(count):
            ours, theirs = multiprocessing.Pipe()
            share = reads[first::count]
            multiprocessing.get_context("fork").Process(target=self._serve, args=(theirs, share, size), daemon=True).start()
            self._ends.append(ours)

    @staticmethod
    def _serve(asked: Any, share: list[list[Read]], size: int) -> None:
        work = read_share(share, size)
        while asked.recv():
            work()
            asked.send(True)

    def __call__(self) -> None:
        for end in self._ends:
            end.send(True)
        for end in self._ends:
            end.recv()

    def close(self) -> None:
        for end in self._ends:
            end.send(False)


def in_turns(work: Sequence[Callable[[], object]], rounds: int) -> np.ndarray:
    """Seconds (rounds, work), after two rounds that fill the page cache and the memory."""
    times = []
    for _ in range(rounds + 2):
        times.append([])
        for each in work:
            time.sleep(SETTLES_S)
            times[-1].append(timed(each))
    return np.array(times[2:])


def against_bare_reads(folder: Path, config: StreamConfig, steps: int, rounds: int) -> dict[str, Any]:
    small, sample_reader._SMALL_FRAME_BYTES = sample_reader._SMALL_FRAME_BYTES, 0
    reads = recorded_reads(folder, config, steps)
    sample_reader._SMALL_FRAME_BYTES = small
    own_reads = recorded_reads(folder, config, steps)
    processes = [ByProcesses(each, config.num_workers) for each in (reads, own_reads)]
    streams = [Reading(folder, replace(config, check_reads=check)) for check in (True, False)]
    times = in_turns(
        [
            by_threads(reads, config.num_workers),
            *processes,
            *(partial(stream, steps) for stream in streams),
        ],
        rounds,
    )
    for each in (*processes, *streams):
        each.close()
    for file in {file for batch in (*reads, *own_reads) for file, _, _ in batch}:
        os.close(file)
    threads, bare, own, checked, unchecked = times.T
    megabytes = sum(read[2] for batch in reads for read in batch) / 1e6
    assert isinstance(config.global_batch_size, int)

    def share(of: np.ndarray, seconds: np.ndarray) -> float:
        return round(float(np.median(of / seconds)), 3)

    return {
        "processes": config.num_workers,
        "mb_a_batch": round(megabytes / steps, 2),
        "threads_mb_s": round(megabytes / float(np.median(threads))),
        "processes_mb_s": round(megabytes / float(np.median(bare))),
        "stream_mb_s": round(megabytes / float(np.median(checked))),
        "samples_s": round(config.global_batch_size * steps / float(np.median(checked))),
        "share_of_threads": share(threads, checked),
        "share_of_threads_unchecked": share(threads, unchecked),
        "share_of_processes": share(bare, checked),
        "share_of_processes_unchecked": share(bare, unchecked),
        "share_of_own_reads": share(own, checked),
        "share_of_own_reads_unchecked": share(own, unchecked),
        "check_reads_costs": round(float(np.median(checked / unchecked)) - 1, 3),
    }


class PublishedDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """An HDF5 file a sample: 16 frames of it as normalised float32 (T, C, H, W), and its label."""

    def __init__(self, folder: Path, source: str, mean: np.ndarray, std: np.ndarray) -> None:
        self._files, self._source = sorted(folder.glob("*.h5")), source
        self._mean, self._std = (values.astype(np.float32)[:, None, None] for values in (mean, std))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        with h5py.File(self._files[number]) as file:
            pixels, label = file[self._source][:], file["label"][:]
        frames = np.sort(np.random.default_rng().choice(len(pixels), FRAMES, replace=False))
        normalized = (pixels[frames].astype(np.float32) - self._mean) / self._std
        return torch.from_numpy(normalized), torch.from_numpy(label)


def write_hdf5(corpus_folder: Path, source: str, folder: Path) -> None:
    """The samples of a corpus as HDF5 files."""
    folder.mkdir()
    for entry in load_corpus(corpus_folder).samples(source, "train"):
        place = entry.members["pixels.npy"]
        with Path(entry.shard).open("rb") as file, h5py.File(folder / f"{entry.key}.h5", "w") as written:
            file.seek(place.offset)
            written[source] = np.load(file)
            written["label"] = np.array(entry.land_cover)


def against_published(folder: Path, config: StreamConfig, source: str, rounds: int) -> dict[str, Any]:
    corpus = load_corpus(folder)
    write_hdf5(folder, source, folder / "hdf5")
    dataset = PublishedDataset(folder / "hdf5", source, corpus.mean[source], corpus.std[source])
    assert isinstance(config.global_batch_size, int)
    count = config.global_batch_size * 60
    sampler = RandomSampler(dataset, replacement=True, num_samples=count)
    loader = DataLoader(dataset, config.global_batch_size, sampler=sampler, num_workers=WORKERS, persistent_workers=True)
    mean, std = (torch.from_numpy(values).float() for values in (corpus.mean[source], corpus.std[source]))
    two = replace(config, num_workers=WORKERS)
    streams = Reading(folder, two), Reading(folder, two, lambda batch: batch.normalized(mean, std))
    steps = count // config.global_batch_size
    times = in_turns([lambda: [None for _ in loader], *(partial(stream, steps) for stream in streams)], rounds)
    for stream in streams:
        stream.close()
    rates = count / times  # (rounds, 3) samples a second
    return {
        "published_samples_s": round(float(np.median(rates[:, 0]))),
        "stream_samples_s": round(float(np.median(rates[:, 1]))),
        "times_published": round(float(np.median(rates[:, 1] / rates[:, 0])), 1),
        "times_published_normalized_on_cpu": round(float(np.median(rates[:, 2] / rates[:, 0])), 1),
    }


def first_batch(folder: Path, config: StreamConfig) -> float:
    """Seconds until a new stream gives the batch of micro-step one million."""

    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        batches = Stream(load_corpus(folder), "train", config).batches(1_000_000, 1_000_010)
        next(batches)
        seconds.append(time.perf_counter() - begin)
        batches.close()
    return statistics.median(seconds)


def memory(folder: Path, config: StreamConfig) -> dict[str, float]:
    """Resident megabytes of this process after 200 and after 1,000 batches."""
    stream = Stream(load_corpus(folder), "train", config)
    resident = {}
    for number, _ in enumerate(stream.batches(0, 1000), 1):
        if number in (200, 1000):
            resident[f"mb_after_{number}"] = round(psutil.Process().memory_info().rss / 1e6, 1)
    return resident


def bench_stream(output: Path | None = None, rounds: int = 9) -> None:
    """Measure the stream.

    Args:
        output: JSON file to write; default: print only.
        rounds: rounds in which everything takes its turn.
    """
    results = []
    for source, side, samples, batch_size in CASES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_corpus(folder, {source: samples}, frames=(40, 60), side=side)
            config = StreamConfig(num_frames=FRAMES, mixture={source: 1.0}, global_batch_size=batch_size)
            sensor_bytes = np.dtype(load_corpus(folder).sensors[source].dtype).itemsize * load_corpus(folder).shapes[source][0]
            steps = min(1000, max(8, round(BYTES_A_ROUND / (batch_size * FRAMES * side * side * (sensor_bytes + 1)))))
            result: dict[str, Any] = {"source": source, "px": side, "batch": batch_size, "floor": []}
            for workers in (1, 2):
                result["floor"].append(against_bare_reads(folder, replace(config, num_workers=workers), steps, rounds))
                print(source, side, result["floor"][-1], flush=True)
            result["published"] = against_published(folder, config, source, rounds)
            result["first_batch_s"] = round(first_batch(folder, config), 4)
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
                result["memory"] = alone.submit(memory, folder, config).result()
            print({key: result[key] for key in ("published", "first_batch_s", "memory")}, flush=True)
            results.append(result)
        write_report(output, ["numpy", "torch", "xxhash", "h5py"], {"rounds": rounds, "results": results})


if __name__ == "__main__":
    run_command(bench_stream)
