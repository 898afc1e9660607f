"""Pretraining: `deepspeed launch/pretrain.sh --config pretrain/configs/tiny.yaml --data corpus/ --output runs/tiny`."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import NoReturn

import torch
from tabulate import tabulate

from common import ranks
from common.command_line import run_command
from common.json_files import write_json
from common.rank_process import STOPPED, StopSignals, end_when_asked, end_with, read_arguments
from pretrain import checkpoint, engine
from pretrain.config import ObjectiveConfig, OptimizerConfig, PretrainConfig
from pretrain.data.stream import Batch
from pretrain.dry_run import dry_run
from pretrain.evaluation.validation import Validation
from pretrain.log.figures import fractions_figure, rgb_strip_figure
from pretrain.log.monitor import Monitor, configuration_description, corpus_description, validation_scalars
from pretrain.log.step_report import StepReport
from pretrain.model import save_encoder
from pretrain.model.pretrained import ENCODER_FILE
from pretrain.setup import MicroBatchResult, TrainingRun, plain, prepare

METRICS_FILE = "metrics.json"
SKIPPED_FILE = "skipped.jsonl"
DEFAULTS = PretrainConfig(data="", output=Path())


def pretrain(config: PretrainConfig) -> int:
    """Train from where the run in `config.output` stopped (or from the start) to `config.num_steps`; returns the exit code."""
    end_when_asked()
    run = prepare(config)
    if config.dry_run:
        dry_run(run)
        return 0
    stop_signals = StopSignals().__enter__()  # until the process ends
    validation = new_validation(run)
    report = StepReport(run.stream.sources, run.flops_a_sample, run.peak_flops)
    monitor = begun_monitor(run)
    writer = checkpoint.CheckpointWriter(config.output / checkpoint.CHECKPOINTS, config.keep, config.keep_every, run.metadata)
    scores: dict[str, dict[str, float]] = {}

    batches = run.stream.batches(run.first_step * run.micro_steps, config.num_steps * run.micro_steps, run.device)
    for step in range(run.first_step, config.num_steps):
        done, is_last = step + 1, step + 1 == config.num_steps
        consistency_weight = scheduled_consistency_weight(config.objective, step, config.num_steps)
        results: list[MicroBatchResult] = []
        run.engine.train()
        for micro_step in range(run.micro_steps):
            with report.waiting():
                batch = next(batches)
            results.append(run.backward(batch, step, micro_step, consistency_weight))
            report.add(batch, results[-1].supervised, results[-1].consistency, results[-1].total)
        is_asked_to_stop = agree_to_step(run, results, step, stop_signals)
        run.optimizer_step(step, scheduled_learning_rate(config.optimizer, step, config.num_steps))

        if done % config.log_every == 0 or is_last:
            monitor.scalars(done, report.scalars(ranks.sum_over_ranks, run.world_size) | run.scalars())
            note_skipped(run)
        with report.paused():
            if done % config.validate_every == 0 or is_last:
                scores = validation(run.teacher)
                if scores:  # the corpus may have no validation split
                    monitor.scalars(done, validation_scalars(scores))
                show_examples(monitor, done, run, batch, results[-1])
            if done % config.save_every == 0 or is_last or is_asked_to_stop:
                save(run, writer, monitor, done)
        if is_asked_to_stop and not is_last:
            writer.wait()
            ranks.barrier()  # the launcher gives the others 30 s when the first rank has ended, which may not do for the writer
            if run.is_main:
                print(f"asked to stop: saved after step {done} of {config.num_steps}; start again to go on", flush=True)
            return STOPPED
    batches.close()
    writer.wait()
    finish(run, scores, validation, monitor)
    monitor.close()
    return 0


def new_validation(run: TrainingRun) -> Validation:
    """The validation that the run's configuration asks for."""
    config = run.config
    return Validation(
        run.corpus,
        config.stream,
        run.targets,
        run.statistics,
        run.rank,
        run.world_size,
        run.device,
        config.validate_samples,
        config.probe_samples,
    )


def begun_monitor(run: TrainingRun) -> Monitor:
    """The run's logs, with its configuration and what the corpus holds."""
    monitor = Monitor(run.config.output, run.is_main, first_step=run.first_step, num_steps=run.config.num_steps)
    monitor.text(run.first_step, "configuration", configuration_description(plain(run.config)))
    monitor.text(run.first_step, "corpus", corpus_description(run.corpus))
    return monitor


def agree_to_step(run: TrainingRun, results: list[MicroBatchResult], step: int, stop: StopSignals) -> bool:
    """Before the optimizer step, on all ranks: True when any was asked to stop after it.

    Raises FloatingPointError on all ranks when any rank's loss is NaN or infinite, after writing the keys of the batches.
    """
    is_finite = bool(torch.isfinite(torch.stack([result.total for result in results])).all())
    is_bad, is_asked_to_stop = ranks.any_rank([not is_finite, stop.received], run.device)
    if is_bad:
        mine = [{"source": r.source, "loss": repr(r.total.item()), "keys": r.keys} for r in results]
        micro_batches = ranks.gather(mine)
        path = run.config.output / f"non_finite_step_{step}.json"
        if run.is_main:
            write_json(path, {"step": step, "ranks": micro_batches})
        raise FloatingPointError(f"the loss of step {step} is not finite; no rank took the step; the batches' keys are in {path}")
    return is_asked_to_stop


