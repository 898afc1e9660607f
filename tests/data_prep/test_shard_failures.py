"""Writing shards against plain `tarfile`, and all that can go wrong on the way: data, network, disk, workers, schedulers."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from common.exit_codes import ASKED_TO_STOP, INFRASTRUCTURE, STOPPED
from common.progress import PROGRESS
from data_prep.corpus import corpus_writer
from data_prep.corpus.dataset import load_corpus
from data_prep.plan import planned_reader
from data_prep.plan.plan import load_plan
from data_prep.readers.zarr_cube import ZarrCube
from data_prep.shards.shard_writer import write_sweep
from data_prep.shards.tar_format import TarWriter
from tests.support.archives import CHIPS, write_archive
from tests.support.interruptions import DISTURBANCES, contents, dask_cluster
from tests.support.sharding import run_shard, without_progress

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "data_prep" / "shard.py"
ARGUMENTS = [*CHIPS, "--shard_mb", "0.1"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("writing") / "scenes"
    write_archive(folder)
    return folder


@pytest.fixture(scope="module")
def whole(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an undisturbed run."""
    output = tmp_path_factory.mktemp("whole") / "corpus"
    assert run_shard("--input", scenes, "--output", output, *ARGUMENTS) == 0
    return contents(output)


@pytest.fixture
def own_scenes(scenes: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(scenes, tmp_path / "scenes"))


# the tar


def test_members_are_what_numpy_saves(whole: dict[str, bytes]) -> None:
    with tarfile.open(fileobj=io.BytesIO(whole["sentinel2-train-000001.tar"])) as tar:
        for info in tar:
            assert (info.mtime, info.uid, info.gid, info.uname, info.mode) == (0, 0, 0, "", 0o644)
            file = tar.extractfile(info)
            assert file is not None
            data = file.read()
            if info.name.endswith(".npy"):
                again = io.BytesIO()
                np.save(again, np.load(io.BytesIO(data)))
                assert data == again.getvalue()


def test_index_holds_days_and_counts(whole: dict[str, bytes]) -> None:
    for name, data in whole.items():
        if re.fullmatch(r"[\w-]+\d\.json", name):
            index = json.loads(data)
            with tarfile.open(fileobj=io.BytesIO(whole[index["shard"]])) as tar:
                for key, ends in zip(index["samples"]["key"], index["samples"]["days"], strict=True):
                    days = np.load(io.BytesIO(tar.extractfile(f"{key}.dates.npy").read()))  # type: ignore[union-attr]
                    assert ends == [days[0], days[-1]]


