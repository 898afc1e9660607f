"""Pretraining: `deepspeed launch/pretrain.sh --config pretrain/configs/tiny.yaml --data corpus/ --output runs/tiny`."""

from __future__ import annotations

import copy
import json
import math
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch
from tabulate import tabulate

from common import ranks
from common.command_line import run_command
from common.errors import while_running
from common.exit_codes import STOPPED
from common.json_files import write_json
from common.rank_process import StopSignals, end_when_asked, end_with, read_arguments
from common.run_lock import LOCK, RunLock
from common.seeding import seed_everything
from pretrain import engine
from pretrain.config import CONFIGS, RENAMED_OPTIONS, PretrainConfig
from pretrain.data.batch import Batch
from pretrain.dry_run import dry_run
from pretrain.evaluation.validation import Validation
from pretrain.log.figures import show_examples
from pretrain.log.monitor import Monitor, new_monitor, validation_scalars
from pretrain.log.skipped_samples import TRAINING, VALIDATION, SkippedSamples
from pretrain.log.skipped_steps import forget_skipped_steps_after
from pretrain.log.step_report import StepReport
from pretrain.model import BatchPart, save_encoder
from pretrain.model.encoder_files import ENCODER_FILE
from pretrain.objective.losses import LossWeights, land_cover_loss
from pretrain.objective.mean_teacher import as_student_sees
from pretrain.objective.model import Prediction
from pretrain.run_folder import METRICS_FILE, has_final_files
from pretrain.saving import Saver
from pretrain.schedule import scheduled_consistency_weight, scheduled_learning_rate
from pretrain.setup import TrainingRun, set_up_run
from pretrain.sharing import describe_encoder, encoder_record
from pretrain.step_checks import StepChecks

DEFAULTS = PretrainConfig(data="", output=Path())
Scores = dict[str, dict[str, float]]


def pretrain(config: PretrainConfig) -> int:
    """Train to `config.num_steps`, from the start or from where the run in `config.output` stopped; returns the exit code."""
    end_when_asked()
    with RunLock(config.output / LOCK, config.output) as lock:
        return _train(set_up_run(config, lock))


def _train(run: TrainingRun) -> int:
    """The training loop, from the first step that is not done to the last; returns the exit code."""
    config = run.config
    if config.dry_run:
        dry_run(run, forward_backward, optimizer_step)
        return 0
    stop_signals = StopSignals().listen()  # until the process ends
    validation = _new_validation(run)
    report = StepReport(run.stream.draws.sources, run.flops_per_sample, run.peak_flops)
    monitor = new_monitor(config, run.corpus, run.first_step, run.is_main)
    skipped_samples = SkippedSamples(config.output, {TRAINING: [run.stream], VALIDATION: validation.streams})
    if run.is_main:
        forget_skipped_steps_after(config.output, run.first_step)
    checks = StepChecks(run)
    saver = Saver(run, monitor, skipped_samples, checks)

    batches = run.stream.batches(run.first_step * run.micro_steps, config.num_steps * run.micro_steps, run.device)
    for step in range(run.first_step, config.num_steps):
        done, is_last = step + 1, step + 1 == config.num_steps
        consistency_weight = scheduled_consistency_weight(config.objective, step, config.num_steps)
        results: list[MicroBatchResult] = []
        run.engine.train()
        for micro_step in range(run.micro_steps):
            with report.waiting():
                batch = _next_batch(run, batches, saver, step)
            results.append(forward_backward(run, batch, step, micro_step, consistency_weight))
            report.add(batch, results[-1].supervised, results[-1].consistency, results[-1].total)
        is_asked_to_stop = ranks.any_rank([stop_signals.received])[0]
        optimizer_step(run, step, scheduled_learning_rate(config.optimizer, step, config.num_steps))
        checks.add(step, [(each.source, each.keys) for each in results], torch.stack([each.total for each in results]))

        # Nothing above waits for the GPU: results of steps are read where they are due.
        if done % config.log_every == 0 or is_last:
            checks.check()
            monitor.scalars(done, report.scalars(ranks.sum_over_ranks, run.world_size) | _optimizer_scalars(run))
            skipped_samples.list_new()
        is_validation_due = done % config.validate_every == 0 or is_last
        if done % config.save_every == 0 or is_validation_due or is_asked_to_stop:
            with report.paused():
                saver.save(done)
                if is_asked_to_stop:
                    return _stopped(run, saver, done)
                if is_validation_due and run.is_main:
                    sensor, shown = run.corpus.sensors[batch.source], results[-1]
                    show_examples(monitor, done, batch, sensor, shown.target, shown.predicted, run.targets.legend)
                if is_validation_due and not is_last:  # `_finish` validates after the last step
                    _validate(run, validation, monitor, done, skipped_samples)
    batches.close()
    saver.wait()
    _finish(run, validation, monitor, skipped_samples)
    monitor.close()
    return 0


