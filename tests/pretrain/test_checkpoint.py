"""Checkpoints: whole or not there, and the newest good one is found whatever happened to the others."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from pretrain.checkpoint import CheckpointWriter, finished_steps, newest_good, read_tensors, skipped_steps_of, step_of
from tests.support.pretraining import random_tensors

ROOT = Path(__file__).parents[2]


def write(folder: Path, steps: range | list[int], keep: int = 100, keep_every: int = 0) -> CheckpointWriter:
    writer = CheckpointWriter(folder, keep, keep_every, {"config": "{}"})
    for step in steps:
        writer.start(step, random_tensors(step))
    writer.wait()
    return writer


def test_what_was_written_is_read_with_its_metadata_and_ordinary_permissions(tmp_path: Path) -> None:
    write(tmp_path, [3])
    found = newest_good(tmp_path)
    assert found == tmp_path / "step-00000003"
    assert step_of(found) == 3
    for name, expected in random_tensors(3).items():
        read = read_tensors(found, name)
        assert read.keys() == expected.keys()
        assert all(torch.equal(read[key], expected[key]) for key in expected)
        with safe_open(found / f"{name}.safetensors", "pt") as file:
            assert file.metadata() == {"config": "{}"}
    (tmp_path / "ordinary").touch()
    assert {path.stat().st_mode for path in found.iterdir()} == {(tmp_path / "ordinary").stat().st_mode}
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    ("keep", "keep_every", "left"),
    [(1, 0, {9}), (3, 0, {7, 8, 9}), (2, 4, {4, 8, 9}), (1, 1, set(range(1, 10))), (100, 0, set(range(1, 10)))],
)
def test_newest_and_every_nth_are_kept(tmp_path: Path, keep: int, keep_every: int, left: set[int]) -> None:
    write(tmp_path, range(1, 10), keep, keep_every)
    assert set(finished_steps(tmp_path)) == left


def test_a_new_one_is_kept_and_damaged_ones_after_it_are_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run resumed from step 2, as step 30 was damaged; it must count neither as the newest nor as the best one."""
    write(tmp_path, [2, 30], keep=2)
    cut(tmp_path / "step-00000030" / "student.safetensors")
    write(tmp_path, [25], keep=1)
    assert finished_steps(tmp_path) == [25]
    assert "step-00000030 is removed: the run was resumed before it and has now saved step 25" in capsys.readouterr().out


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("file", ["student.safetensors", "teacher.safetensors", "optimizer.safetensors", "manifest.json"])
def test_a_damaged_one_is_named_and_the_one_before_is_taken(
    tmp_path: Path, damage: object, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, [1, 2, 3])
    damage(tmp_path / "step-00000003" / file)  # type: ignore[operator]
    assert newest_good(tmp_path) == tmp_path / "step-00000002"
    assert "step-00000003 is damaged and skipped" in capsys.readouterr().out
    assert newest_good(tmp_path, step=1) == tmp_path / "step-00000001"
    assert newest_good(tmp_path, step=3) is None
    write(tmp_path, [3])  # the resumed run comes by again
    assert newest_good(tmp_path) == tmp_path / "step-00000003"


def test_none_is_none_and_an_unfinished_one_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert newest_good(tmp_path / "nowhere") is None
    (tmp_path / "step-00000005.tmp").mkdir()
    assert newest_good(tmp_path) is None
    assert "step-00000005 was not finished and is skipped" in capsys.readouterr().out
    write(tmp_path, [5])
    assert newest_good(tmp_path) == tmp_path / "step-00000005"


PROGRAM = """
import sys, torch
from pathlib import Path
from pretrain.checkpoint import CheckpointWriter
from tests.support.pretraining import random_tensors
big = {"x": torch.zeros(2_000_000)}
writer = CheckpointWriter(Path(sys.argv[1]), 3, 0, {})
for step in range(int(sys.argv[2]), 10_000):
    writer.start(step, {name: {**values, **big} for name, values in random_tensors(step).items()})
    print(step, flush=True)
"""


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_while_saving_leaves_the_one_before(tmp_path: Path, kills: int) -> None:
    """At moments spread over the writing; each time the newest good one holds what belongs to its step."""
    step = 1
    for moment in np.linspace(0, 9, kills):
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(step)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)})
        assert process.stdout is not None
        for _ in range(2):
            process.stdout.readline()  # the one before is whole when the next is begun
        time.sleep(0.013 * moment)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        found = newest_good(tmp_path)
        assert found is not None
        assert step_of(found) >= step
        expected = random_tensors(step_of(found))
        assert all(torch.equal(read_tensors(found, name)["a.1"], values["a.1"]) for name, values in expected.items())
        step = step_of(found) + 1


def test_a_full_disk_is_one_clear_error_and_the_ones_before_stay(tmp_path: Path) -> None:
    write(tmp_path, [1])
    program = PROGRAM.replace("range(int(sys.argv[2]), 10_000)", "[2, 3]")
    finished = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
        check=False,
    )
    assert "InfrastructureError: the checkpoint" in finished.stderr
    assert "step-00000002 cannot be written" in finished.stderr
    assert newest_good(tmp_path) == tmp_path / "step-00000001"
    assert not list(tmp_path.glob("*.tmp"))


def test_manifest_states_step_and_files(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, 3, 0, {})
    writer.start(4, random_tensors(4), skipped_steps=2)
    writer.wait()
    path = tmp_path / "step-00000004" / "manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest["step"] == 4
    assert skipped_steps_of(path.parent) == 2
    path.write_text(json.dumps({name: manifest[name] for name in ("step", "files")}))  # by a version that did not count them
    assert newest_good(tmp_path) == path.parent
    assert skipped_steps_of(path.parent) == 0
    assert sorted(manifest["files"]) == ["optimizer.safetensors", "student.safetensors", "teacher.safetensors"]
