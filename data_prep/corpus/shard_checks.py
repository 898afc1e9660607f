"""Checks of shards: of all of a shard, or of its index alone, against the plan."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import xxhash

from common.checksums import checksum_of
from common.errors import UNREACHABLE
from common.executors import MapJobs
from common.progress import PROGRESS, Progress
from common.storage import AnyPath, local_copy
from data_prep.corpus.shard_contents import CorpusContents, ShardContents, contents_of, joined, shards_together
from data_prep.landcover.sample_map import NOT_MAPPED
from data_prep.plan.plan import Plan, PlannedSample, PlannedShard, cached_plan
from data_prep.shards.band_statistics import ShardStatistics
from data_prep.shards.frame_checksums import frame_checksums
from data_prep.shards.shard_index import READ_INDEX_VERSIONS, Member, read_index, sample_rows
from data_prep.shards.tar_format import FAILED, LABEL, LAND_COVER_MAP, member_names


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a corpus: the file, the member or key in it (empty for the whole file), and what is wrong."""

    file: str
    member: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.member + ': ' if self.member else ''}{self.what}"


def shard_faults(plan: Plan, shard: PlannedShard, tar_path: Path, index: Mapping[str, Any], failed: AnyPath) -> list[Fault]:
    """Return all faults of one shard: of its index against the plan, of its tar and its file of failures `failed` against both.

    Reads, hashes and decodes every member; memory holds one sample at a time.
    """
    index_file, tar_file = f"{shard.name}.json", f"{shard.name}.tar"
    faults = [Fault(index_file, *fault) for fault in _header_faults(plan, shard.name, index)]
    try:
        planned = [sample.key for sample in shard.samples]
        faults += [Fault(index_file, *fault) for fault in _sample_list_faults(planned, index)]
        faults += [Fault(tar_file, *fault) for fault in _file_faults(tar_path, index)]
        faults += [Fault(tar_file, *fault) for fault in _structure_faults(tar_path, index)]
        content = _ContentCheck(plan, shard)
        for fault in content.faults(tar_path, index):  # one by one, so that an error keeps the faults before it
            faults.append(Fault(tar_file, *fault))
        for name, values in content.statistics.to_dict().items():
            if not faults and index[name] != values:
                faults.append(Fault(index_file, name, "are not those of the pixels in the tar"))
        faults += _failure_faults(failed, index)
    except UNREACHABLE:
        raise
    except OSError as error:
        faults.append(Fault(tar_file, "", f"cannot be read: {error}"))
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        faults.append(Fault(index_file, "", f"is not the index of a shard: {type(error).__name__} {error}"))
    return faults


def _header_faults(plan: Plan, name: str, index: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, fault) for entries of the index of the shard `name` that the plan determines."""
    source, split, _ = name.rsplit("-", 2)
    planned = {"shard": f"{name}.tar", "plan": plan.hash, "source": source, "split": split}
    if index.get("version") not in READ_INDEX_VERSIONS:
        yield "version", f"is {index.get('version')!r}; expected {' or '.join(map(str, READ_INDEX_VERSIONS))}"
    for key, value in planned.items():
        if index.get(key) != value:
            yield key, f"is {index.get(key)!r}; the plan says {value!r}"


def _sample_list_faults(planned: Sequence[str], index: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, fault) unless each planned sample is either written or rejected, once and in order, and no other sample is.

    `planned`: the keys of the shard's samples in the plan.
    """
    written = index["samples"]["key"]
    rejected = {rejection["key"] for rejection in index["rejected"]}
    expected = [key for key in planned if key not in rejected]
    if written == expected and rejected <= set(planned):
        return
    for key in sorted(set(expected) - set(written)):
        yield key, "is planned here, and neither written nor rejected"
    for key in sorted((set(written) | rejected) - set(planned)):
        yield key, "is not planned here"
    for key in sorted({key for key in written if written.count(key) > 1 or key in rejected}):
        yield key, "occurs more than once"
    if written != expected and sorted(written) == sorted(expected):
        yield "", "the samples are not in the order of the plan"


