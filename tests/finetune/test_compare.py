"""The comparison of encoders: its numbers, its document and picture, and its runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import finetune.comparison.runs as comparison_runs
from common.command_line import run_command
from finetune.compare import compare
from finetune.comparison.curves import learning_curves
from finetune.comparison.runs import why
from finetune.comparison.summary import PUBLISHED, Outcome, TaskComparison, cell_of, markdown, standard_error
from finetune.task import TASKS
from pretrain.model import EncoderConfig, build_encoder, save_encoder
from tests.support.rice_scenes import write_rice_scene

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / "tests" / "support" / "stand_in_run.py"
TRAINING = {"windows": 3, "of_windows": 60, "pixels": {"a": 1000, "b": 234}, "steps": 200}


def outcomes(scores: dict[tuple[str, float], list[float | None]], task: str = "cropland") -> list[Outcome]:
    """One outcome a score and seed; None has failed."""
    found = []
    for (encoder, fraction), values in scores.items():
        for seed, value in enumerate(values):
            metrics = {"score": {"name": "cropland F1", "value": value}, "training": TRAINING}
            done: dict[str, Any] = {"error": "disk full"} if value is None else {"metrics": metrics, "seconds": 1.0}
            found.append(Outcome(task=task, title=task.title(), encoder=encoder, label_fraction=fraction, seed=seed, **done))
    return found


PRETRAINED, SCRATCH = np.array([0.81, 0.84, 0.86]), np.array([0.79, 0.83, 0.80])
SCORES: dict[tuple[str, float], list[float | None]] = {
    ("pretrained", 1.0): PRETRAINED.tolist(),
    ("pretrained", 0.05): [0.5, None, 0.6],
    ("scratch", 1.0): SCRATCH.tolist(),
    ("scratch", 0.05): [None, None, None],
    ("unet", 1.0): [0.9, 0.9, 0.9],
    ("unet", 0.05): [0.4, 0.7, 0.3],
}


def test_numbers_are_those_of_numpy_and_scipy() -> None:
    comparison = TaskComparison(outcomes(SCORES))
    cell = comparison.cell("pretrained", 1.0)
    assert (cell.mean, cell.deviation) == pytest.approx((PRETRAINED.mean(), PRETRAINED.std(ddof=1)))
    gain = comparison.gain("scratch", 1.0)
    assert gain.mean == pytest.approx(np.mean(PRETRAINED - SCRATCH))
    assert standard_error(gain) == pytest.approx(stats.sem(PRETRAINED - SCRATCH))
    assert gain.mean / standard_error(gain) == pytest.approx(stats.ttest_rel(PRETRAINED, SCRATCH).statistic)
    # Pairs of the same seed alone: seeds 0 and 2 have both.
    few = comparison.gain("unet", 0.05)
    assert (few.mean, few.count) == (pytest.approx(np.mean([0.1, 0.3])), 2)
    assert np.isnan(comparison.gain("scratch", 0.05).mean)
    assert np.isnan(cell_of([0.5]).deviation)
    rows = comparison.to_dict()["pretrained_minus"]
    assert [row for row in rows if row["encoder"] == "unet"][1]["mean"] == pytest.approx(np.mean(PRETRAINED - 0.9))


def rows_of(document: str) -> dict[str, list[str]]:
    """Cells of all tables by the first one; a later row replaces an earlier one of the same name."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in document.splitlines() if line.startswith("|")]
    return {cells[0]: cells[1:] for cells in lines}


def test_document_shows_means_labels_differences_and_what_is_missing() -> None:
    document = markdown([TaskComparison(outcomes(SCORES))], outcomes(SCORES), "comparison.png")
    rows = rows_of(document)
    assert rows["pretrained"] == ["55.00 ± 7.07 [2 of 3]", "83.67 ± 2.52"]
    assert rows["from scratch"] == ["missing", "80.67 ± 2.08"]
    assert rows["minus from scratch"] == ["missing", "+3.00 (1.53)"]
    assert rows["minus U-Net"] == ["+20.00 (10.00) [2 of 3]", "-6.33 (1.45)"]
    assert rows["*training windows*"] == ["3 of 60", "3 of 60"]
    assert rows["*labelled pixels*"] == ["1,234", "1,234"]
    assert rows["AgriFM"] == ["5 %", "74.27"]  # the last of the published figures of cropland
    assert "not comparable: other data, other size" in document
    assert "## Missing: 4 of 18 runs" in document
    assert document.count("disk full") == 4
    assert "from 4.3 standard errors" in document  # Student's t with two degrees of freedom, of any table


