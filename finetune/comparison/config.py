"""Configuration of a comparison: the options of `finetune/compare.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.hub import ModelPath
from common.storage import AnyPath
from finetune.comparison.encoders import PRETRAINED_KINDS, compared_encoders, encoder_kind


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Compare encoders over tasks, fractions of the labels and seeds: tables and pictures of scores and of differences.

    Attributes:
        tasks: tasks of finetune/tasks/, or paths of YAMLs like theirs.
        data: as for finetune/run.py: scenes, HDF5 samples or shards with labels, also at a URL; or FILE.py:CLASS.
        output: folder of all runs and of comparison.json, comparison.md, comparison.png, comparison_differences.png
            and, for several shares of the labels, comparison_learning.png.
        checkpoint: pretraining run, encoder.safetensors, AgriFM.pth or hf://OWNER/NAME[@REVISION], for pretrained, frozen,
            linear_probe and lora.
        checkpoints: several of them by name, instead of --checkpoint, as in --checkpoints.map runs/map --checkpoints.fractions
            runs/fractions; the encoders pretrained, frozen, linear_probe and lora then stand for one encoder of each.
        encoders: pretrained (the whole encoder is trained), frozen (only the decoder is trained), linear_probe (logistic
            regression on the features of the frozen encoder), lora, scratch (random weights in the checkpoint's shape), unet,
            temporal_cnn, random_forest; and of one of several checkpoints, as in lora.map.
        reference: encoder whose scores minus those of each other one are shown; by default the first one with a checkpoint.
        label_fraction: fractions of the training windows that are used; the windows of a smaller one are part of a larger one's.
        seeds: number of seeds, 0, 1, ...; each draws windows, weights and their order. All encoders get the same windows.
        min_steps: least number of steps of each run, whatever the encoder: epochs pass over few windows several times;
            --run.training.steps 300 asks for exactly so many in each instead, however many labels there are.
        run: further options of finetune/run.py for every run, as in --run.training.epochs 30 --run.override.frames 12.
        only: the same for one encoder, one kind of encoder, one task or one share of the labels, as in
            --only.pretrained '{training.learning_rate: 0.0003, tuning.layer_decay: 0.75}' --only '{100%: {training.steps: 400}}'.
        jobs: runs at a time; each gets its share of the cores, or OMP_NUM_THREADS of them if that is set.
    """

    tasks: list[str]
    data: AnyPath
    output: Path
    checkpoint: ModelPath | None = None
    checkpoints: dict[str, ModelPath] | None = None
    encoders: list[str] = field(default_factory=lambda: ["pretrained", "scratch", "unet", "temporal_cnn", "random_forest"])
    reference: str | None = None
    label_fraction: list[float] = field(default_factory=lambda: [1.0])
    seeds: int = 3
    min_steps: int = 200
    run: dict[str, Any] | None = None
    only: dict[str, dict[str, Any]] | None = None
    jobs: int = 1

    def __post_init__(self) -> None:
        for name in ("tasks", "label_fraction"):
            check_distinct(name, getattr(self, name))
        if self.checkpoint and self.checkpoints:
            raise ValueError("--checkpoint and --checkpoints are both given; name the checkpoint in --checkpoints, too")
        if self.reference is not None and self.reference not in self.compared_encoders:
            raise ValueError(f"--reference is {self.reference}; expected one of {', '.join(self.compared_encoders)}")
        if self.seeds < 1 or self.jobs < 1 or not all(0 < fraction <= 1 for fraction in self.label_fraction):
            raise ValueError(
                f"--seeds {self.seeds} and --jobs {self.jobs} must be at least 1, --label_fraction {self.label_fraction} "
                "above 0 and at most 1"
            )

    @property
    def compared_encoders(self) -> list[str]:
        """The encoders, with one for each checkpoint."""
        return compared_encoders(self.encoders, self.checkpoints or {})

    @property
    def reference_encoder(self) -> str | None:
        """The encoder that the others are compared with; None if there is none with a checkpoint, and none was chosen."""
        pretrained = [encoder for encoder in self.compared_encoders if encoder_kind(encoder) in PRETRAINED_KINDS]
        return self.reference or next(iter(pretrained), None)

    def settings(self) -> dict[str, Any]:
        """Everything that the results depend on, for comparison.json."""
        changed = {"encoders": self.compared_encoders, "reference": self.reference_encoder}
        return {name: value for name, value in vars(self).items() if name not in ("jobs", "output")} | changed


def check_distinct(name: str, values: list[Any]) -> None:
    """Raises ValueError unless option `name` in a comparison's configuration has at least one value, each once."""
    if not values or len(set(values)) < len(values):
        raise ValueError(f"--{name} is {values}; expected at least one, each once")
