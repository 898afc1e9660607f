"""The training loop of fine-tuning: AdamW with warm-up and cosine decay, validation and a checkpoint after each epoch.

Several ranks share each batch (`finetune/training/data_parallel.py`), and processes read batches ahead
(`finetune/training/reading.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from common import ranks
from common.errors import while_running
from common.run_lock import RunLock
from finetune.data.batches import BatchDraw
from finetune.data.window_dataset import LabelledWindows
from finetune.model.baselines import UNet
from finetune.model.batch_norm import with_synchronized_batch_norm
from finetune.model.crop_mapper import CropMapper
from finetune.model.model_file import MODEL_FILE, save_model
from finetune.model.recipe import Recipe
from finetune.model.tuning import RATES_FROM_SCRATCH, Rates, parameter_groups
from finetune.report.figures import confusion_figure
from finetune.scoring.metrics import OVER_CLASSES
from finetune.training.best_epoch import BestEpochCriterion
from finetune.training.checkpoint import Progress, load_newest_checkpoint, save_checkpoint
from finetune.training.compilation import compile_compared
from finetune.training.data_parallel import batch_part, data_parallel, seed_step
from finetune.training.losses import MapLoss
from finetune.training.precision import autocast, chosen_precision
from finetune.training.reading import BatchReading, WindowBatch
from finetune.training.schedule import Schedule
from finetune.training.window_scores import score_windows

MAX_GRADIENT_NORM = 1.0
MOST_SKIPPED_IN_A_ROW = 20  # steps without a finite gradient, after which the run stops


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingJob:
    """What to train, on what, how, and where to keep it.

    Attributes:
        model: the model; parameters that require no gradient stay as they are.
        recipe: what the model's file holds beside the weights.
        training, validation: windows with labels.
        schedule: epochs, batches, learning rate.
        loss: loss of a map.
        criterion: chooses the best epoch.
        output: folder of the run, for the model, checkpoints and TensorBoard.
        lock: of that folder; rank 0 saves only while it has it.
        seed: seed of order, dates, augmentation and stochastic depth.
        rates: learning rates of the model's parts.
        num_workers: processes of each rank that read batches ahead, from windows of a store; 0 reads in this process.
        figures: whether TensorBoard gets the confusion matrix of each epoch as a picture; to draw it takes a second.
    """

    model: nn.Module
    recipe: Recipe
    training: LabelledWindows
    validation: LabelledWindows
    schedule: Schedule
    loss: MapLoss
    criterion: BestEpochCriterion
    output: Path
    lock: RunLock
    seed: int
    rates: Rates = RATES_FROM_SCRATCH
    num_workers: int = 0
    figures: bool = True


class Trainer:
    """Model, optimizer and progress of a job on this rank, loaded from the newest checkpoint if there is one."""

    def __init__(self, job: TrainingJob, device: torch.device) -> None:
        rank, world_size = ranks.rank_and_world_size()
        self.job, self.device, self.is_main = job, device, rank == 0
        is_cuda = device.type == "cuda"
        job.loss.to(device)
        self.precision = chosen_precision(job.schedule.precision, device)
        self.model = with_synchronized_batch_norm(job.model.to(device), device)
        if isinstance(self.model, UNet) and (job.schedule.channels_last or (job.schedule.channels_last is None and is_cuda)):
            # Of its weights; the images follow. PyTorch's annotation lacks this argument.
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        groups = parameter_groups(self.model, job.rates, job.schedule.weight_decay)
        # On CPUs the fused step rounds differently, and is no faster where the model takes nearly all of the time.
        self.optimizer = torch.optim.AdamW(groups, lr=job.schedule.learning_rate, fused=is_cuda or None)
        self.progress = load_newest_checkpoint(job.output, self.model, self.optimizer, device)
        self._parallel_model = data_parallel(self.model, device) if world_size > 1 else self.model

    def draws(self) -> Iterator[BatchDraw]:
        """This rank's slices of the batches of all steps that are left, over all epochs."""
        job, done = self.job, len(self.progress.losses)
        rank, world_size = ranks.rank_and_world_size()
        for epoch in range(self.progress.epoch, job.schedule.num_epochs):
            batches = job.schedule.batches(epoch, len(job.training), np.random.default_rng([job.seed, epoch]))
            for step in range(done, len(batches)):
                yield BatchDraw.of_rank(batches[step], (job.seed, epoch, step), rank, world_size)
            done = 0

    def compile(self, reading: BatchReading) -> None:
        """Compile the encoder, after a comparison on this rank's slice of the first batch. Every rank calls this."""
        error = None
        with closing(reading.batches(self.job.training, self.draws(), augmented=True)) as batches:
            batch = next(batches, None)
        if batch is None:
            return  # nothing is left to train
        try:
            assert isinstance(self.model, CropMapper)
            line = compile_compared(self.model, self.job.loss, batch, self.precision, self.job.seed)
            if self.is_main:
                print(line, flush=True)
        except ValueError as raised:
            error = raised
        ranks.raise_together(error)

    def forward(self, batch: WindowBatch) -> torch.Tensor:
        """Loss of the whole batch, one number, from this rank's slice of it."""
        part = {"part": batch_part(batch)} if isinstance(self.model, CropMapper) else {}  # baselines have no stochastic depth
        with autocast(self.device, self.precision):
            class_scores = self._parallel_model(batch.data, (batch.label.shape[-2], batch.label.shape[-1]), **part)
        loss: torch.Tensor = self.job.loss(class_scores.float(), batch.label, ranks.sum_over_ranks)
        return loss

    def optimizer_step(self, loss: torch.Tensor, rate: float) -> bool:
        """Backward and one step of AdamW at learning rate `rate`, with the gradient's norm clipped.

        Returns False, on all ranks, when the gradient is not finite; weights and optimizer are then unchanged. Clipping would
        make every weight NaN.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        is_finite = bool(norm.isfinite())
        if is_finite:
            self.optimizer.step()
        return is_finite

    def end_epoch(self, scores: dict[str, Any]) -> None:
        """Note the epoch's loss and validation scores; rank 0 writes the model if it is the best so far."""
        progress, job = self.progress, self.job
        numbers = {"loss": float(np.mean(progress.losses)), "validation_loss": scores["loss"]}
        progress.history.append(numbers | {name: scores[name] for name in OVER_CLASSES})
        progress.epoch, progress.losses = progress.epoch + 1, []
        is_best = job.criterion.is_better(scores, progress.best)
        if is_best:
            progress.best, progress.best_epoch = scores, progress.epoch
        if self.is_main and is_best:
            job.lock.check()
            with while_running(f"writing {job.output / MODEL_FILE}"):
                save_model(job.output / MODEL_FILE, self.model, job.recipe)

    def save(self) -> None:
        """Write a checkpoint, on rank 0."""
        if self.is_main:
            self.job.lock.check()
            with while_running(f"writing a checkpoint into {self.job.output}"):
                save_checkpoint(self.job.output, self.progress, self.model, self.optimizer)


