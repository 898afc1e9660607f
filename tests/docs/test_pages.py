"""What README and docs point to exists; the README stays short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.generate.commands import ROOT
from docs.generate.pages import END, current
from tests.support.documentation import PAGES, README, inline_code, links

TOP = ("common", "data_prep", "pretrain", "finetune", "launch", "docs", "tests")


def test_the_readme_is_one_page() -> None:
    assert len(README.read_text().splitlines()) <= 150


def test_the_readme_says_early_what_was_never_tried() -> None:
    lines = README.read_text().splitlines()
    status = next(number for number, line in enumerate(lines) if line == "## Status and limits")
    assert status < 30
    assert all(word in "\n".join(lines[status : status + 10]) for word in ("no GPU", "several machines", "SLURM"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_in_running_text_exist(page: Path) -> None:
    """Inline code that begins with a folder of the project is a file or folder of it."""
    for code in inline_code(page):
        if re.fullmatch(rf"(?:{'|'.join(TOP)})/[\w./*-]*", code):
            assert list(ROOT.glob(code.rstrip("/"))), f"{code} is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_exist(page: Path) -> None:
    """Also those that leave docs/, which mkdocs does not check."""
    for link in links(page):
        target = link.partition("#")[0]
        if target and "://" not in target:
            assert (page.parent / target).exists(), f"{link} is not there"


@pytest.mark.parametrize("page", [page for page in PAGES if END in page.read_text()], ids=lambda page: page.name)
def test_generated_parts_are_those_of_the_code(page: Path) -> None:
    """`python -m docs.generate.pages` writes them."""
    assert current(page.read_text()) == page.read_text()