@dataclass(frozen=True)
class MicroBatchResult:
    """Results of this rank's share of a micro-batch.

    Attributes:
        source: of the samples.
        keys: of the samples.
        total, supervised, consistency: losses, scalars on the device.
        target, predicted: what the land-cover map and the student say.
    """

    source: str
    keys: list[str]
    total: torch.Tensor
    supervised: torch.Tensor
    consistency: torch.Tensor
    target: Prediction
    predicted: Prediction


def forward_backward(run: TrainingRun, batch: Batch, step: int, micro_step: int, consistency_weight: float) -> MicroBatchResult:
    """A micro-step of the training loop: forward and backward pass of this rank's share of a micro-batch.

    The share is computed in `gradient_accumulation_steps` equal parts.
    """
    parts, objective = batch.split(run.config.gradient_accumulation_steps), run.config.objective
    weights = LossWeights(loss=objective.loss, fractions_weight=objective.fractions_weight, consistency_weight=consistency_weight)
    results = []
    for number, part in enumerate(parts):
        # All ranks use the same seed: random numbers are drawn for the global batch, and each part uses its own share of them.
        seed_everything(run.config.seed, step, micro_step)
        size = len(part.keys)
        place = BatchPart((run.rank * len(parts) + number) * size, run.world_size * len(parts) * size)
        for_student, for_teacher = run.views(part)
        taught = as_student_sees(run.teacher(for_teacher, part.source), part) if objective.consistency_weight > 0 else None
        predicted = run.engine(for_student, part.source, place)
        target = run.targets(part)
        losses = land_cover_loss(predicted, target, taught, weights, part.usable)
        engine.backward(run.engine, losses[0])
        if (micro_step, number) != (run.micro_steps - 1, len(parts) - 1):
            run.engine.step()  # only counts: gradients add up until `optimizer_step`
        results.append((torch.stack([loss.detach() for loss in losses]), target, predicted))
    losses_of_parts, target_parts, predicted_parts = zip(*results, strict=True)
    total, supervised, consistency = torch.stack(losses_of_parts).mean(dim=0)
    shown = _joined(target_parts), _joined(predicted_parts)
    return MicroBatchResult(batch.source, batch.keys, total, supervised, consistency, *shown)


def _joined(parts: Sequence[Prediction]) -> Prediction:
    """The predictions for all parts of a batch, without their gradients."""
    return {name: torch.cat([part[name].detach() for part in parts]) for name in parts[0]}


def optimizer_step(run: TrainingRun, step: int, learning_rate: float) -> None:
    """The optimizer step of the training loop after all micro-batches of `step`: one of AdamW, then one of the teacher.

    All ranks skip that of AdamW when the loss or the gradient of any rank is not finite.
    """
    for group in run.engine.optimizer.param_groups:
        group["lr"] = learning_rate
    run.engine.step()
    run.teacher.update(step)


def _next_batch(run: TrainingRun, batches: Iterator[Batch], saver: Saver, step: int) -> Batch:
    """This rank's next batch. When any rank cannot read its own, all ranks save the state after `step` steps and raise."""
    error: Exception | None = None
    try:
        with while_running(f"rank {run.rank} on {socket.gethostname()} cannot read its next batch"):
            batch = next(batches)
    except Exception as raised:
        error = raised
    if ranks.any_rank([error is not None])[0]:
        saver.save(step)
        saver.wait()
        ranks.raise_together(error)
    return batch


def _new_validation(run: TrainingRun) -> Validation:
    """The validation that the run's configuration asks for."""
    config = run.config
    samples = config.validate_samples, config.probe_samples
    return Validation(run.corpus, config.stream, run.targets, run.statistics, run.rank, run.world_size, *samples)


