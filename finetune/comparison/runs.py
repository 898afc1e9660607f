"""The runs of a comparison: their folders, options and results."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common.command_line import as_arguments, parse
from finetune.comparison.config import CompareConfig, check_distinct
from finetune.comparison.run_options import RunOptions, dotted_options
from finetune.comparison.seed_statistics import Outcome
from finetune.comparison.titles import label_fraction_title
from finetune.config import FinetuneConfig
from finetune.data.labelled_data import LabelledData, check_sources
from finetune.data.opening import open_data
from finetune.data.tables.table_data import TableData
from finetune.run_folder import METRICS_FILE, RUN_FILE, is_finished, recorded_settings
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
        settings: what run.py would record of it now; None where that cannot be known, which the run itself will say.
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
    settings: dict[str, Any] | None

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
            error=error or "ended, but its folder holds no scores of these data and settings",
        )
        finished, metrics = self.folder / FINISHED, self.folder / "run" / METRICS_FILE
        if not finished.is_file() or not metrics.is_file():
            return missing
        content = json.loads(finished.read_text())
        identity = content["identity"]
        # Runs on disk may have been recorded with old names of options.
        if identity | {"options": dotted_options(identity["options"])} != self.identity:
            return missing
        if not self._is_of_now():
            return missing
        return replace(missing, metrics=json.loads(metrics.read_text()), seconds=content["seconds"], error=None)

    def _is_of_now(self) -> bool:
        """Whether the finished run is of the data and the defaults of now; if not, run.py says what has changed."""
        output = self.folder / "run"
        if self.settings is None or not (output / RUN_FILE).is_file():
            return True
        # Runs may have been made on another machine, where the automatic precision is another one.
        of_machine = {"precision": json.loads((output / RUN_FILE).read_text()).get("precision", self.settings["precision"])}
        try:
            return is_finished(output, self.settings | of_machine)
        except ValueError:
            return False


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
            settings=None,
        )
        for seed in range(config.seeds)  # the outer loop: after the first seed every cell of the table has a number
        for name_or_path, task in zip(config.tasks, tasks, strict=True)
        for fraction in sorted(config.label_fraction)
        for encoder in config.compared_encoders
    ]
    opened: dict[str, LabelledData] = {}
    fingerprints: dict[str, str] = {}
    of_kind: dict[tuple[str, str, float], dict[str, Any] | None] = {}
    for run in runs:
        kind = run.task.name, run.encoder, run.label_fraction
        if kind not in of_kind:
            options_of_run = vars(parse(FinetuneConfig, run.arguments, config_class=FinetuneConfig))
            of_kind[kind] = _settings_now(options_of_run, opened, fingerprints)
    known = [of_kind[run.task.name, run.encoder, run.label_fraction] for run in runs]
    return [
        replace(run, settings=None if settings is None else settings | {"seed": run.seed})
        for run, settings in zip(runs, known, strict=True)
    ]


def _settings_now(
    options: dict[str, Any], opened: dict[str, LabelledData], fingerprints: dict[str, str]
) -> dict[str, Any] | None:
    """What run.py would record of a run, None for one that it would refuse.

    `opened` keeps data, and `fingerprints` those by data and task, as all runs of a comparison share them.
    """
    try:
        config = FinetuneConfig(**options)
        task = config.override.applied_to(load_task(config.task))
        place = json.dumps([str(config.data), asdict(config.split_blocks)], default=str)
        if place not in opened:
            opened[place] = open_data(config.data, config.split_blocks)
        data = opened[place]
        check_sources(task, data.sensors)
        task = config.task_of_points(task) if isinstance(data, TableData) else task  # that of a baseline is another
        key = place + json.dumps(task.to_dict(), default=str)
        if key not in fingerprints:
            fingerprints[key] = data.fingerprint(task)
        return recorded_settings(config, task, fingerprints[key])
    except ValueError:
        return None


def _without_idle_minimum(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a run without the least number of steps where they give the exact one."""
    has_exact = options.get("training.steps") is not None
    return {name: value for name, value in options.items() if not (has_exact and name == "training.min_steps")}
