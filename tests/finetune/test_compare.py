"""The command that compares encoders: its runs, and what it does when they fail or are interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from common.command_line import as_arguments, run_command
from common.exit_codes import STOPPED
from finetune.compare import compare
from finetune.comparison import processes
from finetune.comparison.config import CompareConfig
from finetune.comparison.runs import planned_runs
from finetune.config import RENAMED_OPTIONS
from finetune.join_comparisons import join_comparisons
from pretrain.model import EncoderConfig, build_encoder, save_encoder
from tests.support.comparison_outcomes import rows_of
from tests.support.point_tables import simulate_points, write_points, write_task
from tests.support.rice_scenes import write_label, write_rice_scene, write_split_scenes

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / "tests" / "support" / "stand_in_run.py"


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Instructions for the stand-in for run.py; it notes in plan.starts which runs were started."""
    monkeypatch.setattr(processes, "RUN_SCRIPT", STAND_IN)
    monkeypatch.setattr(processes, "POLL_S", 0.01)
    monkeypatch.setenv("PLAN", str(tmp_path / "plan.json"))
    (tmp_path / "plan.json").write_text("{}")
    return tmp_path / "plan.json"


def starts(plan: Path) -> list[str]:
    return plan.with_suffix(".starts").read_text().splitlines()


def config(folder: Path, **changes: Any) -> CompareConfig:
    known = {"tasks": ["paddy_rice"], "data": folder, "output": folder / "out", "encoders": ["unet", "temporal_cnn"]}
    return CompareConfig(**(known | {"label_fraction": [1.0, 0.1], "seeds": 2, "jobs": 2} | changes))


