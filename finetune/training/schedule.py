"""Schedule of a training: epochs, batches, learning rate and precision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

# Settings that change no more than the rounding of what a run learns.
FOR_SPEED = ("compile", "channels_last")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to learn.

    Attributes:
        epochs: passes over the training windows; the run is validated after each.
        batch_size: windows per step, over all ranks together.
        min_steps: least number of steps of the run. Where few windows give fewer, each epoch passes over them several times; the
            number of epochs, and so of validations, stays the same.
        steps: exactly so many steps, however many windows there are, so that runs with few and with many labels learn equally
            long. `epochs` then is the number of validations, at equal distances, and passes begin anew after each; 10 are enough.
        learning_rate: peak of the learning rate, between the warm-up and a cosine decay.
        weight_decay: decoupled weight decay of AdamW (Loshchilov and Hutter, 2019).
        warmup_share: share of all steps for the linear warm-up; a share, so that it fits runs of any length.
        final_share: learning rate of the last step, as a share of the peak.
        precision: of the model's matrix products and convolutions in training and validation, by autocast; weights, losses and
            optimizer keep fp32. auto is bf16 on GPUs that have it, and fp32 on CPUs. Test scenes are mapped in fp32.
        compile: let torch.compile fuse the encoder's blocks, after a check on the first batch that loss and gradient stay the
            same. This takes minutes at the start, and a C++ compiler.
        channels_last: lay the images of a U-Net out with the channels of a pixel side by side, which is faster on GPUs; by
            default there and not on CPUs.

    Raises ValueError for values out of range.
    """

    epochs: int = 20
    batch_size: int = 8
    min_steps: int = 0
    steps: int | None = None
    learning_rate: float = 1e-3
    weight_decay: float = 5e-4
    warmup_share: float = 0.1
    final_share: float = 1 / 60
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    channels_last: bool | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.learning_rate <= 0:
            raise ValueError(f"epochs and batch_size must be at least 1 and learning_rate positive, got {self}")
        if self.min_steps < 0:
            raise ValueError(f"--training.min_steps is {self.min_steps}; expected 0 or more")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"--training.steps is {self.steps}; expected at least 1, or null for the steps of all epochs")
        if self.steps is not None and self.min_steps:
            raise ValueError(f"--training.min_steps {self.min_steps} has no effect with --training.steps {self.steps}")
        for name in ("warmup_share", "final_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a share from 0 to 1")

    @property
    def num_epochs(self) -> int:
        """Number of epochs, each of at least one step."""
        return self.epochs if self.steps is None else min(self.epochs, self.steps)

    def first_step(self, epoch: int, windows: int) -> int:
        """Number of steps before `epoch`, which counts from 0: those of whole passes over `windows` windows, or more."""
        if self.steps is not None:
            return epoch * self.steps // self.num_epochs
        return epoch * max(math.ceil(windows / self.batch_size), math.ceil(self.min_steps / self.epochs))

    def steps_in_epoch(self, epoch: int, windows: int) -> int:
        """Number of steps of `epoch`."""
        return self.first_step(epoch + 1, windows) - self.first_step(epoch, windows)

    def num_steps(self, windows: int) -> int:
        """Steps of the whole training."""
        return self.first_step(self.num_epochs, windows)

    def batches(self, epoch: int, windows: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Indices of the windows of each step of an epoch, in an order drawn by `rng`.

        One pass is split into parts of equal size: a last batch of a single window would leave batch normalisation nothing to
        average over. When an epoch has more steps than one pass, or when there is only one window, further passes fill all
        batches; a batch may then hold the same window several times, each time with other dates, flip and rotation. With `steps`
        all batches are full, too, and an epoch of fewer steps than one pass is a part of one.
        """
        steps = self.steps_in_epoch(epoch, windows)
        order = rng.permutation(windows)
        if windows == 1 or self.steps is not None or steps > math.ceil(windows / self.batch_size):
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
