"""Sample indexes against plain tarfile, opened from disk, memory and a web server, and damaged in every way."""

from __future__ import annotations

import errno
import io
import json
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
import xxhash

from common.executors import map_local
from common.json_files import json_bytes
from data_prep.corpus.corpus_checks import corpus_faults
from data_prep.corpus.corpus_writer import finish_corpus
from data_prep.corpus.dataset import Corpus, load_corpus
from data_prep.corpus.sample_index import open_sample_index, record_dtype
from data_prep.corpus.shard_sizes import check_shard_sizes
from data_prep.plan.plan import load_plan
from data_prep.shards.shard_index import read_array
from pretrain.cost import CostConfig, cost
from pretrain.data.config import StreamConfig
from pretrain.data.sample_table import MEMBERS, SampleTable
from pretrain.data.stream import Stream
from tests.support.archives import CHIPS, write_archive
from tests.support.interruptions import contents
from tests.support.pretraining import assert_equal_batches, stream_config
from tests.support.sharding import run_shard
from tests.support.small_corpus import write_corpus

ROOT = Path(__file__).parents[3]
GROUPS = [("modis", "train"), ("sentinel2", "test"), ("sentinel2", "train")]
NAME = "sentinel2-train.samples.npy"


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str | Path]:
    scenes = tmp_path_factory.mktemp("scenes")
    write_archive(scenes)
    return ["--input", scenes, *CHIPS, "--shard_mb", "0.1"]


@pytest.fixture(scope="module")
def sound(arguments: list[str | Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("sound") / "corpus"
    assert run_shard(*arguments, "--output", output) == 0
    return output


@pytest.fixture
def corpus(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "corpus"))


def tar_samples(folder: Path, source: str, split: str) -> list[dict[str, Any]]:
    """Key, shard and members (offset, size, data) of each sample, as tarfile finds them."""
    samples: dict[str, dict[str, Any]] = {}
    for number, path in enumerate(sorted(folder.glob(f"{source}-{split}-*.tar"))):
        with tarfile.open(path) as tar:
            for info in tar:
                key, member = info.name.split(".", 1)
                file = tar.extractfile(info)
                assert file is not None
                sample = samples.setdefault(key, {"key": key, "shard": number, "path": str(path)})
                sample[member] = (info.offset_data, info.size, file.read())
    return list(samples.values())


def array(sample: dict[str, Any], member: str) -> np.ndarray:
    return np.load(io.BytesIO(sample[member][2]))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("source", "split"), GROUPS)
def test_rows_are_where_tarfile_finds_the_samples(sound: Path, source: str, split: str) -> None:
    expected = tar_samples(sound, source, split)
    stock = np.load(sound / f"{source}-{split}.samples.npy", allow_pickle=False)
    table = SampleTable(load_corpus(sound), source, split)
    assert len(expected) == len(table) == len(stock)
    assert max(len(sample["key"]) for sample in expected) == table.keys.itemsize
    for row, sample in enumerate(expected):
        assert table.keys[row].decode() == sample["key"]
        assert table.shards[table.shard[row]] == sample["path"]
        assert table.frames[row] == len(array(sample, "dates.npy"))
        assert table.offsets[row].tolist() == [sample[member][0] for member in MEMBERS]
        assert table.sizes[row].tolist() == [sample[member][1] for member in MEMBERS]
        assert stock[row].tolist()[:3] == (sample["key"].encode(), sample["shard"], table.frames[row])
    assert table.shortest == min(len(array(sample, "dates.npy")) for sample in expected)
    assert not table.frames.flags.writeable