class _AskedToStop(Exception):
    """Any rank was asked to stop."""


def train(job: TrainingJob, device: torch.device, is_asked_to_stop: Callable[[], bool] = lambda: False) -> Progress | None:
    """Train the model of `job`; `job.output/model.safetensors` is that of the best epoch.

    Resumes from the newest good checkpoint in `job.output`. When `is_asked_to_stop` on any rank, all ranks stop after the step
    or batch of validation that they compute, rank 0 saves, and the result is None. Every rank calls this.

    Raises FloatingPointError, on all ranks, when the loss is not finite, or when the gradients of `MOST_SKIPPED_IN_A_ROW` steps
    are not. Raises InfrastructureError when windows cannot be read any more, or the output cannot be written.
    """
    trainer = Trainer(job, device)
    progress, schedule = trainer.progress, job.schedule
    windows = len(job.training)
    num_steps = schedule.num_steps(windows)
    done = schedule.first_step(progress.epoch, windows) + len(progress.losses)
    # Epochs count from 1. Those after the checkpoint are logged again.
    writer = SummaryWriter(str(job.output), purge_step=progress.epoch + 1) if trainer.is_main else None
    title = f"training {job.recipe.task.name}"
    bar = tqdm(total=num_steps, initial=done, desc=title, unit="step", disable=not trainer.is_main)
    waits = Waits()

    def stop_if_asked() -> None:
        if ranks.any_rank([is_asked_to_stop()])[0]:
            raise _AskedToStop

    with BatchReading(job.num_workers, device) as reading:
        read_validation = partial(reading.batches, job.validation, augmented=False)
        try:
            if schedule.compile:
                trainer.compile(reading)
            with closing(reading.batches(job.training, trainer.draws(), augmented=True)) as batches:
                for epoch in range(progress.epoch, schedule.num_epochs):
                    first_step, steps = schedule.first_step(epoch, windows), schedule.steps_in_epoch(epoch, windows)
                    trainer.model.train()
                    waits.begin()
                    for step in range(len(progress.losses), steps):
                        stop_if_asked()
                        with while_running("reading the training windows"), waits.waiting():
                            batch = next(batches)
                        seed_step(batch, trainer.model)
                        loss = trainer.forward(batch)
                        _stop_all_ranks_if_not_finite(loss, batch, epoch)
                        is_taken = trainer.optimizer_step(loss, schedule.rate(first_step + step, num_steps))
                        progress.losses.append(loss.item())
                        _count_skipped_steps(progress, is_taken, batch, bar)
                        del batch, loss  # the memory of a batch is used again
                        bar.update()
                        if step + 1 == steps:
                            waits.end()
                            trainer.save()  # validation may take long
                    with while_running("reading the validation windows"):
                        scores = score_windows(
                            trainer.model, job.validation, schedule.batch_size, device, job.loss, stop_if_asked, read_validation,
                            trainer.precision,
                        )  # fmt: skip
                    trainer.end_epoch(scores)
                    if writer is not None:
                        rate = schedule.rate(first_step + steps - 1, num_steps)
                        log_epoch(writer, progress, rate, scores, waits.share, job.figures)
                    trainer.save()  # after the log, which then holds every epoch of the checkpoint
                    _show_scores(bar, progress, scores, job.criterion)
            stop_if_asked()  # before the test scenes are mapped
        except _AskedToStop:
            trainer.save()
            _report_stop(progress, schedule.steps_in_epoch(progress.epoch, windows))
            return None
    bar.close()
    if writer is not None:
        writer.close()
    return progress


