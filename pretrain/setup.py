"""Set up a pretraining run on this rank: corpus, stream, model, DeepSpeed engine and teacher, in a fixed order."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import ranks
from common.run_lock import RunLock
from data_prep.corpus.dataset import Corpus, check_has_maps, load_corpus
from data_prep.corpus.shard_sizes import check_shard_sizes
from pretrain import checkpoint, engine
from pretrain.compilation import compile_compared
from pretrain.config import PretrainConfig, read_zero_json
from pretrain.data.batch import Batch, Statistics, normalize
from pretrain.data.stream import Stream
from pretrain.model import MapDecoder, VideoSwin, build_encoder, load_encoder
from pretrain.model.encoder_files import CHECKPOINTS, encoder_metadata
from pretrain.model.gpus import peak_flops
from pretrain.model.training_flops import training_flops
from pretrain.objective.mean_teacher import MeanTeacher, Normalize, views
from pretrain.objective.model import LandCoverModel
from pretrain.objective.targets import LandCoverTargets
from pretrain.run_folder import claim_run_folder
from pretrain.schedule import scheduled_learning_rate


@dataclass(kw_only=True)
class TrainingRun:
    """A run on this rank, ready for its next optimizer step.

    Attributes:
        config: its configuration.
        corpus, stream, targets: the data.
        statistics: mean, standard deviation and limits of each source, float32 on the device.
        normalize: `pretrain.data.batch.normalize`, compiled if the run compiles.
        rank, world_size, device: of this process.
        micro_steps: micro-batches per optimizer step.
        engine: the DeepSpeed engine around the student.
        teacher: the moving average of the student.
        lock: of the run's folder; rank 0 has it, except in a dry run.
        first_step: optimizer steps that were done when the run was resumed; 0 for a new run.
        skipped_steps: optimizer steps so far that were skipped, as their gradient was not finite.
        skipped_in_a_row: how many of these were the last ones in this process.
    """

    config: PretrainConfig
    corpus: Corpus
    stream: Stream
    targets: LandCoverTargets
    statistics: Statistics
    normalize: Normalize
    rank: int
    world_size: int
    device: torch.device
    micro_steps: int
    engine: Any
    teacher: MeanTeacher
    lock: RunLock
    first_step: int
    skipped_steps: int
    skipped_in_a_row: int = 0

    def views(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels of a batch for student and teacher in the precision of training; see `pretrain.objective.mean_teacher.views`."""
        dtype = self.teacher.model.head.weight.dtype
        return views(batch, *self.statistics[batch.source], self.config.stream.num_frames, dtype, self.normalize)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and prints."""
        return self.rank == 0

    @property
    def encoder(self) -> VideoSwin:
        """The student's encoder."""
        return self.engine.module.encoder

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata of the weights in a checkpoint: shape and normalisation of the encoder, shape of the decoder."""
        return encoder_metadata(self.encoder, self.engine.module.decoder)

    @cached_property
    def flops_per_sample(self) -> dict[str, float]:
        """Model FLOPs of a training step for one sample, by source."""
        shapes = {source: self.corpus.shapes[source] for source in self.stream.draws.sources}
        has_teacher, decoder = self.config.objective.consistency_weight > 0, self.engine.module.decoder
        return training_flops(
            self.encoder, shapes, self.config.stream.num_frames, has_teacher, None if decoder is None else decoder.config
        )

    @property
    def peak_flops(self) -> float | None:
        """FLOP/s of this rank's GPU by its datasheet; None without a GPU, or for an unknown one."""
        return peak_flops(torch.cuda.get_device_name(self.device)) if self.device.type == "cuda" else None

    @property
    def gradient_norm(self) -> float:
        """Norm of the whole gradient of the last optimizer step, before clipping."""
        norm = self.engine.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan")


def set_up_run(config: PretrainConfig, lock: RunLock) -> TrainingRun:
    """Set up everything that the first step needs; resume the run in `config.output`, if there is one.

    `lock`: of the run's folder, which the caller releases.

    Raises ValueError for mistakes in the options, the same on every rank.
    """
    rank, world_size = ranks.announced_ranks()
    corpus = load_corpus(config.data)
    if rank == 0:  # one rank lists the folder, not every one
        check_shard_sizes(corpus, "train")
    stream = Stream(corpus, "train", config.stream, rank, world_size)
    if config.objective.predicts_map:
        check_has_maps(corpus, stream.draws.sources)
    targets = LandCoverTargets(corpus, config.objective.groupings, has_map=config.objective.predicts_map)
    _check_options(config, stream, world_size)
    model = new_model(config, corpus, stream.draws.sources, len(targets.classes))

    device = engine.start_ranks()
    targets.to(device)
    if not config.dry_run:  # the folder changes while a rank claims it, so that only one may look
        num_steps_before = ranks.on_main(partial(_claim, config, corpus, lock))
    statistics = {source: _statistics(corpus, source, device) for source in stream.draws.sources}
    found = None if config.dry_run else _checkpoint_to_resume(config, rank)
    if found is not None:
        if rank == 0:
            _report_changed_length(config, num_steps_before, checkpoint.step_of(found))
        weights, moments = (checkpoint.read_tensors(found, name) for name in (checkpoint.STUDENT, checkpoint.OPTIMIZER))
        model.load_state_dict(weights)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    model_of_teacher = copy.deepcopy(model.to(device)).to(dtype)
    normalize_fast = torch.compile(normalize, dynamic=False) if config.compile else normalize
    if config.compile:
        _compile(model, model_of_teacher, dtype, config, stream, statistics, targets, normalize_fast)
    micro_steps = config.micro_steps or len(stream.draws.sources)
    wrapped = engine.wrap(model, config, micro_steps * config.gradient_accumulation_steps, device)
    first_step, skipped_steps = (0, 0) if found is None else (checkpoint.step_of(found), checkpoint.skipped_steps_of(found))
    teacher = MeanTeacher(model_of_teacher, engine.master_weights(wrapped), config.objective.teacher_decay)
    if found is not None:
        teacher.load(checkpoint.read_tensors(found, checkpoint.TEACHER))
        engine.restore_state(wrapped, first_step - skipped_steps, weights, moments)
    return TrainingRun(
        config=config,
        corpus=corpus,
        stream=stream,
        targets=targets,
        statistics=statistics,
        normalize=normalize_fast,
        rank=rank,
        world_size=world_size,
        device=device,
        micro_steps=micro_steps,
        engine=wrapped,
        teacher=teacher,
        lock=lock,
        first_step=first_step,
        skipped_steps=skipped_steps,
    )


