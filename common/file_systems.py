"""File systems of fsspec: opened by URL with this project's limits of time, and asked with one policy of retries and one error.

Credentials are given as fsspec expects them: as `storage_options` of a source in scene.yaml (`{anon: true}`), in the environment,
or in fsspec's own configuration files.

fsspec answers "no such file" to many failures: its `exists` and `isfile` return False, and over HTTP its `info` raises
FileNotFoundError, also when the server refuses or is away. A shard that exists would be written again, and a scene left out. So
no other module calls them: `reach` tells a missing file from a storage that cannot be reached.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import Any, NoReturn, TypeVar

import fsspec
from fsspec.config import conf

from common.errors import (
    UNREACHABLE,
    InfrastructureError,
    MissingPackageError,
    RefusedError,
    http_status,
    is_refused,
    is_transient,
)
from common.retries import CONNECT_S, PATIENCE_S, READ_S, RETRIES, Tries, one_line, retried, retried_async, without_queries

Result = TypeVar("Result")

ASKING, LISTING, READING, WRITING, REMOVING = "looking it up", "listing", "reading", "writing", "removing"
# Extra of this package by protocol.
_EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), "azure"),
    **dict.fromkeys(("http", "https"), "https"),
}


def is_url(path: str) -> bool:
    """Return True for a URL, False for a path."""
    return "://" in path


def file_system(path: str, storage_options: Mapping[str, Any] | None) -> tuple[Any, str]:
    """Return the fsspec file system of a path or URL, and the path within that file system.

    Raises ValueError for an unknown protocol, for a protocol whose package is not installed, and for unknown options.
    """
    try:
        protocol = path.rpartition("::")[2].partition("://")[0] if is_url(path) else "file"
        options = dict(storage_options or {})
        if "::" in path:  # the options of a chained URL are given by protocol
            options[protocol] = _with_limits(protocol, options.get(protocol) or {})
        else:
            options = _with_limits(protocol, options)
        files, name = fsspec.core.url_to_fs(path, **options)
    except (ImportError, ValueError, TypeError) as error:
        missing = isinstance(error, ImportError) and protocol in _EXTRAS
        advice = f"; pip install '.[{_EXTRAS[protocol]}]'" if missing else ""
        kind = MissingPackageError if isinstance(error, ImportError) else ValueError
        raise kind(f"{path}: cannot be reached by fsspec: {error}{advice}") from error
    if protocol in ("s3", "s3a"):
        files.retries = 1  # `reach` tries again; tries within tries would multiply
    return files, name


def _with_limits(protocol: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return storage options with the limits of time of a protocol, where neither they nor fsspec's configuration state others.

    Listings are never cached, because other jobs write to the same folder.
    """
    options = {**conf.get(protocol, {}), **options}
    match protocol:
        case "s3" | "s3a":
            # Of the two requests, the second one spares an upload of many parts, or a chunk of Zarr, from being tried as a whole.
            limits = {
                "connect_timeout": CONNECT_S,
                "read_timeout": READ_S,
                "retries": {"total_max_attempts": 2, "mode": "standard"},
            }
            options["config_kwargs"] = {**limits, **(options.get("config_kwargs") or {})}
            options.setdefault("use_listings_cache", False)
        case "http" | "https":
            options["client_kwargs"] = {"timeout": _aiohttp_timeout(), **(options.get("client_kwargs") or {})}
        case "gs" | "gcs":
            options.setdefault("requests_timeout", _aiohttp_timeout())
            options.setdefault("use_listings_cache", False)
        case "az" | "abfs" | "abfss" | "adl":
            options.setdefault("connection_timeout", int(CONNECT_S))
            options.setdefault("read_timeout", int(READ_S))
            options.setdefault("use_listings_cache", False)
    return options


@cache
def _aiohttp_timeout() -> Any:
    from aiohttp import ClientTimeout

    return ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=READ_S)


def reach(work: Callable[[], Result], url: str, doing: str) -> Result:
    """Return the result of `work` on the storage at `url`, tried again as `common/retries.py` says. `doing`: READING, ...

    Raises FileNotFoundError when there is no such file, RefusedError when the storage refuses, InfrastructureError when it cannot
    be reached: each with one line that names the URL, what was done, and the cause. Raises other errors as they are.
    """
    tries = storage_tries(url, doing)
    try:
        return retried(lambda: _honest(work), tries)
    except Exception as error:
        raise_named(error, url, doing, tries)


async def reach_async(work: Callable[[], Awaitable[Result]], url: str, doing: str) -> Result:
    """Return the result of `work` as `reach` does, in an event loop."""
    tries = storage_tries(url, doing)
    try:
        return await retried_async(work, tries)
    except Exception as error:
        raise_named(error, url, doing, tries)


def storage_tries(url: str, doing: str) -> Tries:
    """Return the tries that each access to a storage has."""
    return Tries(RETRIES, PATIENCE_S, without_queries(f"{url}: {doing}"))


def _honest(work: Callable[[], Result]) -> Result:
    """Call `work`; raise the error behind a FileNotFoundError that stands for a refusal or a lost connection."""
    try:
        return work()
    except FileNotFoundError as error:
        cause = error.__cause__
        if cause is not None and (is_refused(cause) or is_transient(cause)):
            raise cause from None
        raise


def raise_named(error: Exception, url: str, doing: str, tries: Tries) -> NoReturn:
    """Raise what `reach` raises after the last of `tries`, with `error` as its cause unless it is `error` itself."""
    named = _named(error, url, doing, tries)
    if named is error:
        raise error
    raise named from error


def _named(error: Exception, url: str, doing: str, tries: Tries) -> Exception:
    if isinstance(error, UNREACHABLE):
        return error  # of a `reach` within this one
    url = without_queries(url)
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{url}: no such file" if doing != WRITING else f"{url}: {doing} failed: {one_line(error)}")
    if is_refused(error):
        status = http_status(error)
        answer = "" if status is None else f" (HTTP {status})"
        return RefusedError(
            f"{url}: {doing} is refused{answer}: {one_line(error)}; are there credentials (in the environment, "
            "`storage_options` or, for STAC items, `signer` in scene.yaml), do they still hold, and do they allow it?"
        )
    if is_transient(error):
        number = "1 try" if tries.failed == 1 else f"{tries.failed} tries"
        return InfrastructureError(f"{url}: {doing} failed, {number} in {tries.elapsed_s:.0f} s: {one_line(error)}")
    return error