def _size_faults(tar_path: AnyPath, index: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a fault when the size of the tar is not that of the index."""
    size = tar_path.stat().st_size
    if size != index["bytes"]:
        yield "", f"is {size} bytes long; its index says {index['bytes']}"


def _file_faults(tar_path: Path, index: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a fault when size or checksum of the tar are not those of the index."""
    faults = list(_size_faults(tar_path, index))
    yield from faults
    if not faults and checksum_of(tar_path) != index["xxh3_128"]:
        yield "", "its checksum is not the one in its index"


def _structure_faults(tar_path: Path, index: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (member, fault) where the members that a stock reader finds are not those of the index.

    A stock reader does not notice when a tar is cut off between two members.
    """
    entries = sample_rows(index["samples"])
    expected = {f"{entry['key']}.{name}": p["offset"] for entry in entries for name, p in entry["members"].items()}
    found: dict[str, int] = {}
    try:
        with tarfile.open(tar_path, "r:") as tar:
            for info in tar:
                if info.name in found:
                    yield info.name, "occurs more than once"
                found[info.name] = info.offset_data
    except tarfile.TarError as error:
        yield "", f"is no readable tar: {error}"
    for name in expected:
        if name not in found:
            yield name, "is missing from the tar"
        elif found[name] != expected[name]:
            yield name, f"lies at byte {found[name]}; the index says {expected[name]}"
    for name in found:
        if name not in expected:
            yield name, "is not in the index"


class _ContentCheck:
    """Compares the members of a shard with the index and the plan.

    Attributes:
        statistics: band statistics of the sound samples that were read.
    """

    def __init__(self, plan: Plan, shard: PlannedShard) -> None:
        self._plan = plan
        self._planned = {sample.key: sample for sample in shard.samples}
        self.statistics = ShardStatistics(plan.sensors[shard.source], keeps_snow_apart=plan.keeps_snow_apart)

    def faults(self, tar_path: Path, index: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Read all members; yield (member, fault)."""
        with tar_path.open("rb") as tar:
            for entry in sample_rows(index["samples"]):
                members = {}
                for name, place in entry["members"].items():
                    tar.seek(place["offset"])
                    members[name] = tar.read(place["size"])
                    if not Member(**place).holds(members[name]):
                        yield f"{entry['key']}.{name}", "its checksum is not the one in the index"
                if entry["key"] in self._planned:
                    arrays, wrong = _sample_faults(self._plan, self._planned[entry["key"]], entry, members)
                    yield from ((f"{entry['key']}.{name}", what) for name, what in wrong)
                    if not wrong:
                        self.statistics.add(arrays["pixels.npy"], arrays["valid.npy"])


def _sample_faults(
    plan: Plan, planned: PlannedSample, entry: Mapping[str, Any], members: Mapping[str, bytes]
) -> tuple[dict[str, np.ndarray], list[tuple[str, str]]]:
    """Return the arrays of a sample by member, and (member, fault) of its faults against the plan and its entry in the index."""
    labelled = planned.source in plan.labels
    expected = sorted(member_names(plan.has_maps, labelled))
    if sorted(members) != expected:
        return {}, [("", f"has the members {sorted(members)}; expected {expected}")]
    arrays, wrong = _decoded(plan, planned, members)
    if labelled:
        wrong += _label_faults(members[LABEL], planned.size)
    if not wrong:
        wrong += _value_faults(planned, entry, arrays)
        wrong += _map_faults(plan, planned, arrays)
        wrong += _metadata_faults(planned, members["json"])
    return arrays, wrong


def _decoded(
    plan: Plan, planned: PlannedSample, members: Mapping[str, bytes]
) -> tuple[dict[str, np.ndarray], list[tuple[str, str]]]:
    """Return the arrays by member, and (member, fault) of those that cannot be decoded or have another dtype or shape."""
    sensor, legend = plan.sensors[planned.source], plan.legends[planned.series.legend]
    frames, side = planned.stop - planned.start, planned.size
    layouts: dict[str, tuple[np.dtype, tuple[int, ...]]] = {
        "checksums.npy": (np.dtype(np.uint64), (frames,)),
        "dates.npy": (np.dtype(np.int32), (frames,)),
        "landcover.npy": (np.dtype(np.int64), (len(legend.codes),)),
        "pixels.npy": (np.dtype(sensor.dtype), (frames, len(sensor.bands), side, side)),
        "valid.npy": (np.dtype(np.bool_), (frames, side, side)),
    }
    of_map = plan.map_layout(planned.source, planned.series.legend)
    if of_map is not None:
        layouts[LAND_COVER_MAP] = (of_map.dtype, of_map.shape)
    arrays: dict[str, np.ndarray] = {}
    wrong = []
    for name, (dtype, shape) in layouts.items():
        try:
            arrays[name] = array = np.load(io.BytesIO(members[name]), allow_pickle=False)
        except (ValueError, EOFError) as error:
            wrong.append((name, f"cannot be decoded: {error}"))
            continue
        if (array.dtype, array.shape) != (dtype, shape):
            wrong.append((name, f"is {array.dtype}{array.shape}; the plan says {dtype}{shape}"))
    return arrays, wrong


def _label_faults(content: bytes, side: int) -> Iterator[tuple[str, str]]:
    try:
        label = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError) as error:
        yield LABEL, f"cannot be decoded: {error}"
        return
    if label.shape != (side, side) or not np.issubdtype(label.dtype, np.integer):
        yield LABEL, f"is {label.dtype}{label.shape}; the plan says whole numbers {(side, side)}"


def _value_faults(
    planned: PlannedSample, entry: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, str]]:
    """Compare dates, land cover and checksums with the plan, the index and the pixels."""
    dates, legend = planned.series.dates[planned.start : planned.stop], planned.series.legend
    if entry["frames"] != len(dates) or entry["days"] != [dates[0], dates[-1]] or tuple(arrays["dates.npy"].tolist()) != dates:
        yield "dates.npy", "the dates are not those of the plan"
    if entry["legend"] != legend or arrays["landcover.npy"].tolist() != entry["land_cover"]:
        yield "landcover.npy", "the counts or the legend are not those of the index"
    counts, days, pixels, valid = (arrays[name] for name in ("landcover.npy", "dates.npy", "pixels.npy", "valid.npy"))
    checksums = frame_checksums(entry["key"], counts, days, pixels, valid, arrays.get(LAND_COVER_MAP))
    if not np.array_equal(arrays["checksums.npy"], checksums):
        yield "checksums.npy", "are not those of the frames"


