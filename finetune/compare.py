"""Command: encoders side by side, on several tasks, with all the labels or few of them, over seeds.

    python finetune/compare.py --tasks paddy_rice cropland --data scenes/ --checkpoint runs/tiny \
        --encoders pretrained scratch unet temporal_cnn --label_fraction 0.01 0.05 0.1 1.0 --seeds 3 --jobs 2 --output comparison/

Every combination is a run of `finetune/run.py` in a process of its own, in output/TASK/ENCODER/FRACTION/seed_N: `log.txt` is what
it printed, `run/` its folder. comparison.json, .md and .png grow with every run that ends. Started again, finished runs are
taken, interrupted ones go on, failed ones are tried again.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.atomic_files import whole_file
from common.command_line import parse, run_command
from common.json_files import write_json
from finetune import run as one_run
from finetune.comparison.curves import learning_curves
from finetune.comparison.runs import LOG, OF_A_CHECKPOINT, Options, Run, work_off
from finetune.comparison.summary import Outcome, TaskComparison, markdown
from finetune.scoring.metrics import percent
from finetune.task import load_task

Encoder = Literal["pretrained", "frozen", "lora", "scratch", "unet", "temporal_cnn"]
ALL_ENCODERS: list[Encoder] = ["pretrained", "scratch", "unet", "temporal_cnn"]
INTERRUPTED = 130  # what a shell gives for Ctrl-C


def compare(
    tasks: list[str],
    data: Path,
    output: Path,
    checkpoint: Path | None = None,
    encoders: list[Encoder] = ALL_ENCODERS,
    label_fraction: list[float] = [1.0],  # noqa: B006
    seeds: int = 3,
    min_steps: int = 200,
    run: dict[str, Any] | None = None,
    only: dict[str, dict[str, Any]] | None = None,
    jobs: int = 1,
) -> int:
    """Compare encoders over tasks, shares of the labels and seeds: a table, differences by seed, learning curves.

    Args:
        tasks: tasks of finetune/tasks/, or paths of YAMLs like theirs.
        data: as for finetune/run.py: scenes, HDF5 samples, shards with labels, or FILE.py:CLASS.
        output: folder of all runs and of comparison.json, comparison.md, comparison.png.
        checkpoint: pretraining run, encoder.safetensors or AgriFM.pth, for pretrained, frozen and lora.
        encoders: pretrained (all of it learns), frozen (the decoder alone learns), lora, scratch (random weights in the
            checkpoint's shape), unet, temporal_cnn.
        label_fraction: shares of the training windows that are used; a smaller one's windows are part of a larger one's.
        seeds: seeds 0, 1, ... so many; each draws windows, weights and their order, the same windows for all encoders.
        min_steps: every run takes at least so many steps, passing over few windows as often as that needs, whatever the encoder.
        run: further options of finetune/run.py for every run: --run.epochs 30 --run.frames 12.
        only: the same for one encoder or one task: --only.pretrained '{learning_rate: 0.0003, layer_decay: 0.75}'.
        jobs: runs at a time; each takes its share of the cores.
    """
    settings = {name: value for name, value in locals().items() if name not in ("jobs", "output")}
    chosen = [load_task(task) for task in tasks]
    lists: dict[str, list[Any]] = {"tasks": [t.name for t in chosen], "encoders": encoders, "label_fraction": label_fraction}
    for name, values in lists.items():
        if not values or len(set(values)) < len(values):
            raise ValueError(f"--{name} is {values}; expected at least one, each once")
    if seeds < 1 or jobs < 1 or not all(0 < fraction <= 1 for fraction in label_fraction):
        raise ValueError(
            f"--seeds {seeds} and --jobs {jobs} must be at least 1, --label_fraction {label_fraction} above 0 and at most 1"
        )
    options = Options(checkpoint, encoders, [task.name for task in chosen], run or {}, only or {})
    runs = [
        Run(
            task=task,
            encoder=encoder,
            label_fraction=fraction,
            seed=seed,
            folder=output / task.name / encoder / f"{fraction:g}" / f"seed_{seed}",
            options={"task": name, "data": str(data), "label_fraction": fraction, "min_steps": min_steps, "seed": seed}
            | options.of(task.name, encoder),
            weights=options.weights if encoder in OF_A_CHECKPOINT else None,
        )
        for seed in range(seeds)  # first: after the first seed every cell has a number
        for name, task in zip(tasks, chosen, strict=True)
        for fraction in sorted(label_fraction)
        for encoder in encoders
    ]
    for one in {(r.task.name, r.encoder): r for r in runs}.values():
        parse(one_run.run, one.arguments)  # an option that run.py does not know ends it here

    outcomes = {one: one.outcome() for one in runs}
    waiting = [one for one in runs if outcomes[one].error]
    print(f"{len(runs)} runs, {len(runs) - len(waiting)} of them finished before")
    output.mkdir(parents=True, exist_ok=True)
    bar = tqdm(total=len(runs), initial=len(runs) - len(waiting), desc="comparing", unit="run", smoothing=0)
    code = 0
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with closing(work_off(waiting, jobs)) as ends:
            for ended, error in ends:
                outcomes[ended] = outcome = ended.outcome(error)
                bar.write(f"{ended.name}: {outcome.error or percent(outcome.score) + f' % in {outcome.seconds:.0f} s'}")
                bar.update()
                write_comparison(output, list(outcomes.values()), settings)
    except KeyboardInterrupt:
        code = INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, previous)
        bar.close()
    write_comparison(output, list(outcomes.values()), settings)
    if code == INTERRUPTED:
        print("interrupted; start again with the same arguments to go on", file=sys.stderr)
        return code
    failed = [one for one in runs if outcomes[one].error]
    for one in failed:
        print(f"failed: {one.name}: {outcomes[one].error} ({one.folder / LOG})", file=sys.stderr)
    print((output / "comparison.md").read_text())
    print(f"{output / 'comparison.md'}, .json and .png")
    return 1 if failed else 0


def write_comparison(output: Path, outcomes: Sequence[Outcome], settings: dict[str, Any]) -> None:
    """Write comparison.json, .md and .png."""
    comparisons = [TaskComparison([o for o in outcomes if o.task == name]) for name in dict.fromkeys(o.task for o in outcomes)]
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "system": platform.release()}
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    content = {
        "settings": json.loads(json.dumps(settings, default=str)),
        "machine": machine,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("torch", "numpy", "rasterio")}},
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "tasks": {comparison.task: comparison.to_dict() for comparison in comparisons},
        "runs": [asdict(outcome) for outcome in outcomes],
    }
    write_json(output / "comparison.json", content)
    with whole_file(output / "comparison.md") as temporary:
        temporary.write_text(markdown(comparisons, outcomes, "comparison.png"))
    with whole_file(output / "comparison.png") as temporary:
        learning_curves(comparisons).savefig(temporary, format="png")


def _interrupt(*_: Any) -> None:
    """A polite request to end is taken like Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    run_command(compare)
