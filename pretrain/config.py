"""Options of pretraining. Examples are the YAML files in `configs/`; `--print_config` shows the resulting configuration."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pretrain.data.config import StreamConfig
from pretrain.model import EncoderConfig, MapDecoderConfig

CONFIGS = Path(__file__).parent / "configs"
LAUNCH = Path(__file__).parents[1] / "launch"

# The new name of each option that was renamed: its old name still works, on the command line, in YAML and in a run's config.json.
RENAMED_OPTIONS = {
    "passes": "gradient_accumulation_steps",
    "checkpoint_stages": "activation_checkpointing",
    "stream.draws_per_read": "stream.data_echoing",
}

# What runs did before an option existed, where that is not the option's default.
EARLIER_VALUES = {"objective.loss": "l1"}


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay.

    Attributes:
        learning_rate: peak learning rate.
        final_share: learning rate at the last step, as a share of the peak.
        warmup_share: share of all steps for the warm-up. It is a share, so that short runs keep the shape of the schedule.
        weight_decay: of matrices; norms, biases and position tables have none.
        betas: decay rates of Adam's two moments.
        gradient_clipping: largest norm of the whole gradient; 0 does not clip.
    """

    learning_rate: float = 5e-4
    final_share: float = 0.01
    warmup_share: float = 0.05
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    gradient_clipping: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What of the land cover is predicted, the loss, and the mean teacher.

    Attributes:
        predict: `fractions`, the shares of the classes in a chip, as in the paper; or `map`, the class of each pixel as well, by
            a decoder that is pretrained with the encoder and that fine-tuning takes over.
        groupings: for a legend of the corpus, another legend that groups the same codes differently: a built-in name, or the path
            of a YAML file (`--objective.groupings.glc_fcs30d glc_fcs30d_fine`).
        loss: `kl_divergence`, whose gradient is that of the soft-label cross-entropy, or the paper's `l1`, which learned nothing
            in the first hundreds of steps and less after a thousand.
        fractions_weight: weight of the loss of the fractions beside that of the map.
        decoder_channels: width of the decoder of the map.
        pixel_channels: width of the decoder's convolutions over the pixels.
        consistency_weight: weight of the student-teacher loss; 0 switches it off. That loss and the divergence are sums over
            classes, `l1` is a mean: beside `l1` the teacher's pull grows with the number of classes, and weights above 2 slowed
            learning with eight classes.
        consistency_warmup_share: share of all steps over which that weight grows linearly from 0.
        teacher_decay: EMA decay of the teacher per step. In early steps it is at most (1 + step) / (10 + step), which reaches
            0.99 at step 890 and 0.999 at step 8990.
    """

    predict: Literal["fractions", "map"] = "fractions"
    groupings: dict[str, str] = field(default_factory=dict)
    loss: Literal["kl_divergence", "l1"] = "kl_divergence"
    fractions_weight: float = 1.0
    decoder_channels: int = 64
    pixel_channels: int = 16
    consistency_weight: float = 1.0
    consistency_warmup_share: float = 0.2
    teacher_decay: float = 0.99

    @property
    def predicts_map(self) -> bool:
        return self.predict == "map"

    def decoder(self, frames: int, num_classes: int) -> MapDecoderConfig | None:
        """Shape of the decoder for series of `frames` images; None if no map is predicted."""
        if not self.predicts_map:
            return None
        return MapDecoderConfig(
            frames=frames, num_classes=num_classes, channels=self.decoder_channels, pixel_channels=self.pixel_channels
        )


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Pretrain the encoder on land-cover fractions.

    Attributes:
        data: corpus written by data_prep/shard.py: a folder, or a URL that fsspec can read (s3://bucket/corpus).
        output: folder of the run: checkpoints, TensorBoard logs, metrics.json, encoder.safetensors.
        encoder: shape of the encoder; its sources and bands are those of the corpus.
        stream: which samples make up a batch, and how they are read.
        objective: loss and mean teacher.
        optimizer: AdamW and its learning-rate schedule.
        num_steps: optimizer steps; another number, when a run resumes, changes its schedules from there on.
        micro_steps: micro-batches per optimizer step, each of one source; 0: as many as the mixture has sources.
        gradient_accumulation_steps: equal parts into which a rank divides its share of a micro-batch, one after the other, adding
            up their gradients; more parts need less memory, so that a run can resume on fewer or smaller GPUs.
        zero: DeepSpeed JSON with the ZeRO stage, or the name of one in launch/ (zero3); it may change when a run resumes. ZeRO-1
            is the fastest where the model fits: it reduces gradients once per optimizer step, ZeRO-2 in each micro-batch.
        precision: of parameters and activations of the model; the optimizer keeps fp32.
        activation_checkpointing: stages of the encoder (1 to 4) whose blocks keep only their input and are computed again for the
            gradient; stage 1 uses most of the memory. `python -m pretrain.cost` tells how much this saves.
        compile: let torch.compile fuse the encoder's blocks, after a check that loss and gradient stay the same. This takes
            minutes at the start.
        initial_encoder: start from the weights of this encoder: a finished run, an exported .safetensors or a published .pth;
            default: random weights.
        resume: `auto` resumes from the newest good checkpoint in `output`, if there is one; `never` requires a new folder.
        dry_run: build everything, train on a batch of each source, print what the run needs and costs, and write nothing.
        save_every: steps between checkpoints; a run also saves before it validates, when it is asked to stop, and when it can no
            longer read its data.
        keep: number of newest checkpoints to keep.
        keep_every: also keep the checkpoints of every so many steps; 0: none of them.
        validate_every: steps between validations on the validation split; the last step always validates.
        validate_samples: largest number of validation samples per source.
        probe_samples: largest number of training samples per source to which the linear probe of a validation is fitted; 0: no
            probe.
        log_every: steps between lines of the log.
        seed: of initial weights and stochastic depth; the stream has a seed of its own.
    """

    data: str
    output: Path
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    num_steps: int = 100_000
    micro_steps: int = 0
    gradient_accumulation_steps: int = 1
    zero: Path = LAUNCH / "zero1.json"
    precision: Literal["fp32", "bf16"] = "bf16"
    activation_checkpointing: tuple[int, ...] = ()
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
        at_least_1 = (
            "num_steps",
            "gradient_accumulation_steps",
            "save_every",
            "keep",
            "validate_every",
            "validate_samples",
            "log_every",
        )
        for name in at_least_1:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        for name in ("micro_steps", "keep_every", "probe_samples"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more")
        self.encoder.check_stages(self.activation_checkpointing)

    def as_json(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return values


def read_zero_json(path: Path) -> dict[str, Any]:
    """Read the DeepSpeed JSON of a configuration.

    `path` is a file like `launch/zero*.json`, or the bare name of one there, such as `zero3`.

    Raises ValueError unless it is JSON with a ZeRO stage of 1 to 3, and sets nothing that the run decides.
    """
    if not path.exists() and (LAUNCH / f"{path}.json").is_file():
        path = LAUNCH / f"{path}.json"
    try:
        settings: dict[str, Any] = json.loads(path.read_text())
        stage = settings["zero_optimization"]["stage"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a DeepSpeed JSON with zero_optimization.stage: {error!r}") from error
    if stage not in (1, 2, 3):
        raise ValueError(f"{path}: ZeRO stage {stage!r}; expected 1, 2 or 3")
    if settings["zero_optimization"].get("compute_grad_norm", True) is not True:
        raise ValueError(f"{path} sets compute_grad_norm; leave it out: by its norm a gradient that is not finite is recognised")
    ours = {
        "gradient_clipping",
        "gradient_accumulation_steps",
        "train_batch_size",
        "bf16",
        "data_types",
        "optimizer",
        "scheduler",
    } & set(settings)
    if ours:
        raise ValueError(
            f"{path} sets {sorted(ours)}; these are options of the run (--optimizer, --precision, ...); remove them from the file"
        )
    return settings