def test_published_figures_are_of_known_tasks() -> None:
    import yaml

    assert set(yaml.safe_load(PUBLISHED.read_text())) <= {path.stem for path in TASKS.glob("*.yaml")}


def test_picture_has_a_line_an_encoder_and_a_dot_a_seed() -> None:
    pair = [TaskComparison(outcomes(SCORES)), TaskComparison(outcomes(SCORES, "lulc"))]
    figure = learning_curves(pair)
    panel = figure.axes[0]
    assert [axes.get_title() for axes in figure.axes] == ["Cropland", "Lulc"]
    lines = {line.get_label(): line for line in panel.lines}
    assert list(lines) == ["pretrained", "from scratch", "U-Net"]
    np.testing.assert_allclose(lines["U-Net"].get_xydata(), [[0.05, 100 * 1.4 / 3], [1.0, 90]])
    assert panel.get_xscale() == "log"
    assert [label.get_text() for label in panel.get_xticklabels()] == ["5 %", "100 %"]
    full = {key: values for key, values in SCORES.items() if key[1] == 1.0}
    (panel,) = learning_curves([TaskComparison(outcomes(full))]).axes
    assert sorted(np.concatenate([line.get_xdata() for line in panel.lines[::2]]).tolist()) == pytest.approx(
        sorted(100 * value for values in full.values() for value in values if value)
    )


