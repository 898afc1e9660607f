"""The command line of all commands: typed options, `--config`, and one clear line for a user's mistake.

A command is a function with annotated parameters and a Google-style docstring, or one that takes a configuration dataclass;
jsonargparse makes the parser, the help and the check of every YAML key from it. Options may be written with dashes
(`--plan-only`); a boolean option without a value means true; a list may be written as words: `--sources landsat modis`. Options
that were renamed keep their old names, on the command line and in YAML, with one line of warning. An option whose type is
`AnyPath` (`common/storage.py`) accepts a path or a URL; one whose type is `Path` refuses a URL before anything is made; one whose
type is `ModelPath` (`common/hub.py`) accepts a path or a model at Hugging Face's hub.

An error that `common/exit_codes.py` knows becomes one line on stderr and its exit code: 2 for a user's mistake, 74 for failed
infrastructure. Any other exception is a bug of ours and keeps its traceback. A signal that asks a command to stop, such as
Ctrl-C or SIGTERM, becomes one line and exit code 75.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import register_type

from common.exit_codes import ASKED_TO_STOP, STOPPED, USER_ERROR, exit_code
from common.hub import HUB_FORM, NO_MODEL, HubPath, hub_path, is_hub_url, without_tokens
from common.lasting_output import make_output_last
from common.notes import show_notes_as_lines
from common.stop_signals import interrupt_when_asked
from common.storage import RemotePath, any_path
from common.yaml_files import RepeatedKeyError, load_yaml

_NO_PATH = "is a URL; expected a path on this machine"


def _local_path(text: str) -> Path:
    """The value of an option that is a path. `Path` would silently make a local folder `s3:` of a URL."""
    path = any_path(str(text))
    if not isinstance(path, Path):
        raise ValueError(f"{text} {_NO_PATH}")
    return path


register_type(Path, str, _local_path, type_check=isinstance, fail_already_registered=False)
register_type(RemotePath, str, RemotePath, type_check=isinstance, fail_already_registered=False)
register_type(HubPath, str, lambda text: hub_path(str(text)), type_check=isinstance, fail_already_registered=False)


class _Parser(ArgumentParser):
    """jsonargparse's parser with errors of one line that name the nearest valid key.

    Attributes:
        renamed: new dotted names of options by their old dotted names.
        short: dotted names of options by the names of their groups, which stand for them, as in `--polygons maize`: a dataclass
            names the field in SHORT_FOR.
        built_in: folder of the YAML files that `--config` finds by their bare names.
    """

    def __init__(
        self,
        *positional: Any,
        renamed: Mapping[str, str] | None = None,
        built_in: Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*positional, **options)
        self.renamed, self.built_in = renamed or {}, built_in
        self.short: Mapping[str, str] = {}

    def parse_args(self, args: Sequence[str] | None = None, *more: Any, **named: Any) -> Any:  # type: ignore[override]
        """Parse as jsonargparse does, with lone boolean options, lists as words, and dashes in names read as underscores."""
        for action in self._actions:
            if getattr(action, "_typehint", None) is bool and action.option_strings:
                action.nargs, action.const = "?", True
        words = [self._known(word) for word in (sys.argv[1:] if args is None else args)]
        words = [self._config_path(word, before) for before, word in zip(["", *words], words, strict=False)]
        return super().parse_args(self._with_nested_keys(self._with_lists(words)), *more, **named)

    def _config_path(self, word: str, before: str) -> str:
        """Replace the value of `--config` that names a built-in configuration by its path; leave other words unchanged."""
        option, equals, name = word.rpartition("=")
        path = self.built_in / f"{name}.yaml" if self.built_in else None
        if path is None or (option or before) != "--config" or Path(name).exists() or not path.is_file():
            return word
        return f"{option}{equals}{path}"

    def parse_string(self, content: str, path: str | os.PathLike[str] = "", *more: Any, **named: Any) -> Any:
        """Parse the content of a `--config` file as jsonargparse does, with old names of renamed keys allowed."""
        values = None
        try:
            values = load_yaml(content)
        except RepeatedKeyError as error:
            self.error(f"{path}: {error}")
        except yaml.YAMLError:  # jsonargparse reports what is wrong with it
            pass
        try:
            if isinstance(values, dict) and (rename_keys(values, self.short) | rename_keys(values, self.renamed, warn=True)):
                content = yaml.safe_dump(values)
        except ValueError as error:
            self.error(f"{path}: {error}")
        return super().parse_string(content, path, *more, **named)

    def _with_lists(self, words: Sequence[str]) -> list[str]:
        """Join the words of each list option to a YAML list: `--tasks rice wheat` -> `--tasks`, `[rice, wheat]`.

        A single word that is not written as a YAML list becomes a list of one. Paths stay texts: in YAML 2021_06 is a number.
        """
        result: list[str] = []
        most = 1 if self._get_positional_actions() else len(words)  # the words after the first may be positionals
        rest = list(words)
        while rest:
            result.append(rest.pop(0))
            hint = getattr(self._option_string_actions.get(result[-1]), "_typehint", None)
            if _is_list(hint):
                values: list[str] = []
                while rest and len(values) < most and not rest[0].startswith("--"):
                    values.append(rest.pop(0))
                written = len(values) == 1 and (values[0].startswith("[") or values[0] == "null")
                if _is_list_of_paths(hint) and not written:
                    values = [json.dumps(value) for value in values]
                result += values if written or not values else [f"[{', '.join(values)}]"]
        return result

    def _with_nested_keys(self, words: Sequence[str]) -> list[str]:
        """Join what is said of one key of a dictionary of any depth to one word, as jsonargparse keeps the last one alone.

        `--run.training.steps 100 --run.training.epochs 4` -> `--run.training`, `{"steps": 100, "epochs": 4}`.
        """
        result: list[str] = []
        nested: dict[str, tuple[int, dict[str, Any]]] = {}  # by option and first key: the place of its value, and the value
        rest = list(words)
        while rest:
            word = rest.pop(0)
            name, equals, text = word.partition("=")
            option, _, keys = name.partition(".")
            first, *deeper = keys.split(".")
            has_value = equals or (rest and not rest[0].startswith("--"))
            hint = getattr(self._option_string_actions.get(option), "_typehint", None)
            if not first or not has_value or not _is_nested(hint):
                result.append(word)
                continue
            text = text if equals else rest.pop(0)
            given, name = _value(text), f"{option}.{first}"
            if not deeper and not isinstance(given, dict):
                result += [name, text]
                continue
            for key in reversed(deeper):
                given = {key: given}
            place, values = nested.setdefault(name, (len(result) + 1, {}))
            if not values:
                result += [name, ""]
            _update_nested(values, given)
            result[place] = json.dumps(values, default=str)  # a date is a text
        return result

    def _known(self, word: str) -> str:
        """Write an option with its present name and underscores; leave any other word as it is.

        `--stream.num-workers=2` -> `--stream.num_workers=2`. Keys of a dictionary belong to the user and stay as they are:
        `--chip-px.my-sensor` -> `--chip_px.my-sensor`. Fields of an optional dataclass are names of options.
        """
        name, equals, value = word.partition("=")
        parts = name.split(".")
        for count in range(len(parts), 0, -1):
            key = ".".join(parts[:count]).removeprefix("--").replace("-", "_")
            if name.startswith("--") and key in self.short and count == len(parts):
                return f"--{self.short[key]}" + equals + value
            if name.startswith("--") and key in self.renamed:
                _warn_of_old_name(f"--{key}", f"--{self.renamed[key]}")
                return ".".join([f"--{self.renamed[key]}", *parts[count:]]) + equals + value
            option = f"--{key}"
            if name.startswith("--") and option in self._option_string_actions:
                rest = parts[count:]
                if any(is_dataclass(kind) for kind in get_args(getattr(self._option_string_actions[option], "_typehint", None))):
                    rest = [part.replace("-", "_") for part in rest]
                return ".".join([option, *rest]) + equals + value
        return word

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # noqa: ARG002
        line = " ".join(message.split())
        unknown = re.search(r"unrecognized arguments: --([\w.\-]+)|option '([\w.\-]+)'", line, re.IGNORECASE)
        if unknown:
            word = (unknown.group(1) or unknown.group(2)).split(".")[-1]
            valid = {key.split(".")[-1]: key for key in vars(self.get_defaults().as_flat()) if not key.startswith("_")}
            near = difflib.get_close_matches(word, list(valid), 1, 0.5)
            line += f"; did you mean {valid[near[0]]}?" if near else f"; valid keys: {', '.join(sorted(valid.values()))}"
        key = re.search(r'Parser key "([\w.]+)"', line)
        # An option that may also be a model at the hub says how that is written, and the value after it.
        url = re.search(r"(?<=Given value: )[\w+.-]+://\S*", line) or re.search(r"[\w+.-]+://\S*", line)
        if NO_MODEL in line and key and url and is_hub_url(url[0]):
            line = f"{key[1]}: {without_tokens(url[0])} {NO_MODEL} {HUB_FORM}"
        elif _NO_PATH in line and key and url:
            line = f"{key[1]}: {url[0]} {_NO_PATH}: copy to it what is to be read, or write to it and copy the result"
        print(f"{self.prog}: error: {line}", file=sys.stderr)
        sys.exit(USER_ERROR)


def _is_list(hint: Any) -> bool:
    """Return True for the type of a list, also of an optional one."""
    return list in {get_origin(kind) for kind in (get_args(hint) if NoneType in get_args(hint) else [hint])}


def _is_list_of_paths(hint: Any) -> bool:
    """Return True for the type of a list of paths, also of an optional one."""
    lists = [kind for kind in (hint, *get_args(hint)) if get_origin(kind) is list]
    return any(kind is Path or Path in get_args(kind) for one in lists for kind in get_args(one))


def _is_nested(hint: Any) -> bool:
    """Return True for the type of a dictionary whose values may be dictionaries, also of an optional one."""
    kinds = [kind for kind in (hint, *get_args(hint)) if get_origin(kind) is dict]
    return any(value is Any or get_origin(value) is dict for kind in kinds for value in get_args(kind)[1:])


def _value(text: str) -> Any:
    """A value as it is written in YAML; what is no YAML is a text."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _update_nested(values: dict[str, Any], more: dict[str, Any]) -> None:
    """Set `more` in `values`, and in the dictionaries that both hold."""
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            _update_nested(values[key], value)
        else:
            values[key] = value


