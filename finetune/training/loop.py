"""The training loop: AdamW, warm-up and cosine, the best epoch by a score on validation, one checkpoint an epoch.

Several ranks share each batch by plain data parallelism (torch DDP). What is drawn for a window follows from (seed, epoch, batch,
place in the batch), losses and batch normalisation are those of the whole batch: any number of ranks learns the same, but
for the dropout of the temporal CNN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from common import ranks
from finetune.data.windows import LabelledWindows
from finetune.model.batch_norm import synchronised
from finetune.model.crop_mapper import MODEL_FILE, CropMapper, Recipe, save_model
from finetune.model.tuning import parameter_groups
from finetune.report.figures import confusion_figure
from finetune.scoring.metrics import OVER_CLASSES, confusion, scores
from finetune.task import IGNORE
from finetune.training.best_epoch import Selection
from finetune.training.losses import MapLoss
from finetune.training.resume import Progress, load_newest, save_newest
from pretrain.checkpoint import seed_everything

GRADIENT_NORM = 1.0


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to learn.

    Attributes:
        epochs: passes over the training windows.
        batch_size: windows a step.
        min_steps: the run takes at least so many steps: an epoch passes over few windows as often as that needs. So the number
            of epochs, and with it of looks at the validation windows, is the same however few the windows are.
        learning_rate: peak learning rate.
        weight_decay: decoupled weight decay of AdamW (Loshchilov and Hutter, 2019).
        warmup_share: share of all steps with a linearly rising rate, so that it fits runs of any length.
        final_share: the learning rate at the end as a share of the peak.
    """

    epochs: int = 20
    batch_size: int = 8
    min_steps: int = 0
    learning_rate: float = 1e-3
    weight_decay: float = 5e-4
    warmup_share: float = 0.1
    final_share: float = 1 / 60

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.learning_rate <= 0:
            raise ValueError(f"epochs and batch_size must be at least 1 and learning_rate positive, got {self}")
        if self.min_steps < 0:
            raise ValueError(f"--min_steps is {self.min_steps}; expected a number of steps, 0 for as many as the epochs have")

    def steps_per_epoch(self, windows: int) -> int:
        """Steps of an epoch: one pass over so many windows, or what `min_steps` asks of each epoch."""
        return max(math.ceil(windows / self.batch_size), math.ceil(self.min_steps / self.epochs))

    def batches(self, windows: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Indices of the windows of each step of an epoch.

        One pass is dealt into parts of equal size: a last batch of one window would leave batch normalisation nothing to average
        over. Where more steps are asked for than one pass has, or there is but one window, further passes fill all batches; the
        same window is then in a batch several times, each time with other dates, flip and rotation.
        """
        steps = self.steps_per_epoch(windows)
        order = rng.permutation(windows)
        if windows == 1 or steps > math.ceil(windows / self.batch_size):
            missing = steps * self.batch_size - windows
            more = [rng.permutation(windows) for _ in range(math.ceil(missing / windows))]
            order = np.concatenate([order, *more])[: steps * self.batch_size]
        return np.array_split(order, steps)

    def rate(self, step: int, num_steps: int) -> float:
        """Learning rate of step 0..num_steps-1: linear warm-up, then half a cosine down to the final share."""
        warmup = min(num_steps - 1, math.ceil(self.warmup_share * num_steps))
        if step < warmup:
            return self.learning_rate * (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(1, num_steps - 1 - warmup)
        return self.learning_rate * (self.final_share + (1 - self.final_share) * 0.5 * (1 + math.cos(math.pi * progress)))


def train(
    model: nn.Module,
    recipe: Recipe,
    training: LabelledWindows,
    validation: LabelledWindows,
    schedule: Schedule,
    loss_of: MapLoss,
    selection: Selection,
    output: Path,
    seed: int,
    device: torch.device,
    layer_decay: float = 1.0,
    is_asked_to_stop: Callable[[], bool] = lambda: False,
) -> Progress:
    """Train what learns of `model` on `loss_of`; the epoch that `selection` finds best ends up in `output/model.safetensors`.

    Starts where the newest good checkpoint in `output` ends. When any rank `is_asked_to_stop`, all stop after the step, save, and
    return a Progress of fewer epochs than the schedule's. Every rank calls this; rank 0 writes.

    Raises FloatingPointError, on all ranks, when the loss is not finite.
    """
    rank, world_size = ranks.place()
    is_main = rank == 0
    model.to(device)
    loss_of.to(device)
    model = synchronised(model, device)
    groups = parameter_groups(model, layer_decay)
    optimizer = torch.optim.AdamW(groups, lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    batches = schedule.steps_per_epoch(len(training))
    num_steps = schedule.epochs * batches
    progress = load_newest(output, model, optimizer, device)
    learner = shared(model, device) if world_size > 1 else model
    writer = SummaryWriter(str(output), purge_step=progress.epoch) if is_main else None
    done = progress.epoch * batches + len(progress.losses)
    bar = tqdm(total=num_steps, initial=done, desc=f"training {recipe.task.name}", unit="step", disable=not is_main)

    for epoch in range(progress.epoch, schedule.epochs):
        drawn = schedule.batches(len(training), np.random.default_rng([seed, epoch]))
        model.train()
        for number, indices in enumerate(drawn):
            if number < len(progress.losses):
                continue  # done before the run was stopped
            rate = schedule.rate(epoch * batches + number, num_steps)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            batch = share_of_batch(training, indices, [seed, epoch, number], model)
            label = batch["label"].to(device)
            class_scores = learner({k: v.to(device) for k, v in batch["data"].items()}, (label.shape[-2], label.shape[-1]))
            loss = loss_of(class_scores, label, ranks.sum_over_ranks)
            if not torch.isfinite(loss):
                names = [name for names in ranks.gather(batch["file_name"]) for name in names]
                raise FloatingPointError(
                    f"the loss is {loss.item()} in epoch {epoch + 1} on {names}; nothing was learned from it, "
                    "lower --learning_rate and start again in another --output"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
            optimizer.step()
            progress.losses.append(loss.item())
            bar.update()
            if ranks.any_rank([is_asked_to_stop()], device)[0] and number + 1 < batches:
                if is_main:
                    save_newest(output, progress, model, optimizer)
                return stopped(progress, batches)
        found = evaluate(model, validation, schedule.batch_size, device, loss_of)
        numbers = {"loss": float(np.mean(progress.losses)), "validation_loss": found["loss"]}
        progress.history.append(numbers | {name: found[name] for name in OVER_CLASSES})
        progress.epoch, progress.losses = epoch + 1, []
        is_better = selection.is_better(found, progress.best)
        if is_better:
            progress.best, progress.best_epoch = found, epoch + 1
        if writer is not None:
            if is_better:
                save_model(output / MODEL_FILE, model, recipe)
            save_newest(output, progress, model, optimizer)
            report(writer, epoch + 1, progress.history[-1], rate, found)
        bar.set_postfix(
            {"loss": f"{numbers['loss']:.3f}", selection.shown: f"{selection.value(found):.3f}"},
            best=f"{selection.value(progress.best):.3f}",
        )
        if ranks.any_rank([is_asked_to_stop()], device)[0] and epoch + 1 < schedule.epochs:
            return stopped(progress, batches)
    bar.close()
    if writer is not None:
        writer.close()
    return progress


def check_share(windows: int, schedule: Schedule, world_size: int) -> None:
    """Raises ValueError unless each of `world_size` ranks gets a window of every batch of `windows` for training."""
    smallest = min(map(len, schedule.batches(windows, np.random.default_rng(0))))
    if smallest < world_size:
        raise ValueError(
            f"{world_size} ranks share batches of {smallest} windows ({windows} for training, --batch_size "
            f"{schedule.batch_size}): each needs one at least; start fewer ranks or give a larger --batch_size"
        )


def shared(model: nn.Module, device: torch.device) -> nn.Module:
    """The model whose gradients are means over ranks; every rank holds all of it."""
    # Patch embeddings of sources that the task does not read take part in no loss, and DDP would wait for their gradients.
    is_unused = isinstance(model, CropMapper) and set(model.encoder.config.sources) != set(model.sources)
    devices = [device] if device.type == "cuda" else None
    # Buffers are alike without it: means and variances of batch normalisation are those of the whole batch on every rank.
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False, find_unused_parameters=is_unused)


def share_of_batch(training: LabelledWindows, indices: np.ndarray, seeds: Sequence[int], model: nn.Module) -> dict[str, Any]:
    """This rank's windows of the batch `indices`, drawn; and what `model` draws at random in it is seeded.

    Everything random follows from `seeds` and the window's place in the batch, so that neither the number of ranks nor a
    stop in between changes it.
    """
    rank, world_size = ranks.place()
    parts = np.array_split(np.arange(len(indices)), world_size)
    generators = np.random.default_rng(list(seeds)).spawn(len(indices))
    windows = [training.batch([int(indices[place])], generators[place]) for place in parts[rank]]
    if isinstance(model, CropMapper):  # stochastic depth is drawn for the whole batch
        model.encoder.batch_part = int(parts[rank][0]), len(indices)
        seed_everything(*seeds)
    else:  # the temporal CNN's dropout is not: each rank needs draws of its own
        seed_everything(*seeds, rank)
    return {
        "data": {source: torch.cat([window["data"][source] for window in windows]) for source in windows[0]["data"]},
        "label": torch.cat([window["label"] for window in windows]),
        "file_name": [name for window in windows for name in window["file_name"]],
    }


def stopped(progress: Progress, batches: int) -> Progress:
    """Say that a training was asked to stop, once its checkpoint is written."""
    ranks.barrier()
    if ranks.place()[0] == 0:
        within = f" and {len(progress.losses)} of {batches} steps" if progress.losses else ""
        print(f"asked to stop: saved after {progress.epoch} epochs{within}; start again to go on", flush=True)
    return progress


@torch.no_grad()
def evaluate(
    model: nn.Module, dataset: LabelledWindows, batch_size: int, device: torch.device, loss_of: MapLoss
) -> dict[str, Any]:
    """Scores of the model over all windows of `dataset`, and `loss`, the mean of its batches by their labelled pixels.

    Ranks take batches in turn; each has the scores of all of them.
    """
    rank, world_size = ranks.place()
    model.eval()
    matrix = confusion(len(dataset.task.classes)).to(device)
    losses: list[tuple[int, float, int]] = []  # (first window, loss, labelled pixels) of a batch
    for start in range(rank * batch_size, len(dataset), world_size * batch_size):
        batch = dataset.batch(range(start, min(start + batch_size, len(dataset))))
        label = batch["label"].to(device)
        class_scores = model({k: v.to(device) for k, v in batch["data"].items()}, (label.shape[-2], label.shape[-1]))
        matrix.update(class_scores.argmax(dim=1), label)
        losses.append((start, loss_of(class_scores, label).item(), int((label != IGNORE).sum())))
    # torchmetrics adds up the matrices of all ranks.
    found = scores(matrix.compute().cpu(), [c.name for c in dataset.task.classes])
    _, values, pixels = zip(*sorted(batch for of_rank in ranks.gather(losses) for batch in of_rank), strict=True)
    return found | {"loss": float(np.average(values, weights=pixels))}


def report(writer: SummaryWriter, epoch: int, numbers: dict[str, float], rate: float, found: dict[str, Any]) -> None:
    """One epoch's numbers and the confusion matrix of its validation windows to TensorBoard."""
    writer.add_scalar("train/loss", numbers["loss"], epoch)
    writer.add_scalar("train/learning_rate", rate, epoch)
    for name in ("loss", *OVER_CLASSES):
        writer.add_scalar(f"validation/{name}", found[name], epoch)
    for name, values in found["classes"].items():
        writer.add_scalar(f"validation_f1/{name}", values["f1"], epoch)
    writer.add_figure("validation/confusion", confusion_figure(found["confusion"], list(found["classes"])), epoch)
    writer.flush()  # a run that is stopped, or fails, ends at once