def test_finished_runs_are_taken_and_others_are_run(plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(config(tmp_path, seeds=1)) == 0
    assert len(starts(plan)) == 4
    assert compare(config(tmp_path)) == 0
    assert len(starts(plan)) == 8
    assert compare(config(tmp_path)) == 0
    assert len(starts(plan)) == 8
    assert "8 runs, 8 of them finished before" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    expected = [0.8 + 0.1, 0.8 + 0.1 + 0.01]
    cell = next(c for c in content["tasks"]["paddy_rice"]["cells"] if (c["encoder"], c["label_fraction"]) == ("unet", 1.0))
    assert (cell["mean"], cell["standard_deviation"]) == pytest.approx((np.mean(expected), np.std(expected, ddof=1)))
    assert len(content["runs"]) == 8
    assert content["settings"]["seeds"] == 2
    assert {"machine", "versions", "date"} <= set(content)
    assert rows_of((tmp_path / "out" / "comparison.md").read_text())["*training windows*"] == ["10 of 100", "100 of 100"]
    height, width, _ = matplotlib.image.imread(tmp_path / "out" / "comparison.png").shape
    assert min(height, width) > 300  # tests/finetune/comparison/test_curves.py says what it shows
    assert (tmp_path / "out" / "paddy_rice" / "unet" / "0.1" / "seed_1" / "log.txt").is_file()
    # Other options are another run.
    compare(config(tmp_path, only={"unet": {"training.epochs": 3}}))
    assert [line.split()[2] for line in starts(plan)[8:]] == ["unet"] * 4


def test_finished_runs_of_other_data_or_settings_do_not_count(tmp_path: Path) -> None:
    """Their scores would stand beside those of new runs, as if nothing had changed."""
    write_split_scenes(tmp_path / "scenes")
    wanted = config(tmp_path / "scenes", output=tmp_path / "out", encoders=["unet"], label_fraction=[1.0], seeds=1)

    def outcome() -> str | None:
        (run,) = planned_runs(wanted)
        return run.outcome().error

    (run,) = planned_runs(wanted)
    assert run.settings is not None
    (run.folder / "run").mkdir(parents=True)
    (run.folder / "run" / "metrics.json").write_text("{}")
    (run.folder / "finished.json").write_text(json.dumps({"identity": run.identity, "seconds": 1}))
    for name, value in (("precision", "bf16"), ("seed", 0)):
        (run.folder / "run" / "run.json").write_text(json.dumps(run.settings | {name: value}))
        assert outcome() is None, "the precision is that of the machine"
    for name, value in (("learning_rate", 0.5), ("data_sha256", "of other labels")):
        (run.folder / "run" / "run.json").write_text(json.dumps(run.settings | {name: value}))
        assert outcome() == "not run yet"
    (run.folder / "run" / "run.json").write_text(json.dumps(run.settings))
    assert outcome() is None
    write_label(tmp_path / "scenes" / "a" / "crop_type.tif", np.ones((64, 64), int))
    assert outcome() == "not run yet"
    assert planned_runs(wanted)[0].outcome(None).error == "ended, but its folder holds no scores of these data and settings"


def test_runs_on_a_table_are_recognised_whatever_they_are_compared_with(tmp_path: Path) -> None:
    """A baseline reads single pixels, an encoder repeats them to fill a patch."""
    write_task(tmp_path)
    table = write_points(tmp_path, simulate_points())
    encoders = ["scratch", "random_forest", "temporal_cnn"]
    task = str(tmp_path / "task.yaml")
    together = planned_runs(config(table, tasks=[task], encoders=encoders, seeds=1, label_fraction=[1.0]))
    for name, run in zip(encoders, together, strict=True):
        (alone,) = planned_runs(config(table, tasks=[task], encoders=[name], seeds=1, label_fraction=[1.0]))
        assert run.settings == alone.settings
        assert run.settings is not None
    assert len({json.dumps(run.settings, sort_keys=True, default=str) for run in together}) == 3


def test_cores_are_shared_among_jobs(plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    compare(config(tmp_path, seeds=1, jobs=1))
    compare(config(tmp_path, seeds=1, jobs=1000, output=tmp_path / "other"))
    assert [line.split()[1] for line in starts(plan)] == [str(len(os.sched_getaffinity(0)))] * 4 + ["1"] * 4


def test_a_failed_run_is_named_and_the_others_go_on(plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan.write_text(json.dumps({"unet seed 0": "fail"}))
    assert compare(config(tmp_path)) == 1
    errors = capsys.readouterr().err
    assert "failed: paddy_rice, unet, 10 % of the labels, seed 0: error: the label of scene b is upside down (" in errors
    assert len(starts(plan)) == 8
    document = (tmp_path / "out" / "comparison.md").read_text()
    assert rows_of(document)["U-Net"] == ["82.00 [1 of 2]", "91.00 [1 of 2]"]
    assert "## Missing: 2 of 8 runs" in document
    plan.write_text("{}")
    assert compare(config(tmp_path)) == 0
    assert sorted(line.split(maxsplit=2)[2] for line in starts(plan)[8:]) == ["unet seed 0 0.1", "unet seed 0 1.0"]
    assert "Missing" not in (tmp_path / "out" / "comparison.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_ends_its_children_and_goes_on_later(plan: Path, tmp_path: Path, how: signal.Signals) -> None:
    plan.write_text(json.dumps({"temporal_cnn seed 0": "sleep"}))
    code = (
        "import pathlib, finetune.comparison.processes as p, finetune.compare as c, common.command_line as d\n"
        f"p.RUN_SCRIPT = pathlib.Path({str(STAND_IN)!r})\nd.run_command(c.compare, config_class=c.CompareConfig)"
    )
    arguments = ["--tasks", "paddy_rice", "--data", str(tmp_path), "--output", str(tmp_path / "out"), "--jobs", "2"]
    arguments += ["--encoders", "unet", "temporal_cnn", "--label-fraction", "0.1", "1.0", "--seeds", "2"]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    last = time.monotonic() + 60
    # Two sleep, and both unets have ended: their places are taken by nobody while two sleep.
    while time.monotonic() < last and (not plan.with_suffix(".starts").exists() or sum("cnn" in s for s in starts(plan)) < 2):
        time.sleep(0.05)
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == STOPPED
    assert "start again with the same arguments" in errors
    sleeping = [int(line.split()[0]) for line in starts(plan) if "cnn" in line]
    assert len(sleeping) == 2
    assert not any(Path(f"/proc/{child}").exists() for child in sleeping)
    assert "not run yet" in (tmp_path / "out" / "comparison.md").read_text()
    assert len(starts(plan)) == 4  # two ended, two slept
    plan.write_text("{}")
    assert compare(config(tmp_path)) == 0
    assert len(starts(plan)) == 10


BAD_INPUT = [
    (["--tasks", "paddy_rize"], "unknown task 'paddy_rize', did you mean paddy_rice?"),
    (["--tasks", "paddy_rice", "paddy_rice"], "--tasks is ['paddy_rice', 'paddy_rice']; expected at least one, each once"),
    (["--encoders", "unett"], "--encoders names unett, which is unknown; did you mean unet?"),
    (["--encoders", "pretrained", "frozen", "unet"], "--encoders pretrained, frozen need a --checkpoint"),
    (["--label_fraction", "0"], "--label_fraction [0.0] above 0 and at most 1"),
    (["--seeds", "0"], "--seeds 0 and --jobs 1 must be at least 1"),
    (["--run.epochz", "3"], "did you mean training.epochs?"),
    (["--run.tune", "lora"], "must leave tuning.mode to the comparison's own options"),
    (["--run.epochs", "3", "--run.training.epochs", "4"], "epochs was renamed to training.epochs, and both are given"),
    (["--run.seed", "3"], "must leave seed to the comparison's own options"),
    (["--only.unnet", "{training.epochs: 3}"], "--only names unnet; expected one of unet, paddy_rice"),
    (["--checkpoint", "nowhere"], "no encoder at"),
    (["--checkpoints.map", "nowhere"], "no encoder at"),
    (["--checkpoints.map", "a", "--checkpoint", "b"], "--checkpoint and --checkpoints are both given"),
    (["--reference", "scratch"], "--reference is scratch; expected one of unet"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUT)
def test_bad_input_is_one_line_before_any_run(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    known = ["--tasks", "paddy_rice", "--encoders", "unet", "--data", str(tmp_path), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stopped:
        run_command(compare, [*known, *arguments], config_class=CompareConfig)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not plan.with_suffix(".starts").exists()


def test_runs_survive_a_kill_of_the_process_that_starts_them(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process that starts the runs is killed: its run has failed, and others get another process."""
    plan.write_text(json.dumps({"unet seed 0": "kill parent"}))
    assert compare(config(tmp_path, jobs=1, label_fraction=[1.0])) == 1
    assert "failed: paddy_rice, unet, 100 % of the labels, seed 0: killed by signal 9 (SIGKILL)" in capsys.readouterr().err
    assert len(starts(plan)) == 4


@pytest.mark.usefixtures("plan")
def test_checkpoints_of_finished_runs_are_removed(tmp_path: Path) -> None:
    run = tmp_path / "out" / "paddy_rice" / "unet" / "1" / "seed_0" / "run"
    run.mkdir(parents=True)
    for name in ("last_epoch.pt", "previous_epoch.pt", "model.safetensors"):
        (run / name).write_text("")
    assert compare(config(tmp_path, encoders=["unet"], label_fraction=[1.0], seeds=1)) == 0
    assert sorted(path.name for path in run.iterdir()) == ["metrics.json", "model.safetensors"]


@pytest.mark.usefixtures("plan")
def test_several_comparisons_in_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("same", "held_out"):
        chosen = config(tmp_path, reference="unet", label_fraction=[1.0], output=tmp_path / name)
        assert compare(chosen) == 0
    join_comparisons([tmp_path / "same", tmp_path / "held_out"], tmp_path / "joined", ["same", "held out"])
    document = capsys.readouterr().out.split("# Comparison of encoders: same, held out")[1]
    assert rows_of(document)["minus temporal CNN"] == ["+10.0 (1 above, 0 below of 1)"] * 2
    assert {path.name for path in (tmp_path / "joined").iterdir()} == {"comparison.md", "comparison_differences.png"}
    with pytest.raises(ValueError, match=r"--titles are \['same'\] for --comparisons .*; expected one for each"):
        join_comparisons([tmp_path / "same", tmp_path / "held_out"], tmp_path / "joined", ["same"])
    (tmp_path / "same" / "comparison.json").write_text('{"runs": [{"score": 1}]}')
    with pytest.raises(ValueError, match=r"does not hold the runs of a comparison as this version writes them"):
        join_comparisons([tmp_path / "same"], tmp_path / "joined")


@pytest.mark.slow
def test_real_runs_on_small_scenes(tmp_path: Path) -> None:
    for seed, (name, split, side) in enumerate([("a", "train", 128), ("b", "validation", 64), ("c", "test", 64)]):
        write_rice_scene(tmp_path / "scenes" / name, split, side=side, seed=seed, frames=6, field=16)
    small = EncoderConfig(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 3, 3))
    save_encoder(
        build_encoder(EncoderConfig(**(vars(small) | {"sources": {"landsat": 6, "modis": 7}}))), tmp_path / "encoder.safetensors"
    )
    runs = {"training.epochs": 1, "override.frames": 4, "training.batch_size": 2, "decoder.channels": 4}
    chosen = CompareConfig(
        tasks=["paddy_rice"],
        data=tmp_path / "scenes",
        output=tmp_path / "out",
        checkpoint=tmp_path / "encoder.safetensors",
        encoders=["pretrained", "scratch"],
        label_fraction=[0.25],
        seeds=1,
        min_steps=2,
        run=runs,
        jobs=2,
    )
    assert compare(chosen) == 0
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    pretrained, scratch = content["runs"]
    assert pretrained["metrics"]["training"] == scratch["metrics"]["training"]
    assert pretrained["metrics"]["training"]["windows"] == 1
    assert pretrained["metrics"]["training"]["steps"] == 2
    for run in (pretrained, scratch):
        folder = tmp_path / "out" / "paddy_rice" / run["encoder"] / "0.25" / "seed_0" / "run"
        assert json.loads((folder / "metrics.json").read_text()) == run["metrics"]
        assert json.loads((folder / "run.json").read_text())["label_fraction"] == 0.25
    assert scratch["metrics"]["encoder"] == "scratch"
    # A run inside a comparison gives what finetune/run.py gives alone.
    planned = next(run for run in planned_runs(chosen) if run.encoder == "pretrained")
    alone = as_arguments(planned.options | {"output": str(tmp_path / "alone")})
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // 2))}
    subprocess.run([sys.executable, str(processes.RUN_SCRIPT), *alone], env=environment, check=True)
    assert json.loads((tmp_path / "alone" / "metrics.json").read_text()) == pretrained["metrics"]
    assert "U-Net" not in (tmp_path / "out" / "comparison.md").read_text()


def test_runs_recorded_with_old_names_of_options_are_finished(plan: Path, tmp_path: Path) -> None:
    chosen = config(tmp_path, encoders=["unet"], label_fraction=[1.0], seeds=1, run={"training.epochs": 3, "decoder.channels": 8})
    assert compare(chosen) == 0
    (finished,) = (tmp_path / "out").rglob("finished.json")
    content = json.loads(finished.read_text())
    names = {new: old for old, new in RENAMED_OPTIONS.items()}
    content["identity"]["options"] = {names.get(name, name): value for name, value in content["identity"]["options"].items()}
    assert {"epochs", "decoder_channels", "min_steps"} <= content["identity"]["options"].keys()
    finished.write_text(json.dumps(content))
    assert compare(chosen) == 0
    assert len(starts(plan)) == 1
    content["identity"]["options"]["epochs"] = 4
    finished.write_text(json.dumps(content))
    assert compare(chosen) == 0
    assert len(starts(plan)) == 2