def test_why_is_the_error_and_not_the_bar_after_it() -> None:
    assert why(2, b"1/4\rerror: no label\n 3/4\r") == "error: no label"
    assert why(1, b"Traceback:\n  x\ntorch.OutOfMemoryError: of memory\n4/4") == "torch.OutOfMemoryError: of memory"
    assert why(3, b"a\nb\n\n") == "b"
    assert why(3, b"") == "exit code 3"
    assert why(-9, b"x") == "killed by signal 9 (SIGKILL)"


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the stand-in for run.py is told to do; runs started are in plan.starts."""
    monkeypatch.setattr(comparison_runs, "RUN", STAND_IN)
    monkeypatch.setattr(comparison_runs, "POLL_S", 0.01)
    monkeypatch.setenv("PLAN", str(tmp_path / "plan.json"))
    (tmp_path / "plan.json").write_text("{}")
    return tmp_path / "plan.json"


def starts(plan: Path) -> list[str]:
    return plan.with_suffix(".starts").read_text().splitlines()


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    known = {"tasks": ["paddy_rice"], "data": folder, "output": folder / "out", "encoders": ["unet", "temporal_cnn"]}
    return known | {"label_fraction": [1.0, 0.1], "seeds": 2, "jobs": 2} | changes


def test_finished_runs_are_taken_and_others_are_run(plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(**settings(tmp_path, seeds=1)) == 0
    assert len(starts(plan)) == 4
    assert compare(**settings(tmp_path)) == 0
    assert len(starts(plan)) == 8
    assert compare(**settings(tmp_path)) == 0
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
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 10_000
    assert (tmp_path / "out" / "paddy_rice" / "unet" / "0.1" / "seed_1" / "log.txt").is_file()
    # Other options are another run.
    compare(**settings(tmp_path, only={"unet": {"epochs": 3}}))
    assert [line.split()[2] for line in starts(plan)[8:]] == ["unet"] * 4


def test_cores_are_shared_among_jobs(plan: Path, tmp_path: Path) -> None:
    compare(**settings(tmp_path, seeds=1, jobs=1))
    compare(**settings(tmp_path, seeds=1, jobs=1000, output=tmp_path / "other"))
    assert [line.split()[1] for line in starts(plan)] == [str(len(os.sched_getaffinity(0)))] * 4 + ["1"] * 4


def test_a_failed_run_is_named_and_the_others_go_on(plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan.write_text(json.dumps({"unet seed 0": "fail"}))
    assert compare(**settings(tmp_path)) == 1
    errors = capsys.readouterr().err
    assert "failed: paddy_rice, unet, 10 % of the labels, seed 0: error: the label of scene b is upside down (" in errors
    assert len(starts(plan)) == 8
    document = (tmp_path / "out" / "comparison.md").read_text()
    assert rows_of(document)["U-Net"] == ["82.00 [1 of 2]", "91.00 [1 of 2]"]
    assert "## Missing: 2 of 8 runs" in document
    plan.write_text("{}")
    assert compare(**settings(tmp_path)) == 0
    assert sorted(line.split(maxsplit=2)[2] for line in starts(plan)[8:]) == ["unet seed 0 0.1", "unet seed 0 1.0"]
    assert "Missing" not in (tmp_path / "out" / "comparison.md").read_text()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_ends_its_children_and_goes_on_later(plan: Path, tmp_path: Path, how: signal.Signals) -> None:
    plan.write_text(json.dumps({"temporal_cnn seed 0": "sleep"}))
    code = (
        "import sys, pathlib, finetune.comparison.runs as runs, finetune.compare as c, common.command_line as d\n"
        f"runs.RUN = pathlib.Path({str(STAND_IN)!r})\nd.run_command(c.compare)"
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
    assert process.returncode == 130
    assert "start again with the same arguments" in errors
    sleeping = [int(line.split()[0]) for line in starts(plan) if "cnn" in line]
    assert len(sleeping) == 2
    assert not any(Path(f"/proc/{child}").exists() for child in sleeping)
    assert "not run yet" in (tmp_path / "out" / "comparison.md").read_text()
    assert len(starts(plan)) == 4  # two ended, two slept
    plan.write_text("{}")
    assert compare(**settings(tmp_path)) == 0
    assert len(starts(plan)) == 10


BAD_INPUT = [
    (["--tasks", "paddy_rize"], "unknown task 'paddy_rize', did you mean paddy_rice?"),
    (["--tasks", "paddy_rice", "paddy_rice"], "--tasks is ['paddy_rice', 'paddy_rice']; expected at least one, each once"),
    (["--encoders", "unett"], "Got value: unett"),
    (["--encoders", "pretrained", "frozen", "unet"], "--encoders pretrained, frozen need a --checkpoint"),
    (["--label_fraction", "0"], "--label_fraction [0.0] above 0 and at most 1"),
    (["--seeds", "0"], "--seeds 0 and --jobs 1 must be at least 1"),
    (["--run.epochz", "3"], "did you mean epochs?"),
    (["--run.seed", "3"], "must leave seed to the comparison's own options"),
    (["--only.unnet", "{epochs: 3}"], "--only names unnet; expected one of unet, paddy_rice"),
    (["--checkpoint", "nowhere"], "no encoder at"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUT)
def test_bad_input_is_one_line_before_any_run(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    known = ["--tasks", "paddy_rice", "--encoders", "unet", "--data", str(tmp_path), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stopped:
        run_command(compare, [*known, *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not plan.with_suffix(".starts").exists()


def test_what_each_encoder_is_told(tmp_path: Path) -> None:
    small = EncoderConfig(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 3, 3), sources={"landsat": 6})
    save_encoder(build_encoder(small), tmp_path / "encoder.safetensors")
    encoders = ["pretrained", "frozen", "lora", "scratch", "unet"]
    only = {"pretrained": {"learning_rate": 3e-4}, "cropland": {"epochs": 7, "learning_rate": 1e-4}}
    options = comparison_runs.Options(tmp_path / "encoder.safetensors", encoders, ["cropland"], {"epochs": 5}, only)
    told = {encoder: options.of("cropland", encoder) for encoder in encoders}
    assert [told[encoder].get("tune") for encoder in encoders] == ["full", "frozen", "lora", None, None]
    assert ["checkpoint" in told[encoder] for encoder in encoders] == [True, True, True, False, False]
    assert told["scratch"]["encoder"] == small.to_dict()
    assert (told["pretrained"]["learning_rate"], told["unet"]["learning_rate"]) == (3e-4, 1e-4)
    assert {told[encoder]["epochs"] for encoder in encoders} == {7}
    assert options.of("lulc", "unet")["epochs"] == 5


def test_real_runs_on_small_scenes(tmp_path: Path) -> None:
    for seed, (name, split, side) in enumerate([("a", "train", 128), ("b", "validation", 64), ("c", "test", 64)]):
        write_rice_scene(tmp_path / "scenes" / name, split, side=side, seed=seed, frames=6, field=16)
    small = EncoderConfig(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 3, 3))
    save_encoder(
        build_encoder(EncoderConfig(**(vars(small) | {"sources": {"landsat": 6, "modis": 7}}))), tmp_path / "encoder.safetensors"
    )
    code = compare(
        tasks=["paddy_rice"],
        data=tmp_path / "scenes",
        output=tmp_path / "out",
        checkpoint=tmp_path / "encoder.safetensors",
        encoders=["pretrained", "scratch"],
        label_fraction=[0.25],
        seeds=1,
        min_steps=2,
        run={"epochs": 1, "frames": 4, "batch_size": 2, "decoder_channels": 4},
        jobs=2,
    )
    assert code == 0
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
    assert "U-Net" not in (tmp_path / "out" / "comparison.md").read_text()
