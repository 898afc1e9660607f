"""Paths and URLs: files on this machine, or on any file system that fsspec reaches (s3, gs, https, memory, ...).

Credentials are given as fsspec expects them: as `storage_options` of a source in scene.yaml (`{anon: true}`), in the environment,
or in fsspec's own configuration files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fsspec


def is_url(path: str) -> bool:
    """Return True for a URL, False for a path."""
    return "://" in path


def file_system(path: str, storage_options: Mapping[str, Any] | None) -> tuple[Any, str]:
    """Return the fsspec file system of a path or URL, and the path within that file system.

    Raises ValueError for an unknown protocol, for a protocol whose package is not installed, and for unknown options.
    """
    try:
        files, name = fsspec.core.url_to_fs(path, **dict(storage_options or {}))
    except (ImportError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: cannot be reached by fsspec: {error}; is the package of its protocol installed?") from error
    return files, name
