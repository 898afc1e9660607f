"""Whether a run that failed is started again: for as long as it gets further."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.checkpoint import CheckpointWriter
from pretrain.config import PretrainConfig
from pretrain.restart import worth_restarting
from tests.support.pretraining import ROOT, python_environment, random_tensors


def checkpoint(run: Path, step: int) -> Path:
    writer = CheckpointWriter(run / "checkpoints", 100, 0, {})
    writer.start(step, random_tensors(step))
    writer.wait()
    return run / "checkpoints" / f"step-{step:08d}"


def test_worth_while_the_newest_step_advances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    config = PretrainConfig(data="corpus", output=tmp_path / "run")
    assert worth_restarting(config) == 0, "the first failure, even before a first checkpoint"
    assert worth_restarting(config) == 1
    checkpoint(config.output, 20)
    assert worth_restarting(config) == 0
    (checkpoint(config.output, 30) / "student.safetensors").write_bytes(b"damaged")
    (config.output / "checkpoints" / "step-00000035.tmp").mkdir()  # not finished
    capsys.readouterr()
    assert worth_restarting(config) == 1
    assert "the newest checkpoint is of step 20, as at the failure before" in capsys.readouterr().out
    checkpoint(config.output, 40)
    assert worth_restarting(config) == 0
    lines = [json.loads(line) for line in (config.output / "restarts.jsonl").read_text().split("\n") if line]
    assert [line["step"] for line in lines] == [0, 20, 40]
    assert {line["job"] for line in lines} == {"4711"}


def test_a_line_that_a_kill_has_cut_counts_for_nothing(tmp_path: Path) -> None:
    config = PretrainConfig(data="corpus", output=tmp_path)
    (tmp_path / "restarts.jsonl").write_text('{"step": 20, "job": null, "time": 0}\n{"step": 4')
    checkpoint(tmp_path, 20)
    assert worth_restarting(config) == 1
    checkpoint(tmp_path, 30)
    assert worth_restarting(config) == 0
    assert worth_restarting(config) == 1


def test_the_command_takes_the_arguments_of_the_run(tmp_path: Path) -> None:
    run = ["--config", "tiny", "--data", "corpus", "--output", str(tmp_path / "a b"), "--encoder.embed-dim", "16"]

    def code(*arguments: str) -> int:
        command = [sys.executable, "-m", "pretrain.restart", *arguments]
        return subprocess.run(command, cwd=ROOT, env=python_environment(), capture_output=True, check=False).returncode

    assert [code(*run), code(*run), code(*run, "--no-such-option")] == [0, 1, 2]
