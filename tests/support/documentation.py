"""README and docs as the tests read them: blocks of code, command lines, inline code, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from docs.generate.commands import COMMANDS, ROOT, Command

README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").rglob("*.md")))

_FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LAUNCHED = {"pretrain.sh": "pretrain", "pretrain.sbatch": "pretrain", "finetune.sh": "finetune", "shard.sbatch": "shard"}
_BY_NAME = {command.name: command for command in COMMANDS}
_BY_SCRIPT = {command.script: command for command in COMMANDS}


@dataclass(frozen=True, kw_only=True)
class CodeBlock:
    """A fenced block.

    Attributes:
        page: the file it is in.
        language: as it says; text for none.
        title: the file name that it bears, or "".
        text: what is in it.
    """

    page: Path
    language: str
    title: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.title or self.text.splitlines()[0][:60]}"


def blocks(language: str) -> list[CodeBlock]:
    """All blocks of one language in README and docs."""
    return [
        CodeBlock(page=page, language=found[1], title=found[2] or "", text=found[3])
        for page in PAGES
        for found in _FENCE.finditer(page.read_text())
        if found[1] == language
    ]


def block(title: str, page: str | None = None) -> CodeBlock:
    """The one block with this title, on one page (relative to the project) or anywhere."""
    titled = [one for language in ("python", "yaml") for one in blocks(language) if one.title == title]
    found = [one for one in titled if page in (None, str(one.page.relative_to(ROOT)))]
    assert len(found) == 1, f"{len(found)} blocks with the title {title}"
    return found[0]


def command_lines() -> Iterator[tuple[Path, list[str]]]:
    """(page, words) of each line in the blocks of bash, continued lines joined, without comments."""
    for of_bash in blocks("bash"):
        for line in of_bash.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield of_bash.page, words


def our_command(words: list[str]) -> tuple[Command, list[str]] | None:
    """The command of ours that a command line starts, and its arguments; None for a line of another program."""
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # variables of the environment
        words = words[1:]
    program, *rest = words
    if program == "agrifm":
        return _BY_NAME[rest[0]], rest[1:]
    if program == "python" and rest[0] == "-m" and rest[1].startswith(("pretrain.", "finetune.", "data_prep.")):
        return _BY_SCRIPT[f"{rest[1].replace('.', '/')}.py"], rest[2:]
    if program == "python" and rest[0] in _BY_SCRIPT:
        return _BY_SCRIPT[rest[0]], rest[1:]
    if program in ("docker", "apptainer"):  # which run `agrifm` in a container
        for name, after in pairwise(rest):
            if name == "agrifm" and after in _BY_NAME:
                return _BY_NAME[after], rest[rest.index(after) + 1 :]
    if program in ("bash", "deepspeed", "sbatch", "torchrun"):
        for number, word in enumerate(rest):
            if word.startswith("launch/") and Path(word).name in _LAUNCHED:
                return _BY_NAME[_LAUNCHED[Path(word).name]], rest[number + 1 :]
    return None


def inline_code(page: Path) -> list[str]:
    """The texts between backticks outside of blocks and of comments."""
    text = _FENCE.sub("", page.read_text())
    return re.findall(r"`([^`\n]+)`", re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL))


def links(page: Path) -> list[str]:
    """Targets of all links and pictures outside of blocks."""
    return re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", page.read_text()))
