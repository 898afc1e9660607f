"""Where data lie: a path on this machine, or a URL of any storage that fsspec reaches (s3, gs, abfs, https, memory, ...).

Everything that reads or writes data takes an `AnyPath`. A URL is a `RemotePath`, which has those methods of `pathlib.Path` that
the project uses, with the same meaning. So one code serves both, and a path on this machine stays the `Path` that it was.

What a writer may rely on. On this machine a file appears whole when it is renamed. An object of S3, Google Cloud Storage or
Azure appears whole when its upload is complete, and there is nothing to rename: `common/atomic_files.py` uploads a file that was
written here. A job that is killed before leaves nothing to see. (Parts of an unfinished upload may stay in the bucket, invisible,
until a lifecycle rule of the bucket removes them.) Other storages, such as SFTP, show unfinished files, so they are only read.

`universal_pathlib` offers such a class, too. It answers `exists()` with False when a storage refuses or is away, names no URL in
errors, and tries nothing again; each method would have to be replaced.
"""

from __future__ import annotations

import gc
import io
import os
import tempfile
import threading
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from fsspec.spec import AbstractBufferedFile

from common.byte_ranges import fetch_ranges
from common.file_systems import ASKING, LISTING, READING, REMOVING, WRITING, file_system, is_url, reach
from common.threads import in_threads

# Files appear whole there. Memory is that of this process, for tests.
_WRITABLE = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "memory"})
# Bytes that are read ahead: as many as a connection carries in the time until the first byte of an answer comes.
_BLOCK_BYTES = 1 << 20
REQUESTS = 32  # at a time, where many files are asked about


@dataclass(frozen=True)
class RemoteStat:
    """What a storage tells about a file: its size in bytes, and a mark of its version, equal as long as the file is."""

    st_size: int
    version: Hashable


