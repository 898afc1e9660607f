"""How fast the stream is: against bare `preadv` of the same bytes, and against the published way to load; its start; its memory.

    python tests/bench/bench_stream.py --output tests/bench/results/stream.json

`floor`: bare `preadv` from the page cache, knowing every place beforehand, of what a batch is made of: for each sample the small
members in one read, and each run of neighbouring drawn frames, into memory that is used again and lies in huge pages like that
of the stream. Where the stream reads small samples whole, `share_of_own_reads` compares it with its own fewer reads. Floor and
stream, with as many threads, with and without checksums, take turns in one process; shares are medians of the ratios of a round.

`published`: an HDF5 file a sample, a dataset a source of (T, C, H, W), not compressed, read whole; 16 frames are picked, turned
into float32 and normalised on the CPU by a torch DataLoader with two worker processes. Ours has two threads, and leaves
normalising to the device; once more with normalising on the CPU. They take turns too.

`first_batch_s`: from opening the corpus to the first batch, at micro-step one million. `memory`: what is resident after 200 and
after 1,000 batches.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler

sys.path[:0] = [str(Path(__file__).parents[2])]

from report import write_report  # noqa: E402

from data_prep.command import run_command  # noqa: E402
from data_prep.corpus import load_corpus  # noqa: E402
from pretrain import sample_reader  # noqa: E402
from pretrain.objective import normalize  # noqa: E402
from pretrain.shard_storage import OpenShard  # noqa: E402
from pretrain.stream import Stream, StreamConfig  # noqa: E402
from tests.test_stream import write_corpus  # noqa: E402

CASES = (("modis", 8, 400, 32), ("landsat", 64, 60, 32), ("sentinel2", 64, 40, 32), ("sentinel2", 128, 30, 16))
BYTES_A_ROUND = 1e9
WORKERS = 2
FRAMES = 16

Read = tuple[int, int, int]  # file descriptor, offset, bytes


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def read_all(stream: Stream, steps: int) -> None:
    for _ in stream.batches(0, steps):
        pass


def recorded_reads(stream: Stream, steps: int) -> list[list[Read]]:
    """Every read of every batch, as the stream does them."""
    reads: list[list[Read]] = []
    original = OpenShard.read_into

    def record(shard: Any, buffer: memoryview, offset: int) -> None:
        reads[-1].append((shard.fd, offset, len(buffer)))
        original(shard, buffer, offset)

    OpenShard.read_into = record  # type: ignore[method-assign]
    try:
        for step in range(steps):
            reads.append([])
            stream.batch(step)
    finally:
        OpenShard.read_into = original  # type: ignore[method-assign]
    return reads


def bare_reads(reads: list[list[Read]], threads: int) -> Callable[[], None]:
    """A function that does these reads, each thread every `threads`-th batch, into memory of a batch's size."""
    largest = max(sum(count for _, _, count in batch) for batch in reads)
    shares = []
    for first in range(threads):
        memory = mmap.mmap(-1, largest, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
        share = []
        for batch in reads[first::threads]:
            ends = np.cumsum([count for _, _, count in batch]).tolist()
            share += [
                (fd, [memoryview(memory)[end - count : end]], offset)
                for (fd, offset, count), end in zip(batch, ends, strict=True)
            ]
        shares.append(share)

    def read_share(share: list[tuple[int, list[memoryview], int]]) -> None:
        for fd, buffers, offset in share:
            os.preadv(fd, buffers, offset)

    def work() -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(read_share, shares))

    return work


def against_bare_reads(folder: Path, config: StreamConfig, steps: int, rounds: int) -> dict[str, Any]:
    corpus = load_corpus(folder)
    small, sample_reader._SMALL_FRAME_BYTES = sample_reader._SMALL_FRAME_BYTES, 0
    by_runs = Stream(corpus, "train", config)
    sample_reader._SMALL_FRAME_BYTES = small
    checked, unchecked = Stream(corpus, "train", config), Stream(corpus, "train", replace(config, check_reads=False))
    reads = recorded_reads(by_runs, steps)
    megabytes = sum(read[2] for batch in reads for read in batch) / 1e6
    work = [
        bare_reads(reads, config.num_workers),
        bare_reads(recorded_reads(checked, steps), config.num_workers),
        lambda: read_all(checked, steps),
        lambda: read_all(unchecked, steps),
    ]
    for each in work:  # fill the page cache, start the allocator
        each()
    times = np.array([[timed(each) for each in work] for _ in range(rounds)])
    floor, own, with_checks, without = times.T
    assert isinstance(config.global_batch_size, int)
    samples = config.global_batch_size * steps
    return {
        "threads": config.num_workers,
        "mb_a_batch": round(megabytes / steps, 2),
        "floor_mb_s": round(megabytes / float(np.median(floor))),
        "stream_mb_s": round(megabytes / float(np.median(with_checks))),
        "samples_s": round(samples / float(np.median(with_checks))),
        "share_of_floor": round(float(np.median(floor / with_checks)), 3),
        "share_of_floor_unchecked": round(float(np.median(floor / without)), 3),
        "share_of_own_reads": round(float(np.median(own / with_checks)), 3),
        "share_of_own_reads_unchecked": round(float(np.median(own / without)), 3),
        "check_reads_costs": round(float(np.median(with_checks / without)) - 1, 3),
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
    count = config.global_batch_size * max(4, 4 * len(dataset) // config.global_batch_size)
    sampler = RandomSampler(dataset, replacement=True, num_samples=count)
    loader = DataLoader(dataset, config.global_batch_size, sampler=sampler, num_workers=WORKERS, persistent_workers=True)
    stream = Stream(corpus, "train", replace(config, num_workers=WORKERS))
    mean, std = (torch.from_numpy(values).float() for values in (corpus.mean[source], corpus.std[source]))
    steps = count // config.global_batch_size

    def normalized() -> None:
        for batch in stream.batches(0, steps):
            normalize(batch, mean, std)

    work = (lambda: [None for _ in loader], lambda: read_all(stream, steps), normalized)
    for each in work:
        each()
    times = np.array([[timed(each) for each in work] for _ in range(rounds)])
    rates = count / times  # (rounds, 3) samples a second
    return {
        "published_samples_s": round(float(np.median(rates[:, 0]))),
        "stream_samples_s": round(float(np.median(rates[:, 1]))),
        "times_published": round(float(np.median(rates[:, 1] / rates[:, 0])), 1),
        "times_published_normalized_on_cpu": round(float(np.median(rates[:, 2] / rates[:, 0])), 1),
    }


def first_batch(folder: Path, config: StreamConfig) -> float:
    """Seconds until a new stream gives the batch of micro-step one million."""

    def start() -> None:
        next(Stream(load_corpus(folder), "train", config).batches(1_000_000, 1_000_010))

    return statistics.median(timed(start) for _ in range(5))


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
            steps = min(200, max(8, round(BYTES_A_ROUND / (batch_size * FRAMES * side * side * (sensor_bytes + 1)))))
            result: dict[str, Any] = {"source": source, "px": side, "batch": batch_size, "floor": []}
            for threads in (1, 2):
                result["floor"].append(against_bare_reads(folder, replace(config, num_workers=threads), steps, rounds))
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