@pytest.mark.parametrize(("source", "split"), GROUPS)
def test_description_of_a_split(sound: Path, source: str, split: str) -> None:
    """Mean shares against exact fractions."""
    samples = tar_samples(sound, source, split)
    summary = load_corpus(sound).splits[source, split]
    lengths = [len(array(sample, "dates.npy")) for sample in samples]
    assert (summary.samples, summary.shortest, summary.longest) == (len(samples), min(lengths), max(lengths))
    assert summary.xxh3_128 == xxhash.xxh3_128((sound / summary.sample_index).read_bytes()).hexdigest()
    by_legend: dict[str, list[list[int]]] = {}
    for sample in samples:
        counts = array(sample, "landcover.npy").tolist()
        by_legend.setdefault(json.loads(sample["json"][2])["legend"], []).append(counts)
    assert summary.mean_shares.keys() == by_legend.keys()
    for legend, rows in by_legend.items():
        means = [sum(Fraction(row[code], sum(row)) for row in rows) / len(rows) for code in range(len(rows[0]))]
        np.testing.assert_allclose(summary.mean_shares[legend], [float(mean) for mean in means], rtol=1e-15)


def test_mean_shares_give_mean_fractions(sound: Path) -> None:
    """Grouping the mean shares is the mean of grouped fractions, the baseline of predicting the mean."""
    corpus = load_corpus(sound)
    (name,) = corpus.splits["modis", "train"].mean_shares
    legend = corpus.legends[name]
    samples = corpus.samples("modis", "train")
    expected = np.mean([legend.fractions(np.array(sample.land_cover)) for sample in samples], axis=0)
    grouped = legend.grouping_matrix() @ corpus.splits["modis", "train"].mean_shares[name]
    np.testing.assert_allclose(grouped, expected, rtol=1e-12)


def test_tables_are_the_same_from_any_workers_in_any_order(corpus: Path) -> None:
    before = contents(corpus)
    assert set(before) >= {f"{source}-{split}.samples.npy" for source, split in GROUPS}
    plan = load_plan(corpus)

    def backwards(function: Callable[[Any], Any], jobs: Any) -> Iterator[tuple[Any, Any]]:
        yield from ((job, function(job)) for job in reversed(jobs))

    for map_jobs in (backwards, partial(map_local, workers=2)):
        for source, split in GROUPS:
            (corpus / f"{source}-{split}.samples.npy").unlink()
        (corpus / "dataset.json").unlink()
        assert finish_corpus(plan, map_jobs, max_failed_share=0.01)  # type: ignore[arg-type]
        assert contents(corpus) == before


def test_a_corpus_of_version_2_gets_tables_and_keeps_its_shards(arguments: list[str | Path], corpus: Path) -> None:
    before = contents(corpus)
    values = json.loads((corpus / "dataset.json").read_text())
    for source in values["sources"].values():
        del source["splits"]
    (corpus / "dataset.json").write_bytes(json_bytes({**values, "version": 2}))
    for table in corpus.glob("*.npy"):
        table.unlink()
    with pytest.raises(ValueError, match=r"version 2.*start shard.py again with the same arguments: its shards stay"):
        load_corpus(corpus)
    (fault,) = corpus_faults(corpus, partial(map_local, workers=1))
    assert str(fault) == "dataset.json: version: is 2, expected 4: start shard.py again with the same arguments"
    shards = {path.name: path.stat().st_mtime_ns for path in corpus.glob("*-0*")}
    assert len(shards) >= 2 * 5
    assert run_shard(*arguments, "--output", corpus) == 0
    assert {path.name: path.stat().st_mtime_ns for path in corpus.glob("*-0*")} == shards
    assert contents(corpus) == before


def test_shards_that_are_written_anew_leave_no_finished_corpus(arguments: list[str | Path], corpus: Path) -> None:
    before = contents(corpus)
    (corpus / "modis-train-000000.json").unlink()
    assert run_shard(*arguments, "--output", corpus, "--shards", "0-0") == 0
    with pytest.raises(ValueError, match="no finished corpus"):
        load_corpus(corpus)
    assert run_shard(*arguments, "--output", corpus) == 0
    assert contents(corpus) == before


