"""Each kind of damage is found, and where it is; an undamaged corpus is not accused."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import xxhash

from common.executors import map_local
from common.json_files import json_bytes
from data_prep.corpus.corpus_checks import corpus_faults, repeated_keys
from data_prep.corpus.corpus_writer import finish_corpus
from data_prep.corpus.dataset import load_corpus
from data_prep.corpus.shard_checks import key_hashes
from data_prep.plan.build import make_plan
from data_prep.plan.plan import TABLES, load_plan
from data_prep.plan.settings import PlanSettings
from data_prep.shards.shard_index import read_index, sample_columns, sample_rows
from tests.support.archives import write_archive
from tests.support.sharding import write_shard

SCRIPT = Path(__file__).parents[2] / "data_prep" / "verify.py"
SHARD = "sentinel2-train-000001"
ONE, TWO = partial(map_local, workers=1), partial(map_local, workers=2)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    write_archive(folder / "scenes")
    settings = PlanSettings(chip_px={"sentinel2": 12, "modis": 4}, shard_mb=0.2)
    plan = make_plan(folder / "scenes", folder / "corpus", settings)
    for number in range(plan.num_shards):
        write_shard(folder / "scenes", folder / "corpus", number)
    assert finish_corpus(plan, ONE, max_failed_share=0.01)
    return folder / "corpus"


@pytest.fixture
def corpus(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "corpus"))


def index(corpus: Path, shard: str = SHARD) -> dict[str, Any]:
    values = read_index(corpus / f"{shard}.json")
    return {**values, "samples": sample_rows(values["samples"])}


def members(corpus: Path, shard: str = SHARD) -> list[tuple[str, int, int]]:
    """Name, offset and size of each member as tarfile finds them."""
    with tarfile.open(corpus / f"{shard}.tar") as tar:
        return [(info.name, info.offset_data, info.size) for info in tar]


def rewrite(path: Path, change: Callable[[bytearray], None]) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def reindex(corpus: Path, change: Callable[[dict[str, Any]], None], shard: str = SHARD) -> None:
    values = index(corpus, shard)
    change(values)
    (corpus / f"{shard}.json").write_bytes(json_bytes({**values, "samples": sample_columns(values["samples"])}))


def faults(corpus: Path) -> str:
    return "\n".join(map(str, corpus_faults(corpus, ONE)))


def test_a_sound_corpus_has_no_faults(sound: Path) -> None:
    assert corpus_faults(sound, ONE) == []
    assert corpus_faults(sound, TWO) == []


@pytest.mark.parametrize("which", range(7))
def test_flipped_bit_in_any_member(corpus: Path, which: int) -> None:
    name, offset, size = members(corpus)[7 + which]

    def flip(data: bytearray) -> None:
        data[offset + size - 1] ^= 0x10

    rewrite(corpus / f"{SHARD}.tar", flip)
    found = faults(corpus)
    assert f"{SHARD}.tar: {name}: its checksum is not the one in the index" in found
    assert f"{SHARD}.tar: its checksum is not the one in its index" in found


def test_flipped_bit_in_a_tar_header(corpus: Path) -> None:
    _, offset, _ = members(corpus)[3]

    def flip(data: bytearray) -> None:
        data[offset - 512] ^= 0x01

    rewrite(corpus / f"{SHARD}.tar", flip)
    assert f"{SHARD}.tar" in faults(corpus)


@pytest.mark.parametrize("keep", [7, 9])
def test_tar_cut_between_members(corpus: Path, keep: int) -> None:
    """What a stock reader takes for a whole tar: cut between samples, and within one."""
    names = members(corpus)
    end = names[keep][1] - 512
    path = corpus / f"{SHARD}.tar"
    path.write_bytes(path.read_bytes()[:end])
    assert len(members(corpus)) == keep
    found = faults(corpus)
    assert f"{SHARD}.tar: is {end} bytes long" in found
    for name, _, _ in names[keep:]:
        assert f"{name}: is missing from the tar" in found


def test_lost_sample_with_an_index_that_agrees(corpus: Path) -> None:
    """Tar, index and dataset.json agree with each other: only the plan knows of the sample."""
    plan_hash = index(corpus)["plan"]
    lost = index(corpus)["samples"][-1]
    cut = min(member["offset"] for member in lost["members"].values()) - 512
    path = corpus / f"{SHARD}.tar"
    path.write_bytes(path.read_bytes()[:cut] + bytes(1024))

    def drop(values: dict[str, Any]) -> None:
        values["samples"].pop()
        values["bytes"] = path.stat().st_size
        values["xxh3_128"] = xxhash.xxh3_128(path.read_bytes()).hexdigest()

    reindex(corpus, drop)
    assert index(corpus)["plan"] == plan_hash
    assert f"{SHARD}.json: {lost['key']}: is planned here, and neither written nor rejected" in faults(corpus)


def test_member_of_another_type_in_a_consistent_shard(corpus: Path) -> None:
    """A rewritten valid mask whose hashes all fit: what it decodes to does not."""
    entry = index(corpus)["samples"][0]
    place = entry["members"]["valid.npy"]
    path = corpus / f"{SHARD}.tar"

    def retype(data: bytearray) -> None:
        member = bytes(data[place["offset"] : place["offset"] + place["size"]]).replace(b"'|b1'", b"'|u1'")
        data[place["offset"] : place["offset"] + place["size"]] = member

    rewrite(path, retype)

    def rehash(values: dict[str, Any]) -> None:
        data = path.read_bytes()
        values["xxh3_128"] = xxhash.xxh3_128(data).hexdigest()
        member = data[place["offset"] : place["offset"] + place["size"]]
        values["samples"][0]["members"]["valid.npy"]["xxh3_64"] = xxhash.xxh3_64_hexdigest(member)

    reindex(corpus, rehash)
    assert f"{SHARD}.tar: {entry['key']}.valid.npy: is uint8" in faults(corpus)


@pytest.mark.parametrize("suffix", [".tar", ".json"])
def test_missing_file(corpus: Path, suffix: str) -> None:
    (corpus / f"{SHARD}{suffix}").unlink()
    assert f"{SHARD}{suffix}: is missing" in faults(corpus)


@pytest.mark.parametrize("suffixes", [(".tar",), (".json",), (".tar", ".json")])
def test_swapped_shards(corpus: Path, suffixes: tuple[str, ...]) -> None:
    for suffix in suffixes:
        one, other = corpus / f"{SHARD}{suffix}", corpus / f"sentinel2-train-000000{suffix}"
        data = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(data)
    found = faults(corpus)
    for shard in (SHARD, "sentinel2-train-000000"):
        assert any(line.startswith(shard) for line in found.splitlines())


def test_key_twice_in_the_corpus(corpus: Path) -> None:
    """The samples of one shard copied into another one, with an index that admits it."""
    donor = index(corpus, "sentinel2-train-000000")["samples"][0]
    path = corpus / f"{SHARD}.tar"
    data = path.read_bytes()

    def add(values: dict[str, Any]) -> None:
        values["samples"].append(donor)

    reindex(corpus, add)
    assert f"{SHARD}.json: {donor['key']}: is not planned here" in faults(corpus)

    name, offset, size = members(corpus)[0]
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo(name)
        info.size = size
        tar.addfile(info, io.BytesIO(data[offset : offset + size]))
    assert f"{SHARD}.tar: {name}: occurs more than once" in faults(corpus)


def test_statistics_that_are_not_the_pixels(corpus: Path) -> None:
    def change(values: dict[str, Any]) -> None:
        values["statistics"]["squares"][2] += 1

    reindex(corpus, change)
    assert f"{SHARD}.json: statistics: are not those of the pixels in the tar" in faults(corpus)


def test_land_cover_counts_that_are_not_the_member(corpus: Path) -> None:
    def change(values: dict[str, Any]) -> None:
        values["samples"][1]["land_cover"][0] += 1

    reindex(corpus, change)
    assert "landcover.npy: the counts or the legend are not those of the index" in faults(corpus)


def test_index_that_is_no_index(corpus: Path) -> None:
    (corpus / f"{SHARD}.json").write_text('{"version": 2}')
    assert f"{SHARD}.json is not the index of a shard" in faults(corpus)
    (corpus / f"{SHARD}.json").write_text('{"version": 2')
    assert f"{SHARD}.json: " in faults(corpus)
    assert "is no JSON" in faults(corpus)


def test_fingerprint_and_normalization_of_the_description(corpus: Path) -> None:
    path = corpus / "dataset.json"
    values = json.loads(path.read_text())
    for key, change in {"fingerprint": "0" * 64, "rejected": 3, "sources": {**values["sources"], "more": {}}}.items():
        path.write_bytes(json_bytes({**values, key: change}))
        assert faults(corpus) == f"dataset.json: {key}: does not fit the shards and their indexes"
    with pytest.raises(ValueError, match="does not describe a corpus"):
        load_corpus(corpus)
    path.unlink()
    assert "dataset.json: is missing: the corpus is unfinished" in faults(corpus)
    with pytest.raises(ValueError, match="no finished corpus"):
        load_corpus(corpus)


def test_plan_and_rejections_and_strangers(corpus: Path) -> None:
    (corpus / "rejected.jsonl").write_bytes((corpus / "rejected.jsonl").read_bytes()[:-5])
    (corpus / "sentinel2-train-000099.tar").write_bytes(bytes(10_240))
    assert faults(corpus).splitlines() == [
        "sentinel2-train-000099.tar: is not in the plan",
        "rejected.jsonl: does not fit the plan and the indexes",
    ]
    for name in TABLES.values():
        rewrite(corpus / name, lambda data: data.__setitem__(len(data) // 2, data[len(data) // 2] ^ 1))
        assert f"{name}: is missing, or is not the table" in faults(corpus)
        rewrite(corpus / name, lambda data: data.__setitem__(len(data) // 2, data[len(data) // 2] ^ 1))
    plan = corpus / "plan.json"
    plan.write_bytes(plan.read_bytes().replace(b'"min_frames":16', b'"min_frames":15', 1))
    assert "plan.json: is not the plan that dataset.json was written from" in faults(corpus)
    plan.unlink()
    assert faults(corpus).endswith("plan.json is missing")


def test_fingerprint_follows_the_pixels(corpus: Path) -> None:
    loaded = load_corpus(corpus)
    lines = [json.loads((corpus / "dataset.json").read_text())["plan"]]
    for tar in sorted(corpus.glob("*.tar")):
        lines.append(f"{tar.name} {tar.stat().st_size} {xxhash.xxh3_128(tar.read_bytes()).hexdigest()}")
    assert loaded.fingerprint == hashlib.sha256("\n".join(lines).encode()).hexdigest()
    reindex(corpus, lambda values: values["samples"][0]["members"]["pixels.npy"].update(xxh3_64="0" * 16))
    assert "pixels.npy: its checksum is not the one in the index" in faults(corpus)


def test_exit_codes_of_the_command(corpus: Path, tmp_path: Path) -> None:
    def run(folder: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, str(SCRIPT), str(folder)], capture_output=True, text=True, check=False)

    good = run(corpus)
    assert (good.returncode, "every byte as written" in good.stdout) == (0, True)
    (corpus / f"{SHARD}.json").unlink()
    bad = run(corpus)
    assert (bad.returncode, bad.stdout.splitlines()[0]) == (1, f"{SHARD}.json: is missing")
    (tmp_path / "nothing").mkdir()
    none = run(tmp_path / "nothing")
    assert (none.returncode, none.stdout) == (2, "")
    assert none.stderr.startswith(f"error: {tmp_path / 'nothing'} holds no corpus")


def test_keys_twice_in_the_corpus_are_found_by_their_hashes(corpus: Path) -> None:
    """Equal hashes of different keys are no fault, equal keys in two shards are."""
    plan = load_plan(corpus)
    keys = [[sample["key"] for sample in index(corpus, name)["samples"]] for name in plan.names]
    hashes = [key_hashes(key.encode() for key in of_shard) for of_shard in keys]
    assert list(repeated_keys(corpus, plan, hashes)) == []
    collided = [of_shard.copy() for of_shard in hashes]
    collided[0][0] = collided[-1][-1] = 7
    assert list(repeated_keys(corpus, plan, collided)) == []

    name, other = plan.names[0], plan.names[-1]
    reindex(corpus, lambda values: values["samples"][-1].update(key=keys[0][0]), other)
    assert list(repeated_keys(corpus, plan, collided)) == [(keys[0][0], name, other)]


@pytest.mark.slow
def test_twenty_five_million_keys_are_compared_in_bounded_memory() -> None:
    """A process of its own: its peak is that of hashes, sorted once, and of numpy."""
    script = """
