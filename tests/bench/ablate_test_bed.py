"""Change one thing of the pretraining at a time, on the test bed's landscapes for tuning, and put the results side by side.

    python tests/bench/make_test_bed.py --output bed/ --parts tuning
    python tests/bench/ablate_test_bed.py --bed bed/ --output bed/ablations

Each variant is pretrained for as many steps, and fine-tuned to the six tasks with 5 % of the labels. Started again, it resumes,
and keeps what has finished.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2])]

from table_test_bed import comparison, pretraining_of  # noqa: E402

from common.command_line import run_command  # noqa: E402
from launch.steps import run_steps  # noqa: E402

STEPS = 800
WIDE = ["--encoder.embed_dim", 48, "--encoder.num_heads", "[1,2,4,8]"]
VARIANTS: dict[str, list[object]] = {
    "base": [],
    "own_teacher_dates": ["--stream.teacher_dates", "own"],
    "no_consistency": ["--objective.consistency_weight", 0],
    "no_fractions": ["--objective.fractions_weight", 0],
    "coarse_legend": ["--objective.groupings.glc_fcs30d", "glc_fcs30d"],
    "random_frames": ["--stream.frame_draw", "random"],
    "wide": WIDE,
}


def ablate_test_bed(
    bed: Path,
    output: Path,
    variants: list[str] = list(VARIANTS),  # noqa: B006
    seeds: int = 2,
    jobs: int = 2,
) -> None:
    """Pretrain each variant, and compare them.

    Args:
        bed: folder that make_test_bed.py has written.
        output: folder of the pretraining runs and of the comparison.
        variants: which of them.
        seeds: draws of labelled windows.
        jobs: runs at a time.
    """
    unknown = sorted(set(variants) - set(VARIANTS))
    if unknown:
        raise ValueError(f"--variants has {unknown}; expected some of {', '.join(VARIANTS)}")
    runs = {name: output / "pretraining" / name for name in variants}
    corpus = bed / "corpus" / "same"
    steps = [(f"pretrain: {name}", pretraining_of(corpus, "map", run, STEPS, *VARIANTS[name])) for name, run in runs.items()]
    compare = comparison(bed / "scenes" / "tuning", runs, ["pretrained"], [0.05], seeds, jobs, output / "comparison")
    run_steps([*steps, ("compare", compare)])


if __name__ == "__main__":
    run_command(ablate_test_bed)