def save(run: TrainingRun, writer: checkpoint.CheckpointWriter, monitor: Monitor, step: int) -> None:
    """Begin a checkpoint after `step` steps: training waits until its tensors lie in the memory of rank 0.

    Raises FloatingPointError on all ranks when the last gradient was not finite: the weights are spoilt.
    """
    begin = time.perf_counter()
    if not math.isfinite(run.gradient_norm):
        raise FloatingPointError(f"the gradient of step {step - 1} was not finite; the checkpoints before it stay")
    weights, moments = engine.gather_state(run.engine)
    if run.is_main:
        average = {name: tensor.to("cpu", copy=True) for name, tensor in run.teacher.average.state_dict().items()}
        writer.start(step, {checkpoint.STUDENT: weights, checkpoint.TEACHER: average, checkpoint.OPTIMIZER: moments})
    monitor.scalars(step, {"speed/checkpoint_pause_seconds": time.perf_counter() - begin})


def note_skipped(run: TrainingRun) -> None:
    """Add the damaged samples that any rank has passed over since the last time to a file, and say how many."""
    skipped = [vars(sample) for of_rank in ranks.gather(run.stream.take_skipped()) for sample in of_rank]
    if skipped and run.is_main:
        path = run.config.output / SKIPPED_FILE
        with path.open("a") as file:
            file.writelines(json.dumps(sample) + "\n" for sample in skipped)
        print(f"{len(skipped)} damaged samples passed over, last {skipped[-1]['key']}; all are in {path}", flush=True)


def finish(run: TrainingRun, scores: dict[str, dict[str, float]], validation: Validation, monitor: Monitor) -> None:
    """Write the encoder and the last scores, unless an earlier start of the finished run did, and show them."""
    output, num_steps = run.config.output, run.config.num_steps
    if run.first_step < num_steps or not ranks.gather((output / METRICS_FILE).is_file())[0]:
        scores = scores or validation(run.teacher)
        if run.is_main:
            shown = [name for name in validation_scalars(scores) if name.startswith("validation/")]  # not those of single classes
            monitor.hyperparameters(plain(run.config), sorted(shown, key=lambda name: not name.endswith("/mae")), plain(DEFAULTS))
            run.teacher.average.encoder.normalization = run.encoder.normalization
            save_encoder(run.teacher.average.encoder, output / ENCODER_FILE)
            write_json(output / METRICS_FILE, {"steps": num_steps, "validation": scores})
    if run.is_main:
        finished = json.loads((output / METRICS_FILE).read_text())["validation"]
        columns = {"mae": "fraction error", "mae_of_mean": "of predicting the mean", "r2": "R2", "probe_r2": "R2, probe"}
        rows = [[source, *(values.get(name) for name in columns), values["samples"]] for source, values in finished.items()]
        header = ["validation", *columns.values(), "samples"]
        print(tabulate(rows, header, floatfmt=".4f") if rows else "no validation split in the corpus")
        print(f"encoder: {output / ENCODER_FILE}\nTensorBoard: tensorboard --logdir {output}", flush=True)


def show_examples(monitor: Monitor, step: int, run: TrainingRun, batch: Batch, result: MicroBatchResult) -> None:
    """Pictures of the first samples of a batch: their frames, and the map's and the predicted fractions."""
    if run.is_main:
        sensor = run.corpus.sensors[batch.source]
        strip = rgb_strip_figure(batch.pixels.cpu(), batch.valid.cpu(), sensor, batch.dates.cpu())
        monitor.figure(step, f"batch/{batch.source}", strip)
        bars = fractions_figure(result.target.cpu(), result.predicted.cpu(), run.targets.legend)
        monitor.figure(step, f"fractions/{batch.source}", bars)


def scheduled_learning_rate(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """Rate of optimizer step `step` (from 0): linear warm-up, then a cosine down to the final share."""
    warmup = max(1, round(config.warmup_share * num_steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    share = config.final_share + (1 - config.final_share) * 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * share


def scheduled_consistency_weight(config: ObjectiveConfig, step: int, num_steps: int) -> float:
    """Weight of the student-teacher term at optimizer step `step` (from 0): it grows linearly from 0."""
    return config.consistency_weight * min(1.0, (step + 1) / max(1, config.consistency_warmup_share * num_steps))


def main() -> NoReturn:
    """Entry of every rank."""
    read_arguments(lambda arguments: run_command(_run, arguments, config_class=PretrainConfig))


def _run(config: PretrainConfig) -> NoReturn:
    """Train, and end this process with the run's exit code."""
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # from here on each message has its own speaker
    end_with(lambda: pretrain(config))


if __name__ == "__main__":
    main()
