"""A fine-tuning run that was killed or stopped resumes to the same bits, by the command."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.exit_codes import STOPPED
from finetune.training.checkpoint import NEWEST_CHECKPOINT
from tests.support.finetune_runs import SMALL_ENCODER, assert_equal_runs, finish, start
from tests.support.launching import wait_for
from tests.support.pretraining import options
from tests.support.rice_scenes import write_rice_scene

EPOCHS = 4
SETTINGS = ["--task", "paddy_rice", "--override.frames", "4", "--override.window_px", "32", "--training.batch_size", "2"]
SETTINGS += ["--training.epochs", str(EPOCHS), "--decoder.channels", "8", *options(SMALL_ENCODER, "encoder")]

# The command, which kills itself with SIGKILL when it does something for the n-th time: KILL is "WHAT N".
KILLED = """
import os, signal
from pathlib import Path
import torch
from finetune import evaluation, run
from finetune.training import loop

always = lambda *_: True
what, when = os.environ["KILL"].split()
owner, name, counts = {
    "step": (torch.nn.utils, "clip_grad_norm_", always),
    "evaluation": (loop, "score_windows", always),
    "model": (loop, "save_model", always),
    "checkpoint": (loop, "save_checkpoint", always),
    # when the older checkpoint has its new name already
    "rename": (Path, "replace", lambda path, target: target.name == "last_epoch.pt"),
    "log": (loop, "log_epoch", always),
    "maps": (evaluation, "evaluate_scenes", always),
}[what]
known, times = getattr(owner, name), []

def killing(*arguments, **named):
    times.extend([1] * counts(*arguments))
    if len(times) == int(when):
        os.kill(os.getpid(), signal.SIGKILL)
    return known(*arguments, **named)

setattr(owner, name, killing)
run.main()
"""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for seed, (name, split) in enumerate([("a", "train"), ("b", "train"), ("c", "validation"), ("d", "test")]):
        write_rice_scene(folder / name, split, side=64, seed=seed, frames=6)
    return folder


def start_run(scenes: Path, output: Path, *more: str, kill: str | None = None, ranks: int = 1) -> subprocess.Popen[str]:
    arguments = [*SETTINGS, "--data", str(scenes), "--output", str(output), *more]
    return start(arguments, ranks=ranks, script=KILLED if kill else None, KILL=kill or "")


@pytest.fixture(scope="module")
def undisturbed(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "undisturbed"
    finish(start_run(scenes, output))
    return output


@pytest.mark.slow
def test_kills_while_learning_and_saving_change_no_bit(scenes: Path, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    said = []
    # Epochs have four steps; each start resumes from the newest checkpoint.
    for kill in (
        "step 2",
        "evaluation 1",
        "rename 1",
        "model 1",
        "log 1",
        "step 3",
        "rename 2",
        "checkpoint 1",
        "step 7",
        "maps 1",
    ):
        output, _ = finish(start_run(scenes, run, kill=kill), -signal.SIGKILL)
        said += [line for line in output.splitlines() if line.startswith("continuing")]
        assert not (run / "metrics.json").exists()
    first, second = "continuing after epoch 0 and 4 steps", "continuing after epoch 1 and 4 steps"
    assert said == [first] * 4 + ["continuing after epoch 1"] + [second] * 2 + ["continuing after epoch 3"]
    finish(start_run(scenes, run))
    assert_equal_runs(run, undisturbed)
    ours, theirs = (EventAccumulator(str(folder)).Reload() for folder in (run, undisturbed))
    for name in ("train/loss", "validation/mean_f1"):  # each epoch once
        points, expected = ([(point.step, point.value) for point in log.Scalars(name)] for log in (ours, theirs))
        assert points == expected
        assert [step for step, _ in points] == list(range(1, EPOCHS + 1))


def first_checkpoint(run: Path, process: subprocess.Popen[str]) -> None:
    wait_for(lambda: (run / NEWEST_CHECKPOINT).exists() or process.poll() is not None, 120)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_stops_when_asked_and_goes_on_at_the_step(scenes: Path, undisturbed: Path, tmp_path: Path, ranks: int) -> None:
    run = tmp_path / "run"
    more = ["--training.epochs", "400"] if ranks > 1 else []
    process = start_run(scenes, run, *more, ranks=ranks)
    first_checkpoint(run, process)
    process.terminate()
    output, _ = finish(process, STOPPED)
    assert output.count("asked to stop: saved after") == 1
    again = start_run(scenes, run, *more, ranks=ranks)
    if ranks == 1:
        output, _ = finish(again)
        assert "continuing after epoch" in output
        assert_equal_runs(run, undisturbed)
    else:
        assert again.stdout is not None
        assert any(line.startswith("continuing after epoch") for line in iter(again.stdout.readline, ""))
        again.terminate()
        finish(again, STOPPED)


@pytest.mark.slow
def test_a_lost_rank_leaves_no_process_behind(scenes: Path, tmp_path: Path) -> None:
    process = start_run(scenes, tmp_path / "run", "--training.epochs", "10000", ranks=2)
    first_checkpoint(tmp_path / "run", process)
    below = psutil.Process(process.pid).children(recursive=True)
    ranks = [p for p in below if any("finetune.sh" in word for word in p.cmdline()) and "--local_rank=1" in p.cmdline()]
    ranks[-1].send_signal(signal.SIGKILL)
    process.communicate(timeout=90)
    assert process.returncode not in (0, STOPPED)
    assert not psutil.wait_procs(below, timeout=15)[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--task", "paddy_rize"], "unknown task 'paddy_rize'"),
        (["--epochz", "3"], "did you mean training.epochs?"),
        (["--override.label", "crops"], "has no label 'crops'"),
        (["--training.batch_size", "1"], "2 ranks share batches of 1 windows"),
    ],
)
def test_of_several_ranks_one_says_what_is_wrong(scenes: Path, tmp_path: Path, more: list[str], expected: str) -> None:
    _, errors = finish(start_run(scenes, tmp_path / "run", *more, ranks=2), 2)
    lines = [line for line in errors.splitlines() if "error: " in line and not line.startswith("[")]
    assert len(lines) == 1, errors
    assert expected in lines[0]
    assert "Traceback" not in errors


@pytest.mark.slow
def test_resume_never_wants_a_new_folder(scenes: Path, undisturbed: Path) -> None:
    _, errors = finish(start_run(scenes, undisturbed, "--resume", "never"), 2)
    assert "holds a run already; give another --output, or resume the run with --resume auto" in errors


@pytest.mark.slow
def test_confusion_matrix_of_each_epoch_is_in_tensorboard(undisturbed: Path) -> None:
    log = EventAccumulator(str(undisturbed), size_guidance={"images": 0})
    log.Reload()
    pictures = log.Images("validation/confusion")
    assert [picture.step for picture in pictures] == list(range(1, EPOCHS + 1))
    (undisturbed / "confusion.png").write_bytes(pictures[-1].encoded_image_string)
    assert min(pictures[-1].width, pictures[-1].height) > 200