class Waits:
    """How much of the time of an epoch's steps the training has waited for batches."""

    def __init__(self) -> None:
        self.share = 0.0
        self._began = self._waited = 0.0

    def begin(self) -> None:
        """Begin an epoch, or what is left of it."""
        self._began, self._waited = time.perf_counter(), 0.0

    def end(self) -> None:
        """End the steps of an epoch, and compute the share."""
        self.share = self._waited / max(time.perf_counter() - self._began, 1e-9)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within it, the training waits."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began


def _stop_all_ranks_if_not_finite(loss: torch.Tensor, batch: WindowBatch, epoch: int) -> None:
    """Raises FloatingPointError that names the batch's windows when `loss`, which all ranks have, is NaN or infinite."""
    if not torch.isfinite(loss):
        names = [name for names in ranks.gather(batch.names) for name in names]
        raise FloatingPointError(
            f"the loss is {loss.item()} in epoch {epoch + 1} on {names}; nothing was learned from it, "
            "lower --training.learning_rate and start again in another --output"
        )


def _count_skipped_steps(progress: Progress, is_taken: bool, batch: WindowBatch, bar: tqdm[Any]) -> None:
    """Count and report a step that was skipped. Raises FloatingPointError, on all ranks, when too many were in a row."""
    if is_taken:
        progress.skipped_in_a_row = 0
        return
    progress.skipped_steps += 1
    progress.skipped_in_a_row += 1
    names = [name for names in ranks.gather(batch.names) for name in names]
    where = f"epoch {progress.epoch + 1}, step {len(progress.losses)}: the gradient is not finite on {names}"
    if progress.skipped_in_a_row == MOST_SKIPPED_IN_A_ROW:
        raise FloatingPointError(
            f"{where}, and neither were those of the {MOST_SKIPPED_IN_A_ROW - 1} steps before; lower --training.learning_rate "
            "and start again in another --output"
        )
    if ranks.rank_and_world_size()[0] == 0:
        bar.write(f"{where}; the step is skipped, {progress.skipped_steps} so far")


def _report_stop(progress: Progress, steps_in_epoch: int) -> None:
    """Wait until rank 0 has written the checkpoint, and say that the training stopped because it was asked to."""
    ranks.barrier()
    if ranks.rank_and_world_size()[0] == 0:
        steps = f" and {len(progress.losses)} of {steps_in_epoch} steps" if progress.losses else ""
        print(f"asked to stop: saved after {progress.epoch} epochs{steps}; start again to resume", flush=True)


def _show_scores(bar: tqdm[Any], progress: Progress, scores: dict[str, Any], criterion: BestEpochCriterion) -> None:
    """The epoch's loss and score, and the best score so far, in the progress bar."""
    loss = f"{progress.history[-1]['loss']:.3f}"
    best = f"{criterion.value(progress.best):.3f}"
    bar.set_postfix({"loss": loss, criterion.shown_score: f"{criterion.value(scores):.3f}"}, best=best)


def log_epoch(
    writer: SummaryWriter, progress: Progress, rate: float, scores: dict[str, Any], waited: float, figures: bool = True
) -> None:
    """Write the last epoch's numbers and, with `figures`, the confusion matrix of its validation windows to TensorBoard.

    `waited`: share of the time of its steps in which the training waited for batches.
    """
    epoch = progress.epoch
    writer.add_scalar("train/loss", progress.history[-1]["loss"], epoch)
    writer.add_scalar("train/learning_rate", rate, epoch)
    writer.add_scalar("train/skipped_steps", progress.skipped_steps, epoch)
    writer.add_scalar("train/waited_for_data", waited, epoch)
    for name in ("loss", *OVER_CLASSES):
        writer.add_scalar(f"validation/{name}", scores[name], epoch)
    for name, values in scores["classes"].items():
        writer.add_scalar(f"validation_f1/{name}", values["f1"], epoch)
    if figures:
        writer.add_figure("validation/confusion", confusion_figure(scores["confusion"], list(scores["classes"])), epoch)
    writer.flush()  # a run that is stopped, or fails, ends at once
