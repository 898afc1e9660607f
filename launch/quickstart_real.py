"""The pipeline on real Sentinel-2 and Landsat series: `make quickstart-real`. Started again, it resumes or shows the results."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from tabulate import tabulate

from data_prep.corpus.dataset import load_corpus
from launch.steps import PYTHON, ROOT, pretraining, run_steps

# About thirteen epochs over the 45 samples of each source; half a minute on two cores.
OVERRIDES = ("--num_steps", "72", "--save_every", "36", "--log_every", "2", "--stream.global_batch_size", "8")


def main() -> None:
    """Fetch, shard, verify, draw samples, pretrain on both sources; print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=lambda text: Path(text).resolve(), default=Path("quickstart-real").resolve())
    output = parser.parse_args().output
    begin = time.monotonic()
    scenes, corpus, run, picture = output / "scenes", output / "corpus", output / "runs" / "real", output / "samples.png"
    downloads = ROOT / "downloads"
    run_steps(
        [
            (
                "fetch Sentinel-2 of Romania, Landsat of Colorado",
                [PYTHON, "data_prep/fetch_real.py", "--output", str(scenes), "--downloads", str(downloads)],
            ),
            ("shard", [PYTHON, "data_prep/shard.py", "--input", str(scenes), "--output", str(corpus), "--workers", "2"]),
            ("verify", [PYTHON, "data_prep/verify.py", str(corpus)]),
            ("draw samples", [PYTHON, "data_prep/quicklook.py", str(corpus), "--output", str(picture)]),
            ("pretrain, two ranks, ZeRO-1", pretraining("pretrain/configs/tiny.yaml", corpus, run, *OVERRIDES)),
        ]
    )
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
    print(f"\nsamples:     {picture}\nTensorBoard: tensorboard --logdir {run.parent}")
    print(f"took {(time.monotonic() - begin) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
