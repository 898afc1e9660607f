"""The commands of the project, and their real argument parsers.

A command is started as a user starts it, up to the moment at which it reads its arguments. So the documentation and the tests see
the very parser that users meet, whatever the command is made of.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

from jsonargparse import ArgumentParser

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command.

    Attributes:
        name: its name after `agrifm`.
        script: the file that starts it, relative to the project.
        started: how it is started from a checkout.
    """

    name: str
    script: str
    started: str


def _script(name: str, path: str) -> Command:
    return Command(name=name, script=path, started=f"python {path}")


COMMANDS = (
    _script("simulate", "data_prep/simulate.py"),
    _script("fetch_real", "data_prep/fetch_real.py"),
    _script("scenes", "data_prep/scenes.py"),
    _script("labels", "data_prep/labels.py"),
    _script("shard", "data_prep/shard.py"),
    _script("add_maps", "data_prep/add_maps.py"),
    _script("draw_sites", "data_prep/draw_sites.py"),
    _script("verify", "data_prep/verify.py"),
    _script("describe", "data_prep/describe.py"),
    _script("quicklook", "data_prep/quicklook.py"),
    Command(name="pretrain", script="launch/pretrain.sh", started="bash launch/pretrain.sh"),
    Command(name="export", script="pretrain/export.py", started="python -m pretrain.export"),
    Command(name="cost", script="pretrain/cost.py", started="python -m pretrain.cost"),
    _script("finetune", "finetune/run.py"),
    _script("predict", "finetune/predict.py"),
    _script("fields", "finetune/fields.py"),
    _script("areas", "finetune/areas.py"),
    _script("embed", "finetune/embed.py"),
    _script("probe", "finetune/probe.py"),
    _script("publish", "finetune/publish.py"),
    _script("import_dataset", "finetune/import_dataset.py"),
    _script("view", "finetune/view.py"),
    _script("compare", "finetune/compare.py"),
    _script("join_comparisons", "finetune/join_comparisons.py"),
)


class _ArgumentsRead(BaseException):
    """Ends a command when it has read its arguments; no `except Exception` may catch it."""


@cache
def parser_of(command: Command) -> ArgumentParser:
    """The argument parser of a command."""
    parsers: list[ArgumentParser] = []

    def keep(parser: ArgumentParser, *_: Any, **__: Any) -> None:
        parsers.append(parser)
        raise _ArgumentsRead

    with mock.patch.object(ArgumentParser, "parse_args", keep), suppress(_ArgumentsRead):
        _start(command, [])
    return parsers[0]


def complaints(command: Command, arguments: Sequence[str]) -> str:
    """What the command says of these arguments when it reads them: "" when it accepts them all without a warning."""
    parse_args = ArgumentParser.parse_args

    def parse_and_end(parser: ArgumentParser, *positional: Any, **named: Any) -> None:
        parse_args(parser, *positional, **named)
        raise _ArgumentsRead

    with (
        mock.patch.object(ArgumentParser, "parse_args", parse_and_end),
        redirect_stdout(StringIO()),
        redirect_stderr(StringIO()) as said,
    ):
        try:
            _start(command, arguments)
        except _ArgumentsRead:
            return said.getvalue()
        except SystemExit as ended:
            return said.getvalue() or f"ended with code {ended.code} before it read its arguments"
    return said.getvalue() or "read no arguments"


def _start(command: Command, arguments: Sequence[str]) -> None:
    """Start a command in this process."""
    path = ROOT / command.script
    with _system_state(), mock.patch.object(sys, "argv", [str(path), *arguments]):
        runpy.run_path(str(path), run_name="__main__")


@contextmanager
def _system_state() -> Iterator[None]:
    """Leave the import path as it was: scripts put the project's folder in front of it."""
    with mock.patch.object(sys, "path", [str(ROOT), *sys.path]):
        yield
