"""Tables of Markdown from the code: options of commands, fields of dataclasses, options of readers."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import dedent
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import docstring_parser
import yaml
from jsonargparse import ArgumentParser, Namespace

from common.hub import HubPath
from common.storage import RemotePath
from data_prep.archive.sensor import load_sensors
from data_prep.archive.stac_collections import signer_of
from data_prep.archive.stac_collections import stac_collections as known_collections
from docs.generate.commands import COMMANDS, ROOT, Command, parser_of

_LIBRARY_OPTIONS = ("help", "config", "print_config")  # the same for all commands; explained once
_LONGEST_DEFAULT = 40  # characters; a longer one would make its column too wide
_UNNAMED_GROUPS = ("positional arguments", "options")
OFFSET_TEXTS = {
    "raster_bands": "`raster:bands`",
    "boa_offset_applied": "`earthsearch:boa_offset_applied` where it is true; else the baseline before 04.00, or you",
    "processing_baseline": "`s2:processing_baseline`",
}
_NAMES = {
    bool: "true or false",
    int: "integer",
    float: "number",
    str: "text",
    Path: "path",
    RemotePath: "URL",
    HubPath: "hf URL",
    Any: "any",
}


def commands() -> str:
    """A section for each command: how it is started, what it does, its options in tables by group."""
    return "\n\n".join(_section(command) for command in COMMANDS)


def _section(command: Command) -> str:
    parser = parser_of(command)
    parts = [f"## {command.name}", _sentence(parser.description or "")]
    needed = "".join(f" {action.dest.upper()}" for action in parser._get_positional_actions())
    parts.append(f"```text\n{command.started}{needed} ...\nagrifm {command.name}{needed} ...\n```")
    groups: dict[str, list[tuple[str, str, str, str]]] = {}
    for group in parser._action_groups:
        title = "" if group.title in _UNNAMED_GROUPS else _sentence(group.title or "").rstrip(".")
        groups.setdefault(title, []).extend(_option_rows(parser, group._group_actions))
    for title, rows in groups.items():
        if rows:
            head = f"**{title}**\n\n" if title else ""
            parts.append(head + table(("option", "type", "default", "meaning"), rows))
    return "\n\n".join(parts)


def _option_rows(parser: ArgumentParser, actions: Sequence[Any]) -> Iterator[tuple[str, str, str, str]]:
    defaults = parser.get_defaults()
    for action in actions:
        hint = getattr(action, "_typehint", None)
        if hint is None or action.dest.split(".")[-1] in _LIBRARY_OPTIONS:
            continue
        name = f"--{action.dest}" if action.option_strings else action.dest.upper()
        default = "required" if action.required else value_text(defaults.get(action.dest, action.default))
        meaning = cell(_sentence(action.help or ""))
        if len(default) > _LONGEST_DEFAULT:
            default, meaning = "see meaning", f"{meaning} Default: {default}."
        yield f"`{name}`", type_text(hint), default, meaning


def attributes(reference: str) -> str:
    """The fields of a dataclass, `module:Class`, with what its docstring says of each."""
    module, _, name = reference.partition(":")
    kind = getattr(importlib.import_module(module), name)
    meaning: dict[str, str] = {}
    for entry in docstring_parser.parse(inspect.cleandoc(kind.__doc__ or "")).params:
        for explained in entry.arg_name.split(","):  # one entry may explain two fields
            meaning[explained.strip()] = entry.description or ""
    hints = get_type_hints(kind)
    rows = []
    for field in dataclasses.fields(kind):
        made = field.default_factory
        default = field.default if made is dataclasses.MISSING else made()
        shown = "required" if default is dataclasses.MISSING else value_text(default)
        rows.append((f"`{field.name}`", type_text(hints[field.name]), shown, cell(_sentence(meaning.get(field.name, "")))))
    return table(("key", "type", "default", "meaning"), rows)


def sensors() -> str:
    """A table of the built-in sensors: what an archive must hold of each source, and the size of its samples."""
    rows = []
    for name, sensor in load_sensors().items():
        layer = sensor.quality
        codes = "codes " + ", ".join(map(str, layer.valid)) if layer.kind == "classes" else _without_bits(layer.reject_bits)
        bands = ", ".join(f"`{band}`" for band in sensor.bands)
        rows.append((f"`{name}`", bands, f"`{layer.name}`; clear: {codes}", f"{sensor.chip_px} x {sensor.chip_px}"))
    return table(("source", "bands, in this order", "quality layer", "pixels of a sample"), rows)


def stac_collections() -> str:
    """A table of the STAC collections that are known by name."""
    rows = []
    for name, collection in known_collections().items():
        catalogue, _, of_catalogue = name.partition("/")
        offset = "none" if collection.offset is None else OFFSET_TEXTS[collection.offset]
        rows.append((f"`{catalogue}`", f"`{of_catalogue}`", f"`{collection.source}`", offset, f"`{signer_of(name)}`"))
    return table(("catalogue", "collection", "source", "what states the offset", "signer"), rows)


def _without_bits(bits: Sequence[int]) -> str:
    return f"without bits {', '.join(map(str, bits))}"


def containers() -> str:
    """A section for each container: what its reader says of itself, and its options."""
    from data_prep.readers.opening import CONTAINERS, reader_class

    return "\n\n".join(f"## {name}\n\n{reader_text(reader_class(name))}" for name in CONTAINERS)


def reader_text(reader: Any) -> str:
    """The docstring of a reader: text as it is, its lists of options as tables."""
    text = inspect.cleandoc(reader.__doc__ or "")
    parts: list[str] = []
    for paragraph in re.split(r"\n\n+", text):
        head, _, rest = paragraph.partition("\n")
        if head.endswith(":") and rest.startswith("    "):
            parts.append(f"{cell(head)}\n\n{table(('key', 'meaning'), _entries(dedent(rest)))}")
        else:
            parts.append(cell(paragraph))
    return "\n\n".join(parts)


def _entries(text: str) -> list[tuple[str, str]]:
    """`name: meaning` with further indented lines -> pairs."""
    entries: list[list[str]] = []
    for line in text.splitlines():
        found = re.match(r"([\w, ]+?(?: \(default\))?): (.*)", line)
        if found and not line.startswith(" "):
            entries.append([found.group(1), found.group(2)])
        elif entries:
            entries[-1][1] += f" {line.strip()}"
    return [(re.sub(r"\b(?!or\b|default\b)\w+", r"`\g<0>`", key), cell(_sentence(meaning))) for key, meaning in entries]


def file(path: str) -> str:
    """A file of the project as a block of code."""
    kind = {".yaml": "yaml", ".py": "python", ".json": "json"}.get(Path(path).suffix, "text")
    return f'```{kind} title="{path}"\n{(ROOT / path).read_text().rstrip()}\n```'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def cell(text: str) -> str:
    """Text of a docstring as one line of Markdown: what only Markdown would read as markup is escaped outside of code."""
    text = re.sub(r"(?<![`\w])--\w[\w.]*\w", r"`\g<0>`", " ".join(text.split()))  # options are code
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([<*|\\])", r"\\\1", part) for part in parts)


def type_text(hint: Any) -> str:
    """A type in words."""
    if hint in _NAMES:
        return _NAMES[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(type_text(kind) for kind in arguments if kind is not NoneType))
    if origin in (list, tuple):
        return "list of " + " or ".join(dict.fromkeys(type_text(kind) for kind in arguments if kind is not ...))
    if origin is not None and len(arguments) == 2:
        return f"mapping, {type_text(arguments[0])} to {type_text(arguments[1])}"
    return "mapping" if dataclasses.is_dataclass(hint) else getattr(hint, "__name__", str(hint))


def value_text(value: Any) -> str:
    """A default as it would be typed."""
    if value is None or value in ((), [], {}):
        return "none"
    if isinstance(value, Path):
        value = str(value.relative_to(ROOT) if value.is_relative_to(ROOT) else value)
    if isinstance(value, Namespace):
        value = value.as_dict()
    if isinstance(value, dict):
        value = value.get("init_args", value)  # as jsonargparse keeps a dataclass that an option may take among other things
        value = {key: kept for key, kept in value.items() if kept not in ((), [], {}, None)}
    shown = yaml.safe_dump(_plain(value), default_flow_style=True, width=1000, sort_keys=False).strip()
    return f"`{shown.removesuffix('...').strip()}`"


def _plain(value: Any) -> Any:
    """Tuples as lists, all the way down."""
    if isinstance(value, dict):
        return {key: _plain(kept) for key, kept in value.items()}
    return [_plain(kept) for kept in value] if isinstance(value, list | tuple) else value


def _sentence(text: str) -> str:
    """Begins with a capital letter, unless with code; ends with a full stop."""
    text = " ".join(text.split())
    if text and text[0].islower():
        text = text[0].upper() + text[1:]
    return text if not text or text[-1] in ".!?:" else f"{text}."
