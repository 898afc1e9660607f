"""Whole runs by their window stores, by processes that read ahead, and in other precisions and layouts."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.exit_codes import STOPPED
from finetune.data.scene_windows import SceneWindows
from finetune.run_folder import WINDOWS_FOLDER
from finetune.training import loop
from finetune.training.loop import Trainer
from finetune.training.reading import WindowBatch
from pretrain.model import VideoSwin
from tests.support.finetune_runs import SMALL_ENCODER, assert_equal_runs, code_of_run, finetune_config, run
from tests.support.rice_scenes import write_split_scenes

# Two epochs of two steps.
SETTINGS: dict[str, Any] = {
    "task": "paddy_rice", "override.frames": 4, "override.window_px": 32, "training.epochs": 2, "training.batch_size": 2,
    "decoder.channels": 8, "maps": False,
}  # fmt: skip
SWIN = {"encoder": SMALL_ENCODER}
UNET = {"encoder": "unet"}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_split_scenes(tmp_path_factory.mktemp("scenes"))


def words(**options: Any) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def losses_of(folder: Path) -> list[float]:
    """Training loss of each epoch of a run."""
    return [epoch["loss"] for epoch in json.loads((folder / "metrics.json").read_text())["history"]]


@pytest.mark.parametrize("model", [SWIN, UNET])
def test_processes_that_read_ahead_change_no_bit(model: dict[str, Any], scenes: Path, tmp_path: Path) -> None:
    more = {"augmentation.shift_days": 10.0, "augmentation.drop_sources": 0.3, "label_fraction": 0.8}
    for name, workers in (("here", 0), ("ahead", 2)):
        run(data=scenes, output=tmp_path / name, num_workers=workers, **SETTINGS, **model, **more)
    assert_equal_runs(tmp_path / "ahead", tmp_path / "here")


def test_a_run_that_was_stopped_reads_its_windows_from_its_folder_and_removes_them_in_the_end(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS | {"encoder": "temporal_cnn", "data": scenes}
    run(output=tmp_path / "undisturbed", **settings)
    assert not (tmp_path / "undisturbed" / WINDOWS_FOLDER).exists()
    forward, calls = Trainer.forward, []

    def stopping(trainer: Trainer, batch: WindowBatch) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(trainer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "forward", stopping)
        assert run(output=tmp_path / "run", num_workers=2, **settings) == STOPPED
    stores = sorted(path.name.partition("-")[0] for path in (tmp_path / "run" / WINDOWS_FOLDER).iterdir())
    assert stores == ["train", "validation"]
    with monkeypatch.context() as patch:
        patch.setattr(SceneWindows, "stacks_from", None)
        assert run(output=tmp_path / "run", num_workers=1, **settings) == 0
    assert_equal_runs(tmp_path / "run", tmp_path / "undisturbed")
    assert not (tmp_path / "run" / WINDOWS_FOLDER).exists()


def test_a_cache_folder_in_the_folder_of_the_run_is_refused(tmp_path: Path) -> None:
    for cache in (tmp_path / "run", tmp_path / "run" / "cache"):
        with pytest.raises(ValueError, match=r"lies in --output .*, which is for this run alone; leave it out"):
            finetune_config(task="paddy_rice", data=tmp_path, output=tmp_path / "run", cache_folder=cache)


def test_runs_share_a_cache_folder_and_leave_it(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Path(shutil.copytree(scenes, tmp_path / "scenes"))
    settings = SETTINGS | UNET | {"data": data, "cache_folder": tmp_path / "windows"}
    run(output=tmp_path / "one", **settings)
    before = sorted(path.name for path in (tmp_path / "windows").iterdir())
    assert len(before) == 2
    with monkeypatch.context() as patch:
        patch.setattr(SceneWindows, "stacks_from", None)
        run(output=tmp_path / "two", **(settings | {"seed": 1, "override.frames": 3}))
    run(output=tmp_path / "three", **(settings | {"override.window_px": 64}))
    assert len(list((tmp_path / "windows").iterdir())) == 4
    assert not (tmp_path / "one" / WINDOWS_FOLDER).exists()
    run(output=tmp_path / "without", **{name: value for name, value in settings.items() if name != "cache_folder"})
    assert_equal_runs(tmp_path / "one", tmp_path / "without")


def test_what_shows_only_in_images_is_said_when_the_windows_are_stored(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same folder then takes a run that is right, which uses the windows."""
    settings = words(**SETTINGS, data=scenes, output=tmp_path / "run", encoder="unet")
    monkeypatch.setattr("finetune.data.normalization.DARKEST_MEAN", 0.9)
    assert code_of_run(settings) == 2
    assert "a reflectance of" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == [WINDOWS_FOLDER]
    monkeypatch.undo()
    monkeypatch.setattr(SceneWindows, "stacks_from", None)
    assert code_of_run(settings) == 0


