"""Writes the parts of the pages that are generated from the code: `python -m docs.generate.pages`, or `make docs`.

The parts are checked in, so that they can be read in a checkout; a test compares them with the code. A part stands between two
comments, which readers do not see:

    <!-- generated: commands -->                             all commands with their options
    <!-- generated: containers -->                           all containers with their options
    <!-- generated: attributes finetune.task:Task -->        the fields of a dataclass
    <!-- generated: reader data_prep.readers.composite:Composite -->    the docstring of one class
    <!-- generated: file finetune/tasks/paddy_rice.yaml -->  a file
    <!-- generated: sensors -->                              bands and quality layers of the built-in sensors
    <!-- generated: stac -->                                 the STAC collections that are known by name
    <!-- end of the generated part -->
"""

from __future__ import annotations

import importlib
import re

from docs.generate import tables
from docs.generate.commands import ROOT

END = "<!-- end of the generated part -->"
_PART = re.compile(rf"^(<!-- generated: (\w+) ?(\S*) -->)$.*?^{END}$", re.MULTILINE | re.DOTALL)


def current(markdown: str) -> str:
    """The page with its generated parts as the code has them now. Raises ValueError for an unknown part."""
    return _PART.sub(lambda found: f"{found[1]}\n\n{generated(found[2], found[3])}\n\n{END}", markdown)


def generated(what: str, of: str) -> str:
    """The Markdown of one part."""
    if what == "commands":
        return tables.commands()
    if what == "containers":
        return tables.containers()
    if what == "sensors":
        return tables.sensors()
    if what == "stac":
        return tables.stac_collections()
    if what == "attributes":
        return tables.attributes(of)
    if what == "file":
        return tables.file(of)
    if what == "reader":
        module, _, name = of.partition(":")
        return tables.reader_text(getattr(importlib.import_module(module), name))
    raise ValueError(f"a page asks for {what!r}; known are commands, containers, sensors, stac, attributes, file and reader")


def main() -> None:
    """Write the pages whose generated parts changed."""
    for page in sorted((ROOT / "docs").rglob("*.md")):
        text = page.read_text()
        if (new := current(text)) != text:
            page.write_text(new)
            print(f"wrote {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
