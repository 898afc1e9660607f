"""Archives and corpora in an S3 bucket: the same bytes as on a disk, also after failures and kills of every kind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web

from common.atomic_files import whole_file
from common.command_line import run_command
from common.errors import RefusedError
from common.executors import map_local
from common.exit_codes import FAILED, INFRASTRUCTURE, USER_ERROR
from common.storage import RemotePath, local_copy
from data_prep.add_maps import add_maps
from data_prep.corpus.corpus_checks import corpus_faults
from data_prep.describe import describe_corpus
from data_prep.quicklook import quicklook
from data_prep.verify import verify
from tests.support.archives import CHIPS, write_archive
from tests.support.interruptions import contents
from tests.support.s3_server import BUCKET, FaultyProxy, objects, s3_server, upload
from tests.support.sharding import run_shard

SCRIPT = Path(__file__).parents[2] / "data_prep" / "shard.py"
ARGUMENTS = (*CHIPS, "--shard_mb", "0.2")
ONE = partial(map_local, workers=1)
WRITTEN = (
    4 + 1 + 2 * 6 + 1 + 3 + 1
)  # tables and plan.json, shards and their indexes, rejected.jsonl, sample indexes, dataset.json


def run(function: Callable[..., int | None], *arguments: object, positional: bool = False) -> int:
    """Run a command in this process; return its exit code."""
    with pytest.raises(SystemExit) as ended:
        run_command(function, [str(argument) for argument in arguments], positional=positional)
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyProxy]:
    with s3_server() as proxy:
        yield proxy


@pytest.fixture
def proxy(server: FaultyProxy) -> Iterator[FaultyProxy]:
    server.requests.clear()
    yield server
    server.fault = lambda _: ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive, and its corpora without and with land-cover maps, on this machine."""
    folder = tmp_path_factory.mktemp("local")
    write_archive(folder / "scenes")
    for name, maps in (("corpus", "false"), ("maps", "true")):
        options = (*ARGUMENTS, "--land_cover_maps", maps)
        assert run_shard("--input", folder / "scenes", "--output", folder / name, *options) == 0
        (folder / name / "progress.jsonl").unlink()
    return folder


@pytest.fixture(scope="module")
def scenes(server: FaultyProxy, folder: Path) -> str:  # noqa: ARG001
    """The archive in the bucket."""
    return upload(folder / "scenes", "scenes")


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.retries._FIRST_WAIT_S", 0.001)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)


def in_bucket(name: str) -> dict[str, bytes]:
    """The files of a corpus in the bucket by name."""
    return {key.removeprefix(f"{name}/"): content for key, content in objects(f"{name}/").items()}


