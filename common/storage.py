"""Paths and URLs: files on this machine, or anywhere fsspec reaches (s3, gs, https, memory, ...).

Credentials are given the way of fsspec: as `storage_options` of a source in scene.yaml (`{anon: true}`), in the environment, or
in fsspec's own configuration files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fsspec


def is_url(path: str) -> bool:
    return "://" in path


def file_system(path: str, storage_options: Mapping[str, Any] | None) -> tuple[Any, str]:
    """The fsspec file system of a path or URL, and the path as it calls it.

    Raises ValueError for unknown protocols, protocols whose package is not installed, and options that it does not know.
    """
    try:
        files, name = fsspec.core.url_to_fs(path, **dict(storage_options or {}))
    except (ImportError, ValueError, TypeError) as error:
        raise ValueError(f"{path}: cannot be reached by fsspec: {error}; is the package of its protocol installed?") from error
    return files, name
