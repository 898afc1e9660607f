"""The whole pipeline on simulated scenes: `make quickstart`. Run again, it continues or shows the result."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from tabulate import tabulate

from launch.steps import PYTHON, pretraining, run_steps


def main() -> None:
    """Simulate, shard, verify, pretrain, fine-tune paddy rice from the checkpoint and from scratch, map, and a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=lambda text: Path(text).resolve(), default=Path("quickstart").resolve())
    output = parser.parse_args().output
    begin = time.monotonic()
    scenes, corpus, runs = output / "scenes", output / "corpus", output / "runs"
    # Many small landscapes teach more than a few large ones. Small chips, too: their fractions differ more from the mean.
    size = ["--regions", "21", "--landsat_px", "256", "--sentinel2_px", "240"]
    chips = ["--chip_px.sentinel2", "32", "--chip_px.landsat", "32", "--chip_px.modis", "4"]
    rice = ["finetune/run.py", "--task", "paddy_rice", "--data", str(scenes), "--epochs", "8"]
    run_steps(
        [
            ("simulate scenes", [PYTHON, "data_prep/simulate.py", "--output", str(scenes), "--seed", "0", *size]),
            ("shard", [PYTHON, "data_prep/shard.py", "--input", str(scenes), "--output", str(corpus), "--workers", "2", *chips]),
            ("verify", [PYTHON, "data_prep/verify.py", str(corpus)]),
            ("pretrain, two ranks, ZeRO-2", pretraining("pretrain/configs/tiny.yaml", corpus, runs / "tiny")),
            (
                "fine-tune paddy rice from the checkpoint",
                [PYTHON, *rice, "--checkpoint", str(runs / "tiny"), "--output", str(runs / "paddy_rice")],
            ),
            ("fine-tune paddy rice from scratch", [PYTHON, *rice, "--output", str(runs / "paddy_rice_scratch")]),
        ]
    )
    rows = []
    for source, scores in json.loads((runs / "tiny/metrics.json").read_text())["validation"].items():
        rows.append([f"fraction error, {source}", scores["mae"], f"{scores['mae_of_mean']:.4f} by predicting the mean"])
    pretrained, scratch = (
        json.loads((runs / run / "metrics.json").read_text())["score"]["value"] for run in ("paddy_rice", "paddy_rice_scratch")
    )
    rows.append(["paddy rice F1, test region", pretrained, f"{scratch:.4f} from scratch"])
    print("\n" + tabulate(rows, headers=["result", "pretrained", "compare with"], floatfmt=".4f"))
    print(f"\nmap:         {', '.join(str(p) for p in sorted((runs / 'paddy_rice' / 'maps').iterdir()))}")
    print(f"TensorBoard: tensorboard --logdir {runs}")
    print(f"took {(time.monotonic() - begin) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
