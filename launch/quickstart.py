"""The whole pipeline on simulated scenes: `make quickstart`. Started again, it resumes or shows the results."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from tabulate import tabulate

from launch.steps import PYTHON, pretraining, run_steps

TASK = "cropland"
FEW = 0.03
# Thirty-five landscapes for training, five for validation, five for test, each split in climates of its own.
SIZE = ("--sentinel2_px", "192", "--landsat_px", "64")
SCENES = ("--world", "context", "--sources", "sentinel2", "--regions", "45", *SIZE, "--seed", "0")
STEPS = ("--num_steps", "200", "--stream.global_batch_size", "16", "--validate_every", "100", "--save_every", "50")
FINE_CLASSES = ("--objective.groupings.glc_fcs30d", "glc_fcs30d_fine")
ENCODERS = {
    "pretrained": "pretrained on land cover",
    "scratch": "the same, random weights",
    "unet": "U-Net",
    "random_forest": "random forest",
}


def main() -> None:
    """Simulate, shard, verify, pretrain, fine-tune beside three baselines with few and all labels, map; print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=lambda text: Path(text).resolve(), default=Path("quickstart").resolve())
    output = parser.parse_args().output
    begin = time.monotonic()
    scenes, corpus, run, comparison = output / "scenes", output / "corpus", output / "runs" / "tiny", output / "comparison"
    run_steps(
        [
            ("simulate scenes", [PYTHON, "data_prep/simulate.py", "--output", str(scenes), *SCENES]),
            ("shard", [PYTHON, "data_prep/shard.py", "--input", str(scenes), "--output", str(corpus), "--workers", "2"]),
            ("verify", [PYTHON, "data_prep/verify.py", str(corpus)]),
            (
                "pretrain on land-cover maps, two ranks, ZeRO-1",
                pretraining("pretrain/configs/tiny.yaml", corpus, run, "--objective.predict", "map", *FINE_CLASSES, *STEPS),
            ),
            (f"fine-tune for {TASK}, with few labels and with all, and map", comparing(scenes, run, comparison)),
        ]
    )
    results = json.loads((comparison / "comparison.json").read_text())["runs"]
    validation = json.loads((run / "metrics.json").read_text())["validation"]["sentinel2"]
    print("\n" + tabulate(table(results), headers="keys", floatfmt=".1f"))
    errors = f"fraction error {validation['mae']:.4f}, {validation['mae_of_mean']:.4f} by predicting the mean"
    print(f"pretraining, in other climates: {errors}; map accuracy {validation['map_accuracy']:.3f}")
    maps = comparison / TASK / "pretrained" / f"{FEW:g}" / "seed_0" / "run" / "maps"
    print(
        f"\nmaps:        {maps}\ncomparison:  {comparison / 'comparison.md'}\nTensorBoard: tensorboard --logdir {output / 'runs'}"
    )
    print(f"took {(time.monotonic() - begin) / 60:.1f} minutes")


def comparing(scenes: Path, checkpoint: Path, output: Path) -> list[str]:
    """The command that fine-tunes and maps, two runs at a time."""
    command = [PYTHON, "finetune/compare.py", "--tasks", TASK, "--data", str(scenes), "--output", str(output), "--jobs", "2"]
    command += ["--checkpoint", str(checkpoint), "--encoders", *ENCODERS, "--label_fraction", str(FEW), "1.0", "--seeds", "1"]
    # As many steps for all; validation after every third of them.
    command += ["--run.training.steps", "90", "--run.training.epochs", "3", "--run.training.batch_size", "4"]
    command += ["--run.overlap", "0", "--only.unet.decoder.channels", "16", "--only.scratch.decoder.kind", "map"]
    return [*command, "--only.pretrained.maps", "true"]


def table(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of F1 in percent for each encoder, with few labels and with all."""
    windows = {run["label_fraction"]: run["metrics"]["training"]["windows"] for run in runs}
    titles = {fraction: f"{windows[fraction]} labelled windows" for fraction in sorted(windows)}
    rows = []
    for encoder, title in ENCODERS.items():
        row: dict[str, Any] = {f"{TASK}, F1 on test landscapes in %": title}
        for fraction, column in titles.items():
            scores = [run["metrics"]["score"]["value"] for run in runs if run["encoder"] == encoder]
            fractions = [run["label_fraction"] for run in runs if run["encoder"] == encoder]
            row[column] = 100 * scores[fractions.index(fraction)]
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
