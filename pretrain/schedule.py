"""Schedules of the learning rate and of the weight of the consistency loss."""

from __future__ import annotations

import math

from pretrain.config import ObjectiveConfig, OptimizerConfig


def scheduled_learning_rate(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """Learning rate of optimizer step `step` (from 0): linear warm-up, then a cosine decay to the final share."""
    warmup = max(1, round(config.warmup_share * num_steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    share = config.final_share + (1 - config.final_share) * 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * share


def scheduled_consistency_weight(config: ObjectiveConfig, step: int, num_steps: int) -> float:
    """Weight of the student-teacher loss at optimizer step `step` (from 0), which grows linearly from 0."""
    return config.consistency_weight * min(1.0, (step + 1) / max(1, config.consistency_warmup_share * num_steps))
