"""Notes: what a command did with its input that the user should know, such as files that it passed over.

A note is a warning that is shown as one line, once. Worker processes show none: what they find, the command that started them
has found before, or collects (`collected_notes`).
"""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_show_as_python_does = warnings.formatwarning
_collecting = False
_shown: set[str] = set()  # Python forgets which warnings it has shown whenever a filter changes


class Note(UserWarning):
    """Category of notes."""


def note(text: str) -> None:
    """Show a note, unless it was shown before or this is a worker process."""
    if _collecting:
        warnings.warn(text, Note, stacklevel=2)
    elif text not in _shown and multiprocessing.parent_process() is None:
        _shown.add(text)
        warnings.warn(text, Note, stacklevel=2)


@contextmanager
def collected_notes() -> Iterator[list[str]]:
    """Yield a list, which holds the notes that were raised within the `with` when it ends; they are not shown."""
    global _collecting
    notes: list[str] = []
    before, _collecting = _collecting, True
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", Note)
            yield notes
    finally:
        _collecting = before
    for warning in caught:
        if issubclass(warning.category, Note):
            notes.append(str(warning.message))
        else:
            warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)


def show_notes_as_lines() -> None:
    """Show notes from now on without the line of code that Python shows with a warning."""
    warnings.formatwarning = _format


def _format(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    if issubclass(category, Note):
        return f"note: {' '.join(str(message).split())}\n"
    return _show_as_python_does(message, category, filename, lineno, line)
