"""The extras for URLs, installed into an empty environment under the constraints, as `make install` installs everything else."""

from __future__ import annotations

import os
import shutil
import subprocess
import venv
from pathlib import Path

import pytest

from tests.support.launching import ROOT

PACKAGES = ("common", "data_prep", "pretrain", "finetune", "launch")
# Opens the file system of a URL as all commands do, which imports its package.
OPEN = "from common.file_systems import file_system; print(type(file_system({url!r}, {options!r})[0]).__module__)"


@pytest.mark.slow
def test_extras_for_urls_install_under_the_constraints(tmp_path: Path) -> None:
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / "project" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / "project")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*words: str) -> str:
        done = subprocess.run([python, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def install(what: str) -> None:
        run("-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), what)

    install("torch")  # first and alone, as in the Makefile
    install(f"{tmp_path / 'project'}[s3]")
    assert run("-c", OPEN.format(url="s3://bucket/a", options={"anon": True})) == "s3fs.core"
    assert run("-c", OPEN.format(url="https://server/a", options={})) == "fsspec.implementations.http"
    install(f"{tmp_path / 'project'}[gcs,azure,https]")
    assert run("-c", OPEN.format(url="gs://bucket/a", options={"token": "anon"})).startswith("gcsfs.")
    assert run("-c", OPEN.format(url="az://bucket/a", options={"account_name": "a", "anon": True})) == "adlfs.spec"
    run("-m", "pip", "check")
