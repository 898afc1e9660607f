"""Files of a comparison: comparison.json, comparison.md and pictures; and those of several comparisons together."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from common.atomic_files import whole_file
from common.json_files import read_json, write_json
from finetune.comparison.curves import learning_curves
from finetune.comparison.difference_curves import difference_curves
from finetune.comparison.difference_figure import difference_figure
from finetune.comparison.markdown_document import joined_document, markdown_document
from finetune.comparison.seed_statistics import Outcome, TaskComparison

NUMBERS = "comparison.json"
DOCUMENT = "comparison.md"
PICTURE = "comparison.png"
DIFFERENCES = "comparison_differences.png"
DIFFERENCE_CURVES = "comparison_learning.png"


def write_result_files(output: Path, outcomes: Sequence[Outcome], settings: dict[str, Any]) -> None:
    """Write the files of a comparison so far: numbers with `settings` and machine as JSON, tables as Markdown, PNG pictures."""
    comparisons = task_comparisons(outcomes, settings["reference"])
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
    write_json(output / NUMBERS, content)
    curves = difference_curves(comparisons)
    pictures = [PICTURE] if curves is None else [PICTURE, DIFFERENCE_CURVES]
    _write_text(output / DOCUMENT, markdown_document(comparisons, outcomes, pictures, DIFFERENCES))
    _write_picture(output / PICTURE, learning_curves(comparisons))
    _write_picture(output / DIFFERENCE_CURVES, curves)
    _write_picture(output / DIFFERENCES, difference_figure({"": comparisons}))


def write_joined_files(output: Path, comparisons: dict[str, Path]) -> None:
    """Write the document and the differences of several comparisons, from their folders by the titles of their data.

    Raises ValueError when a folder holds no comparison, or one of a version that did not keep the results of its runs.
    """
    read = {title: read_outcomes(folder) for title, folder in comparisons.items()}
    settings = {title: (task_comparisons(outcomes, reference), outcomes) for title, (outcomes, reference) in read.items()}
    output.mkdir(parents=True, exist_ok=True)
    _write_text(output / DOCUMENT, joined_document(settings, DIFFERENCES))
    _write_picture(output / DIFFERENCES, difference_figure({title: tasks for title, (tasks, _) in settings.items()}))


def task_comparisons(outcomes: Sequence[Outcome], reference: str | None) -> list[TaskComparison]:
    """The runs of each task, in the order of their tasks."""
    tasks = dict.fromkeys(outcome.task for outcome in outcomes)
    return [TaskComparison([outcome for outcome in outcomes if outcome.task == task], reference) for task in tasks]


def read_outcomes(folder: Path) -> tuple[list[Outcome], str | None]:
    """The results of the runs in a comparison's comparison.json, and its reference. Raises ValueError when they are not there."""
    content = read_json(folder / NUMBERS)
    try:
        return [Outcome(**run) for run in content["runs"]], content["settings"].get("reference")
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / NUMBERS} does not hold the runs of a comparison as this version writes them ({error}); start "
            "finetune/compare.py there again with the same arguments, which keeps all finished runs"
        ) from error


def _write_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text)


def _write_picture(path: Path, figure: Figure | None) -> None:
    """Write a picture; without one, remove an earlier one."""
    if figure is None:
        path.unlink(missing_ok=True)
        return
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")