def rename_keys(values: dict[str, Any], renamed: Mapping[str, str], warn: bool = False) -> bool:
    """Rename options of the command line that nested `values` hold under old names; return True when there were any.

    `renamed`: new dotted names by old dotted names. `warn`: print one line for each old name. Raises ValueError when a key is
    given under both names.
    """
    found = False
    for old, new in renamed.items():
        *folders, last = old.split(".")
        holder: Any = values
        for folder in folders:
            holder = holder.get(folder) if isinstance(holder, dict) else None
        if not isinstance(holder, dict) or last not in holder:
            continue
        if new.split(".")[0] == last and isinstance(holder[last], dict):
            continue  # an option became a group of the same name, and this is already the group
        value = holder.pop(last)
        *folders, last = new.split(".")
        holder = values
        for folder in folders:
            holder = holder.setdefault(folder, {})
        if last in holder:
            raise ValueError(f"{old} was renamed to {new}, and both are given; leave {old} out")
        holder[last] = value
        found = True
        if warn:
            _warn_of_old_name(old, new)
    return found


def _warn_of_old_name(old: str, new: str) -> None:
    print(f"warning: {old} was renamed to {new}; the old name still works", file=sys.stderr)


def parse(
    function: Callable[..., Any],
    arguments: Sequence[str] | None = None,
    positional: bool = False,
    config_class: type | None = None,
    renamed: Mapping[str, str] | None = None,
    built_in: Path | None = None,
) -> Namespace:
    """Parse the parameters of `function`, or the fields of `config_class`, from the command line.

    `positional` makes positional arguments of the parameters without a default. `renamed`: new dotted names of options by their
    old dotted names. `built_in`: folder of the YAML files that `--config` also finds by their bare names.
    """
    description = ((config_class or function).__doc__ or "").strip().split("\n\n")[0]
    parser = _Parser(description=description, allow_abbrev=False, renamed=renamed, built_in=built_in)
    hints = get_type_hints(config_class or function)
    parser.short = {name: f"{name}.{kind.SHORT_FOR}" for name, kind in hints.items() if hasattr(kind, "SHORT_FOR")}
    names = f", or one of {', '.join(sorted(path.stem for path in built_in.glob('*.yaml')))}" if built_in else ""
    parser.add_argument("--config", action="config", help=f"YAML file with any of the options below{names}")
    if config_class is None:
        parser.add_function_arguments(function, as_group=False, as_positional=positional)
    else:
        parser.add_class_arguments(config_class, as_group=False, as_positional=positional)
    parsed = parser.parse_args(arguments)
    try:
        instantiated: Namespace = parser.instantiate_classes(parsed)
    except ValueError as error:  # the check of a group of options
        parser.error(str(error))
    del instantiated["config"]
    return instantiated