def _map_faults(plan: Plan, planned: PlannedSample, arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, str]]:
    """Check that a map of codes has positions of the legend's codes only."""
    layout = plan.map_layout(planned.source, planned.series.legend)
    if layout is None or layout.has_counts:
        return
    codes, number = arrays[LAND_COVER_MAP], len(plan.legends[planned.series.legend].codes)
    if ((codes >= number) & (codes != NOT_MAPPED)).any():
        yield LAND_COVER_MAP, f"has positions beyond the {number} codes of legend {planned.series.legend}"


def _metadata_faults(planned: PlannedSample, content: bytes) -> Iterator[tuple[str, str]]:
    try:
        metadata = json.loads(content)
        if (metadata["source"], metadata["scene"], metadata["split"]) != (planned.source, planned.scene, planned.split):
            yield "json", "names another source, scene or split than the plan"
    except (ValueError, KeyError, TypeError) as error:
        yield "json", f"cannot be decoded: {type(error).__name__} {error}"


def _failure_faults(path: AnyPath, index: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield a fault unless the file of failures has one row for each failed sample of the index, or neither exists."""
    failed = [row["key"] for row in index["rejected"] if row["failed"]]
    try:
        rows = [json.loads(line)["key"] for line in path.read_bytes().splitlines()] if path.is_file() else []
    except (ValueError, KeyError, TypeError) as error:
        yield Fault(path.name, "", f"is no table of failures: {type(error).__name__} {error}")
        return
    if rows != failed:
        yield Fault(path.name, "", f"has {len(rows)} rows; the index says that {len(failed)} samples failed, or other ones")


@dataclass(frozen=True, kw_only=True)
class CheckedShards:
    """Result of reading consecutive shards.

    Attributes:
        faults: all faults of the shards.
        contents: what their indexes say; None when one has faults.
        keys: XXH3 of the key of each sample, uint64 (samples,), by the name of the shard, where shards were read whole.
    """

    faults: list[Fault]
    contents: ShardContents | None
    keys: dict[str, np.ndarray]


def check_shards(plan: Plan, map_jobs: MapJobs, contents: CorpusContents) -> Iterator[CheckedShards]:
    """Read all shards of the plan; yield the results in any order. `contents` gets those of sound shards."""
    numbers = [range(number, number + 1) for number in range(plan.num_shards)]
    return _checked(check_shard, plan, numbers, map_jobs, Progress("verify", total=plan.num_shards), contents)


def _checked(
    check: Callable[[AnyPath, range], CheckedShards],
    plan: Plan,
    jobs: Sequence[range],
    map_jobs: MapJobs,
    progress: Progress,
    contents: CorpusContents,
) -> Iterator[CheckedShards]:
    with progress:
        for numbers, checked in map_jobs(partial(check, plan.folder), jobs):
            if checked.contents is not None:
                contents.add(numbers.start, checked.contents)
            progress.add(0 if checked.contents is None else checked.contents.summary.bytes, units=len(numbers))
            yield checked


def check_shard(folder: AnyPath, numbers: range) -> CheckedShards:
    """Read one shard of the plan in `folder`."""
    plan = cached_plan(folder)
    shard = plan.shard(numbers.start)

    def faults(index: Mapping[str, Any], tar_path: AnyPath) -> list[Fault]:
        with local_copy(tar_path) as local:
            return shard_faults(plan, shard, local, index, folder / f"{shard.name}{FAILED}")

    found, contents = _check(folder, shard.name, faults)
    keys = np.empty(0, np.uint64) if contents is None else key_hashes(contents.rows["key"])
    return CheckedShards(faults=found, contents=contents, keys={shard.name: keys})


def check_indexes(folder: AnyPath, numbers: range) -> CheckedShards:
    """Compare the indexes of shards of the plan in `folder` with the plan and the sizes of their tars, which are not read."""
    plan = cached_plan(folder)
    faults, contents = [], []
    for number, planned in zip(numbers, plan.sample_keys(numbers), strict=True):
        name = plan.names[number]
        found, of_shard = _check(folder, name, partial(_index_faults, plan, name, planned))
        faults += found
        contents += [] if of_shard is None else [of_shard]
    return CheckedShards(faults=faults, contents=None if faults else joined(contents), keys={})


def _index_faults(plan: Plan, name: str, planned: Sequence[str], index: Mapping[str, Any], tar_path: AnyPath) -> list[Fault]:
    try:
        found = [*_header_faults(plan, name, index), *_sample_list_faults(planned, index)]
        of_index = [Fault(f"{name}.json", *fault) for fault in found]
        size = [Fault(tar_path.name, *fault) for fault in _size_faults(tar_path, index)]
        return [*of_index, *size, *_failure_faults(tar_path.with_name(f"{name}{FAILED}"), index)]
    except (KeyError, TypeError, AttributeError) as error:
        return [Fault(f"{name}.json", "", f"is not the index of a shard: {type(error).__name__} {error}")]


def _check(
    folder: AnyPath, name: str, find: Callable[[Mapping[str, Any], AnyPath], list[Fault]]
) -> tuple[list[Fault], ShardContents | None]:
    """Read the index of a shard, and return its faults, or else what it says.

    `find` gets the index and the path of the tar, and finds the faults.
    """
    tar_path, index_path = folder / f"{name}.tar", folder / f"{name}.json"
    faults = [Fault(path.name, "", "is missing") for path in (tar_path, index_path) if not path.is_file()]
    if not faults:
        try:
            index = read_index(index_path)
            faults = find(index, tar_path)
        except ValueError as error:
            faults = [Fault(index_path.name, "", str(error))]
    return faults, None if faults else contents_of(index)


def key_hashes(keys: Iterable[bytes]) -> np.ndarray:
    """Return the XXH3 of each key, uint64: with 8 bytes per key, the hashes of a whole corpus fit in memory."""
    return np.fromiter(map(xxhash.xxh3_64_intdigest, keys), np.uint64)


@contextmanager
def checked_contents(plan: Plan, map_jobs: MapJobs) -> Iterator[CorpusContents]:
    """Read all shard indexes, and yield what they say. Raises ValueError when an index has faults.

    No tar is read: each was read back when it was written, and a corpus has 61 TB. `data_prep/verify.py` reads all of it.
    """
    jobs = shards_together([group.shards for group in plan.groups])
    progress = Progress("summarise", total=plan.num_shards, log=plan.folder / PROGRESS)
    with TemporaryFile(dir=plan.folder if isinstance(plan.folder, Path) else None) as file:
        contents = CorpusContents(file)
        faults = [fault for found in _checked(check_indexes, plan, jobs, map_jobs, progress, contents) for fault in found.faults]
        if faults:
            faults.sort(key=lambda fault: fault.file)
            damaged = sorted({fault.file.split(".")[0] for fault in faults})
            raise ValueError(f"{len(faults)} faults, first {faults[0]}; remove {', '.join(damaged[:3])}.* and start again")
        yield contents
