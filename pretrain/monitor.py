"""What a run tells people: TensorBoard, the same numbers as `metrics.jsonl`, and one line an interval on the terminal.

Only rank 0 writes. A run that starts again continues its logs: what was logged after the step that it resumes from is
hidden in TensorBoard (`purge_step`) and cut from `metrics.jsonl`, so no point stands there twice.
"""

from __future__ import annotations

import contextlib
import json
import math
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from matplotlib.figure import Figure
from tabulate import tabulate
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from data_prep.corpus import Corpus
from data_prep.durable import whole_file
from pretrain.stream import Batch

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

    def scalars(self, step: int, values: Mapping[str, float | str]) -> None:
        """Log numbers by name (`loss/total`, `speed/samples_per_second`, ...) after optimizer step `step`.

        Texts among them go to `metrics.jsonl` alone.
        """
        if self._writer is None or self._lines is None:
            return
        numbers = {name: float(value) for name, value in values.items() if not isinstance(value, str)}
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        # JSON has no NaN: what is not finite becomes null.
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        line = {"step": step, "time": round(time.time(), 3), **values, **finite}
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()
        print(self._line(step, numbers), flush=True)

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

    def hyperparameters(self, configuration: Mapping[str, Any], metrics: Iterable[str]) -> None:
        """Fill TensorBoard's tab HPARAMS: a row for this run, beside those of the other runs.

        Args:
            configuration: nested settings; `{"optimizer": {"learning_rate": 0.1}}` becomes the column `optimizer.learning_rate`.
            metrics: names of scalars; the columns show their last values.
        """
        if self._writer is not None and self._writer.file_writer is not None:
            # `SummaryWriter.add_hparams` would open a run of its own below this one and write the metrics there once more.
            for summary in hparams(dict(flat(configuration)), dict.fromkeys(metrics)):
                self._writer.file_writer.add_summary(summary)
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
                ("speed/mfu", "MFU {:.1%}"),
                ("speed/share_waiting_for_data", "waiting {:.0%}"),
            ):
                shown += [form.format(values[name])] if name in values else []
        else:
            shown = [f"{name} {value:.4g}" for name, value in values.items() if name.count("/") < 3]  # no single classes
        if step > self._first_step and self._num_steps:
            each = (time.monotonic() - self._started) / (step - self._first_step)
            shown.append(f"left {timedelta(seconds=round(each * (self._num_steps - step)))}")
        return f"step {step}{total}  " + "  ".join(shown)


