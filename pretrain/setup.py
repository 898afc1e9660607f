"""One rank's part of a pretraining: corpus, stream, model, engine and teacher, made from the configuration in a fixed order."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import ranks
from common.atomic_files import whole_file
from data_prep.corpus.dataset import Corpus, check_shards, load_corpus
from pretrain import checkpoint, engine
from pretrain.compilation import compile_compared
from pretrain.config import PretrainConfig
from pretrain.data.stream import Batch, Stream
from pretrain.log.step_report import teacher_distance
from pretrain.model import VideoSwin, build_encoder, load_encoder
from pretrain.model.cost import peak_flops, training_flops
from pretrain.model.pretrained import encoder_metadata
from pretrain.objective import FractionsModel, FractionTargets, MeanTeacher, fractions_loss, views

CONFIG_FILE = "config.json"
# May differ when a run goes on: where things lie, how fast it goes, how often it says something; nothing that changes what is
# learned beyond rounding.
FREE = {
    *("data", "output", "dry_run", "resume", "zero", "passes", "compile", "checkpoint_stages"),
    *("log_every", "save_every", "keep", "keep_every", "validate_every", "validate_samples", "probe_samples"),
}
FREE_OF_STREAM = {"num_workers", "check_reads", "cache", "cache_keep_free_gb", "skip_damaged"}


@dataclass(kw_only=True)
class TrainingRun:
    """What a step needs on this rank.

    Attributes:
        config: of the run.
        corpus, stream, targets: what is learned from.
        statistics: mean and standard deviation float32 (C,) on the device, by source.
        rank, world_size, device: of this process.
        micro_steps: micro-batches an optimizer step.
        engine: DeepSpeed's, around the student.
        teacher: the moving average of the student.
        first_step: optimizer steps that were done when the run was resumed, 0 for a new one.
    """

    config: PretrainConfig
    corpus: Corpus
    stream: Stream
    targets: FractionTargets
    statistics: dict[str, tuple[torch.Tensor, torch.Tensor]]
    rank: int
    world_size: int
    device: torch.device
    micro_steps: int
    engine: Any
    teacher: MeanTeacher
    first_step: int

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def encoder(self) -> VideoSwin:
        """The student's."""
        return self.engine.module.encoder

    @property
    def metadata(self) -> dict[str, str]:
        """What the weights in a checkpoint belong to."""
        return encoder_metadata(self.encoder)

    @property
    def flops_a_sample(self) -> dict[str, float]:
        """Model FLOPs of a training step for one sample, by source."""
        shapes = {source: self.corpus.shapes[source] for source in self.stream.sources}
        has_teacher = self.config.objective.consistency_weight > 0
        return training_flops(self.encoder.config, shapes, self.config.stream.num_frames, has_teacher)

    @property
    def peak_flops(self) -> float | None:
        """FLOP/s of this rank's GPU by its datasheet; None without one, or where it is not known."""
        return peak_flops(torch.cuda.get_device_name(self.device)) if self.device.type == "cuda" else None

    def backward(self, batch: Batch, step: int, micro_step: int, consistency_weight: float) -> MicroBatchResult:
        """Forward and backward pass of this rank's part of a micro-batch, in `config.passes` equal parts."""
        parts = batch.split(self.config.passes)
        results = []
        for number, part in enumerate(parts):
            # The same seed on all ranks: what is drawn is drawn for the global batch, of which each takes its part.
            checkpoint.seed_everything(self.config.seed, step, micro_step)
            size = len(part.keys)
            self.encoder.batch_part = (self.rank * len(parts) + number) * size, self.world_size * len(parts) * size
            seen, as_it_lies = views(part, *self.statistics[part.source])
            taught = self.teacher(as_it_lies, part.source) if self.config.objective.consistency_weight > 0 else None
            predicted = self.engine(seen.to(self.engine.module.head.weight.dtype), part.source)
            target = self.targets(part)
            losses = fractions_loss(predicted, target, taught, consistency_weight, part.usable, self.config.objective.loss)
            self.engine.backward(losses[0])
            if (micro_step, number) != (self.micro_steps - 1, len(parts) - 1):
                self.engine.step()  # only counts: gradients go on adding up until `optimizer_step`
            results.append((torch.stack([loss.detach() for loss in losses]), target, predicted.detach()))
        losses_of_parts, target_parts, predicted_parts = zip(*results, strict=True)
        total, supervised, consistency = torch.stack(losses_of_parts).mean(dim=0)
        fractions = torch.cat(target_parts), torch.cat(predicted_parts)
        return MicroBatchResult(batch.source, batch.keys, total, supervised, consistency, *fractions)

    def optimizer_step(self, step: int, learning_rate: float) -> None:
        """One step of AdamW after all micro-batches of `step`, then one of the teacher."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self.engine.step()
        with engine.whole_weights(self.engine):
            self.teacher.update(self.engine.module, step)

    def scalars(self) -> dict[str, float]:
        """What the last optimizer step was like. Every rank calls this."""
        with engine.whole_weights(self.engine):
            distance = teacher_distance(self.engine.module.parameters(), self.teacher.average.parameters())
        rate = self.engine.optimizer.param_groups[0]["lr"]
        return {"optimizer/learning_rate": rate, "optimizer/gradient_norm": self.gradient_norm, "teacher/distance": distance}

    @property
    def gradient_norm(self) -> float:
        """Norm of the whole gradient of the last optimizer step, before clipping."""
        norm = self.engine.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan")


@dataclass(frozen=True)
class MicroBatchResult:
    """Of this rank's part of a micro-batch: scalar losses on the device; fractions (B, classes) of the map and of the student."""

    source: str
    keys: list[str]
    total: torch.Tensor
    supervised: torch.Tensor
    consistency: torch.Tensor
    target: torch.Tensor
    predicted: torch.Tensor


