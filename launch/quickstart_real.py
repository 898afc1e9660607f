"""The pipeline on real Sentinel-2 and Landsat series: `make quickstart-real`. Started again, it resumes or shows the results."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from data_prep.corpus.dataset import load_corpus
from launch.steps import PYTHON, ROOT, pretraining, run_steps

# About thirteen epochs over the 45 samples of each source; half a minute on two cores.
OVERRIDES = ("--num_steps", "72", "--save_every", "36", "--log_every", "2", "--stream.global_batch_size", "8")
# Scenes with the target class of their task, the side of the blocks that divide their labels, and the draw of these blocks, which
# gives every split every class.
MAPPED = {"romania": ("clearing", 170, 2), "colorado": ("forest", 300, 0)}
MAPPING_STEPS = 150


def main() -> None:
    """Fetch, shard, verify, draw samples, pretrain on both sources; map each scene by labels drawn by hand; print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=lambda text: Path(text).resolve(), default=Path("quickstart-real").resolve())
    output = parser.parse_args().output
    begin = time.monotonic()
    scenes, corpus, run, picture = output / "scenes", output / "corpus", output / "runs" / "real", output / "samples.png"
    downloads = ROOT / "downloads"
    steps = [
        (
            "fetch Sentinel-2 of Romania, Landsat of Colorado",
            [PYTHON, "data_prep/fetch_real.py", "--output", str(scenes), "--downloads", str(downloads)],
        ),
        ("shard", [PYTHON, "data_prep/shard.py", "--input", str(scenes), "--output", str(corpus), "--workers", "2"]),
        ("verify", [PYTHON, "data_prep/verify.py", str(corpus)]),
        ("draw samples", [PYTHON, "data_prep/quicklook.py", str(corpus), "--output", str(picture)]),
        ("pretrain, two ranks, ZeRO-1", pretraining("pretrain/configs/tiny.yaml", corpus, run, *OVERRIDES)),
        ("draw the labels", [PYTHON, *map(str, _drawing(scenes, output))]),
    ]
    for name in MAPPED:
        steps += [(title, [PYTHON, *map(str, command)]) for title, command in _mapping(name, scenes / name, run, output)]
    run_steps(steps)
    _print_pretraining(corpus, run)
    _print_maps(output)
    print(f"\nsamples:     {picture}\nlabels:      {output / 'labels'}\nmaps:        {output / 'maps'}")
    print(f"in a browser: agrifm view {output / 'runs' / 'romania'}\nTensorBoard: tensorboard --logdir {run.parent}")
    print(f"took {(time.monotonic() - begin) / 60:.1f} minutes")


def _drawing(scenes: Path, output: Path) -> list[Any]:
    """The command that draws the labels over the images."""
    return ["data_prep/labels.py", "--input", scenes, "--label", "cover", "--output", output / "labels"]


def _mapping(name: str, scene: Path, checkpoint: Path, output: Path) -> list[tuple[str, list[Any]]]:
    """The commands from the labels of a scene to its map, outlines and areas, with their titles."""
    target, side_m, draw = MAPPED[name]
    run, maps = output / "runs" / name, output / "maps"
    maps.mkdir(parents=True, exist_ok=True)
    training = ["--training.steps", MAPPING_STEPS, "--training.epochs", 5, "--split_blocks.side_m", side_m]
    training += ["--split_blocks.seed", draw, "--checkpoint", checkpoint, "--output", run]
    prediction = ["--model", run, "--input", scene, "--output", maps / f"{name}.tif", "--polygons", target]
    return [
        (f"fine-tune, {name}", ["finetune/run.py", "--task", scene / "task.yaml", "--data", scene, *training]),
        (f"map and outlines, {name}", ["finetune/predict.py", *prediction]),
        (f"areas, {name}", ["finetune/areas.py", "--map", maps / f"{name}.tif", "--output", output / "areas" / name]),
    ]


def _print_pretraining(corpus: Path, run: Path) -> None:
    """Print the errors of the first and of the last steps of pretraining."""
    loaded = load_corpus(corpus)
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = []
    for source, sensor in loaded.sensors.items():
        samples = loaded.samples(source, "train")
        fractions = np.stack([loaded.legends[sample.legend].fractions(np.array(sample.land_cover)) for sample in samples])
        of_mean = np.abs(fractions - fractions.mean(axis=0)).mean()
        losses = [step[f"loss/{source}"] for step in steps if f"loss/{source}" in step]
        quarter = max(1, len(losses) // 4)
        rows.append([sensor.title, len(samples), np.mean(losses[:quarter]), np.mean(losses[-quarter:]), of_mean])
    header = ["fraction error in training", "samples", "first quarter", "last quarter", "of predicting the mean"]
    print("\n" + tabulate(rows, header, floatfmt=".4f"))
    print(
        "Each source has one place, which leaves none for validation: this shows that real data work, not how good the model is."
    )


def _print_maps(output: Path) -> None:
    """Print the scores of the maps by the labels that were drawn by hand."""
    rows = []
    for name in MAPPED:
        found = json.loads((output / "runs" / name / "metrics.json").read_text())["test"]
        rows += [[name, cover, values["pixels"], 100 * values["f1"]] for cover, values in found["classes"].items()]
    print("\n" + tabulate(rows, ["scene", "class", "test pixels", "F1 %"], floatfmt=".1f"))
    print("Labels were drawn by hand, from these images, where the class is plain to see: scores say that the way works.")


if __name__ == "__main__":
    main()
