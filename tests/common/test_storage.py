"""URLs with the methods of paths: compared with paths on this machine, in fsspec's memory and on a web server that fails."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from aiohttp import web
from fsspec.implementations.memory import MemoryFileSystem

from common.atomic_files import whole_file
from common.errors import InfrastructureError, RefusedError, is_refused, is_transient
from common.exit_codes import INFRASTRUCTURE, USER_ERROR, exit_code
from common.storage import RemotePath, any_path, joined, listed, local_copy, read_range, subfolders_with, version_of
from tests.support.web_server import web_server

FILES = {"a.txt": b"one\ntwo\n", "b.tar": bytes(range(256)) * 9000, "inner/c.txt": b"c", "inner/deep/d.json": b"{}", "empty": b""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.fixture
def before() -> list[Callable[[web.Request], None]]:
    """What the web server calls with each request."""
    return []


@pytest.fixture
def served(folder: Path, before: list[Callable[[web.Request], None]]) -> Iterator[RemotePath]:
    with web_server() as server:
        yield RemotePath(server(folder, lambda request: [call(request) for call in before] and None))


@pytest.fixture
def memory(folder: Path) -> Iterator[RemotePath]:
    files = fsspec.filesystem("memory")
    files.put(f"{folder}/", "/bucket/data/", recursive=True)
    yield RemotePath("memory://bucket/data")
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.retries.time.sleep", lambda _: None)


@pytest.mark.parametrize("where", ["memory", "served"])
def test_a_url_answers_as_a_path(folder: Path, where: str, request: pytest.FixtureRequest) -> None:
    remote: RemotePath = request.getfixturevalue(where)
    for name in [*FILES, "inner", "none", "inner/none"]:
        one, other = folder / name, remote / name
        assert (one.is_file(), one.is_dir(), one.exists()) == (other.is_file(), other.is_dir(), other.exists()), name
        assert (one.name, one.stem, one.suffix, one.parent.name) == (other.name, other.stem, other.suffix, other.parent.name) or (
            other.parent == remote
        )
        assert str(other) == f"{remote}/{name}"
        assert other.relative_to(remote).as_posix() == name
        if one.is_file():
            assert other.read_bytes() == one.read_bytes()
            assert other.stat().st_size == one.stat().st_size
            with other.open("rb") as file:
                assert file.read() == one.read_bytes()
                file.seek(3)
                assert file.read(5) == one.read_bytes()[3:8]
            with local_copy(other) as copy:
                assert copy.read_bytes() == one.read_bytes()
            assert copy.exists() is False
    assert (remote / "a.txt").read_text() == (folder / "a.txt").read_text()
    with (remote / "a.txt").open() as lines:
        assert list(lines) == ["one\n", "two\n"]
    assert [path.name for path in remote.iterdir()] == sorted(path.name for path in folder.iterdir())
    assert [str(path.relative_to(remote)) for path in remote.walk_files()] == [
        *("a.txt", "b.tar", "empty", "inner/c.txt", "inner/deep/d.json")
    ]
    assert [path.name for path in listed(remote, "*.t*")] == [path.name for path in listed(folder, "*.t*")] == ["a.txt", "b.tar"]
    assert [path.name for path in remote.rglob("*.txt")] == ["a.txt", "c.txt"]
    assert [path.name for path in subfolders_with(remote, "c.txt")] == ["inner"]
    assert listed(remote / "none", "*") == []
    assert read_range(remote / "b.tar", 250, 260) == read_range(folder / "b.tar", 250, 260) == FILES["b.tar"][250:260]
    assert read_range(remote / "a.txt", 4, 100) == b"two\n"
    assert pickle.loads(pickle.dumps(remote)) == remote


def test_names_are_joined_as_paths() -> None:
    url = RemotePath("s3://bucket/a/")
    assert [str(url / name) for name in ("b", "./b/", "../c", "../../../d")] == [
        *("s3://bucket/a/b", "s3://bucket/a/b", "s3://bucket/c", "s3://bucket/d")
    ]
    assert str(url / "gs://other/b") == str(joined(Path("here"), "gs://other/b")) == "gs://other/b"
    assert joined(Path("here"), "b") == Path("here/b")
    assert url / "/data/b" == Path("/data/b")
    assert any_path("file:///data/b") == Path("/data/b")
    assert str((url / "x.tar").with_suffix(".json")) == "s3://bucket/a/x.json"
    assert str(url.parent / "x") == "s3://bucket/x"
    assert str(RemotePath("zip://a::s3://bucket/z.zip") / "b") == "zip://a/b::s3://bucket/z.zip"


def test_a_file_is_written_whole_or_not_at_all(memory: RemotePath) -> None:
    path = memory / "new.json"

    def write(content: bytes, fail: bool) -> None:
        with whole_file(path) as temporary:
            temporary.write_bytes(content)
            assert not path.is_file() or path.read_bytes() == b"first"
            if fail:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write(b"first", fail=True)
    assert not path.exists()
    write(b"first", fail=False)
    version = version_of(path)
    assert version == version_of(path)
    with pytest.raises(ZeroDivisionError):
        write(b"later", fail=True)
    assert (path.read_bytes(), version_of(path)) == (b"first", version)
    path.unlink()
    path.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        path.unlink()
    assert version_of(path) is None


def test_an_upload_that_arrives_cut_off_is_an_error(memory: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryFileSystem, "put_file", lambda self, _, path: self.pipe_file(path, b"lat"))
    with (
        pytest.raises(OSError, match=r"memory://bucket/data/x: 3 of 5 bytes have arrived"),
        whole_file(memory / "x") as temporary,
    ):
        temporary.write_bytes(b"later")


ACTIONS: dict[str, Callable[[RemotePath], Any]] = {
    "is_file": lambda root: (root / "a.txt").is_file(),
    "is_dir": lambda root: (root / "inner").is_dir(),
    "iterdir": lambda root: list(root.iterdir()),
    "read_bytes": lambda root: (root / "a.txt").read_bytes(),
    "read_range": lambda root: (root / "a.txt").read_range(1, 3),
    "open": lambda root: (root / "b.tar").open("rb").read(10),
    "download": lambda root: _downloaded(root / "a.txt"),
}


def _downloaded(path: RemotePath) -> bytes:
    with local_copy(path) as copy:
        return copy.read_bytes()


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("answer", [403, 500, 503])
def test_a_failure_is_named_and_never_a_missing_file(
    action: str, answer: int, served: RemotePath, before: list[Callable[[web.Request], None]]
) -> None:
    asked: list[str] = []

    def fail(request: web.Request) -> None:
        asked.append(request.path)
        raise {403: web.HTTPForbidden, 500: web.HTTPInternalServerError, 503: web.HTTPServiceUnavailable}[answer]

    before.append(fail)
    expected = rf"^{served}(/\w+(\.\w+)?)?: (looking it up|listing|reading) "
    expected += r"is refused \(HTTP 403\): 403, .*Forbidden" if answer == 403 else rf"failed, 7 tries in \d s: {answer}, "
    with pytest.raises(RefusedError if answer == 403 else InfrastructureError, match=expected) as caught:
        ACTIONS[action](served)
    assert "\n" not in str(caught.value)
    assert exit_code(caught.value) == (USER_ERROR if answer == 403 else INFRASTRUCTURE)
    assert len(asked) <= (2 if answer == 403 else 14)  # fsspec asks for a size twice, by HEAD and by GET


@pytest.mark.parametrize("action", ["is_file", "read_bytes", "open"])
def test_an_error_that_is_no_failure_of_the_storage_stays_as_it_is(
    action: str, memory: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    bug = RuntimeError("a bug")

    def fail(*_: Any, **__: Any) -> Any:
        raise bug

    for name in ("info", "cat_file", "cat_ranges"):
        monkeypatch.setattr(MemoryFileSystem, name, fail)
    with pytest.raises(RuntimeError, match="a bug") as caught:
        ACTIONS[action](memory)
    assert caught.value is bug
    assert bug.__cause__ is None
    assert not is_transient(bug)
    assert not is_refused(bug)


@pytest.mark.parametrize("action", ACTIONS)
def test_what_passes_is_tried_again(
    action: str, served: RemotePath, before: list[Callable[[web.Request], None]], memory: RemotePath
) -> None:
    left = [5]

    def fail(request: web.Request) -> None:
        left[0] -= 1
        if left[0] >= 0:
            if left[0] % 2:
                raise web.HTTPBadGateway
            assert request.transport is not None
            request.transport.abort()

    before.append(fail)
    found, expected = ACTIONS[action](served), ACTIONS[action](memory)
    assert left[0] < 0
    if action == "iterdir":
        found, expected = [path.name for path in found], [path.name for path in expected]
    assert found == expected


def test_nothing_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(
        InfrastructureError, match=rf"^http://127.0.0.1:{port}/a: looking it up failed, 7 tries in \d s: Cannot conn"
    ):
        RemotePath(f"http://127.0.0.1:{port}/a").is_file()


def test_a_server_that_lists_folders_only_with_a_slash(
    folder: Path, served: RemotePath, before: list[Callable[[web.Request], None]]
) -> None:
    def refuse(request: web.Request) -> None:
        if (folder / request.path.lstrip("/")).is_dir() and not request.path.endswith("/"):
            raise web.HTTPNotFound

    before.append(refuse)
    assert (served / "inner").is_dir()
    assert [str(path.relative_to(served)) for path in (served / "inner").walk_files()] == ["inner/c.txt", "inner/deep/d.json"]


def test_a_file_that_shrinks_while_it_is_open(memory: RemotePath) -> None:
    with (memory / "b.tar").open("rb") as file:
        fsspec.filesystem("memory").pipe_file("/bucket/data/b.tar", b"short")
        with pytest.raises(ValueError, match=r"b.tar ends at byte 5; it had 2304000 bytes when it was opened"):
            file.read(100)
