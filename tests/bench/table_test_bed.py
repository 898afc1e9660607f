"""Make the table of the test bed: pretrain on both of its corpora, fine-tune, and put the two settings side by side.

    python tests/bench/make_test_bed.py --output bed/
    python tests/bench/table_test_bed.py --bed bed/ --output bed/table

Setting `same` has landscapes in the climates of the test in its pretraining, `held_out` has none. What needs no pretraining is
run once, for both. Started again, it resumes, and keeps what has finished; it takes ten hours on two cores.
"""

from __future__ import annotations

import shutil
import sys
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
        comparison = output / setting
        for baseline in BASELINES:  # the runs of the first setting
            for finished in sorted((output / settings[0]).glob(f"*/{baseline}")):
                copy = comparison / finished.relative_to(output / settings[0])
                if not copy.exists():
                    shutil.copytree(finished, copy)
        command = ["finetune/compare.py", "--tasks", *TASKS, "--data", bed / "scenes" / scenes, "--output", comparison]
        for name, checkpoint in checkpoints.items():
            command += [f"--checkpoints.{name}", checkpoint]
        command += ["--encoders", *encoders, "--label_fraction", *label_fraction, "--seeds", seeds, "--jobs", jobs]
        command += ["--run.training.batch_size", 4, "--run.training.epochs", 4, "--run.overlap", 0, "--run.maps", "false"]
        for fraction in label_fraction:
            command += [f"--only.{in_percent(fraction)}.training.steps", STEPS[fraction]]
        command += ["--only.unet.decoder.channels", 16, "--only.temporal_cnn.decoder.channels", 16]
        command += ["--only.scratch.decoder.kind", "map", "--run.augmentation.shift_days", SHIFT_DAYS]
        command += ["--run.training.learning_rate", RATE]
        for baseline in ("scratch", "unet", "temporal_cnn"):
            command += [f"--only.{baseline}.training.learning_rate", RATE_FROM_SCRATCH]
        run_steps(
            [
                *(
                    (f"pretrain: {name}, {setting}", _pretraining(bed / "corpus" / setting, name, run))
                    for name, run in checkpoints.items()
                ),
                (f"compare: {setting}", [PYTHON, *map(str, command)]),
            ]
        )
    joined = [str(output / setting) for setting in settings]
    join = [PYTHON, "finetune/join_comparisons.py", "--comparisons", *joined, "--output", str(output / "joined")]
    run_steps([("join", join)])


def _pretraining(corpus: Path, objective: str, output: Path) -> list[str]:
    """The command that pretrains the tiny encoder; all cores share a batch of 16 samples."""
    steps = PRETRAINING_STEPS
    options = ["--num_steps", steps, "--validate_every", steps // 2, "--save_every", steps // 4, "--log_every", 20]
    options += ["--stream.num_workers", 0, "--stream.num_frames", 12, "--stream.global_batch_size", 16]
    options += ["--stream.frame_draw", "stratified", "--objective.predict", objective]
    options += ["--objective.groupings.glc_fcs30d", "glc_fcs30d_fine"]
    return pretraining("pretrain/configs/tiny.yaml", corpus, output, *map(str, options))


if __name__ == "__main__":
    run_command(table_test_bed)
