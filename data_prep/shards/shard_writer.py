"""Writes the shards of a sweep: reads each chunk of the archive once, and fills the tars of all shards that need it.

A shard exists when its index exists. The tar is written under a temporary name, read back, synced and renamed; the index follows
in the same way. A kill at any moment leaves temporary files and whole shards, and the same plan gives the same bytes. Several
processes may write shards of one plan; none needs to know of the others.

A sample that could not be read is a row of the index. The traceback of its error goes to a file beside the index, because it
contains line numbers of libraries, which must not change the index and so the fingerprint of the corpus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from common.atomic_files import whole_file
from common.checksums import checksum_of
from common.errors import InfrastructureError
from common.json_files import json_bytes
from common.storage import AnyPath
from data_prep.plan.plan import Plan, PlannedShard, Rejection, cached_plan
from data_prep.shards.band_statistics import ShardStatistics
from data_prep.shards.planned_samples import Failure, read_samples
from data_prep.shards.sample import Sample
from data_prep.shards.shard_index import INDEX_VERSION, has_written_index, sample_columns
from data_prep.shards.tar_format import FAILED, TarWriter, tar_members


def write_sweep(
    archive: AnyPath, output: AnyPath, most_bytes: int, retries: int, numbers: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Write the shards `numbers` of one sweep of the plan in `output`, except those that exist.

    Yields the number of each shard and the bytes of its tar, as soon as it exists. `most_bytes`: of decoded images that are held.

    Raises ValueError when the archive is no longer as it was planned, OSError when the archive still cannot be reached after
    `retries`, or when the output cannot be written.
    """
    plan = cached_plan(output)
    missing = []
    for number in numbers:
        if has_written_index(output, plan.names[number], plan.hash):
            yield number, (output / f"{plan.names[number]}.tar").stat().st_size
        else:
            missing.append(number)
    if not missing:
        return
    sweep = plan.sweep(missing)
    left = Counter(position for position, _ in sweep.samples)
    found = read_samples(archive, plan, (sample for _, sample in sweep.samples), retries, most_bytes)
    with closing(found), ExitStack() as stack:  # readers end here, not when the generator is collected
        being_written: dict[int, OpenShard] = {}
        for (position, _), sample in zip(sweep.samples, found, strict=True):
            if position not in being_written:
                being_written[position] = stack.enter_context(OpenShard(plan, output, sweep.shards[position]))
            being_written[position].add(sample)
            left[position] -= 1
            if not left[position]:
                yield missing[position], being_written.pop(position).finish()


class OpenShard:
    """A shard that is being written; without `finish` it leaves nothing."""

    def __init__(self, plan: Plan, output: AnyPath, shard: PlannedShard) -> None:
        self._plan, self._output, self._shard = plan, output, shard
        sensor = plan.sensors[shard.source]
        self._bands = sensor.bands
        self._statistics = ShardStatistics(sensor, keeps_snow_apart=plan.keeps_snow_apart)
        self._entries: list[dict[str, Any]] = []
        self._rejected: list[dict[str, Any]] = []
        self._failures: list[dict[str, Any]] = []
        self._stack = ExitStack()

    def add(self, sample: Sample | Rejection | Failure) -> None:
        """Append a sample, or note why it is not written."""
        match sample:
            case Sample():
                self._entries.append(_add(self._tar, sample, self._bands))
                self._statistics.add(sample.pixels, sample.valid)
            case Rejection():
                self._rejected.append({**asdict(sample), "failed": False})
            case Failure(rejection, traceback):
                self._rejected.append({**asdict(rejection), "failed": True})
                self._failures.append({**asdict(rejection), "traceback": traceback})

    def finish(self) -> int:
        """Make the shard appear; return the bytes of its tar."""
        tar, name = self._tar, self._shard.name
        tar.end()
        self._file.close()
        index = {
            "version": INDEX_VERSION,
            "shard": f"{name}.tar",
            "source": self._shard.source,
            "split": self._shard.split,
            "bytes": tar.size,
            "xxh3_128": tar.checksum,
            "plan": self._plan.hash,
            "samples": sample_columns(self._entries),
            "rejected": self._rejected,
            **self._statistics.to_dict(),
        }
        _check_what_was_written(self._temporary, index, name)
        self._stack.close()
        write_index(self._output, name, index, self._failures)
        return tar.size

    def __enter__(self) -> Self:
        self._temporary = self._stack.enter_context(whole_file(self._output / f"{self._shard.name}.tar"))
        self._file = self._stack.enter_context(self._temporary.open("wb"))
        self._tar = TarWriter(self._file)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, traceback)


def write_once(
    output: AnyPath,
    shard_id: int,
    write_tar: Callable[[Path, Plan, PlannedShard], tuple[dict[str, Any], list[dict[str, Any]]]],
) -> int:
    """Write shard number `shard_id` of the plan in `output`, unless it exists; return the bytes of its tar.

    `write_tar` writes the tar and returns the index and the rows of the file of failures.
    """
    plan = cached_plan(output)
    name = plan.names[shard_id]
    tar_path = output / f"{name}.tar"
    if has_written_index(output, name, plan.hash):
        return tar_path.stat().st_size
    with whole_file(tar_path) as temporary:
        index, failures = write_tar(temporary, plan, plan.shard(shard_id))
        _check_what_was_written(temporary, index, name)
    write_index(output, name, index, failures)
    return int(index["bytes"])


def _check_what_was_written(temporary: Path, index: dict[str, Any], name: str) -> None:
    if checksum_of(temporary) != index["xxh3_128"]:
        raise InfrastructureError(f"{name}.tar: what was read back is not what was written; is the disk sound?")


def write_index(output: AnyPath, name: str, index: dict[str, Any], failures: Sequence[dict[str, Any]]) -> None:
    """Write the file of failures of a shard, and then its index, which makes the shard exist."""
    _write_failures(output / f"{name}{FAILED}", failures)
    with whole_file(output / f"{name}.json") as temporary:
        temporary.write_bytes(json_bytes(index))


def _add(tar: TarWriter, sample: Sample, bands: Sequence[str]) -> dict[str, Any]:
    """Append a sample to the tar; return its entry in the index."""
    members = tar_members(sample, bands)
    days = sample.dates.astype(np.int64)
    return {
        "key": sample.key,
        "frames": len(days),
        "days": [int(days[0]), int(days[-1])],
        "members": {name: tar.add(f"{sample.key}.{name}", content) for name, content in members.items()},
        "legend": sample.legend,
        "land_cover": sample.land_cover.tolist(),
    }


def _write_failures(path: AnyPath, failures: Sequence[dict[str, Any]]) -> None:
    """Write the file of failures, or remove it when there are none."""
    if failures:
        with whole_file(path) as temporary:
            temporary.write_bytes(b"".join(json_bytes(failure) + b"\n" for failure in failures))
    else:
        path.unlink(missing_ok=True)
