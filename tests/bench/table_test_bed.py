"""Make the table of the test bed: pretrain on both of its corpora, fine-tune, and put the two settings side by side.

    python tests/bench/make_test_bed.py --output bed/
    python tests/bench/table_test_bed.py --bed bed/ --output bed/table

To choose by, on the landscapes for tuning:

    python tests/bench/table_test_bed.py --bed bed/ --output tune/ --scenes tuning --settings same --label_fraction 0.05 --seeds 3

Setting `same` has landscapes in the climates of the test in its pretraining, `held_out` has none. What needs no pretraining is
run once, for both. Started again, it resumes, and keeps what has finished; it takes 30 hours on two cores.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2])]

from common.command_line import run_command  # noqa: E402
from finetune.comparison.run_options import in_percent  # noqa: E402
from launch.steps import PYTHON, pretraining, run_steps  # noqa: E402

TASKS = sorted((Path(__file__).parent / "test_bed").glob("*.yaml"))
SETTINGS = ("same", "held_out")
OBJECTIVES = ("map", "fractions")
BASELINES = ("scratch", "unet", "temporal_cnn", "random_forest")
PRETRAINING_STEPS = 1600
# The best of 5e-4, 1e-3 and 3e-3 for each encoder, and of 0 and 20 days for all, on the landscapes for tuning.
RATE, RATE_FROM_SCRATCH, SHIFT_DAYS = 1e-3, 3e-3, 20
# As many steps for every encoder; more labels take longer. Validation after each quarter of them.
STEPS = {0.01: 100, 0.05: 100, 0.1: 100, 1.0: 300}


def table_test_bed(
    bed: Path,
    output: Path,
    scenes: str = "finetuning",
    settings: list[str] = list(SETTINGS),  # noqa: B006
    label_fraction: list[float] = list(STEPS),  # noqa: B006
    encoders: list[str] = ["pretrained", *BASELINES],  # noqa: B006
    seeds: int = 5,
    jobs: int = 2,
) -> None:
    """Pretrain, compare, and join the comparisons.

    Args:
        bed: folder that make_test_bed.py has written.
        output: folder of the pretraining runs, of one comparison for each setting, and of the joined table.
        scenes: folder of scenes in the bed: finetuning for the table, tuning for choices.
        settings: same, held_out.
        label_fraction: shares of the labels.
        encoders: those of finetune/compare.py.
        seeds: draws of labelled windows.
        jobs: runs at a time.
    """
    unknown = sorted(set(label_fraction) - set(STEPS))
    if unknown:
        raise ValueError(f"--label_fraction has {unknown}; expected some of {', '.join(map(str, STEPS))}")
    for setting in settings:
        checkpoints = {objective: output / "pretraining" / f"{objective}_{setting}" for objective in OBJECTIVES}
        comparison_folder = output / setting
        for baseline in BASELINES:  # the runs of the first setting
            for finished in sorted((output / settings[0]).glob(f"*/{baseline}")):
                copy = comparison_folder / finished.relative_to(output / settings[0])
                if not copy.exists():
                    shutil.copytree(finished, copy)
        command = comparison(bed / "scenes" / scenes, checkpoints, encoders, label_fraction, seeds, jobs, comparison_folder)
        run_steps(
            [
                *(
                    (f"pretrain: {name}, {setting}", pretraining_of(bed / "corpus" / setting, name, run, PRETRAINING_STEPS))
                    for name, run in checkpoints.items()
                ),
                (f"compare: {setting}", command),
            ]
        )
    joined = [str(output / setting) for setting in settings]
    join = [PYTHON, "finetune/join_comparisons.py", "--comparisons", *joined, "--output", str(output / "joined")]
    run_steps([("join", join)])


def comparison(
    scenes: Path,
    checkpoints: Mapping[str, Path],
    encoders: list[str],
    label_fraction: list[float],
    seeds: int,
    jobs: int,
    output: Path,
) -> list[str]:
    """The command that fine-tunes checkpoints and trains baselines on the six tasks."""
    command = ["finetune/compare.py", "--tasks", *TASKS, "--data", scenes, "--output", output]
    for name, checkpoint in checkpoints.items():
        command += [f"--checkpoints.{name}", checkpoint]
    command += ["--encoders", *encoders, "--label_fraction", *label_fraction, "--seeds", seeds, "--jobs", jobs]
    command += ["--run.training.batch_size", 4, "--run.training.epochs", 4, "--run.overlap", 0, "--run.maps", "false"]
    for fraction in label_fraction:
        command += [f"--only.{in_percent(fraction)}.training.steps", STEPS[fraction]]
    command += ["--run.augmentation.shift_days", SHIFT_DAYS, "--run.training.learning_rate", RATE]
    if "scratch" in encoders:
        command += ["--only.scratch.decoder.kind", "map"]
    for baseline in ("unet", "temporal_cnn"):
        command += [f"--only.{baseline}.decoder.channels", 16] if baseline in encoders else []
    for baseline in ("scratch", "unet", "temporal_cnn"):
        command += [f"--only.{baseline}.training.learning_rate", RATE_FROM_SCRATCH] if baseline in encoders else []
    return [PYTHON, *map(str, command)]


def pretraining_of(corpus: Path, objective: str, output: Path, steps: int, *more: object) -> list[str]:
    """The command that pretrains the tiny encoder; all cores share a batch of 16 samples. `more`: options that come last."""
    options = ["--num_steps", steps, "--validate_every", steps // 2, "--save_every", steps // 4, "--log_every", 20]
    options += ["--stream.num_workers", 0, "--stream.num_frames", 12, "--stream.global_batch_size", 16]
    options += ["--stream.frame_draw", "stratified", "--objective.predict", objective]
    options += ["--objective.groupings.glc_fcs30d", "glc_fcs30d_fine"]
    return pretraining("pretrain/configs/tiny.yaml", corpus, output, *map(str, [*options, *more]))


if __name__ == "__main__":
    run_command(table_test_bed)