import types, numpy as np
from pathlib import Path
from data_prep.shards.shard_index import read_index, sample_columns, sample_rows
from data_prep.corpus.corpus_checks import repeated_keys
from tests.support.memory import peak_kilobytes
rng = np.random.default_rng(0)
shards = [rng.integers(0, 2**64, 2_500, dtype=np.uint64, endpoint=False) for _ in range(10_000)]
plan = types.SimpleNamespace(names=[f"modis-train-{n:06d}" for n in range(10_000)])
before = peak_kilobytes()
assert list(repeated_keys(Path("nowhere"), plan, shards)) == []
print(peak_kilobytes() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=SCRIPT.parent.parent, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 500_000, "kilobytes beside the 200 MB of hashes"


def test_tables_of_failures_and_strangers(corpus: Path) -> None:
    path = corpus / f"{SHARD}.failed.jsonl"
    path.write_text('{"key": "nobody"}\n')
    assert f"{SHARD}.failed.jsonl: has 1 rows; the index says that 0 samples failed" in faults(corpus)
    path.write_text("rubbish")
    assert f"{SHARD}.failed.jsonl: is no table of failures" in faults(corpus)
    path.unlink()
    for stranger in ("more.tar", "more.json", "more.failed.jsonl"):
        (corpus / stranger).write_bytes(b"")
    (corpus / "progress.jsonl").write_text("rubbish")
    assert faults(corpus).splitlines() == [
        f"{stranger}: is not in the plan" for stranger in ("more.failed.jsonl", "more.json", "more.tar")
    ]


def test_checksums_of_frames_in_a_shard_that_is_consistent_otherwise(corpus: Path) -> None:
    entry = index(corpus)["samples"][0]
    place = entry["members"]["checksums.npy"]
    path = corpus / f"{SHARD}.tar"

    def change(data: bytearray) -> None:
        data[place["offset"] + place["size"] - 1] ^= 1

    rewrite(path, change)

    def rehash(values: dict[str, Any]) -> None:
        data = path.read_bytes()
        values["xxh3_128"] = xxhash.xxh3_128(data).hexdigest()
        member = data[place["offset"] : place["offset"] + place["size"]]
        values["samples"][0]["members"]["checksums.npy"]["xxh3_64"] = xxhash.xxh3_64_hexdigest(member)

    reindex(corpus, rehash)
    assert f"{SHARD}.tar: {entry['key']}.checksums.npy: are not those of the frames" in faults(corpus)


def test_index_with_places_outside_the_tar(corpus: Path) -> None:
    for offset in (-512, 10**12, 2**70):
        reindex(corpus, lambda values, offset=offset: values["samples"][0]["members"]["pixels.npy"].update(offset=offset))  # type: ignore[misc]
        assert f"{SHARD}." in faults(corpus)