class RemotePath:
    """A URL, with methods of `pathlib.Path`. It holds no connection, so it can be sent to other processes.

    All methods that ask the storage raise FileNotFoundError, RefusedError or InfrastructureError as `reach` does, and ValueError
    for a protocol that is unknown or whose package is not installed. Only a missing file makes `is_file` return False.
    """

    __slots__ = ("_base", "_chain", "storage_options")

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        """`storage_options`: of the file system, such as credentials, beside those in the environment."""
        if not is_url(url):
            raise ValueError(f"{url} is no URL")
        base, chained, rest = url.partition("::")  # zip://inner/file::s3://bucket/archive.zip
        protocol, _, path = base.partition("://")
        self._base = f"{protocol}://{path.rstrip('/')}"
        self._chain = chained + rest
        self.storage_options = storage_options

    # --- The URL

    def __str__(self) -> str:
        return self._base + self._chain

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def _with(self, base: str) -> RemotePath:
        return RemotePath(base + self._chain, self.storage_options)

    def __truediv__(self, name: str | os.PathLike[str]) -> AnyPath:
        """Join a relative path; a URL or an absolute path replaces this one, as with `pathlib.Path`."""
        text = os.fspath(name)
        if is_url(text) or text.startswith("/"):
            return any_path(text)
        path = _normal(f"{self._path}/{text}") if self._path else _normal(text)
        return self._with(f"{self.protocol}://{path}")

    @property
    def protocol(self) -> str:
        return self._base.partition("://")[0]

    @property
    def _path(self) -> str:
        return self._base.partition("://")[2]

    @property
    def name(self) -> str:
        return PurePosixPath(self._path).name

    @property
    def stem(self) -> str:
        return PurePosixPath(self._path).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self._path).suffix

    @property
    def parent(self) -> RemotePath:
        return self._with(f"{self.protocol}://{self._path.rpartition('/')[0]}")

    def with_name(self, name: str) -> RemotePath:
        return self._with(f"{self.parent._base.rstrip('/')}/{name}" if "/" in self._path else f"{self.protocol}://{name}")

    def with_suffix(self, suffix: str) -> RemotePath:
        return self.with_name(self.stem + suffix)

    def is_relative_to(self, other: AnyPath) -> bool:
        return isinstance(other, RemotePath) and f"{self}/".startswith(f"{str(other).rstrip('/')}/")

    def relative_to(self, other: AnyPath) -> PurePosixPath:
        """Raises ValueError when the URL does not begin with `other`."""
        if not self.is_relative_to(other):
            raise ValueError(f"{self} is not in {other}")
        return PurePosixPath(str(self)[len(str(other)) :].lstrip("/"))

    def resolve(self) -> RemotePath:
        """Return the same URL: it does not depend on the current folder."""
        return self

    # --- Reading

    def request_url(self) -> str:
        """The URL to ask the storage for; `SignedPath` adds a signature. Messages name the URL itself."""
        return str(self)

    def _system(self) -> tuple[Any, str]:
        return file_system(self.request_url(), self.storage_options)

    def _info(self) -> Mapping[str, Any] | None:
        """What the storage tells about the file or folder; None when there is neither."""
        files, path = self._system()
        try:
            found: Mapping[str, Any] = reach(partial(files.info, path), str(self), ASKING)
        except FileNotFoundError:
            return None
        return found

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        info = self._info()
        return info is not None and info["type"] == "file" and not self._is_web_folder(info)

    def _is_web_folder(self, info: Mapping[str, Any]) -> bool:
        return self._is_web and str(info.get("mimetype", "")).startswith("text/html") and bool(self._entries())

    def is_dir(self) -> bool:
        """Whether it is a folder: of an object store, whether there are files below it."""
        if self._is_web:
            return bool(self._entries())
        info = self._info()
        return info is not None and info["type"] == "directory"

    @property
    def _is_web(self) -> bool:
        return self.protocol in ("http", "https")

    def stat(self) -> RemoteStat:
        info = self._info()
        if info is None:
            raise FileNotFoundError(f"{self}: no such file")
        marks = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "mtime", "created")
        return RemoteStat(info.get("size") or 0, (info.get("size"), *(str(info[mark]) for mark in marks if mark in info)))

    def _entries(self) -> list[Mapping[str, Any]]:
        """Entries of a folder in ascending order of names; none for a folder that does not exist, and for a file."""
        files, path = self._system()
        if self._is_web:  # many web servers list a folder only with a slash at its end
            path = f"{path.rstrip('/')}/"
        try:
            found = reach(partial(files.ls, path, detail=True), str(self), LISTING)
        except (FileNotFoundError, NotADirectoryError):
            return []
        folder = path.strip("/")
        entries = {entry["name"].strip("/"): entry for entry in found}
        return [entries[name] for name in sorted(entries) if name != folder and name.rpartition("/")[0] == folder]

    def iterdir(self) -> Iterator[RemotePath]:
        """Files and folders in a folder, in ascending order of names."""
        return (path for path, _ in self._children())

    def _children(self) -> Iterator[tuple[RemotePath, Mapping[str, Any]]]:
        for entry in self._entries():
            name = entry["name"].rstrip("/").rpartition("/")[2]
            if "?" not in name and "#" not in name:  # links of a web page that sort its list
                yield self._with(f"{self._base.rstrip('/')}/{name}"), entry

    @property
    def lists_sizes(self) -> bool:
        """Whether the list of a folder tells sizes of files; that of a web server does not."""
        return not self._is_web

    def sizes(self) -> dict[str, int | None]:
        """Sizes in bytes of the files in a folder, by name."""
        return {path.name: entry["size"] for path, entry in self._children() if entry["type"] == "file"}

    def walk_files(self) -> Iterator[RemotePath]:
        """All files in a folder and in its subfolders, in ascending order of names, those of a folder before its subfolders'."""

        def in_order(path: RemotePath) -> list[tuple[bool, str]]:
            *folders, name = path.relative_to(self).parts
            return [*((True, folder) for folder in folders), (False, name)]

        return iter(sorted(self._all_files(), key=in_order))

    def _all_files(self) -> Iterator[RemotePath]:
        if self._chain or self.protocol not in _WRITABLE:
            for child, entry in self._children():
                if entry["type"] == "directory":
                    yield from child._all_files()
                else:
                    yield child
            return
        files, path = self._system()  # object stores list all below a folder at once
        folder = f"{path.strip('/')}/"
        try:
            found = reach(partial(files.find, path), str(self), LISTING)
        except FileNotFoundError:
            return
        for name in found:
            inside = name.lstrip("/").removeprefix(folder)
            if inside and not inside.endswith("/") and name.lstrip("/").startswith(folder):
                yield self._with(f"{self._base}/{inside}")

    def rglob(self, pattern: str) -> Iterator[RemotePath]:
        """Files in a folder and in its subfolders whose names fit `pattern`."""
        return (path for path in self.walk_files() if fnmatchcase(path.name, pattern))

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Files and folders in a folder whose names fit `pattern`, which has no slash."""
        assert "/" not in pattern, pattern
        return (path for path in self.iterdir() if fnmatchcase(path.name, pattern))

    def read_range(self, start: int, stop: int) -> bytes:
        """Bytes start to stop - 1; fewer where the file ends before."""
        return fetch_ranges([(self.request_url(), start, stop)], self.storage_options)[0] if stop > start else b""

    def read_bytes(self) -> bytes:
        files, path = self._system()
        return bytes(reach(partial(files.cat_file, path), str(self), READING))

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def open(self, mode: str = "r", buffering: int = -1) -> Any:
        """Open the file for reading, at any position, as bytes or as UTF-8 text. `buffering`: bytes to read ahead; -1: 1 MiB."""
        if mode not in ("r", "rb"):
            raise ValueError(f"{self} cannot be opened with mode {mode!r}; write it with whole_file")
        stat = self.stat()
        files, path = self._system()
        ahead = _BLOCK_BYTES if buffering < 0 else buffering
        # A web server that compresses what it sends tells no size.
        file: Any = _RemoteFile(self, files, path, stat.st_size, ahead) if stat.st_size else io.BytesIO(self.read_bytes())
        return file if mode == "rb" else io.TextIOWrapper(file, encoding="utf-8")

    def download(self, to: Path) -> None:
        """Copy the file to `to`."""
        files, path = self._system()
        reach(partial(files.get_file, path, str(to)), str(self), READING)

    # --- Writing

    def check_writable(self) -> None:
        """Raise ValueError when files of this storage do not appear whole, or it is read-only."""
        if self._chain or self.protocol not in _WRITABLE:
            known = ", ".join(f"{name}://" for name in sorted(_WRITABLE - {"memory"}))
            raise ValueError(f"{self} cannot be written to; expected a path on this machine, or a URL of {known}")
        self._system()

    def upload(self, file: Path) -> None:
        """Write the content of `file`; the object appears, or replaces the former one, when all of it has arrived."""
        self.check_writable()
        files, path = self._system()
        reach(partial(files.put_file, str(file), path), str(self), WRITING)
        arrived, size = self.stat().st_size, file.stat().st_size
        if arrived != size:
            raise OSError(f"{self}: {arrived} of {size} bytes have arrived")

    def unlink(self, missing_ok: bool = False) -> None:
        files, path = self._system()
        if missing_ok and not self.is_file():
            return
        try:
            reach(partial(files.rm_file, path), str(self), REMOVING)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: object stores have no folders."""


