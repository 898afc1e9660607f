"""The hook of mkdocs: fills in what pages ask for, and shows pictures that lie elsewhere in the project.

A page asks by a comment, which readers of the plain Markdown do not see:

    <!-- generated: commands -->                             all commands with their options
    <!-- generated: containers -->                           all containers with their options
    <!-- generated: attributes finetune.task:Task -->        the fields of a dataclass
    <!-- generated: reader data_prep.readers.composite:Composite -->    the docstring of one class
    <!-- generated: file finetune/tasks/paddy_rice.yaml -->  a file
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from docs.generate import tables  # noqa: E402

_ASKED = re.compile(r"^<!-- generated: (\w+) ?(\S*) -->$", re.MULTILINE)
_OPTION = re.compile(r"<code>(--[\w.\-]+)")
_PICTURE = re.compile(r"(!\[[^\]]*\]\()([^)\s]+\.(?:png|svg))(\))")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The page with everything that it asks for. Raises ValueError for a request that is unknown."""
    folder = Path(page.file.abs_src_path).parent

    def picture(found: re.Match[str]) -> str:
        path = (folder / found.group(2)).resolve()
        if not path.is_file() or path.is_relative_to(Path(config.docs_dir)):
            return found.group(0)  # mkdocs itself shows it, or says that it is missing
        name = f"pictures/{path.name}"
        if files.get_file_from_path(name) is None:
            files.append(File.generated(config, name, abs_src_path=str(path)))
        return found.group(1) + os.path.relpath(name, Path(page.file.src_uri).parent) + found.group(3)

    return _PICTURE.sub(picture, _ASKED.sub(lambda found: generated(*found.groups()), markdown))


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001
    """Options in running text are marked, so that the style keeps them on one line."""
    return _OPTION.sub(r'<code><span class="option">\1</span>', html)


def generated(what: str, of: str) -> str:
    """The Markdown for one request."""
    if what == "commands":
        return tables.commands()
    if what == "containers":
        return tables.containers()
    if what == "attributes":
        return tables.attributes(of)
    if what == "file":
        return tables.file(of)
    if what == "reader":
        module, _, name = of.partition(":")
        return tables.reader_text(getattr(importlib.import_module(module), name))
    raise ValueError(f"a page asks for {what!r}; known are commands, containers, attributes, file and reader")
