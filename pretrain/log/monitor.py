"""Logs of a run: TensorBoard, the same numbers in `metrics.jsonl`, and one line per interval on the terminal.

Only rank 0 writes. A resumed run continues its logs: points after the step that it resumes from are hidden in TensorBoard
(`purge_step`) and removed from `metrics.jsonl`, so no point occurs twice.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from matplotlib.figure import Figure
from tabulate import tabulate
from tensorboard.plugins.hparams.metadata import PLUGIN_DATA_VERSION, parse_experiment_plugin_data
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from common.json_files import keep_lines_until
from data_prep.corpus.dataset import Corpus
from pretrain.config import PretrainConfig

METRICS_LINES = "metrics.jsonl"


class Monitor:
    """Logs of one run. On other ranks than rank 0 every method does nothing.

    Args:
        output: folder of the run, for TensorBoard's files and `metrics.jsonl`.
        is_main: True on rank 0.
        first_step: optimizer steps done when the run was resumed; later points in the logs are dropped.
        num_steps: optimizer steps of the whole run, to estimate the time left; 0 if they are not known.
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

        Texts among them go to `metrics.jsonl` only.
        """
        if self._writer is None or self._lines is None:
            return
        numbers = {name: float(value) for name, value in values.items() if not isinstance(value, str)}
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        # JSON has no NaN, so numbers that are not finite become null.
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

    def hyperparameters(
        self, configuration: Mapping[str, Any], metrics: Iterable[str], defaults: Mapping[str, Any] | None = None
    ) -> None:
        """Fill TensorBoard's tab HPARAMS with a row for this run, beside those of other runs.

        Args:
            configuration: nested settings; `{"optimizer": {"learning_rate": 0.1}}` becomes the column `optimizer.learning_rate`.
            metrics: names of scalars, whose last values are columns.
            defaults: nested like `configuration`; columns that differ from them come first, as TensorBoard shows only five.
        """
        if self._writer is None or self._writer.file_writer is None:
            return
        values, usual = dict(flat(configuration)), dict(flat(configuration if defaults is None else defaults))
        # `SummaryWriter.add_hparams` would make another run below this one, and write the metrics there again.
        experiment, start, end = hparams(values, dict.fromkeys(metrics))
        plugin_data = experiment.value[0].metadata.plugin_data
        parsed = parse_experiment_plugin_data(plugin_data.content)
        for column in parsed.hparam_infos:
            column.differs = values[column.name] != usual.get(column.name)
        plugin_data.content = HParamsPluginData(experiment=parsed, version=PLUGIN_DATA_VERSION).SerializeToString()
        for summary in (experiment, start, end):
            self._writer.file_writer.add_summary(summary)
        self._writer.flush()

    def close(self) -> None:
        """Write everything and close the files."""
        if self._writer is not None and self._lines is not None:
            self._writer.close()
            self._lines.close()
            self._writer = self._lines = None

    def _line(self, step: int, values: Mapping[str, float]) -> str:
        """One line for the terminal: the step, short values, and the time left."""
        total = f"/{self._num_steps}" if self._num_steps else ""
        if "loss/total" in values:  # a report of an interval: show the main numbers, the files have all
            parts = [f"{name.removeprefix('loss/')} {value:.4f}" for name, value in values.items() if name.startswith("loss/")]
            shown = ["loss " + ", ".join(parts)]
            for name, form in (
                ("optimizer/learning_rate", "rate {:.2e}"),
                ("speed/samples_per_second", "{:.0f} samples/s"),
                ("speed/mfu", "MFU {:.1%}"),
                ("speed/share_waiting_for_data", "waiting {:.0%}"),
            ):
                shown += [form.format(values[name])] if name in values else []
        else:
            shown = [f"{name} {value:.4g}" for name, value in values.items() if not name.startswith("validation")]
            for source in dict.fromkeys(name.split("/")[1] for name in values if name.startswith("validation/")):
                scores = [
                    (score, values.get(f"validation/{source}/{score}")) for score in ("mae", "mae_of_mean", "r2", "probe_r2")
                ]
                shown.append(
                    f"validation {source}: " + ", ".join(f"{score} {value:.4f}" for score, value in scores if value is not None)
                )
        if step > self._first_step and self._num_steps:
            each = (time.monotonic() - self._started) / (step - self._first_step)
            shown.append(f"left {timedelta(seconds=round(each * (self._num_steps - step)))}")
        return f"step {step}{total}  " + "  ".join(shown)


def new_monitor(config: PretrainConfig, corpus: Corpus, first_step: int, is_main: bool) -> Monitor:
    """The logs of a pretraining run, which begin with its configuration and the contents of the corpus."""
    monitor = Monitor(config.output, is_main, first_step=first_step, num_steps=config.num_steps)
    monitor.text(first_step, "configuration", configuration_text(config.as_json()))
    monitor.text(first_step, "corpus", _corpus_text(corpus))
    return monitor


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float | str]]:
    """Nested settings as pairs of dotted name and value; a value other than a number or a text becomes JSON."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
            yield prefix + name, value
        else:
            yield prefix + name, json.dumps(value, default=str)


def validation_scalars(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Scores of `pretrain.evaluation.validation.Validation` by their names in the logs.

    `validation/SOURCE/SCORE` is over all classes. The many `validation_by_class/SOURCE/SCORE/CLASS` are a group of their own in
    TensorBoard.
    """
    return {
        f"{'validation_by_class' if '/' in score else 'validation'}/{source}/{score}": value
        for source, of_source in scores.items()
        for score, value in of_source.items()
    }


def configuration_text(configuration: Mapping[str, Any]) -> str:
    """The configuration of a pretraining run for its log: a table in Markdown with the dotted name of each setting."""
    rows = [(f"`{name}`", f"`{value}`") for name, value in flat(configuration)]
    return tabulate(rows, ["option", "value"], tablefmt="github", disable_numparse=True)


def _corpus_text(corpus: Corpus) -> str:
    """The contents of a corpus, as a table in Markdown by source and split, with its fingerprint."""
    rows = []
    for source in sorted(corpus.sensors):
        for split in sorted({shard.split for shard in corpus.shards if shard.source == source}):
            shards = [shard for shard in corpus.shards if (shard.source, shard.split) == (source, split)]
            shape = " x ".join(map(str, corpus.shapes[source]))
            size = f"{sum(shard.bytes for shard in shards) / 1e6:.1f}"
            rows.append([source, corpus.sensors[source].title, split, len(shards), sum(s.samples for s in shards), shape, size])
    table = tabulate(rows, ["source", "sensor", "split", "shards", "samples", "bands x rows x columns", "MB"], tablefmt="github")
    return f"{table}\n\nfingerprint `{corpus.fingerprint}`, {corpus.rejected} samples rejected"
