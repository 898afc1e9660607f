"""Temporary files that killed runs leave."""

from __future__ import annotations

import os
import time
from pathlib import Path

from common.atomic_files import remove_leftovers


def test_leftovers_of_killed_runs(tmp_path: Path) -> None:
    for name, age in ((".old.tar.1.tmp", 7200), (".young.tar.2.tmp", 60)):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    (tmp_path / "kept.tar").touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".young.tar.2.tmp", "kept.tar"}, "somebody may still write to it"
    remove_leftovers(tmp_path, everything=True)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.tar"]
