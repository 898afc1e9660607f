"""Everything a pretraining run can be told. YAML files in `configs/`; `--print_config` shows the result."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pretrain.data.stream import StreamConfig
from pretrain.model import EncoderConfig


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay.

    Attributes:
        learning_rate: peak rate.
        final_share: rate at the last step, as a share of the peak.
        warmup_share: share of all steps for the warm-up; a share, so that short runs keep their shape.
        weight_decay: on matrices; norms, biases and position tables have none.
        betas: of Adam.
        gradient_clipping: largest norm of the whole gradient; 0 for none. Always passed to DeepSpeed, whose default is 1.0.
    """

    learning_rate: float = 5e-4
    final_share: float = 0.01
    warmup_share: float = 0.05
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    gradient_clipping: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Land-cover fractions with a mean teacher.

    Attributes:
        groupings: for a legend of the corpus another that groups its codes otherwise: built-in, or the path of a YAML
            (`--objective.groupings.glc_fcs30d glc_fcs30d_fine`).
        loss: `kl_divergence` (the gradient of the soft-label cross-entropy) or the paper's `l1`, which learned nothing at all in
            the first hundreds of steps and less after a thousand (README).
        consistency_weight: weight of the student-teacher term; 0 switches the term off. That term and the divergence are sums
            over classes, `l1` is a mean: beside it the teacher's pull grows with the number of classes, and above 2 at
            eight classes it slowed learning.
        consistency_warmup_share: share of all steps over which that weight grows from 0.
        teacher_decay: EMA decay per step; in early steps it is limited to (1 + step) / (10 + step), which reaches 0.99 at step
            890 and 0.999 at step 8990.
    """

    groupings: dict[str, str] = field(default_factory=dict)
    loss: Literal["kl_divergence", "l1"] = "kl_divergence"
    consistency_weight: float = 1.0
    consistency_warmup_share: float = 0.2
    teacher_decay: float = 0.99


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pretrain the encoder on land-cover fractions.

    Attributes:
        data: corpus written by data_prep/shard.py: a folder, or a URL that fsspec reaches (s3://bucket/corpus).
        output: folder of the run: checkpoints, TensorBoard logs, metrics.json, encoder.safetensors.
        encoder: shape of the encoder; its sources and bands are those of the corpus.
        stream: what goes into a batch.
        objective: loss and teacher.
        optimizer: AdamW and its schedule.
        num_steps: optimizer steps.
        micro_steps: micro-batches a step, each of one source; 0 takes one for each source of the mixture.
        passes: equal parts in which a rank takes its part of a micro-batch through the model, one after the other; more need
            less memory, so that a run can go on with fewer or smaller GPUs.
        zero: DeepSpeed JSON with the ZeRO stage; it may change when a run goes on.
        precision: of parameters and activations in the model; the optimizer keeps fp32.
        checkpoint_stages: stages of the encoder (1 to 4) whose blocks are computed twice instead of kept for the gradient; the
            first holds most of the memory. `python -m pretrain.model.cost` says what it saves.
        compile: let torch.compile fuse the encoder's blocks, after a comparison of loss and gradient with and without. Takes
            minutes at the start.
        initial_encoder: begin with the weights of this encoder: a finished run, an exported .safetensors or a published .pth.
        resume: `auto` goes on from the newest good checkpoint in `output`, if there is one; `never` wants a new folder.
        dry_run: build everything, take one step on a batch of each source, say what it needs and costs, and write nothing.
        save_every: steps between checkpoints.
        keep: newest checkpoints that are kept.
        keep_every: checkpoints of every so many steps are kept as well; 0 for none.
        validate_every: steps between validations on the validation split; the last step always validates.
        validate_samples: most samples of each source that are validated on.
        probe_samples: training samples of each source that the linear probe of a validation is fitted to; 0 for no probe.
        log_every: steps between lines of the log.
        seed: of weights and stochastic depth (the stream has its own).
    """

    data: str
    output: Path
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    num_steps: int = 100_000
    micro_steps: int = 0
    passes: int = 1
    zero: Path = Path(__file__).parent.parent / "launch" / "zero2.json"
    precision: Literal["fp32", "bf16"] = "bf16"
    checkpoint_stages: tuple[int, ...] = ()
    compile: bool = False
    initial_encoder: Path | None = None
    resume: Literal["auto", "never"] = "auto"
    dry_run: bool = False
    save_every: int = 1000
    keep: int = 3
    keep_every: int = 0
    validate_every: int = 5000
    validate_samples: int = 4096
    probe_samples: int = 2048
    log_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_steps", "passes", "save_every", "keep", "validate_every", "validate_samples", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        for name in ("micro_steps", "keep_every", "probe_samples"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more")
        self.encoder.check_stages(self.checkpoint_stages)
