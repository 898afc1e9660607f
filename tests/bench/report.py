"""What every benchmark writes beside its figures: the machine, the versions, the date."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any


def write_report(
    output: Path | None, packages: Sequence[str], content: Mapping[str, Any], machine: Mapping[str, Any] | None = None
) -> None:
    """Write a report as JSON, unless `output` is None. `machine` is what a benchmark knows of it beside processor and cores."""
    if output is None:
        return
    processor = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "system": platform.release()}
    report = {
        "machine": {**processor, **(machine or {})},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        **content,
    }
    output.write_text(json.dumps(report, indent=1) + "\n")