def test_a_corpus_in_a_bucket_is_that_on_a_disk(
    folder: Path,
    scenes: str,
    proxy: FaultyProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    plain, maps = f"{BUCKET}/plain", f"{BUCKET}/maps"
    options = ("--input", scenes, "--output", plain, *ARGUMENTS, "--land_cover_maps", "false")
    assert run_shard(*options, "--plan_only") == 0
    assert sorted(in_bucket("plain")) == sorted(name for name in contents(folder / "corpus") if name.startswith("plan"))
    assert run_shard(*options) == 0
    assert in_bucket("plain") == contents(folder / "corpus")
    assert run(add_maps, "--input", scenes, "--corpus", plain, "--output", maps) == 0
    assert in_bucket("maps") == contents(folder / "maps")

    proxy.requests.clear()
    assert run_shard(*options, "--retry_failed") == 0  # finished: nothing but what describes the whole is written again
    assert not [asked for asked in proxy.requests if asked.startswith("PUT") and re.search(r"plan|\.tar|00000\d.json", asked)]

    capsys.readouterr()
    assert run(verify, maps, positional=True) == 0
    assert "6 shards" in capsys.readouterr().out
    figures = f"{BUCKET}/figures"
    assert run(describe_corpus, maps, "--output", figures, "--json", f"{figures}/maps.json", positional=True) == 0
    described = capsys.readouterr().out
    assert run(quicklook, maps, "--output", f"{figures}/quick.png", positional=True) == 0
    assert run(describe_corpus, folder / "maps", "--json", "maps.json", positional=True) == 0
    assert (tmp_path / "maps.json").read_bytes() == in_bucket("figures")["maps.json"]
    assert capsys.readouterr().out.split("says the same")[0].splitlines()[1:-1] == described.splitlines()[:-3]
    assert all(in_bucket("figures")[name].startswith(b"\x89PNG") for name in ("overview.png", "samples.png", "quick.png"))
    assert [path.name for path in tmp_path.iterdir()] == ["maps.json"]


def test_verify_finds_in_a_bucket_what_it_finds_on_a_disk(folder: Path, server: FaultyProxy, tmp_path: Path) -> None:  # noqa: ARG001
    corpus = tmp_path / "damaged"
    shutil.copytree(folder / "maps", corpus)
    flipped = bytearray((corpus / "modis-train-000000.tar").read_bytes())
    flipped[len(flipped) // 2] ^= 1
    (corpus / "modis-train-000000.tar").write_bytes(flipped)
    cut = corpus / "sentinel2-test-000001.tar"
    cut.write_bytes(cut.read_bytes()[:-512])
    (corpus / "sentinel2-train-000000.json").unlink()
    (corpus / "other-000000.tar").touch()
    expected = list(map(str, corpus_faults(corpus, ONE)))
    assert {fault.partition(":")[0] for fault in expected} == {
        *("modis-train-000000.tar", cut.name, "sentinel2-train-000000.json", "other-000000.tar")
    }
    assert list(map(str, corpus_faults(RemotePath(upload(corpus, "damaged")), ONE))) == expected


def writes(name: str, number: int) -> Callable[[web.Request], bool]:
    """Whether a request is the write number `number` into the corpus `name` in the bucket, or a later one."""
    seen: list[str] = []

    def is_late(request: web.Request) -> bool:
        if request.method == "PUT" and f"/{name}/" in request.path and request.path not in seen:
            seen.append(request.path)
        return len(seen) >= number and f"/{name}/" in request.path

    return is_late


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("number", [2, 7, 8, WRITTEN])
def test_keys_that_expire_while_a_corpus_is_written(
    number: int, folder: Path, proxy: FaultyProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"expired{number}"
    arguments = ("--input", folder / "scenes", "--output", f"{BUCKET}/{name}", *ARGUMENTS)
    late = writes(name, number)
    proxy.fault = lambda request: 403 if late(request) else ""
    assert run_shard(*arguments) == (USER_ERROR if number < 6 else INFRASTRUCTURE)  # without a plan nothing has begun
    said = capsys.readouterr()
    assert re.search(rf"{BUCKET}/{name}/\S+: \w+( \w+)* is refused \(HTTP 403\): ", said.out + said.err)
    proxy.fault = lambda _: ""
    kept, expected = in_bucket(name), contents(folder / "maps")
    assert len(kept) == number - 1
    assert all(content == expected[file] for file, content in kept.items())
    assert "dataset.json" not in kept
    proxy.requests.clear()
    assert run_shard(*arguments) == 0
    assert in_bucket(name) == expected
    if number > 5:
        tars = [asked for asked in proxy.requests if asked.startswith("PUT") and asked.endswith(".tar")]
        assert len(tars) == 6 - len([file for file in kept if re.search(r"-\d{6}\.json$", file)])


@pytest.mark.usefixtures("no_waiting")
def test_a_bucket_that_goes_away_ends_the_writing(folder: Path, proxy: FaultyProxy, capsys: pytest.CaptureFixture[str]) -> None:
    late = writes("away", 8)
    proxy.fault = lambda request: 503 if late(request) else ""
    assert run_shard("--input", folder / "scenes", "--output", f"{BUCKET}/away", *ARGUMENTS) == INFRASTRUCTURE
    *_, line = capsys.readouterr().err.splitlines()
    assert re.match(rf"error: {BUCKET}/away/\S+: \w+( \w+)* failed, 7 tries in \d s: Service Unavailable$", line)


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("fault", [503, "reset", "half"])
def test_failures_that_pass_leave_no_trace(fault: str | int, scenes: str, folder: Path, proxy: FaultyProxy) -> None:
    """Every third request fails, in reading scenes as in writing shards."""
    numbers = iter(range(1_000_000))
    proxy.fault = lambda _: "" if next(numbers) % 3 else fault
    name = f"faulty-{fault}"
    assert run_shard("--input", scenes, "--output", f"{BUCKET}/{name}", *ARGUMENTS, "--sources", "modis") == 0
    proxy.fault = lambda _: ""
    expected = contents(folder / "maps")
    shards = {file: content for file, content in in_bucket(name).items() if file.startswith("modis-train-000000.tar")}
    assert shards == {"modis-train-000000.tar": expected["modis-train-000000.tar"]}


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("fault", [403, 500])
def test_scenes_that_cannot_be_reached_reject_no_sample(
    fault: int,
    scenes: str,
    proxy: FaultyProxy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor is every shard tried, each of which may take minutes."""
    monkeypatch.setattr("data_prep.corpus.corpus_writer._MOST_IN_A_ROW", 2)
    arguments = ("--input", scenes, "--output", tmp_path / "corpus", *ARGUMENTS)
    assert run_shard(*arguments, "--plan_only") == 0
    proxy.fault = lambda request: fault if "/c/" in request.path_qs else ""  # a chunk of Zarr
    capsys.readouterr()
    assert run_shard(*arguments) == INFRASTRUCTURE
    lines = capsys.readouterr().out.splitlines()
    reason = r"\S+: s3://bucket/scenes/\S+/c/\S+: reading " + (r"is refused \(HTTP 403\)" if fault == 403 else "failed, 7 tries")
    *named, last = lines
    assert sum(bool(re.match(reason, line)) for line in named) == 2
    same = "not tried, after (2 sweeps with failures of the infrastructure in a row|.*, which is read in the same sweep)"
    assert sum(bool(re.match(rf"\S+: {same}", line)) for line in named) == len(named) - 2 > 0
    assert last == "6 of 6 shards are not written; start again with the same arguments"
    assert not list(tmp_path.rglob("*.failed.jsonl"))


@pytest.mark.parametrize("number", [3, 6, 7, 8, 11, 19, WRITTEN])
@pytest.mark.slow
def test_a_kill_leaves_no_half_shard(number: int, folder: Path, proxy: FaultyProxy) -> None:
    """The command is killed while its write `number` is under way."""
    name = f"killed{number}"
    arguments = ["--input", str(folder / "scenes"), "--output", f"{BUCKET}/{name}", *ARGUMENTS]
    late = writes(name, number)
    hanging = []

    def fault(request: web.Request) -> str:
        if late(request):
            hanging.append(request.path)
            return "hang"
        return ""

    proxy.fault = fault
    process = subprocess.Popen([sys.executable, SCRIPT, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not hanging and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert hanging
    proxy.fault = lambda _: ""
    kept, expected = in_bucket(name), contents(folder / "maps")
    assert len(kept) == number - 1
    assert all(content == expected[file] for file, content in kept.items())
    assert run_shard(*arguments) == 0
    assert in_bucket(name) == expected


@pytest.mark.slow
@pytest.mark.usefixtures("no_waiting")
def test_an_object_of_several_parts_appears_whole(proxy: FaultyProxy) -> None:
    path, content = RemotePath(f"{BUCKET}/parts/large"), bytes(range(256)) * (110 << 12)

    def write() -> None:
        with whole_file(path) as temporary:
            temporary.write_bytes(content)

    proxy.fault = lambda request: 403 if "partNumber=2" in request.path_qs else ""
    with pytest.raises(RefusedError, match=r"s3://bucket/parts/large: writing is refused \(HTTP 403\)"):
        write()
    assert in_bucket("parts") == {}
    failures = iter([503, "reset", ""])
    proxy.fault = lambda request: next(failures, "") if "partNumber=2" in request.path_qs else ""
    write()
    assert in_bucket("parts") == {"large": content}
    with local_copy(path) as copy:
        assert copy.read_bytes() == content


LIMITS = {"nothing listens": 45, "no keys": 5, "403": 5, "500": 45, "hang": 125, "stall": 125}


@pytest.mark.slow
@pytest.mark.parametrize("fault", LIMITS)
def test_how_long_a_command_tries(fault: str, folder: Path, proxy: FaultyProxy, tmp_path: Path) -> None:
    upload(folder / "maps", "tried")
    variables = {"nothing listens": {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "no keys": {"AWS_ACCESS_KEY_ID": ""}}
    proxy.fault = lambda _: "" if fault in variables else int(fault) if fault.isdecimal() else fault
    start = [sys.executable, str(SCRIPT.with_name("verify.py"))]
    environment = {name: value for name, value in {**os.environ, **variables.get(fault, {})}.items() if value}
    begin = time.monotonic()
    subprocess.run([*start, str(folder / "maps")], env=environment, capture_output=True, check=True)
    local_s, begin = time.monotonic() - begin, time.monotonic()
    done = subprocess.run([*start, f"{BUCKET}/tried"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert time.monotonic() - begin < LIMITS[fault] + 3 * local_s
    *notices, line = done.stderr.splitlines()
    is_refused = fault in ("no keys", "403")
    assert done.returncode == (USER_ERROR if is_refused else INFRASTRUCTURE)
    assert re.match(
        rf"error: {BUCKET}/tried/plan.json: (looking it up|reading) {'is refused' if is_refused else 'failed, '}", line
    )
    assert all("trying again" in notice for notice in notices)
    assert not list(tmp_path.iterdir())


def test_what_is_not_there(server: FaultyProxy, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: ARG001
    for place in (f"{BUCKET}/nothing", "s3://nowhere/corpus"):
        assert run(verify, place, positional=True) == USER_ERROR
        assert f"{place} holds no corpus" in capsys.readouterr().err
        assert run(quicklook, place, positional=True) == USER_ERROR
        assert f"no dataset.json in {place}: no finished corpus" in capsys.readouterr().err
        assert run_shard("--input", place, "--output", "unused") == USER_ERROR
        assert f"input folder {place} does not exist" in capsys.readouterr().err
    assert run_shard("--input", "here", "--output", "s3://nowhere/corpus") in (USER_ERROR, FAILED)