class _NoCollection:
    """Keeps Python's collector of garbage from running inside, in any thread of this process.

    h5py holds its lock while it waits for bytes that fsspec fetches in another thread. If that thread collected an HDF5 object,
    it would wait for the same lock, for ever.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._was_on = threading.Lock(), 0, False

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._was_on = gc.isenabled()
                gc.disable()
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._was_on:
                gc.enable()


_no_collection = _NoCollection()


class _RemoteFile(AbstractBufferedFile):
    """A file at a URL, read by ranges with read-ahead."""

    def __init__(self, remote: RemotePath, files: Any, path: str, size: int, read_ahead: int) -> None:
        self._remote = remote
        super().__init__(files, path, block_size=read_ahead, cache_type="readahead", size=size)

    def _fetch_range(self, start: int, end: int) -> bytes:
        with _no_collection:
            content = self._remote.read_range(start, end)
        if len(content) < end - start:
            raise ValueError(f"{self._remote} ends at byte {start + len(content)}; it had {self.size} bytes when it was opened")
        return content


AnyPath: TypeAlias = Path | RemotePath


def any_path(text: str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None) -> AnyPath:
    """Return the place that a path or URL names; `file://` names a path on this machine."""
    name = os.fspath(text)
    if name.startswith("file://"):
        return Path(name.removeprefix("file://"))
    return RemotePath(name, storage_options) if is_url(name) else Path(name)


def joined(folder: AnyPath, text: str, storage_options: Mapping[str, Any] | None = None) -> AnyPath:
    """Return the place that a file in `folder` names: a path relative to the folder, another path, or a URL with its options."""
    return any_path(text, storage_options) if is_url(text) else folder / text


def subfolders_with(folder: AnyPath, name: str) -> list[AnyPath]:
    """Return the subfolders of a folder that hold a file `name`, in ascending order."""
    children = listed(folder, "*")
    held = in_threads(lambda child: child.is_dir() and (child / name).is_file(), children, REQUESTS)
    return [child for child, holds in zip(children, held, strict=True) if holds]


def raise_error(error: OSError) -> None:
    """Raise what `os.walk` would pass over, as its `onerror`: a folder that cannot be listed must not look empty."""
    raise error


def listed(folder: AnyPath, pattern: str) -> list[AnyPath]:
    """Return the files in a folder whose names fit `pattern`, in ascending order; none without the folder."""
    return sorted(folder.glob(pattern), key=str)


def check_writable(path: AnyPath) -> None:
    """Raise ValueError when a URL cannot be written to; a path on this machine says so when it is written."""
    if isinstance(path, RemotePath):
        path.check_writable()


def relative_path(path: AnyPath, folder: AnyPath) -> str:
    """Return the path from a folder to a file in it, with slashes."""
    if isinstance(path, Path):
        assert isinstance(folder, Path), (path, folder)
        return path.relative_to(folder).as_posix()
    return path.relative_to(folder).as_posix()


def version_of(path: AnyPath) -> Hashable:
    """Return a mark that changes when the file changes; None without a file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.version if isinstance(found, RemoteStat) else found.st_mtime_ns