@pytest.mark.slow
def test_tables_are_written_and_proven_in_constant_memory(tmp_path: Path) -> None:
    """A process of its own: a table of 5 million rows, 620 MB, that are made up when they are asked for."""
    script = """
import sys, tempfile, numpy as np
from pathlib import Path
from data_prep.corpus.sample_index import record_dtype
from data_prep.corpus.sample_index_checks import sample_index_faults
from data_prep.corpus.sample_index_writer import write_sample_indexes
from data_prep.corpus.shard_contents import CorpusContents, ShardContents, WrittenShard
from data_prep.corpus.summary import summarise
from data_prep.shards.shard_index import sample_columns
from tests.support.memory import peak_kilobytes
sample = {"frames": 20, "days": [0, 1], "members": {}, "legend": "a", "land_cover": [1]}
samples = sample_columns([{"key": f"modis-{n:029d}", **sample} for n in range(2_500)])
numbers = {"count": [1], "total": [1], "squares": [1]}
about = dict(source="modis", split="train", bytes=1)
summary = summarise({**about, "samples": samples, "rejected": [], "statistics": numbers})
keys = np.array([key.encode() for key in samples["key"]])
before = peak_kilobytes()
with tempfile.TemporaryFile() as file:
    contents = CorpusContents(file)
    for n in range(2_000):
        rows = np.zeros(2_500, record_dtype(35, has_maps=False))
        rows["key"], rows["offsets"] = keys, n
        shard = WrittenShard(shard=f"modis-train-{n:06d}.tar", xxh3_128="", samples=2_500, **about)
        contents.add(n, ShardContents(shards=(shard,), summary=summary, rows=rows, rejected=b""))
    write_sample_indexes(Path(sys.argv[1]), contents)
    assert list(sample_index_faults(Path(sys.argv[1]), contents)) == []
print(peak_kilobytes() - before)
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    table = np.load(tmp_path / "modis-train.samples.npy", mmap_mode="r")
    assert (len(table), table[-1]["shard"], table[-1]["offsets"][0]) == (5_000_000, 1_999, 1_999)
    assert int(done.stdout) < 20_000, "kilobytes"


def test_a_full_disk_leaves_no_table(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (corpus / NAME).unlink()
    (corpus / "dataset.json").unlink()
    opened = Path.open

    def full(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if mode == "wb" and NAME in self.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return opened(self, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left"):
        finish_corpus(load_plan(corpus), partial(map_local, workers=1), max_failed_share=0.01)
    assert not (corpus / NAME).exists()
    assert not (corpus / "dataset.json").exists()
    assert not list(corpus.glob(".*.tmp"))


def faults(folder: Path) -> str:
    return "\n".join(map(str, corpus_faults(folder, partial(map_local, workers=1))))


@pytest.mark.parametrize("at", [3, 40, 200, -1])
def test_verify_finds_any_changed_byte(corpus: Path, at: int) -> None:
    data = bytearray((corpus / NAME).read_bytes())
    data[at] ^= 4
    (corpus / NAME).write_bytes(data)
    found = faults(corpus)
    assert len(found.splitlines()) == 1
    assert found.startswith(f"{NAME}: ")
    header = data.index(b"\n") + 1
    if at == -1:
        assert "row 5 is not what the index of sentinel2-train-0" in found
    elif at < header:
        assert "does not begin like the sample index of these samples" in found


def test_verify_finds_tables_missing_cut_off_too_long_and_swapped(corpus: Path) -> None:
    data = (corpus / NAME).read_bytes()
    (corpus / NAME).write_bytes(data[:-1])
    assert faults(corpus) == f"{NAME}: is {len(data) - 1} bytes long; the indexes say {len(data)}"
    (corpus / NAME).write_bytes(data + b"\0")
    assert "bytes long" in faults(corpus)
    (corpus / NAME).write_bytes((corpus / "sentinel2-test.samples.npy").read_bytes())
    assert faults(corpus).startswith(f"{NAME}: is ")
    (corpus / NAME).unlink()
    assert faults(corpus) == f"{NAME}: is missing: start shard.py again with the same arguments"
    (corpus / NAME).write_bytes(data)
    (corpus / "landsat-train.samples.npy").write_bytes(data)
    assert faults(corpus) == "landsat-train.samples.npy: is not in the plan"


@pytest.mark.parametrize("change", ["samples", "xxh3_128", "frames", "mean_shares"])
def test_verify_proves_what_is_said_of_a_split(corpus: Path, change: str) -> None:
    values = json.loads((corpus / "dataset.json").read_text())
    about = values["sources"]["sentinel2"]["splits"]["train"]
    if change == "mean_shares":
        shares = next(iter(about[change].values()))
        shares[4] = np.nextafter(shares[4], 1)
    else:
        about[change] = {"samples": 7, "xxh3_128": "0" * 32, "frames": {**about["frames"], "longest": 99}}[change]
    (corpus / "dataset.json").write_bytes(json_bytes(values))
    assert faults(corpus) == "dataset.json: sources: does not fit the shards and their indexes"


def test_training_reads_no_index(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path, {"landsat": 5, "modis": 7})
    with_indexes = Stream(load_corpus(folder), "train", stream_config())
    for index in folder.glob("*-0*.json"):
        index.unlink()
    loaded = load_corpus(folder)
    check_shard_sizes(loaded, "train")
    without = Stream(loaded, "train", stream_config())
    for step in range(6):
        assert_equal_batches(with_indexes.batch(step), without.batch(step))


def another_version(table: np.ndarray) -> np.ndarray:
    return table[["key", "shard", "frames", "offsets"]]


def shifted(table: np.ndarray) -> np.ndarray:
    table["shard"] += 1
    return table


def renamed(table: np.ndarray) -> np.ndarray:
    table["key"] = np.char.replace(table["key"], b"sentinel2", b"landsat")
    return table


def beyond(table: np.ndarray) -> np.ndarray:
    table["offsets"][-1, 0] = 2**62
    table["sizes"][-1, 0] = 2**62  # and their sum is negative
    return table


@pytest.mark.parametrize(
    "change", [another_version, shifted, renamed, beyond, lambda table: table[:-1], lambda table: table["key"]]
)
def test_a_table_that_does_not_fit_is_one_error(corpus: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    np.save(corpus / NAME, change(np.load(corpus / NAME)))
    with pytest.raises(
        ValueError, match=rf"{NAME} .*(expected 6 records of samples|is not the sample index of this corpus).*verify"
    ):
        open_sample_index(load_corpus(corpus), "sentinel2", "train")


def test_a_table_that_is_none_is_one_error(corpus: Path) -> None:
    data = (corpus / NAME).read_bytes()
    garbage = [b"", b"garbage", data[:100], data[:-1], data.replace(b"{", b"[", 1), data.replace(b"'descr'", b"('desc'", 1)]
    objects = io.BytesIO()
    np.save(objects, np.array([{}], dtype=object), allow_pickle=True)
    for content in [*garbage, objects.getvalue(), b"PK\x03\x04" + data, data[:6] + b"\x09\x00" + data[8:]]:
        (corpus / NAME).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{NAME} is no whole sample index: .*verify"):
            open_sample_index(load_corpus(corpus), "sentinel2", "train")
    (corpus / NAME).unlink()
    with pytest.raises(ValueError, match=rf"{NAME} is missing"):
        open_sample_index(load_corpus(corpus), "sentinel2", "train")


def test_dataset_json_names_no_files_elsewhere(corpus: Path) -> None:
    path = corpus / "dataset.json"
    values = json.loads(path.read_text())
    values["sources"]["sentinel2"]["splits"]["train"]["table"] = "../../elsewhere.npy"
    path.write_bytes(json_bytes(values))
    with pytest.raises(ValueError, match=r"names its sample index '../../elsewhere.npy'; expected 'sentinel2-train"):
        open_sample_index(load_corpus(corpus), "sentinel2", "train")
    path.write_bytes(json_bytes({**values, "fingerprint": "../" * 10}))
    with pytest.raises(ValueError, match="expected a sha256"):
        load_corpus(corpus)


def test_samples_in_two_legends_are_refused(corpus: Path) -> None:
    path = corpus / "dataset.json"
    values = json.loads(path.read_text())
    values["sources"]["modis"]["splits"]["train"]["mean_shares"]["scl"] = [0.0]
    path.write_bytes(json_bytes(values))
    with pytest.raises(ValueError, match=r"different legends \['glc_fcs30d', 'scl'\]"):
        SampleTable(load_corpus(corpus), "modis", "train")


class Server(SimpleHTTPRequestHandler):
    """Counts whole files that it gives."""

    gets: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        Server.gets.append(self.path)
        super().do_GET()

    def log_message(self, *arguments: object) -> None:
        """Nothing: every request would be printed."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The URL at which files in `tmp_path` are found."""
    Server.gets.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(params=["memory", "http"])
