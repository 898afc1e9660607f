"""What may happen to a fine-tuning run: gradients that are not finite, signals at any moment, storage that fails."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from common.exit_codes import FAILED, INFRASTRUCTURE, STOPPED
from finetune import fine_tuning
from finetune.training import loop, reading
from finetune.training.checkpoint import NEWEST_CHECKPOINT
from finetune.training.loop import MOST_SKIPPED_IN_A_ROW, Trainer
from finetune.training.reading import WindowBatch
from tests.support.finetune_runs import assert_equal_runs, code_of_run, finish, start
from tests.support.pretraining import free_port
from tests.support.rice_scenes import write_split_scenes

# Two epochs of four steps.
SETTINGS = ["--task", "paddy_rice", "--override.frames", "4", "--override.window_px", "32", "--training.epochs", "2"]
SETTINGS += ["--training.batch_size", "1", "--encoder", "temporal_cnn", "--decoder.channels", "4", "--maps", "false"]
FORWARD, SCORE_WINDOWS, EVALUATE = Trainer.forward, loop.score_windows, fine_tuning.evaluate_test_data


class InfiniteGradient(torch.autograd.Function):
    """A finite loss whose gradient is not."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        return gradient * torch.inf


def spoil(monkeypatch: pytest.MonkeyPatch, is_spoilt: Callable[[int, int], bool]) -> None:
    """Make the gradients of some steps, by epoch and step, infinite."""

    def forward(trainer: Trainer, batch: WindowBatch) -> torch.Tensor:
        loss = FORWARD(trainer, batch)
        spoilt = is_spoilt(trainer.progress.epoch, len(trainer.progress.losses))
        return InfiniteGradient.apply(loss) if spoilt else loss

    monkeypatch.setattr(Trainer, "forward", forward)


def code(scenes: Path, output: Path, *more: str) -> int:
    return code_of_run([*SETTINGS, "--data", str(scenes), "--output", str(output), *more])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_split_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.mark.parametrize("when", ["step", "validation", "last validation", "scoring"])
def test_a_signal_at_any_moment_stops_the_run_which_resumes_to_the_same_bits(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], when: str
) -> None:
    """Also with steps that are skipped before and after the stop."""
    spoil(monkeypatch, lambda epoch, step: (epoch, step) in ((0, 1), (1, 0), (1, 1)))
    assert code(scenes, tmp_path / "undisturbed") == 0
    undisturbed = capsys.readouterr()
    assert "epoch 1, step 2: the gradient is not finite on [" in undisturbed.out + undisturbed.err
    assert "the step is skipped, 3 so far" in undisturbed.out + undisturbed.err
    assert all(weight.isfinite().all() for weight in load_file(tmp_path / "undisturbed" / "model.safetensors").values())

    calls: list[str] = []

    def ask(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def asking(*arguments: Any) -> Any:
            calls.append(name)
            if (name, calls.count(name)) == moment:
                os.kill(os.getpid(), signal.SIGTERM)
            return work(*arguments)

        return asking

    moment = {
        "step": ("forward", 2),
        "validation": ("score_windows", 1),
        "last validation": ("score_windows", 2),
        "scoring": ("evaluate", 1),
    }[when]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "forward", ask("forward", Trainer.forward))
        patch.setattr(loop, "score_windows", ask("score_windows", SCORE_WINDOWS))
        patch.setattr(fine_tuning, "evaluate_test_data", ask("evaluate", EVALUATE))
        assert code(scenes, tmp_path / "run") == STOPPED
    said = capsys.readouterr()
    expected = {
        "step": "asked to stop: saved after 0 epochs and 2 of 4 steps; start again to resume",
        "validation": "asked to stop: saved after 0 epochs and 4 of 4 steps; start again to resume",
        "last validation": "asked to stop: saved after 1 epochs and 4 of 4 steps; start again to resume",
        "scoring": "asked to stop: what is finished stays; start the same command again to resume",
    }[when]
    assert [line for line in (said.out + said.err).splitlines() if "asked to stop" in line] == [expected]
    assert not list((tmp_path / "run").glob(".lock*"))
    assert code(scenes, tmp_path / "run") == 0
    assert_equal_runs(tmp_path / "run", tmp_path / "undisturbed")


def test_gradients_that_stay_infinite_stop_the_run_and_spoil_no_weight(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(monkeypatch, lambda epoch, step: epoch > 0 or step > 2)  # one of the first epoch, then all
    assert code(scenes, tmp_path, "--training.epochs", "9") == FAILED
    assert f"neither were those of the {MOST_SKIPPED_IN_A_ROW - 1} steps before; lower" in capsys.readouterr().err
    payload = torch.load(tmp_path / NEWEST_CHECKPOINT, weights_only=True)
    progress = json.loads(payload["progress"])
    assert (progress["epoch"], progress["skipped_in_a_row"]) == (5, 17)
    assert all(weight.isfinite().all() for weight in payload["model"].values())


@pytest.mark.parametrize(
    ("owner", "name", "doing"),
    [
        (loop, "save_checkpoint", "writing a checkpoint"),
        (loop, "save_model", "writing "),
        (reading, "read_batch", "reading the training windows"),
        (loop, "score_windows", "reading the validation windows"),
        (fine_tuning, "evaluate_test_data", "scoring and mapping the test data"),
    ],
)
def test_storage_that_fails_in_mid_run_is_no_mistake_of_the_user(
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    owner: object,
    name: str,
    doing: str,
) -> None:
    def gone(*_: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")  # the mount is away

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, gone)
        assert code(scenes, tmp_path) == INFRASTRUCTURE
    assert f"error: {doing}" in capsys.readouterr().err
    assert code(scenes, tmp_path) == 0


# A rank of the command; rank 1 loses its data in the second epoch.
RANK = """
import os
from finetune import run
from finetune.training import reading

known, calls = reading.read_batch, []

def losing(*arguments):
    calls.append(1)
    if os.environ["RANK"] == "1" and len(calls) == 4:
        raise FileNotFoundError(2, "No such file or directory", "scenes/a")
    return known(*arguments)

reading.read_batch = losing
run.main()
"""


@pytest.mark.slow
def test_a_rank_that_lost_its_data_ends_all_with_the_code_of_the_infrastructure(scenes: Path, tmp_path: Path) -> None:
    arguments = [*SETTINGS, "--training.batch_size", "2", "--data", str(scenes), "--output", str(tmp_path / "run")]
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = [start(arguments, script=RANK, RANK=str(rank), LOCAL_RANK=str(rank), **meeting) for rank in range(2)]
    (_, of_main), (_, of_lost) = (finish(rank, INFRASTRUCTURE) for rank in ranks)
    assert "error: reading the training windows: FileNotFoundError: " in of_lost
    assert "error: another rank ended; its message says why" in of_main
    assert "Traceback" not in of_main + of_lost
    finish(start(arguments))  # on one rank, from the epoch before