def prepare(config: PretrainConfig) -> TrainingRun:
    """All that comes before the first step.

    Raises ValueError for all that can be wrong with the arguments, on every rank alike, before any rank waits for another.
    """
    rank, world_size = ranks.announced_ranks()
    corpus = load_corpus(config.data)
    if rank == 0:  # one listing of the folder, and not one a rank
        check_shards(corpus, "train")
    stream = Stream(corpus, "train", config.stream, rank, world_size)
    targets = FractionTargets(corpus, config.objective.groupings)
    micro_steps = config.micro_steps or len(stream.sources)
    zero = engine.read_zero_json(config.zero)
    check_passes(config, stream, world_size)
    if config.compile and zero["zero_optimization"]["stage"] == 3:
        raise ValueError("compile needs the weights of a block in place, which ZeRO-3 fetches as it goes; take zero2.json")
    sources = {name: corpus.shapes[name][0] for name in stream.sources}
    encoder_config = dataclasses.replace(config.encoder, sources=sources)
    torch.manual_seed(config.seed)  # the same weights on all ranks
    if config.initial_encoder is None:
        encoder = build_encoder(encoder_config)
    else:
        encoder = load_encoder(config.initial_encoder)
        if dataclasses.replace(encoder.config, drop_path_rate=encoder_config.drop_path_rate) != encoder_config:
            raise ValueError(f"{config.initial_encoder} is an encoder of {encoder.config}, the run is of {encoder_config}")
        encoder.config = encoder_config
    encoder.normalization = {s: {"mean": corpus.mean[s].tolist(), "std": corpus.std[s].tolist()} for s in stream.sources}
    encoder.checkpoint_stages(config.checkpoint_stages)
    model = FractionsModel(encoder, len(targets.classes))
    if not config.dry_run:
        claim_output(config, corpus.fingerprint, is_main=rank == 0)

    device = engine.start_ranks()
    statistics = {s: _statistics(corpus, s, device) for s in stream.sources}
    found = None if config.dry_run else _checkpoint_to_resume(config, rank)
    if found is not None:
        weights, moments = (checkpoint.read_tensors(found, name) for name in (checkpoint.STUDENT, checkpoint.OPTIMIZER))
        model.load_state_dict(weights)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    teacher = MeanTeacher(model.to(device), config.objective.teacher_decay, dtype)
    if config.compile:
        on_device = (batch.to(device) for batch in first_batches(stream))
        examples = ((b.source, views(b, *statistics[b.source])[0], targets(b)) for b in on_device)
        for line in compile_compared(model, dtype, examples):
            if rank == 0:
                print(line, flush=True)
        teacher.model.encoder.compile_blocks()
    wrapped = engine.wrap(model, config, micro_steps * config.passes, device)
    if found is not None:
        teacher.load_state_dict(checkpoint.read_tensors(found, checkpoint.TEACHER))
        engine.restore_state(wrapped, checkpoint.step_of(found), weights, moments)
    return TrainingRun(
        config=config,
        corpus=corpus,
        stream=stream,
        targets=targets,
        statistics=statistics,
        rank=rank,
        world_size=world_size,
        device=device,
        micro_steps=micro_steps,
        engine=wrapped,
        teacher=teacher,
        first_step=0 if found is None else checkpoint.step_of(found),
    )


