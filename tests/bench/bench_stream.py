"""How fast the stream is against reading the same bytes by bare `preadv`, from page cache.

    python tests/bench/bench_stream.py --output tests/bench/results/stream.json

The floor reads the very same runs of bytes into one buffer, with as many threads, knowing every offset beforehand. Both
alternate in one process, and the median of the ratios of neighbouring rounds counts, so that a slow spell hits both. In turn
with them goes the stream without `check_reads`: what the comparison of every frame with its checksum costs.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from report import write_report  # noqa: E402
from test_stream import write_corpus  # noqa: E402

from data_prep.command import run_command  # noqa: E402
from data_prep.corpus import load_corpus  # noqa: E402
from pretrain.indexed_shards import OpenShard  # noqa: E402
from pretrain.stream import Stream, StreamConfig  # noqa: E402

Read = tuple[int, int, int]  # file descriptor, offset, bytes


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


def floor(reads: list[list[Read]], buffers: list[memoryview], threads: int) -> None:
    """The same reads, each batch by one thread, side by side into memory of a batch's size that is used again."""

    def read_share(first: int) -> None:
        buffer = buffers[first]
        for batch in reads[first::threads]:
            at = 0
            for fd, offset, count in batch:
                os.preadv(fd, [buffer[at : at + count]], offset)
                at += count

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read_share, range(threads)))


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(folder: Path, source: str, batch_size: int, steps: int, rounds: int, threads: int) -> dict[str, Any]:
    config = StreamConfig(mixture={source: 1.0}, global_batch_size=batch_size, num_workers=threads)
    stream = Stream(load_corpus(folder), "train", config)
    unchecked = Stream(load_corpus(folder), "train", replace(config, check_reads=False))
    reads = recorded_reads(stream, steps)
    megabytes = sum(read[2] for batch in reads for read in batch) / 1e6

    largest = max(sum(read[2] for read in batch) for batch in reads)
    buffers = [memoryview(bytearray(largest)) for _ in range(threads)]

    def read_all(stream: Stream) -> None:
        for _ in stream.batches(0, steps):
            pass

    floor(reads, buffers, threads), read_all(stream), read_all(unchecked)  # fill the page cache, start the allocator
    times = [
        (timed(lambda: floor(reads, buffers, threads)), timed(lambda: read_all(stream)), timed(lambda: read_all(unchecked)))
        for _ in range(rounds)
    ]
    fresh = Stream(load_corpus(folder), "train", config)
    first_batch = timed(lambda: next(fresh.batches(1_000_000, 1_000_010)))
    return {
        "source": source,
        "threads": threads,
        "batch": batch_size,
        "mb_a_batch": round(megabytes / steps, 2),
        "floor_mb_s": round(megabytes / statistics.median(a for a, _, _ in times)),
        "stream_mb_s": round(megabytes / statistics.median(b for _, b, _ in times)),
        "samples_s": round(batch_size * steps / statistics.median(b for _, b, _ in times)),
        "share_of_floor": round(statistics.median(a / b for a, b, _ in times), 3),
        "check_reads_costs": round(statistics.median(b / c for _, b, c in times) - 1, 3),
        "first_batch_at_step_1e6_s": round(first_batch, 4),
    }


def bench_stream(output: Path | None = None, rounds: int = 9) -> None:
    """Measure the stream against bare reads.

    Args:
        output: JSON file to write; default: print only.
        rounds: rounds of floor and stream, alternating.
    """
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for source, side, samples, batch_size in (("modis", 64, 60, 32), ("landsat", 64, 60, 32), ("sentinel2", 128, 30, 16)):
            corpus = Path(folder, source)
            corpus.mkdir()
            write_corpus(corpus, {source: samples}, frames=(40, 60), side=side)
            for threads in (1, 2):
                results.append(measure(corpus, source, batch_size, 20, rounds, threads))
                print(results[-1])
    write_report(output, ["numpy", "torch"], {"rounds": rounds, "results": results})


if __name__ == "__main__":
    run_command(bench_stream)
