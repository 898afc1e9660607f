"""A self-contained HTML page: it embeds its pictures as base64 and its style, and runs no script.

Its template and style lie in `finetune/report/templates`. Equal content gives equal bytes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from common.atomic_files import whole_file

PNG = b"\x89PNG\r\n\x1a\n"
DPI = 150  # of figures; they are shown at 96, so they are sharp on a screen of high resolution
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, kw_only=True)
class _Block:
    """One part of a page.

    Attributes:
        kind: what it is; the other attributes that count depend on it.
        content: text of a heading, note, warning, command or headline.
        below: text beside a headline.
        folded: if given, the part is hidden behind this text until the reader clicks on it.
        header, rows, colors, text: see `Page.table`; the rows of facts are pairs.
        base64, caption, width_px, detailed: see `Page.picture`.
    """

    kind: Literal["heading", "note", "warning", "command", "headline", "facts", "table", "picture"]
    content: str = ""
    below: str = ""
    folded: str | None = None
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    colors: Sequence[str] = ()
    text: bool = False
    base64: str = ""
    caption: str = ""
    width_px: int | None = None
    detailed: bool = False


class Page:
    """An HTML page that is built from top to bottom. All texts are escaped.

    Args:
        title: heading of the page.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._blocks: list[_Block] = []

    def heading(self, text: str) -> None:
        """Add the heading of a section."""
        self._blocks.append(_Block(kind="heading", content=text))

    def note(self, text: str) -> None:
        """Add a paragraph in small type."""
        self._blocks.append(_Block(kind="note", content=text))

    def warning(self, text: str) -> None:
        """Add a line that nobody should overlook."""
        self._blocks.append(_Block(kind="warning", content=text))

    def headline(self, text: str, below: str = "") -> None:
        """Add one result in large type, with a remark in small type."""
        self._blocks.append(_Block(kind="headline", content=text, below=below))

    def facts(self, facts: Sequence[tuple[str, str]]) -> None:
        """Add a list of (name, value)."""
        self._blocks.append(_Block(kind="facts", rows=facts))

    def command(self, text: str) -> None:
        """Add a command line to copy: one click selects all of it."""
        self._blocks.append(_Block(kind="command", content=text))

    def table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[str]],
        colors: Sequence[str] = (),
        folded: str | None = None,
        text: bool = False,
    ) -> None:
        """Add a table. The first column is aligned to the left, the others to the right.

        Args:
            header, rows: cells; text after a line break is shown below in small type.
            colors: `#rrggbb` for a small square at the beginning of the first rows.
            folded: if given, the table is hidden behind this text until the reader clicks on it.
            text: cells hold text instead of numbers: all are aligned to the left, and long lines break.
        """
        self._blocks.append(_Block(kind="table", header=header, rows=rows, colors=colors, folded=folded, text=text))

    def picture(
        self,
        png: bytes | Path | Figure,
        caption: str,
        width_px: int | None = None,
        folded: str | None = None,
        detailed: bool = False,
    ) -> None:
        """Add a picture with its caption. Raises ValueError if it is not a PNG.

        Args:
            png: the bytes of a PNG, its file, or a figure.
            caption: text below it, and in place of it.
            width_px: width at which it is shown; the page may be narrower.
            folded: if given, the picture is hidden behind this text until the reader clicks on it.
            detailed: on a phone the picture stays wider than the page and moves sideways.
        """
        if isinstance(png, Figure):
            buffer = io.BytesIO()
            width_px = width_px or round(96 * png.get_size_inches()[0])
            png.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
            png = buffer.getvalue()
        name = str(png) if isinstance(png, Path) else caption
        if isinstance(png, Path):
            if not png.is_file():
                raise ValueError(f"no picture at {png}")
            png = png.read_bytes()
        if not png.startswith(PNG):
            raise ValueError(f"{name} is not a PNG")
        encoded = base64.b64encode(png).decode()
        self._blocks.append(
            _Block(kind="picture", base64=encoded, caption=caption, width_px=width_px, folded=folded, detailed=detailed)
        )

    def html(self) -> str:
        """The HTML of the page."""
        environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
        environment.globals.clear()  # the template needs no functions
        html = environment.get_template("page.html").render(title=self.title, blocks=self._blocks)
        return html if html.endswith("\n") else f"{html}\n"

    def write(self, path: Path) -> None:
        """Write the page; the file appears only when it is complete."""
        with whole_file(path) as temporary:
            temporary.write_text(self.html(), encoding="utf-8")
