"""The hook of mkdocs: shows pictures that lie elsewhere in the project, and keeps options on one line."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

_OPTION = re.compile(r"<code>(--[\w.\-]+)")
_PICTURE = re.compile(r"(!\[[^\]]*\]\()([^)\s]+\.(?:png|svg))(\))")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The page with the pictures of the project that lie outside docs/."""
    folder = Path(page.file.abs_src_path).parent

    def picture(found: re.Match[str]) -> str:
        path = (folder / found.group(2)).resolve()
        if not path.is_file() or path.is_relative_to(Path(config.docs_dir)):
            return found.group(0)  # mkdocs itself shows it, or says that it is missing
        name = f"pictures/{path.name}"
        if files.get_file_from_path(name) is None:
            files.append(File.generated(config, name, abs_src_path=str(path)))
        return found.group(1) + os.path.relpath(name, Path(page.file.src_uri).parent) + found.group(3)

    return _PICTURE.sub(picture, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:  # noqa: ARG001
    """Options in running text are marked, so that the style keeps them on one line."""
    return _OPTION.sub(r'<code><span class="option">\1</span>', html)
