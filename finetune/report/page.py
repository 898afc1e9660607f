"""A self-contained HTML page: it embeds its pictures as base64 and its style, and runs no script.

Equal content gives equal bytes.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from common.atomic_files import whole_file

PNG = b"\x89PNG\r\n\x1a\n"
DPI = 150  # of figures; they are shown at 96, so they are sharp on a screen of high resolution
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #202020; background: #fff }
body { max-width: 64rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.7rem; line-height: 1.2; margin-bottom: .4rem } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem }
.wide { overflow-x: auto; margin-bottom: 1.2rem } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .8rem; text-align: right; vertical-align: top; border-bottom: 1px solid #e4e4e4; white-space: nowrap }
th { font-weight: 600; border-bottom-color: #888 } th:first-child, td:first-child { text-align: left; padding-left: 0 }
small { display: block; color: #6a6a6a } .note, figcaption { color: #6a6a6a; font-size: .87rem; max-width: 48rem }
.text th, .text td { text-align: left } .text td + td { white-space: normal; overflow-wrap: anywhere }
i { display: inline-block; width: .8em; height: .8em; margin-right: .5em; border: 1px solid #777 }
figure { margin: 1rem 0 } img { max-width: 100%; height: auto } summary { cursor: pointer; color: #6a6a6a }
"""


class Page:
    """An HTML page that is built from top to bottom.

    Args:
        title: heading of the page.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts = [f"<h1>{html.escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        """Add the heading of a section."""
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def note(self, text: str) -> None:
        """Add a paragraph in small type."""
        self._parts.append(f'<p class="note">{html.escape(text)}</p>')

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
        head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
        lines = []
        for number, row in enumerate(rows):
            first = f'<i style="background:{html.escape(colors[number])}"></i>' if number < len(colors) else ""
            lines.append(f"<tr><td>{first}" + "</td><td>".join(_cell(cell) for cell in row) + "</td></tr>")
        kind = ' class="text"' if text else ""
        table = f'<div class="wide"><table{kind}><tr>{head}</tr>\n' + "\n".join(lines) + "</table></div>"
        self._parts.append(table if folded is None else f"<details><summary>{html.escape(folded)}</summary>{table}</details>")

    def picture(self, png: bytes | Path | Figure, caption: str, width_px: int | None = None) -> None:
        """Add a picture with its caption: the bytes of a PNG, its file, or a figure. Raises ValueError if it is not a PNG."""
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
        size = f' width="{width_px}"' if width_px else ""
        shown = f'<img{size} alt="{html.escape(caption)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        self._parts.append(f"<figure>{shown}<figcaption>{html.escape(caption)}</figcaption></figure>")

    def html(self) -> str:
        """The HTML of the page."""
        head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        head += f"<title>{html.escape(self.title)}</title><style>{STYLE}</style>"
        return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(self._parts) + "\n</body></html>\n"

    def write(self, path: Path) -> None:
        """Write the page; the file appears only when it is complete."""
        with whole_file(path) as temporary:
            temporary.write_text(self.html(), encoding="utf-8")


def _cell(text: str) -> str:
    first, _, below = html.escape(text).partition("\n")
    return f"{first}<small>{below}</small>" if below else first
