"""Every command line in README and docs is one that the project accepts as it stands."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from docs.generate.commands import COMMANDS, ROOT, complaints, parser_of
from launch import agrifm
from tests.support.documentation import PAGES, command_lines, inline_code, our_command

LINES = [pytest.param(words, id=f"{page.name}: {' '.join(words)}"[:120]) for page, words in command_lines()]
FOREIGN_OPTIONS = {  # of sbatch, deepspeed and docker
    *(
        "--time",
        "--nodes",
        "--gpus-per-node",
        "--ntasks-per-node",
        "--num_accelerators",
        "--hostfile",
        "--launcher",
        "--master_port",
    ),
}
ALL_COMMANDS = {"--help", "--config", "--print_config"}


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def extras() -> set[str]:
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def check_other_program(words: list[str]) -> None:
    """A line of a program that is not ours: only those that the documentation needs are allowed."""
    match words:
        case ["make", *targets]:
            assert set(targets) <= make_targets()
        case ["source", ".venv/bin/activate"] | ["tensorboard", "--logdir", "runs"]:
            pass
        case ["pip", "install", what]:
            assert what == "." or what.removeprefix(".[").removesuffix("]") in extras()
        case ["docker", "build", "--file", recipe, *_] | ["apptainer", "build", "agrifm.sif", recipe]:
            assert (ROOT / recipe).is_file()
        case ["python", "tests/bench/make_test_bed.py" as script, "--output", _]:
            assert (ROOT / script).is_file()
        case ["python", "tests/bench/table_test_bed.py" as script, *words]:
            assert f"python {script} {' '.join(words)}" in (ROOT / script).read_text(), "not what the script itself says"
        case ["python", script, "--output", output] if script.startswith("tests/bench/"):
            assert f"python {script} --output {output}" in (ROOT / script).read_text(), "not what the script itself says"
            assert (ROOT / output).is_file(), "the documentation points to a result that is not there"
        case _:
            raise AssertionError(f"neither a command of the project nor one that is known here: {' '.join(words)}")


@pytest.mark.parametrize("words", LINES)
def test_a_command_line_is_accepted(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The real parser of the command reads the line without an error and without a warning of an old name."""
    monkeypatch.chdir(ROOT)
    ours = our_command(words)
    if ours is None:
        check_other_program(words)
        return
    command, arguments = ours
    assert complaints(command, arguments) == ""


def test_every_command_is_shown_somewhere() -> None:
    shown = {ours[0].name for _, words in command_lines() if (ours := our_command(words)) is not None}
    assert shown == {command.name for command in COMMANDS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_running_text_exist(page: Path) -> None:
    """`--some.option` in a sentence is an option of one of the commands, or begins with one that takes a mapping."""
    options = FOREIGN_OPTIONS | ALL_COMMANDS
    options |= {name for command in COMMANDS for name in parser_of(command)._option_string_actions}
    for code in inline_code(page):
        for option in re.findall(r"(?<![\w-])--[A-Za-z][\w.\-]*", code):
            known = option.replace("-", "_").replace("__", "--", 1)
            parts = known.split(".")
            heads = {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
            is_placeholder = option.split(".")[-1].isupper()
            assert option in options or known in options or heads & options, f"{option} is no option of any command"
            if len(parts) > 1 and known not in options and not is_placeholder:
                assert _takes_a_mapping(heads), f"{option}: no such key"


def _takes_a_mapping(heads: set[str]) -> bool:
    for command in COMMANDS:
        actions = parser_of(command)._option_string_actions
        if any("dict" in str(getattr(actions[head], "_typehint", "")) for head in heads if head in actions):
            return True
    return False


def test_the_documented_names_are_those_of_the_console_command() -> None:
    assert {command.name for command in COMMANDS} == set(agrifm.COMMANDS)


def test_a_wrong_command_line_is_found() -> None:
    verify = next(command for command in COMMANDS if command.name == "verify")
    assert complaints(verify, ["corpus/", "--workers", "2"]) == ""
    assert "did you mean workers" in complaints(verify, ["corpus/", "--workres", "2"])
    assert complaints(verify, []) != ""
