"""Command: compare encoders on several tasks, with all or few of the labels, over seeds.

    python finetune/compare.py --tasks paddy_rice cropland --data scenes/ --checkpoint runs/tiny \
        --encoders pretrained scratch unet temporal_cnn --label_fraction 0.01 0.05 0.1 1.0 --seeds 3 --jobs 2 --output comparison/

Every combination is a run of `finetune/run.py` in a process of its own, in output/TASK/ENCODER/FRACTION/seed_N: `log.txt` is its
log, `run/` its output, without checkpoints once it has finished. comparison.json, .md and .png and comparison_differences.png are
written again while runs end. Started again, the comparison keeps finished runs, resumes interrupted ones and repeats failed ones.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from contextlib import closing
from typing import NoReturn

from tqdm import tqdm

from common.command_line import run_command
from common.exit_codes import STOPPED
from finetune.comparison.config import CompareConfig
from finetune.comparison.processes import run_in_processes
from finetune.comparison.result_files import DIFFERENCES, DOCUMENT, write_result_files
from finetune.comparison.runs import LOG, WINDOWS, planned_runs
from finetune.scoring.score_text import percent

WRITE_EVERY_S = 60.0  # the files of hundreds of runs take seconds


def compare(config: CompareConfig) -> int:
    """Run what is left of the comparison and write its results; returns the exit code."""
    runs, settings = planned_runs(config), config.settings()
    outcomes = {run: run.outcome() for run in runs}
    waiting = [run for run in runs if outcomes[run].error]
    finished = len(runs) - len(waiting)
    print(f"{len(runs)} runs, {finished} of them finished before")
    config.output.mkdir(parents=True, exist_ok=True)
    was_interrupted, last_written = False, -math.inf
    with tqdm(total=len(runs), initial=finished, desc="comparing", unit="run", smoothing=0) as bar:
        try:
            with closing(run_in_processes(waiting, config.jobs)) as ended_runs:
                for run, error in ended_runs:
                    outcomes[run] = outcome = run.outcome(error)
                    bar.write(f"{run.name}: {outcome.error or percent(outcome.score) + f' % in {outcome.seconds:.0f} s'}")
                    bar.update()
                    if time.monotonic() - last_written >= WRITE_EVERY_S:
                        write_result_files(config.output, list(outcomes.values()), settings)
                        last_written = time.monotonic()
        except KeyboardInterrupt:
            was_interrupted = True
    write_result_files(config.output, list(outcomes.values()), settings)
    if was_interrupted:
        print("interrupted; start again with the same arguments to resume", file=sys.stderr)
        return STOPPED
    failed = [run for run in runs if outcomes[run].error]
    if not failed:
        shutil.rmtree(config.output / WINDOWS, ignore_errors=True)
    for run in failed:
        print(f"failed: {run.name}: {outcomes[run].error} ({run.folder / LOG})", file=sys.stderr)
    print((config.output / DOCUMENT).read_text())
    print(f"{config.output / DOCUMENT}, .json and .png; {DIFFERENCES}")
    return 1 if failed else 0


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(compare, config_class=CompareConfig)


if __name__ == "__main__":
    main()
