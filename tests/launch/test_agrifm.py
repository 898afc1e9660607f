"""The console command: each of its commands is there, and what it says and starts. The wheel, built and used."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pytest

from launch.agrifm import COMMANDS, main

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch.agrifm", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_a_main(command: str) -> None:
    assert callable(importlib.import_module(COMMANDS[command][0]).main)


def test_every_script_of_the_project_is_a_command() -> None:
    scripts = {f"{path.parent.name}.{path.stem}" for folder in ("data_prep", "finetune") for path in (ROOT / folder).glob("*.py")}
    scripts = {name for name in scripts if "def main(" in (ROOT / f"{name.replace('.', '/')}.py").read_text()}
    assert scripts == {module for module, _ in COMMANDS.values() if not module.startswith("pretrain.")}


def test_without_a_command_the_commands_are_listed() -> None:
    for arguments in ([], ["--help"]):
        done = run(*arguments)
        assert done.returncode == 0
        assert [line.split()[0] for line in done.stdout.splitlines()[2:-2]] == list(COMMANDS)


def test_version() -> None:
    assert run("--version").stdout == f"agrifm {version('agrifm-pretrain')}\n"


@pytest.mark.parametrize(("word", "answer"), [("shrad", "did you mean shard?"), ("xyz", "the commands are simulate, ")])
def test_an_unknown_command_is_one_line(word: str, answer: str) -> None:
    done = run(word)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert answer in done.stderr


def test_a_command_gets_its_arguments_and_its_name(tmp_path: Path) -> None:
    done = run("draw-sites", "--land_covr", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("agrifm draw_sites: error: ")
    assert "did you mean land_cover?" in done.stderr


@pytest.mark.parametrize(
    ("command", "num_ranks", "script"),
    [("pretrain", None, "pretrain.sh"), ("finetune", "2", "finetune.sh")],
)
def test_commands_of_several_ranks_start_their_launcher(
    command: str, num_ranks: str | None, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Sequence[str]] = []

    def execvp(_: str, words: Sequence[str]) -> None:
        started.append(words)
        raise SystemExit

    monkeypatch.setattr("os.execvp", execvp)
    monkeypatch.setattr("sys.argv", ["agrifm", command, "--seed", "3"])
    monkeypatch.setenv("PATH", os.environ["PATH"])
    if num_ranks is None:
        monkeypatch.delenv("NUM_RANKS", raising=False)
    else:
        monkeypatch.setenv("NUM_RANKS", num_ranks)
    with pytest.raises(SystemExit):
        main()
    assert started == [["bash", str(ROOT / "launch" / script), "--seed", "3"]]
    assert os.environ["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


@pytest.mark.slow
def test_the_wheel_works_in_another_folder_than_the_checkout(tmp_path: Path) -> None:
    """Dependencies are those of this environment, the project itself is the wheel's."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True)
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], check=True, capture_output=True, text=True
    ).stdout.strip()
    (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # .pth files there are not read
    empty = tmp_path / "empty"
    empty.mkdir()

    def agrifm(*words: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [tmp_path / "env" / "bin" / "agrifm", *words], cwd=empty, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    size = ["--regions", "7", "--landsat_px", "128", "--sentinel2_px", "120"]
    agrifm("simulate", "--output", "scenes", "--seed", "0", *size)
    agrifm(
        "shard",
        "--input",
        "scenes",
        "--output",
        "corpus",
        "--workers",
        "2",
        "--chip_px",
        "{landsat: 32, sentinel2: 32, modis: 4}",
    )
    agrifm("verify", "corpus")
    training = ["--epochs", "1", "--encoder.embed_dim", "16"]
    agrifm("finetune", "--task", "paddy_rice", "--data", "scenes", "--output", "rice", *training)
    (scene,) = [
        path.name for path in sorted((empty / "scenes").iterdir()) if (empty / "rice" / "maps" / f"{path.name}.tif").exists()
    ]
    agrifm("predict", "--model", "rice", "--input", f"scenes/{scene}", "--output", "map.tif")
    assert (empty / "map.tif").stat().st_size > 0
    command = [python, "-c", "import common; print(common.__file__)"]
    where = subprocess.run(command, cwd=empty, check=True, capture_output=True, text=True)
    assert where.stdout.startswith(packages)