def test_what_is_read_back_must_be_what_was_written(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = TarWriter.end

    def end(writer: TarWriter) -> None:
        original(writer)
        writer._file.flush()
        os.pwrite(writer._file.fileno(), b"\xff", 3000)  # a disk that does not keep what it is given

    monkeypatch.setattr(TarWriter, "end", end)
    assert run_shard("--input", scenes, "--output", tmp_path / "corpus", *ARGUMENTS) == INFRASTRUCTURE
    assert "what was read back is not what was written" in capsys.readouterr().out
    assert not list((tmp_path / "corpus").glob("*.tar"))


# samples that cannot be read


def spoil_modis(scenes: Path) -> Callable[[], None]:
    """Damage a chunk of MODIS; returns what mends it."""
    stored = scenes / "delta" / "modis.zarr" / "reflectance" / "c"
    chunk = next(path for path in sorted(stored.rglob("*")) if path.is_file())
    sound = chunk.read_bytes()
    chunk.write_bytes(b"rubbish" + sound[7:])
    return lambda: chunk.write_bytes(sound) and None


def test_failed_samples_have_reason_and_traceback_and_can_be_tried_again(
    own_scenes: Path, whole: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mend = spoil_modis(own_scenes)
    arguments = ("--input", own_scenes, "--output", tmp_path / "corpus", *ARGUMENTS)
    assert run_shard(*arguments) == 1
    out = capsys.readouterr().out
    assert "4 of 13 samples could not be read, more than --max_failed_share 0.01" in out
    assert re.search("cannot be read: .*Zstd", out)
    rows = [json.loads(line) for line in contents(tmp_path / "corpus")["modis-train-000000.failed.jsonl"].splitlines()]
    assert len(rows) == 4
    for row in rows:
        assert row["key"].startswith("modis-delta-2021-")
        assert row["reason"].startswith("cannot be read: ")
        assert any(line.startswith("data_prep/readers/zarr_cube.py:") for line in row["traceback"])
        assert "Zstd" in row["traceback"][-1]
        assert not re.search(rf"{tmp_path}|site-packages|{ROOT}", json.dumps(row)), "no path of this machine"
    rejected = [json.loads(line) for line in contents(tmp_path / "corpus")["rejected.jsonl"].splitlines()]
    assert [row["key"] for row in rejected if row["failed"]] == [row["key"] for row in rows]

    elsewhere = Path(shutil.copytree(own_scenes, tmp_path / "another" / "place"))
    assert run_shard("--input", elsewhere, "--output", tmp_path / "same", *ARGUMENTS) == 1
    assert contents(tmp_path / "same") == contents(tmp_path / "corpus"), "the same bytes wherever the archive lies"

    mend()
    assert run_shard(*arguments) == 1, "shards that are finished stay as they are"
    assert run_shard(*arguments, "--retry_failed", "true") == 0
    assert contents(tmp_path / "corpus") == whole


def fail_reads(monkeypatch: pytest.MonkeyPatch, errors: list[Exception]) -> None:
    """Let the next reads of pixels raise these errors, one each."""
    original = ZarrCube.read

    def read(reader: ZarrCube, *arguments: Any) -> Any:
        if errors:
            raise errors.pop(0)
        return original(reader, *arguments)

    monkeypatch.setattr(ZarrCube, "read", read)
    monkeypatch.setattr(time, "sleep", lambda _: None)


def test_a_transient_error_is_retried(
    scenes: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_reads(monkeypatch, [TimeoutError("slow"), OSError(errno.EIO, "lost"), OSError("CURL error: could not resolve host")])
    assert run_shard("--input", scenes, "--output", tmp_path / "corpus", *ARGUMENTS) == 0
    assert contents(tmp_path / "corpus") == whole


def test_what_does_not_pass_is_no_part_of_the_corpus(
    scenes: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ("--input", scenes, "--output", tmp_path / "corpus", *ARGUMENTS)
    with monkeypatch.context() as patch:
        fail_reads(patch, [OSError(errno.ESTALE, "Stale file handle")] * 3)
        assert run_shard(*arguments, "--retries", "2") == INFRASTRUCTURE
    out = capsys.readouterr().out
    assert "modis-train-000000: [Errno 116] Stale file handle" in out
    assert "1 of 10 shards are not written; start again with the same arguments" in out
    found = contents(tmp_path / "corpus")
    assert "modis-train-000000.tar" not in found
    assert sum(name.endswith(".tar") for name in found) == 9, "the others are written"
    assert run_shard(*arguments) == 0
    assert contents(tmp_path / "corpus") == whole


@pytest.mark.parametrize("engine", ["local", pytest.param("dask", marks=pytest.mark.slow)])
def test_a_scene_that_vanishes_after_the_plan(
    own_scenes: Path, whole: dict[str, bytes], tmp_path: Path, capfd: pytest.CaptureFixture[str], engine: str
) -> None:
    arguments = ("--input", own_scenes, "--output", tmp_path / "corpus", *ARGUMENTS, "--engine", engine)
    assert run_shard(*arguments, "--plan_only", "true") == 0
    cube = own_scenes / "coast" / "sentinel2.zarr"
    cube.rename(own_scenes / "coast" / "elsewhere.zarr")
    capfd.readouterr()
    assert run_shard(*arguments) == 1
    out, errors = capfd.readouterr()  # of all processes
    assert without_progress(errors) == []
    assert re.search(r"sentinel2-test-00000\d: .*sentinel2\.zarr", out)
    assert "3 of 10 shards are not written" in out
    (own_scenes / "coast" / "elsewhere.zarr").rename(cube)
    assert run_shard(*arguments) == 0
    assert contents(tmp_path / "corpus") == whole


# the output


@pytest.mark.parametrize("engine", ["local", pytest.param("dask", marks=pytest.mark.slow)])
def test_a_full_disk_is_one_line_and_what_is_finished_stays(
    scenes: Path, whole: dict[str, bytes], tmp_path: Path, engine: str
) -> None:
    """No file may grow to the size of the largest shard."""
    arguments = [sys.executable, str(SCRIPT), "--input", str(scenes), "--output", str(tmp_path / "corpus"), *ARGUMENTS]
    arguments += ["--workers", "2", "--engine", engine]
    largest = max(len(data) for name, data in whole.items() if name.endswith(".tar"))
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (largest - 1, largest - 1))
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, preexec_fn=limit)
    errors = without_progress(done.stderr)
    assert done.returncode == INFRASTRUCTURE
    assert len(errors) == 1
    assert re.search(r"corpus takes no more: File too large; what is finished stays", errors[0])
    found = contents(tmp_path / "corpus")
    assert "dataset.json" not in found
    assert all(data == whole[name] for name, data in found.items()), "nothing is half-written"
    assert run_shard("--input", scenes, "--output", tmp_path / "corpus", *ARGUMENTS) == 0
    assert contents(tmp_path / "corpus") == whole


def test_an_output_that_becomes_read_only(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--input", scenes, "--output", tmp_path / "corpus", *ARGUMENTS)
    assert run_shard(*arguments, "--plan_only", "true") == 0
    before = contents(tmp_path / "corpus")

    def replace(path: Path, _: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        assert run_shard(*arguments) == INFRASTRUCTURE
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert "corpus takes no more: Read-only file system" in errors[0]
    assert contents(tmp_path / "corpus") == before
    assert run_shard("--input", scenes, "--output", "/sys/corpus", *ARGUMENTS) == 2


def test_a_shard_that_another_job_wrote_is_written(
    scenes: Path, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other job finished the corpus and removed all unfinished files, also that of this one."""

    def write(*arguments: Any) -> Iterator[tuple[int, int]]:
        list(write_sweep(*arguments))
        yield from ()
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(tmp_path / "corpus" / ".a.tar.tmp"))

    monkeypatch.setattr(corpus_writer, "write_sweep", write)
    assert run_shard("--input", scenes, "--output", tmp_path / "corpus", *ARGUMENTS) == 0
    assert contents(tmp_path / "corpus") == whole


# engines


def test_parts_in_any_order_then_a_last_run(scenes: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    arguments = ("--input", scenes, "--output", tmp_path / "corpus", *ARGUMENTS)
    for part in ("7-9", "3", "0-2"):
        assert run_shard(*arguments, "--shards", part) == 0
    plan = load_plan(tmp_path / "corpus")
    written = {path.stem for path in (tmp_path / "corpus").glob("*.tar")}
    assert written == {plan.names[number] for number in (0, 1, 2, 3, 7, 8, 9)}
    assert not (tmp_path / "corpus" / "dataset.json").exists()
    assert run_shard(*arguments) == 0
    assert contents(tmp_path / "corpus") == whole


@pytest.mark.parametrize("part", ["3-1", "0-10", "-1", "a-b", "array"])
def test_wrong_parts(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str) -> None:
    arguments = [f"--shards={part}", "--input", str(scenes), "--output", str(tmp_path / "corpus"), *ARGUMENTS]
    assert run_shard(*arguments) == 2
    assert re.search("expected first-last within 0-9, or `array`|SLURM_ARRAY_TASK_ID", capsys.readouterr().err)


SBATCH = """#!{python}
# What SLURM's sbatch does with a job, one after the other, on this machine: runs a copy of the script elsewhere.
import os, shutil, subprocess, sys
options = [word for word in sys.argv[1:] if word.startswith("--")][:2]
script = next(i for i, word in enumerate(sys.argv) if word.endswith(".sbatch"))
with open(os.environ["JOBS"], "a") as jobs:
    jobs.write(" ".join(sys.argv[1:script]) + "\\n")
number = sum(1 for _ in open(os.environ["JOBS"]))
array = [word for word in sys.argv[1:script] if word.startswith("--array=")]
tasks = range(int(array[0].split("-")[-1]) + 1) if array else [None]
copy = shutil.copy(sys.argv[script], os.environ["JOBS"] + ".script")
for task in tasks:
    values = {{"SLURM_CPUS_PER_TASK": "1", "SLURM_SUBMIT_DIR": os.getcwd()}}
    if task is not None:
        values |= {{"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_STEP": "1"}}
        values["SLURM_ARRAY_TASK_COUNT"] = str(len(tasks))
    with open(os.environ["JOBS"] + f".{{number}}.{{task}}.log", "w") as log:
        subprocess.run(["bash", copy, *sys.argv[script + 1:]], env={{**os.environ, **values}}, stdout=log, stderr=log)
print(f"{{number}};cluster")
"""


@pytest.mark.slow
def test_slurm_array_and_a_last_job(
    scenes: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    arguments = ("--input", scenes, "--output", tmp_path / "corpus", *ARGUMENTS, "--engine", "slurm", "--workers", "3")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))  # without the sbatch that this machine may have
    assert run_shard(*arguments) == 2
    assert "which is not on this machine" in capsys.readouterr().err
    sbatch.write_text(SBATCH.format(python=sys.executable))
    sbatch.chmod(sbatch.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:{Path(sys.executable).parent}:/usr/bin:/bin")
    monkeypatch.setenv("JOBS", str(tmp_path / "jobs"))
    assert run_shard(*arguments) == 0
    assert "job 1 writes 10 shards, job 2 finishes" in capsys.readouterr().out
    assert (tmp_path / "jobs").read_text() == "--parsable --array=0-2\n--parsable --dependency=afterany:1\n"
    for task, count in enumerate((1, 3, 6)):  # a sweep each
        assert f"write: {count} of {count} shards" in (tmp_path / f"jobs.1.{task}.log").read_text()
    assert "write: 10 of 10 shards" in (tmp_path / "jobs.2.None.log").read_text()
    assert contents(tmp_path / "corpus") == whole


def wait_for(condition: Callable[[], object], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


@pytest.mark.slow
def test_a_dask_scheduler_that_goes_away(scenes: Path, tmp_path: Path) -> None:
    arguments = ["--input", str(scenes), "--output", str(tmp_path / "corpus"), *CHIPS, "--shard_mb", "0.02"]
    with dask_cluster(tmp_path) as (address, scheduler):
        command = [sys.executable, str(SCRIPT), *arguments, "--engine", "dask", "--scheduler", address]
        client = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        wait_for(lambda: list((tmp_path / "corpus").glob("*.tar")))
        scheduler.kill()
        _, errors = client.communicate(timeout=120)
    assert client.returncode == INFRASTRUCTURE
    (line,) = without_progress(errors)
    assert line.startswith(f"error: the Dask scheduler at {address} went away")
    assert "dataset.json" not in contents(tmp_path / "corpus")
    assert run_shard(*arguments) == 0
    assert run_shard("--input", scenes, "--output", tmp_path / "undisturbed", *arguments[4:]) == 0
    assert contents(tmp_path / "corpus") == contents(tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGHUP])
def test_dask_says_nothing_of_its_own_after_a_signal_to_all(scenes: Path, tmp_path: Path, sent: signal.Signals) -> None:
    """Ctrl-C and a closed terminal reach the command and its workers while they write."""
    arguments = ["--input", str(scenes), "--output", str(tmp_path / "corpus"), *CHIPS, "--shard_mb", "0.02"]
    command = [sys.executable, str(SCRIPT), *arguments, "--engine", "dask", "--workers", "2"]
    run = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=partial(signal.signal, sent, signal.SIG_DFL),
    )
    wait_for(lambda: list((tmp_path / "corpus").glob("*.tar")))
    os.killpg(run.pid, sent)
    _, errors = run.communicate(timeout=120)
    assert run.returncode == STOPPED
    assert without_progress(errors) == [ASKED_TO_STOP]


@pytest.mark.parametrize("kind", ["kill -9 of the run", "SIGTERM", pytest.param("kill -9 of a worker", marks=pytest.mark.slow)])
def test_interrupted_and_started_again_gives_the_same_bytes(
    scenes: Path, whole: dict[str, bytes], tmp_path: Path, kind: str
) -> None:
    """tests/bench/kill_shard.py does more of them, at random moments."""
    arguments = ["--input", str(scenes), "--output", str(tmp_path / "corpus"), *ARGUMENTS]

    def wait(process: subprocess.Popen[bytes]) -> None:
        while len(list((tmp_path / "corpus").glob("*.tar"))) < 2 and process.poll() is None:
            time.sleep(0.001)

    code = DISTURBANCES[kind](arguments, wait)
    between = contents(tmp_path / "corpus")
    assert all(data == whole[name] for name, data in between.items() if not name.endswith(".tmp"))
    if kind == "kill -9 of a worker":
        assert code == 0, "others do its work"
    else:
        assert code == (STOPPED if kind == "SIGTERM" else -signal.SIGKILL)
        assert "dataset.json" not in between
        assert run_shard(*arguments) == 0
    assert contents(tmp_path / "corpus") == whole


# progress


def test_progress_of_a_run_is_in_the_corpus(scenes: Path, tmp_path: Path) -> None:
    assert run_shard("--input", scenes, "--output", tmp_path / "corpus", *ARGUMENTS) == 0
    rows = [json.loads(line) for line in (tmp_path / "corpus" / PROGRESS).read_text().splitlines()]
    assert {(row["stage"], row["done"], row["total"]) for row in rows} >= {("write", 10, 10), ("summarise", 10, 10)}
    read = [row["bytes"] for row in rows if row["stage"] == "summarise"]
    assert read[-1] == sum(shard.bytes for shard in load_corpus(tmp_path / "corpus").shards)


def test_a_job_of_an_array_opens_no_scene_but_those_it_writes(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With 100,000 scenes each of 100 jobs would parse them all; a scene that changed is noticed by the job that reads it."""
    own = tmp_path / "scenes"
    shutil.copytree(scenes, own)
    arguments = ("--input", own, "--output", tmp_path / "corpus", *ARGUMENTS)
    assert run_shard(*arguments, "--plan_only", "true") == 0
    plan = load_plan(tmp_path / "corpus")
    of_delta, of_coast = (plan.names.index(f"sentinel2-{split}-000000") for split in ("train", "test"))
    opened = []
    load = planned_reader.load_scene
    monkeypatch.setattr(planned_reader, "load_scene", lambda folder: opened.append(folder.name) or load(folder))
    monkeypatch.setattr("data_prep.plan.build.scan_archive", None)
    assert run_shard(*arguments, "--shards", f"{of_coast}") == 0
    assert opened == ["coast"]
    with (own / "delta" / "scene.yaml").open("a") as file:
        file.write("# changed\n")
    assert run_shard(*arguments, "--shards", f"{of_delta}") == 1
    assert "delta/scene.yaml changed since the corpus was planned" in capsys.readouterr().out
    for option in (("--min_frames", "3"), ("--shard_mb", "7"), ("--chip_px.modis", "8"), ("--sources", "modis")):
        assert run_shard(*arguments, *option, "--shards", "0") == 2
        name = option[0].removeprefix("--").partition(".")[0]
        assert f"holds a corpus of another plan: other {name}" in capsys.readouterr().err


def test_a_plan_of_the_former_version_is_resumed(scenes: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """It has no sweeps, so each shard is read on its own; the samples and their bytes are the same."""
    arguments = ("--input", scenes, "--output", tmp_path / "corpus", *ARGUMENTS)
    assert run_shard(*arguments, "--plan_only", "true") == 0
    shards, plan_json = tmp_path / "corpus" / "plan-shards.parquet", tmp_path / "corpus" / "plan.json"
    pq.write_table(pq.read_table(shards).drop_columns(["sweep"]), shards)
    plan_json.write_text(json.dumps({**json.loads(plan_json.read_text()), "version": 2}))
    plan = load_plan(tmp_path / "corpus")
    assert plan.sweeps(range(plan.num_shards)) == [(number,) for number in range(plan.num_shards)]
    assert run_shard(*arguments) == 0
    for name in plan.names:
        assert (tmp_path / "corpus" / f"{name}.tar").read_bytes() == whole[f"{name}.tar"]
