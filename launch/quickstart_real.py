"""The pipeline on real Sentinel-2 and Landsat series: `make quickstart-real`. Run again, it continues or shows the result."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from steps import PYTHON, ROOT, pretraining, run_steps
from tabulate import tabulate

# Some three epochs of the 45 samples of each source: enough to see both losses fall, a minute on two cores.
OVERRIDES = ("--num_steps", "36", "--save_every", "12", "--log_every", "3", "--stream.global_batch_size", "8")


def main() -> None:
    """Fetch, shard, verify, draw samples, pretrain on both sources, and a table."""
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
            ("pretrain, 2 ranks, ZeRO-2", pretraining("pretrain/configs/tiny.yaml", corpus, run, *OVERRIDES)),
        ]
    )
    description = json.loads((corpus / "dataset.json").read_text())
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = []
    for source, entry in description["sources"].items():
        samples = sum(shard["samples"] for shard in description["shards"] if shard["source"] == source)
        losses = [step[f"loss/{source}"] for step in steps if f"loss/{source}" in step]
        rows.append([entry["sensor"]["title"], samples, " x ".join(map(str, entry["shape"])), losses[0], losses[-1]])
    header = ["source", "samples", "bands x rows x columns", "first loss", "last loss"]
    print("\n" + tabulate(rows, header, floatfmt=".4f"))
    print("loss: L1 of land, water and snow fractions on training samples; one place a source leaves none to validate on")
    print(f"\nsamples:     {picture}\nTensorBoard: tensorboard --logdir {run.parent}")
    print(f"took {(time.monotonic() - begin) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
