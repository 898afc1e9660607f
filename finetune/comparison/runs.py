"""The runs of a comparison: their folders, options and results."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.command_line import as_arguments, parse
from finetune.comparison.config import CompareConfig, check_distinct
from finetune.comparison.run_options import RunOptions, dotted_options
from finetune.comparison.seed_statistics import Outcome
from finetune.comparison.titles import label_fraction_title
from finetune.config import FinetuneConfig
from finetune.run_folder import METRICS_FILE
from finetune.task import Task, load_task

LOG, FINISHED = "log.txt", "finished.json"
WINDOWS = ".windows"  # in the comparison's folder, beside those of tasks, until all runs have finished


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One run of finetune/run.py.

    Attributes:
        task, encoder, label_fraction, seed: identify the run.
        folder: its folder, with the log and, in run/, the output of run.py.
        options: options of run.py by dotted name.
        weights: fingerprint of the checkpoint that it starts from, or None.
        cache_folder: for its windows, which all runs of the comparison share; --run.cache_folder replaces it.
    """

    task: Task
    encoder: str
    label_fraction: float
    seed: int
    folder: Path
    cache_folder: Path
    options: dict[str, Any]
    weights: str | None

    @property
    def name(self) -> str:
        """The run in messages."""
        return f"{self.task.name}, {self.encoder}, {label_fraction_title(self.label_fraction)} of the labels, seed {self.seed}"

    @property
    def arguments(self) -> list[str]:
        """The command line of run.py."""
        return as_arguments({"cache_folder": str(self.cache_folder)} | self.options | {"output": str(self.folder / "run")})

    @property
    def identity(self) -> dict[str, Any]:
        """Plain values for JSON that are equal for runs that would give the same scores."""
        known = {"options": self.options, "task": self.task.to_dict(), "weights": self.weights}
        return dict(json.loads(json.dumps(known)))

    def outcome(self, error: str | None = "not run yet") -> Outcome:
        """The run's scores if its folder holds this very run, finished; otherwise `error`."""
        missing = Outcome(
            task=self.task.name,
            title=self.task.title,
            encoder=self.encoder,
            label_fraction=self.label_fraction,
            seed=self.seed,
            error=error,
        )
        finished, metrics = self.folder / FINISHED, self.folder / "run" / METRICS_FILE
        if not finished.is_file() or not metrics.is_file():
            return missing
        content = json.loads(finished.read_text())
        identity = content["identity"]
        # Runs on disk may have been recorded with old names of options.
        if identity | {"options": dotted_options(identity["options"])} != self.identity:
            return missing
        return replace(missing, metrics=json.loads(metrics.read_text()), seconds=content["seconds"], error=None)


def planned_runs(config: CompareConfig) -> list[Run]:
    """All runs of a comparison, in the order in which to run them.

    Raises ValueError for an unknown task, a missing checkpoint, and options that a run may not have. An option that run.py does
    not know ends the process with its message.
    """
    tasks = [load_task(task) for task in config.tasks]
    check_distinct("tasks", [task.name for task in tasks])
    options = RunOptions(config, [task.name for task in tasks])
    runs = [
        Run(
            task=task,
            encoder=encoder,
            label_fraction=fraction,
            seed=seed,
            folder=config.output / task.name / encoder / f"{fraction:g}" / f"seed_{seed}",
            cache_folder=config.output / WINDOWS,
            options=_without_idle_minimum(
                {
                    "task": name_or_path,
                    "data": str(config.data),
                    "label_fraction": fraction,
                    "training.min_steps": config.min_steps,
                    "seed": seed,
                }
                | options.of(task.name, encoder, fraction)
            ),
            weights=options.weights(encoder),
        )
        for seed in range(config.seeds)  # the outer loop: after the first seed every cell of the table has a number
        for name_or_path, task in zip(config.tasks, tasks, strict=True)
        for fraction in sorted(config.label_fraction)
        for encoder in config.compared_encoders
    ]
    for run in {(run.task.name, run.encoder, run.label_fraction): run for run in runs}.values():
        parse(FinetuneConfig, run.arguments, config_class=FinetuneConfig)
    return runs


def _without_idle_minimum(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a run without the least number of steps where they give the exact one."""
    has_exact = options.get("training.steps") is not None
    return {name: value for name, value in options.items() if not (has_exact and name == "training.min_steps")}
