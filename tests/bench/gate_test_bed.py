"""Check that labels are worth something on the test bed: the random forest with 5 % of them against all.

    python tests/bench/gate_test_bed.py --data bed/scenes/tuning --output bed/gate
    python tests/bench/gate_test_bed.py --data bed/scenes/tuning --output bed/gate --encoders random_forest unet

The runs are those of finetune/compare.py, which keeps finished ones. The exit code is 0 when, on most tasks, the score
of the forest with few labels is below `MOST_SHARE` of its score with all.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import mean

sys.path[:0] = [str(Path(__file__).parents[2])]

from tabulate import tabulate  # noqa: E402

from common.command_line import run_command  # noqa: E402

ROOT = Path(__file__).parents[2]
BED = Path(__file__).parent / "test_bed"
TASKS = sorted(path.stem for path in BED.glob("*.yaml"))
FEW = 0.05
MOST_SHARE = 0.70


def gate_test_bed(
    data: Path,
    output: Path,
    tasks: list[str] = TASKS,
    encoders: list[str] = ["random_forest"],  # noqa: B006
    seeds: int = 3,
    jobs: int = 1,
) -> int:
    """Compare few labels with all, and print the ratio for each task.

    Args:
        data: scenes of the bed; choices are made on scenes/tuning.
        output: folder of the comparison.
        tasks: names of tasks of the bed.
        encoders: random_forest, and others of finetune/compare.py that need no checkpoint.
        seeds: number of seeds.
        jobs: runs at a time.
    """
    command = [
        sys.executable,
        "finetune/compare.py",
        "--tasks",
        *(str(BED / f"{task}.yaml") for task in tasks),
        "--data",
        str(data.resolve()),
    ]
    command += ["--output", str(output.resolve()), "--encoders", *encoders, "--label_fraction", str(FEW), "1.0"]
    command += ["--seeds", str(seeds), "--jobs", str(jobs), "--run.maps", "false", "--run.overlap", "0"]
    subprocess.run(command, check=True, cwd=ROOT)
    runs = json.loads((output / "comparison.json").read_text())["runs"]
    rows = [_row(task, runs, encoders) for task in tasks]
    print(tabulate(rows, headers="keys", floatfmt=".2f"))
    passed = sum(row["forest, few / all"] < MOST_SHARE for row in rows)
    print(f"{passed} of {len(rows)} tasks are below {MOST_SHARE}")
    return 0 if passed > len(rows) / 2 else 1


def _row(task: str, runs: list[dict], encoders: list[str]) -> dict[str, object]:
    """Mean scores of a task in percent, and the ratio of the forest's."""

    def score(encoder: str, fraction: float) -> float:
        chosen = [run for run in runs if (run["task"], run["encoder"], run["label_fraction"]) == (task, encoder, fraction)]
        return mean(run["metrics"]["score"]["value"] for run in chosen)

    scores = {f"{encoder} {fraction:.0%}": 100 * score(encoder, fraction) for encoder in encoders for fraction in (FEW, 1.0)}
    return {"task": task, **scores, "forest, few / all": score("random_forest", FEW) / score("random_forest", 1.0)}


if __name__ == "__main__":
    run_command(gate_test_bed)
