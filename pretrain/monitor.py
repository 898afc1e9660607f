"""What a run tells people: TensorBoard, the same numbers as `metrics.jsonl`, and one line an interval on the terminal.

Only rank 0 writes. A run that starts again continues its logs: what was logged after the step that it resumes from is
hidden in TensorBoard (`purge_step`) and cut from `metrics.jsonl`, so no point stands there twice.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TextIO

from matplotlib.figure import Figure
from tabulate import tabulate
from torch.utils.tensorboard import SummaryWriter

from data_prep.corpus import Corpus
from data_prep.durable import whole_file

METRICS_LINES = "metrics.jsonl"


class Monitor:
    """Logs of one run; on other ranks than the main one every method does nothing.

    Args:
        output: folder of the run; TensorBoard's files and `metrics.jsonl` go into it.
        is_main: True on rank 0.
        first_step: optimizer steps done when the run was resumed; later points in the logs are dropped.
        num_steps: optimizer steps of the whole run, for the time left; 0 when it is not known.
    """

    def __init__(self, output: Path, is_main: bool, first_step: int = 0, num_steps: int = 0) -> None:
        self._writer: SummaryWriter | None = None
        self._lines: TextIO | None = None
        self._first_step, self._num_steps = first_step, num_steps
        self._started = time.monotonic()
        if is_main:
            output.mkdir(parents=True, exist_ok=True)
            keep_lines_until(output / METRICS_LINES, first_step)
            self._lines = (output / METRICS_LINES).open("a")
            self._writer = SummaryWriter(str(output), purge_step=first_step + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers by name (`loss/total`, `speed/samples_per_second`, ...) after optimizer step `step`."""
        if self._writer is None or self._lines is None:
            return
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        # JSON has no NaN: what is not finite becomes null.
        finite = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        self._lines.write(json.dumps({"step": step, "time": round(time.time(), 3), **finite}) + "\n")
        self._lines.flush()
        print(self._line(step, values), flush=True)

    def figure(self, step: int, name: str, figure: Figure) -> None:
        """Log an image."""
        if self._writer is not None:
            self._writer.add_figure(name, figure, step)
            self._writer.flush()

    def text(self, step: int, name: str, markdown: str) -> None:
        """Log a text, shown as Markdown."""
        if self._writer is not None:
            self._writer.add_text(name, markdown, step)
            self._writer.flush()

    def close(self) -> None:
        """Write what is left and close the files."""
        if self._writer is not None and self._lines is not None:
            self._writer.close()
            self._lines.close()
            self._writer = self._lines = None

    def _line(self, step: int, values: Mapping[str, float]) -> str:
        """One line for the terminal: the step, every value shortly, and the time left."""
        total = f"/{self._num_steps}" if self._num_steps else ""
        if "loss/total" in values:  # a whole report: only what one watches, the rest is in the files
            parts = [f"{name.removeprefix('loss/')} {value:.4f}" for name, value in values.items() if name.startswith("loss/")]
            shown = ["loss " + ", ".join(parts)]
            for name, form in (
                ("learning_rate", "rate {:.2e}"),
                ("speed/samples_per_second", "{:.0f} samples/s"),
                ("speed/share_waiting_for_data", "waiting {:.0%}"),
            ):
                shown += [form.format(values[name])] if name in values else []
        else:
            shown = [f"{name} {value:.4g}" for name, value in values.items() if name.count("/") < 3]  # no single classes
        if step > self._first_step and self._num_steps:
            each = (time.monotonic() - self._started) / (step - self._first_step)
            shown.append(f"left {timedelta(seconds=round(each * (self._num_steps - step)))}")
        return f"step {step}{total}  " + "  ".join(shown)


def keep_lines_until(path: Path, step: int) -> None:
    """Cut a file of JSON lines to those of `step` and before; a half line that a kill has left goes, too."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except json.JSONDecodeError:
            continue
    with whole_file(path) as temporary:
        temporary.write_text("".join(kept))


def corpus_description(corpus: Corpus) -> str:
    """Markdown: a table of what the corpus holds by source and split, and its fingerprint."""
    rows = []
    for source in sorted(corpus.sensors):
        for split in sorted({shard.split for shard in corpus.shards if shard.source == source}):
            shards = [shard for shard in corpus.shards if (shard.source, shard.split) == (source, split)]
            shape = " x ".join(map(str, corpus.shapes[source]))
            size = f"{sum(shard.bytes for shard in shards) / 1e6:.1f}"
            rows.append([source, corpus.sensors[source].title, split, len(shards), sum(s.samples for s in shards), shape, size])
    table = tabulate(rows, ["source", "sensor", "split", "shards", "samples", "bands x rows x columns", "MB"], tablefmt="github")
    return f"{table}\n\nfingerprint `{corpus.fingerprint}`, {corpus.rejected} samples rejected"
