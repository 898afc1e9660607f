"""Two fine-tunings in one folder: the second is refused, and one that lost its folder saves no more."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from common.exit_codes import INFRASTRUCTURE, USER_ERROR
from common.run_lock import LOCK, RunLock
from finetune.model.model_file import MODEL_FILE
from finetune.run_folder import RUN_FILE, claim_run_folder
from finetune.training import loop
from tests.support.finetune_runs import code_of_run
from tests.support.rice_scenes import write_split_scenes

SETTINGS = ["--task", "paddy_rice", "--override.frames", "4", "--override.window_px", "32", "--training.epochs", "2"]
SETTINGS += ["--encoder", "temporal_cnn", "--decoder.channels", "4", "--maps", "false"]


def code(scenes: Path, output: Path, *more: str) -> int:
    return code_of_run([*SETTINGS, "--data", str(scenes), "--output", str(output), *more])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_split_scenes(tmp_path_factory.mktemp("scenes"))


def test_a_folder_in_use_is_refused_and_a_lost_one_is_left_alone(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with RunLock(run / LOCK, run) as lock:
        lock.acquire()
        assert code(scenes, run) == USER_ERROR
        assert f"error: {run} is in use by process {os.getpid()} on " in capsys.readouterr().err
        assert os.listdir(run) == [".lock-1"]

    def taken_over(*arguments: Any) -> dict[str, Any]:
        (run / ".lock-2").touch()
        return score_windows(*arguments)

    score_windows = loop.score_windows
    with monkeypatch.context() as patch:
        patch.setattr(loop, "score_windows", taken_over)
        assert code(scenes, run) == INFRASTRUCTURE
    assert "belongs to another job now" in capsys.readouterr().err
    assert not (run / MODEL_FILE).exists()

    (run / ".lock-2").unlink()
    assert code(scenes, run) == 0
    assert not list(run.glob(".lock*"))


def test_a_run_whose_images_have_changed_does_not_go_on(tmp_path: Path) -> None:
    settings = {"seed": 1, "data_sha256": "0" * 64}
    with RunLock(tmp_path / LOCK, tmp_path) as lock:
        for _ in range(2):
            assert not claim_run_folder(tmp_path, settings, {"training": "abc", "validation": "d"}, "auto", lock)
        with pytest.raises(ValueError, match=r"whose images have changed since it began \(training\)"):
            claim_run_folder(tmp_path, settings, {"training": "xyz", "validation": "d"}, "auto", lock)


def test_what_another_job_did_before_the_lock_was_free_counts(tmp_path: Path) -> None:
    """The folder was empty when the run looked, and is not when it has the lock."""
    settings = {"seed": 1, "data_sha256": "0" * 64}
    (tmp_path / RUN_FILE).write_text(json.dumps(settings))
    with RunLock(tmp_path / LOCK, tmp_path) as lock, pytest.raises(ValueError, match="holds a run already"):
        claim_run_folder(tmp_path, settings, {}, "never", lock)
    with RunLock(tmp_path / LOCK, tmp_path) as lock, pytest.raises(ValueError, match=r"other settings \(seed\)"):
        claim_run_folder(tmp_path, settings | {"seed": 2}, {}, "auto", lock)
    (tmp_path / "metrics.json").write_text("{}")
    with RunLock(tmp_path / LOCK, tmp_path) as lock:
        assert claim_run_folder(tmp_path, settings, {}, "auto", lock)
