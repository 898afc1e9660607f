"""The command `agrifm view`: it prints an address, serves until it is asked to stop, and names mistakes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from common.command_line import run_command
from finetune.view import view
from tests.support.launching import ROOT
from tests.support.shown_run import write_shown_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shown")
    write_shown_run(folder)
    return folder


def start(arguments: list[str], temporary: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "finetune/view.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
            return found[0]
    raise AssertionError(process.stderr.read() if process.stderr else "")


def test_a_run_is_served_until_a_signal_asks_to_stop(folder: Path, tmp_path: Path) -> None:
    process = start([str(folder / "run")], tmp_path)
    try:
        url = address(process)
        assert b"Paddy &lt;rice&gt;" in urllib.request.urlopen(url, timeout=30).read()
        assert [path.name.startswith("agrifm-view-") for path in tmp_path.iterdir()] == [True]
    finally:
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "closed" in output
    assert not list(tmp_path.iterdir())  # what was made to be shown is removed


def test_a_single_map_is_served_with_its_scene(folder: Path, tmp_path: Path) -> None:
    path, scene = str(folder / "run/maps/b.tif"), str(folder / "scenes/b")
    process = start([path, "--input", scene, "--model", str(folder / "run")], tmp_path)
    try:
        description = urllib.request.urlopen(f"{address(process)}maps/0", timeout=60).read()
        assert all(f'"{layer}"'.encode() in description for layer in ("image", "label", "prediction", "errors", "fields"))
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_mistakes_end_with_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, reason in (
        ([str(folder / "scenes")], "holds no run of finetune/run.py"),
        ([str(folder / "run"), "--port", "-5"], "--port -5 cannot be used"),
    ):
        with pytest.raises(SystemExit) as ended:
            run_command(view, arguments, positional=True)
        assert ended.value.code == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ")
        assert reason in error
        assert "\n" not in error