def _check_options(config: PretrainConfig, stream: Stream, world_size: int) -> None:
    """Raise ValueError for a bad ZeRO JSON, parts of a micro-batch that are not equal, and compiling with ZeRO-3."""
    zero = read_zero_json(config.zero)
    parts = config.gradient_accumulation_steps
    for source in stream.draws.sources:
        share = stream.draws.global_batch_size(source) // world_size
        if share % parts:
            raise ValueError(
                f"a rank's share of a batch of source {source!r} is {share} samples, which {parts} gradient accumulation steps "
                "do not divide; choose another gradient_accumulation_steps or global_batch_size"
            )
    if config.compile and zero["zero_optimization"]["stage"] == 3:
        raise ValueError("compile needs all weights of a block in memory, but ZeRO-3 fetches them one by one; use zero1.json")


def new_model(config: PretrainConfig, corpus: Corpus, sources: list[str], num_classes: int) -> LandCoverModel:
    """The student before training, with the same weights on all ranks.

    Raises ValueError when the initial encoder has another shape than the run.
    """
    encoder_config = dataclasses.replace(config.encoder, sources={name: corpus.shapes[name][0] for name in sources})
    normalization = {source: corpus.normalization(source) for source in sources}
    initial = None if config.initial_encoder is None else load_encoder(config.initial_encoder)
    drop_path_rate = encoder_config.drop_path_rate  # it is no part of the shape
    if initial is not None and dataclasses.replace(initial.config, drop_path_rate=drop_path_rate) != encoder_config:
        raise ValueError(f"{config.initial_encoder} is an encoder of {initial.config}, the run is of {encoder_config}")
    torch.manual_seed(config.seed)
    encoder = build_encoder(encoder_config, normalization)
    if initial is not None:
        encoder.load_state_dict(initial.state_dict())
    encoder.checkpoint_activations(config.activation_checkpointing)
    shape = config.objective.decoder(config.stream.num_frames, num_classes)
    return LandCoverModel(encoder, num_classes, None if shape is None else MapDecoder(encoder, sources, shape))


def _compile(
    model: LandCoverModel,
    model_of_teacher: LandCoverModel,
    dtype: torch.dtype,
    config: PretrainConfig,
    stream: Stream,
    statistics: Statistics,
    targets: LandCoverTargets,
    normalize_fast: Normalize,
) -> None:
    """Compile student and teacher, after a comparison on the first batch of each source, of which it sees the first part."""
    examples = []
    for batch in stream.first_batches():
        part = batch.split(config.gradient_accumulation_steps)[0].to(model.head.weight.device)
        options = *statistics[part.source], config.stream.num_frames, dtype
        pixels = views(part, *options)[0], views(part, *options, normalize_fast)[0]
        examples.append((part.source, pixels, targets(part)))
    for line in compile_compared(model, dtype, config.seed, examples):
        if ranks.rank_and_world_size()[0] == 0:
            print(line, flush=True)
    model_of_teacher.encoder.compile_blocks()


def _claim(config: PretrainConfig, corpus: Corpus, lock: RunLock) -> int:
    """On rank 0: take the lock of the run's folder, and check that it is new or holds this run; see `claim_run_folder`."""
    saved_steps = max(checkpoint.finished_steps(config.output / CHECKPOINTS), default=0)
    return claim_run_folder(config, corpus.fingerprint, saved_steps, lock)


def _report_changed_length(config: PretrainConfig, num_steps_before: int, step: int) -> None:
    """Print what another number of steps means for a run that resumes at `step`: its learning rate may jump."""
    if config.num_steps not in (num_steps_before, step):
        lengths = num_steps_before, config.num_steps
        before, now = (scheduled_learning_rate(config.optimizer, min(step, length - 1), length) for length in lengths)
        print(
            f"num_steps was {num_steps_before} and is {config.num_steps}: the schedules are those of the new length from here, "
            f"and the learning rate goes from {before:.3g} to {now:.3g}",
            flush=True,
        )


def _checkpoint_to_resume(config: PretrainConfig, rank: int) -> Path | None:
    """The newest good checkpoint of the run. Rank 0 looks for it and tells the other ranks."""
    folder = config.output / CHECKPOINTS
    found: Path | None = ranks.gather(checkpoint.newest_good(folder) if rank == 0 else None)[0]
    if found is not None and rank == 0:
        print(f"resuming after step {checkpoint.step_of(found)} of {config.num_steps}", flush=True)
    return found


def _statistics(corpus: Corpus, source: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Mean, standard deviation and limits of a source; None without limits."""

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(np.asarray(array), dtype=torch.float32, device=device)

    limits = tensor(corpus.limits[source]) if source in corpus.limits else None
    return tensor(corpus.mean[source]), tensor(corpus.std[source]).clamp_min(1e-6), limits
