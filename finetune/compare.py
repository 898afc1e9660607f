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
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.command import as_arguments, parse, run_command
from data_prep.durable import whole_file
from finetune import run as one_run
from finetune.checkpoint import fingerprint
from finetune.comparison import Outcome, TaskComparison, markdown, share
from finetune.learning_curves import learning_curves
from finetune.metrics import percent
from finetune.task import Task, load_task
from finetune.train import write_json
from pretrain.model import load_encoder

Encoder = Literal["pretrained", "frozen", "lora", "scratch", "unet", "temporal_cnn"]
OF_A_CHECKPOINT = ("pretrained", "frozen", "lora")
ALL_ENCODERS: list[Encoder] = ["pretrained", "scratch", "unet", "temporal_cnn"]
# What the comparison itself says to run.py.
OURS = ("task", "data", "output", "checkpoint", "tune", "label_fraction", "min_steps", "seed")
LOG, FINISHED = "log.txt", "finished.json"
POLL_S = 0.2
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
        data: folder of scenes; scene.yaml says in which split each is.
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


class Options:
    """What run.py is told of each task and encoder.

    Attributes:
        weights: fingerprint of the checkpoint.

    Raises ValueError for an encoder without the checkpoint that it needs, and for options that are the comparison's own.
    """

    def __init__(
        self,
        checkpoint: Path | None,
        encoders: Sequence[str],
        tasks: Sequence[str],
        everywhere: dict[str, Any],
        only: dict[str, dict[str, Any]],
    ) -> None:
        pretrained = [encoder for encoder in encoders if encoder in OF_A_CHECKPOINT]
        if pretrained and checkpoint is None:
            raise ValueError(f"--encoders {', '.join(pretrained)} need a --checkpoint")
        stray = sorted(set(only) - set(encoders) - set(tasks))
        if stray:
            raise ValueError(f"--only names {', '.join(stray)}; expected one of {', '.join([*encoders, *tasks])}")
        ours = sorted({name for options in (everywhere, *only.values()) for name in options} & set(OURS))
        if ours:
            raise ValueError(f"--run and --only must leave {', '.join(ours)} to the comparison's own options")
        self.weights = fingerprint(checkpoint)
        self._checkpoint = checkpoint
        self._shape = load_encoder(checkpoint).config.to_dict() if checkpoint and "scratch" in encoders else None
        self._everywhere, self._only = everywhere, only

    def of(self, task: str, encoder: str) -> dict[str, Any]:
        """Options of run.py; those of a task or an encoder win over those of all, an encoder's over a task's."""
        model: dict[str, Any]
        if encoder == "scratch":
            model = {"encoder": self._shape}
        elif encoder in OF_A_CHECKPOINT:
            model = {"checkpoint": str(self._checkpoint), "tune": "full" if encoder == "pretrained" else encoder}
        else:
            model = {"encoder": encoder}
        return {"maps": False} | model | self._everywhere | self._only.get(task, {}) | self._only.get(encoder, {})


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One combination: its place, what run.py is told, and the fingerprint of the checkpoint that it starts from."""

    task: Task
    encoder: str
    label_fraction: float
    seed: int
    folder: Path
    options: dict[str, Any]
    weights: str | None

    @property
    def name(self) -> str:
        """The run for people."""
        return f"{self.task.name}, {self.encoder}, {share(self.label_fraction)} of the labels, seed {self.seed}"

    @property
    def arguments(self) -> list[str]:
        """The command line of run.py."""
        return as_arguments(self.options | {"output": str(self.folder / "run")})

    @property
    def identity(self) -> dict[str, Any]:
        """Equal for runs that would give the same scores; plain values for JSON."""
        known = {"options": self.options, "task": self.task.to_dict(), "weights": self.weights}
        return dict(json.loads(json.dumps(known)))

    def outcome(self, error: str | None = "not run yet") -> Outcome:
        """What is known of the run: its scores if this very run has finished, else `error`."""
        missing = Outcome(
            task=self.task.name,
            title=self.task.title,
            encoder=self.encoder,
            label_fraction=self.label_fraction,
            seed=self.seed,
            error=error,
        )
        path = self.folder / FINISHED
        finished = json.loads(path.read_text()) if path.is_file() else {}
        metrics = self.folder / "run" / one_run.METRICS_FILE
        if finished.get("identity") != self.identity or not metrics.is_file():
            return missing
        return replace(missing, metrics=json.loads(metrics.read_text()), seconds=finished["seconds"], error=None)


def work_off(waiting: Sequence[Run], jobs: int) -> Generator[tuple[Run, str | None]]:
    """Run all, so many at a time; yields each as it ends, with why it failed or None. When left early, what runs is ended."""
    rest = list(waiting)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # tqdm's bars go into the log: a line of them each half minute is enough.
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, cores // jobs)), "TQDM_MININTERVAL": "30"}
    running: dict[subprocess.Popen[bytes], tuple[Run, float]] = {}
    try:
        while rest or running:
            while rest and len(running) < jobs:
                one = rest.pop(0)
                one.folder.mkdir(parents=True, exist_ok=True)
                command = [sys.executable, str(Path(one_run.__file__).resolve()), *one.arguments]
                with (one.folder / LOG).open("ab") as log:
                    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
                running[process] = one, time.monotonic()
            for process in [process for process in running if process.poll() is not None]:
                one, begin = running.pop(process)
                if process.returncode == 0:
                    write_json(one.folder / FINISHED, {"identity": one.identity, "seconds": time.monotonic() - begin})
                    yield one, None
                else:
                    yield one, why(process.returncode, one.folder / LOG)
            time.sleep(POLL_S)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def why(code: int, log: Path) -> str:
    """The last line that a failed process printed, or the signal that killed it."""
    if code < 0:
        return f"killed by signal {-code} ({signal.Signals(-code).name})"
    lines = [line.strip() for line in re.split(r"[\r\n]", log.read_text(errors="replace")) if line.strip()]
    return lines[-1] if lines else f"exit code {code}"


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
