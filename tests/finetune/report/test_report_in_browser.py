"""The report in a real browser: no errors, no requests, readable on a phone and in the dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from finetune.report.run_context import RunContext
from finetune.report.run_report import run_report
from tests.finetune.report.test_run_report import TASK, run_metrics
from tests.support.browser import Browser, opened_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with opened_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    context = RunContext(
        folder=folder / "a run", data="/scenes", scenes={"test": ["delta"]}, simulated=["delta"], date="2026-01-02"
    )
    run_report(run_metrics(3), TASK, {"data": "/scenes", "long": "x" * 400}, context=context).write(folder / "report.html")
    return folder / "report.html"


@pytest.mark.parametrize("dark", [False, True])
def test_the_report_needs_nothing_and_fits_a_phone(browser: Browser, report: Path, dark: bool) -> None:
    browser.open(report.as_uri(), width=390, height=844, dark=dark)
    assert browser.complaints() == []
    assert [url for url in browser.requested() if not url.startswith(("about:", report.as_uri()))] == []
    for details in browser.driver.find_elements(By.TAG_NAME, "details"):
        browser.run("arguments[0].open = true", details)
    assert browser.run("return document.documentElement.scrollWidth") == 390
    ink, paper = browser.run("const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]")
    brightness = [sum(map(int, color[4:-1].split(","))) for color in (ink, paper)]
    assert (brightness[0] > brightness[1]) == dark
    assert abs(brightness[0] - brightness[1]) > 400
    assert "Simulated data" in browser.driver.find_element(By.CLASS_NAME, "warning").text


def test_tables_open_on_a_click_and_a_command_is_selected_by_one(browser: Browser, report: Path) -> None:
    browser.open(report.as_uri())
    table = browser.driver.find_element(By.TAG_NAME, "table")
    assert not table.is_displayed()
    browser.driver.find_element(By.TAG_NAME, "summary").click()
    assert table.is_displayed()
    command = browser.driver.find_element(By.TAG_NAME, "pre")
    command.click()
    selected = browser.run("return getSelection().toString()")
    assert selected.strip() == command.text
    assert selected.startswith(f"agrifm predict --model '{report.parent / 'a run'}' --input ")