def first_batches(stream: Stream) -> Iterator[Batch]:
    """The stream's first batch of each source."""
    waiting = set(stream.sources)
    for micro_step in itertools.count():
        if not waiting:
            return
        if stream.source_of(micro_step) in waiting:
            waiting.remove(stream.source_of(micro_step))
            yield stream.batch(micro_step)


def check_passes(config: PretrainConfig, stream: Stream, world_size: int) -> None:
    """Raises ValueError unless each rank can cut its part of every micro-batch into `config.passes` equal parts."""
    for source in stream.sources:
        share = stream.global_batch_size(source) // world_size
        if share % config.passes:
            raise ValueError(
                f"a rank's part of a batch of source {source!r} is {share} samples, which {config.passes} passes do not divide; "
                "choose passes or global_batch_size otherwise"
            )


def claim_output(config: PretrainConfig, fingerprint: str, is_main: bool) -> None:
    """Write the run's `config.json`, or raise ValueError when the folder's run is another one; OSError when it takes no files."""
    path = config.output / CONFIG_FILE
    mine = {"fingerprint": fingerprint, **plain(config)}
    if path.is_file():
        if config.resume == "never":
            raise ValueError(f"{config.output} holds a run already; give another --output, or go on with --resume auto")
        theirs = json.loads(path.read_text())
        changed = sorted(k for k in mine.keys() | theirs.keys() if k not in FREE and _essential(mine, k) != _essential(theirs, k))
        if changed:
            raise ValueError(
                f"{config.output} holds a run with other {', '.join(changed)}; give another --output or the same settings"
            )
    if is_main:
        config.output.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(mine, indent=2))


def plain(config: PretrainConfig) -> dict[str, Any]:
    """The configuration as JSON values."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    return values


def _essential(values: dict[str, Any], key: str) -> Any:
    value = values.get(key)
    return {k: v for k, v in value.items() if k not in FREE_OF_STREAM} if key == "stream" and isinstance(value, dict) else value


def _checkpoint_to_resume(config: PretrainConfig, rank: int) -> Path | None:
    """The newest good checkpoint of the run: rank 0 reads them for it, and all ranks follow its word."""
    folder = config.output / checkpoint.CHECKPOINTS
    found: Path | None = ranks.gather(checkpoint.newest_good(folder) if rank == 0 else None)[0]
    if found is not None and rank == 0:
        print(f"resuming after step {checkpoint.step_of(found)} of {config.num_steps}", flush=True)
    return found


def _statistics(corpus: Corpus, source: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    mean, std = (
        torch.as_tensor(np.asarray(a), dtype=torch.float32, device=device) for a in (corpus.mean[source], corpus.std[source])
    )
    return mean, std.clamp_min(1e-6)
