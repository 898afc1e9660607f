"""A fine-tuning that is killed, stopped, or finds its checkpoint damaged goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from common.rank_process import STOPPED
from finetune.training.resume import LAST_EPOCH_FILE, PREVIOUS_EPOCH_FILE, Progress, load_newest, save_newest
from tests.finetune.test_ranks import ENCODER, finish
from tests.pretrain.test_train import options
from tests.support.launching import ROOT, wait_for
from tests.support.rice_scenes import write_rice_scene

EPOCHS = 4
SETTINGS = ["--task", "paddy_rice", "--frames", "4", "--window_px", "32", "--batch_size", "2", "--epochs", str(EPOCHS)]
SETTINGS += ["--decoder_channels", "8", *options(ENCODER, "encoder")]

# The command, which is killed by kill -9 when it does something (KILL) for the so manieth time.
KILLED = """
import os, signal
from pathlib import Path
import torch
from finetune import evaluation, run, train

always = lambda *_: True
what, when = os.environ["KILL"].split()
owner, name, counts = {
    "step": (torch.nn.utils, "clip_grad_norm_", always),
    "evaluation": (train, "evaluate", always),
    "model": (train, "save_model", always),
    "checkpoint": (train, "save_newest", always),
    "rename": (Path, "replace", lambda path, target: target.name == "last_epoch.pt"),  # the one before has lost this name already
    "log": (train, "report", always),
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


def start(scenes: Path, output: Path, *more: str, kill: str | None = None, ranks: int = 1) -> subprocess.Popen[str]:
    command = (
        ["bash", "launch/finetune.sh"] if ranks > 1 else [sys.executable, *(["-c", KILLED] if kill else ["finetune/run.py"])]
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "KILL": kill or "", "PATH": path}
    return subprocess.Popen(
        [*command, *SETTINGS, "--data", str(scenes), "--output", str(output), *more],
        cwd=ROOT,
        env=environment | {"NUM_RANKS": str(ranks)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def undisturbed(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "undisturbed"
    finish(start(scenes, output))
    return output


def assert_equal_runs(run: Path, other: Path) -> None:
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (run, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs | ours)
    assert json.loads((run / "metrics.json").read_text()) == json.loads((other / "metrics.json").read_text())


@pytest.mark.slow
def test_kills_while_learning_and_saving_change_no_bit(scenes: Path, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    said = []
    # Epochs have four steps; each start goes on from the newest checkpoint of those before.
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
        output, _ = finish(start(scenes, run, kill=kill), -signal.SIGKILL)
        said += [line for line in output.splitlines() if line.startswith("continuing")]
        assert not (run / "metrics.json").exists()
    assert said == [f"continuing after epoch {epoch}" for epoch in (1, 1, 2, 2, 3)]
    finish(start(scenes, run))
    assert_equal_runs(run, undisturbed)


def first_checkpoint(run: Path, process: subprocess.Popen[str]) -> None:
    wait_for(lambda: (run / LAST_EPOCH_FILE).exists() or process.poll() is not None, 120)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_stops_when_asked_and_goes_on_at_the_step(scenes: Path, undisturbed: Path, tmp_path: Path, ranks: int) -> None:
    run = tmp_path / "run"
    more = ["--epochs", "400"] if ranks > 1 else []
    process = start(scenes, run, *more, ranks=ranks)
    first_checkpoint(run, process)
    process.terminate()
    output, _ = finish(process, STOPPED)
    assert output.count("asked to stop: saved after") == 1
    again = start(scenes, run, *more, ranks=ranks)
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
    process = start(scenes, tmp_path / "run", "--epochs", "10000", ranks=2)
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
        (["--epochz", "3"], "did you mean epochs?"),
        (["--label", "crops"], "has no label 'crops'"),
        (["--batch_size", "1"], "2 ranks share batches of 1 windows"),
    ],
)
def test_of_several_ranks_one_says_what_is_wrong(scenes: Path, tmp_path: Path, more: list[str], expected: str) -> None:
    _, errors = finish(start(scenes, tmp_path / "run", *more, ranks=2), 2)
    lines = [line for line in errors.splitlines() if "error: " in line and not line.startswith("[")]
    assert len(lines) == 1, errors
    assert expected in lines[0]
    assert "Traceback" not in errors


def small() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(20, 20)
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] = 255 - content[len(content) // 3]
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    model, optimizer = small()
    weights = []
    for epoch in (1, 2, 3):
        model(torch.ones(20)).sum().backward()
        optimizer.step()
        weights.append(model.weight.detach().clone())
        save_newest(tmp_path, Progress(epoch=epoch, history=[{"loss": 0.1 + 0.2}] * epoch), model, optimizer)
    for epoch in (3, 2):
        again, its_optimizer = small()
        found = load_newest(tmp_path, again, its_optimizer, torch.device("cpu"))
        assert (found.epoch, found.history) == (epoch, [{"loss": 0.1 + 0.2}] * epoch)
        assert torch.equal(again.weight, weights[epoch - 1])
        assert its_optimizer.state_dict()["state"][0]["step"] == epoch
        if epoch == 3:
            damage(tmp_path / LAST_EPOCH_FILE)
    assert f"checkpoint {tmp_path / LAST_EPOCH_FILE} is damaged and passed over" in capsys.readouterr().out
    damage(tmp_path / PREVIOUS_EPOCH_FILE)
    with pytest.raises(ValueError, match=r"no checkpoint in .* is as it was written; remove the folder"):
        load_newest(tmp_path, *small(), torch.device("cpu"))


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    save_newest(tmp_path, Progress(epoch=1), *small())
    other = nn.Linear(20, 3)
    with pytest.raises(ValueError, match="does not continue this run"):
        load_newest(tmp_path, other, torch.optim.AdamW(other.parameters()), torch.device("cpu"))


@pytest.mark.slow
def test_resume_never_wants_a_new_folder(scenes: Path, undisturbed: Path) -> None:
    _, errors = finish(start(scenes, undisturbed, "--resume", "never"), 2)
    assert "holds a run already; give another --output, or go on with --resume auto" in errors


@pytest.mark.slow
def test_confusion_matrix_of_each_epoch_is_in_tensorboard(undisturbed: Path) -> None:
    log = EventAccumulator(str(undisturbed), size_guidance={"images": 0})
    log.Reload()
    pictures = log.Images("validation/confusion")
    assert [picture.step for picture in pictures] == list(range(1, EPOCHS + 1))
    (undisturbed / "confusion.png").write_bytes(pictures[-1].encoded_image_string)
    assert min(pictures[-1].width, pictures[-1].height) > 200