@pytest.mark.parametrize("model", [SWIN, UNET])
def test_bf16_is_near_fp32_and_recorded(model: dict[str, Any], scenes: Path, tmp_path: Path) -> None:
    losses, kinds = {}, []
    known = loop.autocast

    def note(*arguments: Any) -> Any:
        kinds.append(arguments[1])
        return known(*arguments)

    for precision in ("fp32", "bf16", "auto"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "autocast", note)
            run(data=scenes, output=tmp_path / precision, **SETTINGS, **model, **{"training.precision": precision})
        losses[precision] = [
            epoch["loss"] for epoch in json.loads((tmp_path / precision / "metrics.json").read_text())["history"]
        ]
        weights = load_file(tmp_path / precision / "model.safetensors")
        assert {weight.dtype for weight in weights.values()} <= {torch.float32, torch.int64}
    assert set(kinds) == {"fp32", "bf16"}
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)
    assert losses["bf16"] != losses["fp32"]
    assert_equal_runs(tmp_path / "auto", tmp_path / "fp32")
    recorded = [json.loads((tmp_path / name / "run.json").read_text())["precision"] for name in ("fp32", "bf16", "auto")]
    assert recorded == ["fp32", "bf16", "fp32"], "auto is fp32 on CPUs"
    with pytest.raises(ValueError, match=r"other settings \(precision\); .*--training.precision of that run is bf16"):
        run(data=scenes, output=tmp_path / "bf16", **SETTINGS, **model)


def test_channels_last_is_the_same_to_rounding(scenes: Path, tmp_path: Path) -> None:
    layouts = []
    forward = Trainer.forward

    def note(trainer: Trainer, batch: WindowBatch) -> torch.Tensor:
        weights = [w for w in trainer.model.parameters() if w.ndim == 4 and w.shape[1] > 1 and w.shape[-1] > 1]
        layouts.append(all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights))
        return forward(trainer, batch)

    for name, channels_last in (("plain", None), ("last", True)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trainer, "forward", note)
            run(data=scenes, output=tmp_path / name, **SETTINGS, **UNET, **{"training.channels_last": channels_last})
    assert layouts == [False] * 4 + [True] * 4
    assert losses_of(tmp_path / "last") == pytest.approx(losses_of(tmp_path / "plain"), rel=1e-3)


def test_options_that_have_no_effect_are_refused() -> None:
    known = {"task": "paddy_rice", "data": Path("scenes"), "output": Path("run")}
    with pytest.raises(ValueError, match=r"--training.compile .* --encoder unet has none"):
        finetune_config(**known, **UNET, **{"training.compile": True})
    with pytest.raises(ValueError, match=r"--training.channels_last has an effect with --encoder unet only"):
        finetune_config(**known, **SWIN, **{"training.channels_last": True})
    with pytest.raises(ValueError, match="--num_workers is -1; expected 0"):
        finetune_config(**known, num_workers=-1)


def test_the_share_of_time_that_was_waited_is_logged(scenes: Path, tmp_path: Path) -> None:
    run(data=scenes, output=tmp_path / "run", **SETTINGS, **UNET)
    shares = [point.value for point in EventAccumulator(str(tmp_path / "run")).Reload().Scalars("train/waited_for_data")]
    assert len(shares) == 2
    assert all(0 < share < 1 for share in shares)


def test_code_that_computes_something_else_is_not_used(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the compiler: what stands for compiled blocks gives another loss."""
    compiled = []

    def other(encoder: VideoSwin) -> None:
        compiled.append(encoder)
        with torch.no_grad():  # not a scale alone, to which the decoder's batch normalisation is blind
            for weight in encoder.parameters():
                weight.add_(0.1 * torch.randn_like(weight))

    settings = SETTINGS | SWIN | {"training.compile": True, "data": scenes}
    monkeypatch.setattr(VideoSwin, "compile_blocks", other)
    with pytest.raises(ValueError, match=r"compiled and eager loss differ by .*; train without --training.compile"):
        run(output=tmp_path / "run", **settings)
    assert len(compiled) == 1
    monkeypatch.setattr(VideoSwin, "compile_blocks", lambda encoder: compiled.append(encoder))
    run(output=tmp_path / "same", **settings)
    assert len(compiled) == 3, "copy and model"
    run(output=tmp_path / "plain", **(settings | {"training.compile": False}))
    assert_equal_runs(tmp_path / "same", tmp_path / "plain")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_training_is_near_eager_training(
    precision: str, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SETTINGS | SWIN | {"data": scenes, "training.precision": precision}
    for name, is_compiled in (("eager", False), ("compiled", True)):
        run(output=tmp_path / name, **settings, **{"training.compile": is_compiled})
    assert capsys.readouterr().out.count("compiled and eager loss differ by ") == 1
    bound = 0.1 if precision == "bf16" else 1e-3
    assert losses_of(tmp_path / "compiled") == pytest.approx(losses_of(tmp_path / "eager"), rel=bound)
