"""Model cards: Markdown with the block of metadata that Hugging Face's hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from tabulate import tabulate

LIBRARY = "agrifm-pretrain"
CARD_FILE = "README.md"


class ModelCard:
    """A card that is built from top to bottom. Equal content gives equal text.

    Args:
        metadata: what the hub reads, such as `license`, `library_name`, `tags`, `metrics`; keys without a value are left out.
        title: heading of the card.
    """

    def __init__(self, metadata: Mapping[str, Any], title: str) -> None:
        known = {name: value for name, value in metadata.items() if value not in (None, [], {})}
        block = yaml.safe_dump(known, sort_keys=False, allow_unicode=True, width=1000)
        self._parts = [f"---\n{block}---", f"# {_line(title)}"]

    def heading(self, text: str) -> None:
        """Add the heading of a section."""
        self._parts.append(f"## {_line(text)}")

    def paragraph(self, text: str) -> None:
        """Add a paragraph of Markdown."""
        self._parts.append(text.strip())

    def bullets(self, lines: Sequence[str]) -> None:
        """Add a list."""
        self._parts.append("\n".join(f"- {_line(line)}" for line in lines))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Add a table; cells are texts or numbers."""
        cells = [[_cell(value) for value in row] for row in rows]
        self._parts.append(tabulate(cells, list(map(_cell, header)), tablefmt="github", disable_numparse=True))

    def code(self, text: str, language: str = "bash") -> None:
        """Add a block of code."""
        self._parts.append(f"```{language}\n{text.rstrip()}\n```")

    def text(self) -> str:
        """The whole card."""
        return "\n\n".join(self._parts) + "\n"


def _line(text: str) -> str:
    return " ".join(str(text).split())


def _cell(value: Any) -> str:
    return _line(value).replace("|", "\\|")
