"""The training loop: AdamW, warm-up and cosine, the best epoch by a score on validation, one checkpoint an epoch."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from data_prep.durable import whole_file, without_nan
from finetune.crop_mapper import Recipe, save_model
from finetune.losses import MapLoss
from finetune.metrics import confusion, scores
from finetune.selection import OVER_CLASSES, Selection
from finetune.task import IGNORE
from finetune.training_set import TrainingSet
from finetune.tuning import parameter_groups

MODEL_FILE = "model.safetensors"
LAST_EPOCH_FILE = "last_epoch.pt"
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


@dataclass
class Progress:
    """What is known after an epoch: how many are done, the best so far and its validation scores, and each epoch's numbers."""

    epoch: int
    best_epoch: int
    best: dict[str, Any]
    history: list[dict[str, float]]


def train(
    model: nn.Module,
    recipe: Recipe,
    training: TrainingSet,
    validation: TrainingSet,
    schedule: Schedule,
    loss_of: MapLoss,
    selection: Selection,
    output: Path,
    seed: int,
    device: torch.device,
    layer_decay: float = 1.0,
) -> Progress:
    """Train what learns of `model` on `loss_of`; the epoch that `selection` finds best ends up in `output/model.safetensors`.

    Starts after the last epoch whose checkpoint lies in `output`. Raises ValueError when the loss is not finite.
    """
    model.to(device)
    loss_of.to(device)
    groups = parameter_groups(model, layer_decay)
    optimizer = torch.optim.AdamW(groups, lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    batches = schedule.steps_per_epoch(len(training))
    num_steps = schedule.epochs * batches
    progress = resume(output, model, optimizer, device)
    writer = SummaryWriter(str(output), purge_step=progress.epoch)
    bar = tqdm(total=num_steps, initial=progress.epoch * batches, desc=f"training {recipe.task.name}", unit="step")

    for epoch in range(progress.epoch, schedule.epochs):
        # Everything random in an epoch follows from (seed, epoch), so that a resumed run draws what the first would have.
        rng = np.random.default_rng([seed, epoch])
        torch.manual_seed(int(rng.integers(2**31)))
        model.train()
        losses = []
        for number, indices in enumerate(schedule.batches(len(training), rng)):
            rate = schedule.rate(epoch * batches + number, num_steps)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            batch = training.batch(indices.tolist(), rng)
            label = batch["label"].to(device)
            class_scores = model({k: v.to(device) for k, v in batch["data"].items()}, (label.shape[-2], label.shape[-1]))
            loss = loss_of(class_scores, label)
            if not torch.isfinite(loss):
                raise ValueError(
                    f"the loss is {loss.item()} in epoch {epoch + 1} on {batch['file_name']}; nothing was learned from it, "
                    "lower --learning_rate and start again in another --output"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
            optimizer.step()
            losses.append(loss.item())
            bar.update()
        found = evaluate(model, validation, schedule.batch_size, device, loss_of)
        progress.epoch = epoch + 1
        numbers = {"loss": float(np.mean(losses)), "validation_loss": found["loss"]}
        progress.history.append(numbers | {name: found[name] for name in OVER_CLASSES})
        if selection.is_better(found, progress.best):
            progress.best, progress.best_epoch = found, epoch + 1
            save_model(output / MODEL_FILE, model, recipe)
        save_progress(output, progress, model, optimizer)
        report(writer, epoch + 1, progress.history[-1], rate, found)
        bar.set_postfix(
            {"loss": f"{np.mean(losses):.3f}", selection.name: f"{selection.value(found):.3f}"},
            best=f"{selection.value(progress.best):.3f}",
        )
    bar.close()
    writer.close()
    return progress


@torch.no_grad()
def evaluate(model: nn.Module, dataset: TrainingSet, batch_size: int, device: torch.device, loss_of: MapLoss) -> dict[str, Any]:
    """Scores of the model over all windows of `dataset`, and `loss`, the mean of its batches by their labelled pixels."""
    model.eval()
    matrix = confusion(len(dataset.task.classes)).to(device)
    losses, pixels = [], []
    for start in range(0, len(dataset), batch_size):
        batch = dataset.batch(range(start, min(start + batch_size, len(dataset))))
        label = batch["label"].to(device)
        class_scores = model({k: v.to(device) for k, v in batch["data"].items()}, (label.shape[-2], label.shape[-1]))
        matrix.update(class_scores.argmax(dim=1), label)
        losses.append(loss_of(class_scores, label).item())
        pixels.append(int((label != IGNORE).sum()))
    found = scores(matrix.compute().cpu(), [c.name for c in dataset.task.classes])
    return found | {"loss": float(np.average(losses, weights=pixels))}


def resume(output: Path, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> Progress:
    """Load the last epoch's checkpoint into model and optimizer; a fresh Progress when there is none."""
    path = output / LAST_EPOCH_FILE
    if not path.is_file():
        return Progress(epoch=0, best_epoch=0, best={}, history=[])
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        progress = Progress(**json.loads(state["progress"]))
    except (RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} does not continue this run ({error}); start again in another --output") from error
    print(f"continuing after epoch {progress.epoch}")
    return progress


def save_progress(output: Path, progress: Progress, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """The checkpoint of an epoch; it replaces the one before only when it is whole."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "progress": json.dumps(vars(progress))}
    with whole_file(output / LAST_EPOCH_FILE) as temporary:
        torch.save(state, temporary)


def report(writer: SummaryWriter, epoch: int, numbers: dict[str, float], rate: float, found: dict[str, Any]) -> None:
    """One epoch's numbers to TensorBoard."""
    writer.add_scalar("train/loss", numbers["loss"], epoch)
    writer.add_scalar("train/learning_rate", rate, epoch)
    for name in ("loss", *OVER_CLASSES):
        writer.add_scalar(f"validation/{name}", found[name], epoch)
    for name, values in found["classes"].items():
        writer.add_scalar(f"validation_f1/{name}", values["f1"], epoch)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """A whole JSON file; NaN becomes null."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(without_nan(values), indent=2))
