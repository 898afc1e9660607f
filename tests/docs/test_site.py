"""The site builds without a warning, is complete, and loads nothing from other hosts."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.readers.opening import CONTAINERS
from docs.generate.commands import COMMANDS, ROOT, parser_of
from tests.support.documentation import PAGES, README

pytest.importorskip("mkdocs")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    return folder


def text_of(page: Path) -> str:
    """What a page shows, without tags."""
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text()))


def test_every_page_is_there(site: Path) -> None:
    for page in PAGES:
        if page != README:
            assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file()
    assert (site / "search" / "search_index.json").is_file()
    assert not list(site.rglob("*.py")), "the generator is no part of the site"


def test_nothing_comes_from_other_hosts(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=[\"']?([^\"'\s>]+)", page.read_text())
        assert loaded
        assert not [address for address in loaded if re.match(r"(?:https?:)?//", address)], page
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)[\"' ]*(?:https?:)?//", style.read_text()), style


def test_pictures_are_in_the_site(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    shown = [(page, found) for page in pages for found in re.findall(r"<img[^>]*src=\"([^\"]+)\"", page.read_text())]
    assert {Path(found).name for _, found in shown} >= {"architecture.svg", "six_tasks.png", "few_labels.png"}
    for page, found in shown:
        assert (page.parent / found).is_file(), (page, found)


def test_every_option_of_every_command_is_in_the_reference(site: Path) -> None:
    text = text_of(site / "reference" / "commands.html")
    for command in COMMANDS:
        assert f"agrifm {command.name}" in text
        for action in parser_of(command)._actions:
            if getattr(action, "_typehint", None) is not None and action.help and not action.dest.endswith("help"):
                assert (f"--{action.dest}" if action.option_strings else action.dest.upper()) in text
                words = re.sub(r"[`\\]", "", " ".join(action.help.split()))[1:60]
                assert words in text.replace("\n", " "), f"{command.name}: {action.dest} is not explained"


def test_no_cell_of_a_table_of_meanings_is_empty(site: Path) -> None:
    for page in (site / "reference").glob("*.html"):
        for rows in re.findall(r"<th[^>]*>meaning</th>.*?<tbody>(.*?)</tbody>", page.read_text(), re.DOTALL):
            assert not re.findall(r"<td[^>]*></td>\s*</tr>", rows), page.name


def test_every_container_is_in_the_reference(site: Path) -> None:
    page = (site / "reference" / "containers.html").read_text()
    for name in CONTAINERS:
        section = page.partition(f'id="{name}"')[2].partition("<h2")[0]
        assert "<code>storage_options</code>" in section, f"{name} has no table of options"


def test_neither_fonts_nor_mermaid_are_used() -> None:
    """Both would be loaded from other hosts."""
    assert "font: false" in (ROOT / "mkdocs.yml").read_text()
    assert not [page for page in PAGES if "```mermaid" in page.read_text()]
