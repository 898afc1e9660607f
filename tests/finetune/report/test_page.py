"""HTML pages: pictures that are missing or not PNG."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.report.page import Page


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    page = Page("title")
    with pytest.raises(ValueError, match=r"no picture at .*missing.png"):
        page.picture(tmp_path / "missing.png", "a map")
    (tmp_path / "map.png").write_bytes(b"<svg>")
    with pytest.raises(ValueError, match=r"map.png is not a PNG"):
        page.picture(tmp_path / "map.png", "a map")
