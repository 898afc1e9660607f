"""The list of damaged samples that a run has skipped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pretrain.data.stream import Skipped

SKIPPED_FILE = "skipped.jsonl"


def list_skipped(output: Path, samples: Sequence[Skipped]) -> None:
    """Append damaged samples that the training has skipped to a file in the run's folder, and print their number."""
    if samples:
        path = output / SKIPPED_FILE
        with path.open("a") as file:
            file.writelines(json.dumps(vars(sample)) + "\n" for sample in samples)
        print(f"{len(samples)} damaged samples skipped, last {samples[-1].key}; all are in {path}", flush=True)