def url(request: pytest.FixtureRequest, served: str, corpus: Path) -> Iterator[str]:
    """The corpus at a URL. What is changed in its folder afterwards is seen by the web server only."""
    if request.param == "http":
        yield f"{served}/corpus"
        return
    memory = fsspec.filesystem("memory")
    memory.put(f"{corpus}/", "/published/corpus/", recursive=True)
    yield "memory://published/corpus/"
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def test_a_corpus_at_a_url_is_that_on_disk(corpus: Path, url: str, tmp_path: Path) -> None:
    local, remote = load_corpus(corpus), load_corpus(url)
    assert (local.fingerprint, remote.folder) == (remote.fingerprint, url.rstrip("/"))
    assert [shard.path for shard in remote.shards] == [f"{url.rstrip('/')}/{shard.name}" for shard in local.shards]
    for source, split in GROUPS:
        one, other = SampleTable(local, source, split), SampleTable(remote, source, split, tmp_path / "cache")
        assert (one.legend, one.codes, one.shortest, one.dtype) == (other.legend, other.codes, other.shortest, other.dtype)
        for name in ("keys", "shard", "frames", "offsets", "sizes"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    check_shard_sizes(remote, "train")
    for one, other in zip(local.samples(*GROUPS[0]), remote.samples(*GROUPS[0]), strict=True):
        assert (one.key, one.members, str(other.shard)) == (other.key, other.members, f"{remote.folder}/{one.shard.name}")
        if url.startswith("memory"):  # the web server here knows no byte ranges
            np.testing.assert_array_equal(read_array(one, "pixels.npy"), read_array(other, "pixels.npy"))
    with pytest.raises(ValueError, match="no finished corpus"):
        load_corpus(f"{url.rstrip('/')}-elsewhere")


def test_cost_of_a_corpus_at_a_url(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    cost(CostConfig(data=url, stream=StreamConfig(num_frames=16)))
    assert "sentinel2" in capsys.readouterr().out


def test_default_cache_is_temporary_and_named_by_the_fingerprint(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    loaded = load_corpus(url)
    open_sample_index(loaded, "sentinel2", "train")
    (copy,) = (tmp_path / "temporary").rglob(NAME)
    assert copy.parent.name == loaded.fingerprint


def test_a_damaged_copy_is_fetched_again(url: str, corpus: Path, tmp_path: Path) -> None:
    loaded = load_corpus(url)
    data = (corpus / NAME).read_bytes()
    copy = tmp_path / "cache" / loaded.fingerprint / NAME
    copy.parent.mkdir(parents=True)
    for damage in (data[:-5], data[:-1] + bytes([data[-1] ^ 1]), b""):
        copy.write_bytes(damage)
        open_sample_index(loaded, "sentinel2", "train", tmp_path / "cache")
        assert copy.read_bytes() == data


def test_a_damaged_or_missing_table_at_a_url_leaves_no_copy(corpus: Path, served: str, tmp_path: Path) -> None:
    data, cache = (corpus / NAME).read_bytes(), tmp_path / "cache"
    (corpus / NAME).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match=rf"{served}/corpus/{NAME} has not the checksum"):
        open_sample_index(load_corpus(f"{served}/corpus"), "sentinel2", "train", cache)
    (corpus / NAME).unlink()
    with pytest.raises(ValueError, match=rf"{served}/corpus/{NAME} is missing"):
        open_sample_index(load_corpus(f"{served}/corpus"), "sentinel2", "train", cache)
    assert [path.name for path in cache.rglob("*.*")] == ["sentinel2-train.samples.lock"]


def test_ranks_that_start_together_make_one_copy(corpus: Path, served: str, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from data_prep.corpus.dataset import load_corpus;"
        "from data_prep.corpus.sample_index import open_sample_index;"
        "print(len(open_sample_index(load_corpus(sys.argv[1]), 'sentinel2', 'train', Path(sys.argv[2]))))"
    )
    command = [sys.executable, "-c", program, f"{served}/corpus", str(tmp_path / "cache")]
    ranks = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [rank.communicate()[0] for rank in ranks] == ["6\n"] * 4
    assert Server.gets.count(f"/corpus/{NAME}") == 1
    (copy,) = (tmp_path / "cache").rglob(NAME)
    assert copy.read_bytes() == (corpus / NAME).read_bytes()


def test_missing_and_cut_off_shards_are_named(corpus: Path, served: str) -> None:
    first, second = (corpus / f"sentinel2-train-00000{number}.tar" for number in (0, 1))
    places: list[str | Path] = [corpus, f"{served}/corpus", "memory://shards"]
    memory = fsspec.filesystem("memory")

    def expect(match: str | None) -> None:
        memory.store.clear()
        memory.pseudo_dirs[:] = [""]
        memory.put(f"{corpus}/", "/shards/", recursive=True)
        for place in places:
            loaded = load_corpus(place)
            check_shard_sizes(loaded, "test")
            if match is None:
                check_shard_sizes(loaded, "train")
            else:
                with pytest.raises(ValueError, match=match):
                    check_shard_sizes(loaded, "train")

    expect(None)
    size, data = second.stat().st_size, second.read_bytes()
    count = len(list(corpus.glob("*-train-*.tar")))
    second.write_bytes(data[:-1])
    expect(rf"1 of {count} shards of split 'train' .* first .*sentinel2-train-000001.tar, which has {size - 1} of {size} bytes")
    first.unlink()
    expect(rf"2 of {count} shards .* first .*sentinel2-train-000000.tar, which is missing; copy")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def test_shards_are_checked_by_one_listing(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(f"{corpus}/", "/shards/", recursive=True)
    loaded = load_corpus("memory://shards")
    calls: list[str] = []
    listing = type(memory).ls

    def ls(self: Any, path: str, **options: Any) -> Any:
        calls.append(path)
        return listing(self, path, **options)

    monkeypatch.setattr(type(memory), "ls", ls)
    monkeypatch.setattr(type(memory), "info", lambda *_: pytest.fail("asked for the size of one file"))
    check_shard_sizes(loaded, "train")
    assert calls == ["/shards"]
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def test_corpus_at_a_path_of_any_spelling(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(corpus.parent)
    folders = {load_corpus(place).folder for place in (corpus, "corpus", Path("corpus"), f"file://{corpus}", f"{corpus}/")}
    assert folders == {str(corpus)}


def test_record_is_compact() -> None:
    """Without padding: what stands in the docstring, byte for byte."""
    assert record_dtype(30, has_maps=False).itemsize == 30 + 4 + 4 + 5 * 8 + 5 * 8
    assert record_dtype(30, has_maps=True).itemsize == 30 + 4 + 4 + 6 * 8 + 6 * 8
    assert record_dtype(30, has_maps=True).names == ("key", "shard", "frames", "offsets", "sizes")


def test_corpus_is_typed(sound: Path) -> None:
    loaded: Corpus = load_corpus(sound)
    assert isinstance(loaded.folder, str)
    assert all(isinstance(shard.path, str) for shard in loaded.shards)
