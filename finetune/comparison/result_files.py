"""Files of a comparison: comparison.json, comparison.md and comparison.png."""

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

from common.atomic_files import whole_file
from common.json_files import write_json
from finetune.comparison.curves import learning_curves
from finetune.comparison.markdown_document import markdown_document
from finetune.comparison.seed_statistics import Outcome, TaskComparison

DOCUMENT = "comparison.md"
PICTURE = "comparison.png"


def write_result_files(output: Path, outcomes: Sequence[Outcome], settings: dict[str, Any]) -> None:
    """Write the files of a comparison so far: numbers with `settings` and machine as JSON, tables as Markdown, curves as PNG."""
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
    with whole_file(output / DOCUMENT) as temporary:
        temporary.write_text(markdown_document(comparisons, outcomes, PICTURE))
    with whole_file(output / PICTURE) as temporary:
        learning_curves(comparisons).savefig(temporary, format="png")