class StepReport:
    """What the ranks did since the last report, without waiting for the device before a report is due.

    Args:
        sources: all sources of the run, the same on all ranks.
        flops_a_sample: model FLOPs of a training step for one sample of each source (`pretrain.model.cost.training_flops`).
        peak_flops: FLOP/s of one device by its datasheet (`pretrain.model.cost.peak_flops`); None when it is not known.
    """

    def __init__(self, sources: Iterable[str], flops_a_sample: Mapping[str, float], peak_flops: float | None) -> None:
        self._sources, self._flops_a_sample, self._peak_flops = sorted(sources), dict(flops_a_sample), peak_flops
        self._start_interval()

    def _start_interval(self) -> None:
        self._started = time.perf_counter()
        self._waited = self._paused = 0.0
        self._samples = self._frames = self._bytes = self._digest = 0
        self._flops = 0.0
        self._order: list[str] = []  # source of each micro-step
        self._losses: list[torch.Tensor] = []

    def add(self, batch: Batch, supervised: torch.Tensor, consistency: torch.Tensor, total: torch.Tensor) -> None:
        """Count one micro-step. The losses are scalars, means over this rank's part of it."""
        self._order.append(batch.source)
        # A copy: what a compiled step returns may lie in memory that the next step writes to.
        self._losses.append(torch.stack((total, consistency, supervised)).detach().double())
        self._samples += len(batch.keys)
        self._frames += batch.pixels.shape[0] * batch.pixels.shape[1]
        self._bytes += batch.nbytes
        self._digest += batch.digest  # type: ignore[attr-defined]
        self._flops += len(batch.keys) * self._flops_a_sample[batch.source]

    def waited(self, seconds: float) -> None:
        """Count time in which this rank had no batch."""
        self._waited += seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens within (validating, saving) takes none of the interval's time."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # the steps that are under way belong to the interval
        started = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - started

    def scalars(self, sum_over_ranks: Callable[[torch.Tensor], torch.Tensor], world_size: int) -> dict[str, float | str]:
        """The interval in numbers; then a new one begins. All ranks call it after the same micro-steps, of which there is one.

        - `loss/total`, `loss/consistency`, and `loss/SOURCE`, the supervised one: means over ranks and micro-steps, so they do
          not depend on the number of ranks. Sources that did not occur are left out.
        - `speed/samples_per_second`, `speed/frames_per_second`, `speed/read_gb_per_second`: of all ranks together.
        - `speed/share_waiting_for_data`: mean over ranks, 0 to 1.
        - `speed/mfu`: model FLOPs utilisation (Chowdhery et al., PaLM, 2022, appendix B): the model's FLOPs over what all devices
          could have done by their datasheet, where that is known. The student's forward and backward passes count, and the
          teacher's forward pass, which the method asks for as well; what is computed again to save memory does not.
        - `memory/device_gb`: the most that was allocated on this rank's GPU so far; without a GPU the most this process held.
        - `samples_digest`: 16 hexadecimal digits. Runs that saw the same samples with the same frames, in any order and on any
          number of ranks, have equal ones.

        Args:
            sum_over_ranks: elementwise sum of a float64 or int64 tensor over all ranks.
            world_size: number of ranks.
        """
        device = self._losses[0].device
        total, consistency, supervised = torch.stack(self._losses).cpu().numpy().T
        of_source = {source: np.array([source == each for each in self._order]) for source in self._sources}
        losses = {"loss/total": (total.sum(), len(total)), "loss/consistency": (consistency.sum(), len(total))}
        losses |= {f"loss/{source}": (supervised[here].sum(), here.sum()) for source, here in of_source.items()}
        counts = [self._samples, self._frames, self._bytes / 1e9, self._flops, self._waited]
        mine = torch.tensor([*(loss for loss, _ in losses.values()), *counts], dtype=torch.float64, device=device)
        sums = sum_over_ranks(mine).tolist()
        # Sums of int64 wrap at 2**64, of which 2**63 is a divisor.
        digest = int(sum_over_ranks(torch.tensor([self._digest % 2**63], device=device)).item()) % 2**63
        elapsed = time.perf_counter() - self._started - self._paused  # reading the losses has waited for the device

        values: dict[str, float | str] = {
            name: loss / (count * world_size)
            for loss, (name, (_, count)) in zip(sums[: len(losses)], losses.items(), strict=True)
            if count
        }
        samples, frames, gigabytes, flops, waited = sums[len(losses) :]
        values |= {
            "speed/samples_per_second": samples / elapsed,
            "speed/frames_per_second": frames / elapsed,
            "speed/read_gb_per_second": gigabytes / elapsed,
            "speed/share_waiting_for_data": waited / (elapsed * world_size),
        }
        if self._peak_flops is not None:
            values["speed/mfu"] = flops / (elapsed * world_size * self._peak_flops)
        values |= {"memory/device_gb": _memory_bytes(device) / 1e9, "samples_digest": f"{digest:016x}"}
        self._start_interval()
        return values


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    kibibytes = sys.platform != "darwin"  # macOS counts bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if kibibytes else 1)


@torch.no_grad()
def teacher_distance(student_parameters: Iterable[torch.Tensor], teacher_parameters: Iterable[torch.Tensor]) -> float:
    """How far the teacher lags behind: ||teacher - student|| / ||student||, L2 over all parameters, in the same order."""
    pairs = zip(student_parameters, teacher_parameters, strict=True)
    norms = [torch.stack(((t.float() - s.float()).norm(), s.float().norm())) for s, t in pairs]
    distance, size = torch.stack(norms).double().norm(dim=0).tolist()
    return float(distance / size)


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float | str]]:
    """Nested settings as pairs of dotted name and number or text; what is neither is its JSON."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
            yield prefix + name, value
        else:
            yield prefix + name, json.dumps(value, default=str)


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