def _optimizer_scalars(run: TrainingRun) -> dict[str, float]:
    """Learning rate, gradient norm and the teacher's distance after the last optimizer step. Every rank calls this."""
    scalars = {
        "optimizer/learning_rate": run.engine.optimizer.param_groups[0]["lr"],
        "optimizer/skipped_steps": float(run.skipped_steps),
        "teacher/distance": run.teacher.distance(),
    }
    if math.isfinite(run.gradient_norm):  # one infinite norm would hide all others in means over steps
        scalars["optimizer/gradient_norm"] = run.gradient_norm
    return scalars


def _validate(run: TrainingRun, validation: Validation, monitor: Monitor, step: int, skipped: SkippedSamples) -> Scores:
    """Scores of the teacher after `step` steps, which are logged, too; none when the corpus has no validation split."""
    scores = validation(run.teacher)
    skipped.list_new()
    if scores:
        monitor.scalars(step, validation_scalars(scores))
    return scores


def _stopped(run: TrainingRun, saver: Saver, step: int) -> int:
    """Wait for the checkpoint after `step` steps, and return the exit code of a run that was asked to stop."""
    saver.wait()  # on all ranks: once one has ended, the launcher gives the others 30 s, which may be too little for the writer
    if run.is_main:
        print(f"asked to stop: saved after step {step} of {run.config.num_steps}; start again to resume", flush=True)
    return STOPPED


def _finish(run: TrainingRun, validation: Validation, monitor: Monitor, skipped: SkippedSamples) -> None:
    """Write the encoder, validate and write the scores, unless the finished run was only started again; print the scores.

    The encoder comes first: it is there even if validation fails.
    """
    output, num_steps = run.config.output, run.config.num_steps
    if run.first_step < num_steps or not ranks.gather(has_final_files(output, num_steps))[0]:
        weights = run.teacher.gather()
        _write_final_file(run, ENCODER_FILE, lambda path: _save_average(run, weights, path))
        scores = _validate(run, validation, monitor, num_steps, skipped)
        metrics = {"steps": num_steps, "skipped_steps": run.skipped_steps, "validation": scores}
        _write_final_file(run, ENCODER_FILE, lambda path: describe_encoder(path, encoder_record(path, output, metrics=metrics)))
        _write_final_file(run, METRICS_FILE, lambda path: write_json(path, metrics))
        shown = [name for name in validation_scalars(scores) if name.startswith("validation/")]  # not those of single classes
        monitor.hyperparameters(
            run.config.as_json(), sorted(shown, key=lambda name: not name.endswith("/mae")), DEFAULTS.as_json()
        )
    if run.is_main:
        finished = json.loads((output / METRICS_FILE).read_text())["validation"]
        columns = {"mae": "fraction error", "mae_of_mean": "of predicting the mean", "r2": "R2", "probe_r2": "R2, probe"}
        if run.config.objective.predicts_map:
            columns |= {"map_accuracy": "map accuracy", "map_f1": "map F1"}
        rows = [[source, *(values.get(name) for name in columns), values["samples"]] for source, values in finished.items()]
        header = ["validation", *columns.values(), "samples"]
        print(tabulate(rows, header, floatfmt=".4f") if rows else "no validation split in the corpus")
        print(f"encoder: {output / ENCODER_FILE}\nTensorBoard: tensorboard --logdir {output}", flush=True)


def _save_average(run: TrainingRun, weights: dict[str, torch.Tensor], path: Path) -> None:
    """Write the teacher's encoder and decoder, with its whole averaged weights in fp32."""
    model = copy.deepcopy(run.teacher.model).float()
    model.load_state_dict(weights)
    save_encoder(model.encoder, path, model.decoder)


def _write_final_file(run: TrainingRun, name: str, write: Callable[[Path], None]) -> None:
    """Let rank 0 write a file of the run's folder, as long as the folder belongs to this job. Raises on all ranks."""
    path = run.config.output / name

    def write_on_main() -> None:
        run.lock.check()
        with while_running(f"{path} cannot be written"):
            write(path)

    ranks.on_main(write_on_main)


def main() -> NoReturn:
    """Entry point of every rank."""
    command = partial(run_command, _run, config_class=PretrainConfig, renamed=RENAMED_OPTIONS, built_in=CONFIGS)
    read_arguments(command)


def _run(config: PretrainConfig) -> NoReturn:
    """Train, and end this process with the run's exit code."""
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # from here on a rank may have errors of its own to print
    end_with(lambda: pretrain(config))


if __name__ == "__main__":
    main()