def as_arguments(values: Mapping[str, Any]) -> list[str]:
    """Return the command line that gives a command in another process these parameters; None stands for the default.

    Fields of a dataclass become dotted options.
    """
    arguments = []
    for name, value in values.items():
        if is_dataclass(value):
            arguments += as_arguments({f"{name}.{field.name}": getattr(value, field.name) for field in fields(value)})
        elif value is not None:
            arguments += [f"--{name}", json.dumps(value) if isinstance(value, bool | list | dict) else str(value)]
    return arguments


def run_command(
    function: Callable[..., int | None],
    arguments: Sequence[str] | None = None,
    positional: bool = False,
    config_class: type | None = None,
    renamed: Mapping[str, str] | None = None,
    built_in: Path | None = None,
) -> NoReturn:
    """Parse the command line, call `function` and exit with the code that it returns, or with that of its error, and one line.

    With a dataclass `config_class`, the options are its fields and `function` takes an instance of it. `positional`, `renamed`
    and `built_in`: see `parse`.
    """
    make_output_last()
    show_notes_as_lines()
    parameters = vars(parse(function, arguments, positional, config_class, renamed, built_in))
    try:
        with interrupt_when_asked():
            code = function(**parameters) if config_class is None else function(config_class(**parameters))
    except KeyboardInterrupt:
        print(ASKED_TO_STOP, file=sys.stderr)
        sys.exit(STOPPED)
    except Exception as error:
        failure = exit_code(error)
        if failure is None:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(failure)
    sys.exit(code or 0)
