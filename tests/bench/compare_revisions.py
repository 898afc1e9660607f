"""Whether steps of pretraining on a CPU are as fast as at an earlier revision, and compute the same.

    python tests/bench/compare_revisions.py --output tests/bench/results/revisions.json

The files of both revisions are unpacked into folders of their own, and a process of each takes one step in turn, in an order that
changes from round to round. Ratios are of neighbouring steps.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2])]

from tabulate import tabulate  # noqa: E402
from tqdm import tqdm  # noqa: E402

from common.command_line import run_command  # noqa: E402
from launch.steps import PYTHON, ROOT  # noqa: E402
from tests.bench.report import write_report  # noqa: E402
from tests.bench.training_steps import SHAPES  # noqa: E402

BEFORE_KERNELS = "8b1c955"  # the last revision in which attention had one home, on CPUs and GPUs alike
STEPS = Path(__file__).with_name("training_steps.py")


def compare_revisions(
    base: str = BEFORE_KERNELS,
    revision: str = "HEAD",
    output: Path | None = None,
    rounds: int = 21,
    threads: int = 1,
) -> None:
    """Time the steps of two revisions in turn.

    Args:
        base: the earlier revision, as git names it; the default is the last one before there were kernels for GPUs.
        revision: the later one.
        output: JSON file to write; default: print only.
        rounds: steps of each source and revision that count; one more before them does not.
        threads: threads of each process.
    """
    with tempfile.TemporaryDirectory() as temporary:
        workers = {name: _worker(name, Path(temporary) / str(number), threads) for number, name in enumerate((base, revision))}
        try:
            results = {source: _compared(source, workers, base, revision, rounds) for source in SHAPES}
        finally:
            for worker in workers.values():
                worker.stdin.close()  # type: ignore[union-attr]
                worker.wait()
    columns = ["source", "seconds before", "seconds now", "now / before", "quartiles", "largest difference of the loss"]
    print(tabulate([[source, *found.values()] for source, found in results.items()], columns))
    write_report(output, ["torch"], {"base": base, "rounds": rounds, "threads": threads, "results": results})


def _worker(revision: str, folder: Path, threads: int) -> subprocess.Popen[str]:
    """A process that takes steps in the files of a revision."""
    folder.mkdir()
    archive = subprocess.run(["git", "archive", revision], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x"], cwd=folder, input=archive.stdout, check=True)
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": str(threads)}
    command = [PYTHON, "-c", STEPS.read_text()]  # and not the file, whose folder would be searched first
    return subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _step(worker: subprocess.Popen[str], source: str) -> dict[str, float]:
    """Seconds and loss of a step."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(f"{source}\n")
    worker.stdin.flush()
    return json.loads(worker.stdout.readline())  # type: ignore[no-any-return]


def _compared(source: str, workers: dict[str, subprocess.Popen[str]], base: str, revision: str, rounds: int) -> dict[str, Any]:
    """Medians of seconds and of their ratios."""
    pairs = []
    for number in tqdm(range(rounds + 1), desc=source, unit="round"):
        order = [base, revision] if number % 2 else [revision, base]
        taken = {name: _step(workers[name], source) for name in order}
        pairs.append((taken[base], taken[revision]))
    ratios = [now["seconds"] / before["seconds"] for before, now in pairs[1:]]
    return {
        "before_s": round(statistics.median(before["seconds"] for before, _ in pairs[1:]), 3),
        "now_s": round(statistics.median(now["seconds"] for _, now in pairs[1:]), 3),
        "ratio": round(statistics.median(ratios), 3),
        "quartiles": [round(q, 3) for q in statistics.quantiles(ratios, n=4)[::2]],
        "loss_difference": max(abs(before["loss"] - now["loss"]) for before, now in pairs),
    }


if __name__ == "__main__":
    run_command(compare_revisions)