def read_range(path: AnyPath, start: int, stop: int) -> bytes:
    """Return bytes start to stop - 1 of a file; fewer where it ends before."""
    if isinstance(path, RemotePath):
        return path.read_range(start, stop)
    with path.open("rb") as file:
        file.seek(start)
        return file.read(stop - start)


@contextmanager
def local_copy(path: AnyPath) -> Iterator[Path]:
    """Yield a path on this machine with the content of a file: its own, or that of a copy in the folder for temporary files."""
    if isinstance(path, Path):
        yield path
        return
    with scratch_folder(path) as folder:
        copy = folder / path.name
        path.download(copy)
        yield copy


@contextmanager
def scratch_folder(beside: AnyPath) -> Iterator[Path]:
    """Yield a folder on this machine for unfinished files: `beside` itself; for a URL one in the folder for temporary files."""
    if isinstance(beside, Path):
        yield beside
        return
    with tempfile.TemporaryDirectory(prefix="agrifm-") as folder:
        yield Path(folder)


def _normal(path: str) -> str:
    """Resolve `.` and `..` in a path of a URL, whose first part, the bucket or server, stays."""
    parts: list[str] = []
    for number, part in enumerate(path.split("/")):
        if part == ".." and len(parts) > 1:
            parts.pop()
        elif part != "." and (part or number == 0):
            parts.append(part)
    return "/".join(parts)
