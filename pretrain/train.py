"""Pretraining: `deepspeed launch/pretrain.sh --config pretrain/configs/tiny.yaml --data corpus/ --output runs/tiny`."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from tabulate import tabulate

from data_prep.command import USER_ERROR, run_command
from data_prep.corpus import Corpus, load_corpus
from data_prep.durable import whole_file
from pretrain import checkpoint
from pretrain import engine as ranks
from pretrain.compilation import compile_compared
from pretrain.config import OptimizerConfig, PretrainConfig
from pretrain.figures import fractions_figure, rgb_strip_figure
from pretrain.model import build_encoder, save_encoder
from pretrain.model.pretrained import ENCODER_FILE
from pretrain.monitor import Monitor, corpus_description
from pretrain.objective import FractionsModel, FractionTargets, MeanTeacher, fraction_scores, fractions_loss, normalize, views
from pretrain.stream import Batch, Stream, StreamConfig

METRICS_FILE = "metrics.json"


def pretrain(config: PretrainConfig) -> None:
    """Train from where the run in `config.output` stopped (or from the start) to `config.num_steps`."""
    # All that can be wrong with the arguments shows here, on every rank alike, before any rank waits for another.
    rank, world_size = ranks.announced_ranks()
    is_main = rank == 0
    corpus = load_corpus(config.data)
    stream = Stream(corpus, "train", config.stream, rank, world_size)
    targets = FractionTargets(corpus, config.objective.groupings)
    micro_steps = config.micro_steps or len(stream.sources)
    ranks.read_zero_json(config.zero)
    claim_output(config, corpus.fingerprint, is_main)

    device = ranks.start_ranks()
    statistics = {s: _statistics(corpus, s, device) for s in stream.sources}

    torch.manual_seed(config.seed)  # the same weights on all ranks
    sources = {name: corpus.shapes[name][0] for name in stream.sources}
    encoder = build_encoder(dataclasses.replace(config.encoder, sources=sources))
    encoder.normalization = {s: {"mean": corpus.mean[s].tolist(), "std": corpus.std[s].tolist()} for s in stream.sources}
    model = FractionsModel(encoder, len(targets.classes))
    encoder.checkpoint_stages(config.checkpoint_stages)
    teacher = MeanTeacher(model.to(device), config.objective.teacher_decay)
    if config.compile:
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        examples = ((b.source, views(b, *statistics[b.source])[0], targets(b)) for b in first_batches(stream, device))
        for line in compile_compared(model, dtype, examples):
            if is_main:
                print(line, flush=True)
        teacher.model.encoder.compile_blocks()
    engine = ranks.wrap(model, config, micro_steps, device)

    checkpoints = config.output / "checkpoints"
    state = checkpoint.load_newest(engine, checkpoints)
    first = 0 if state is None else int(state["step"])
    if state is not None:
        teacher.model.load_state_dict(state["teacher"])
        if is_main:
            print(f"resuming after step {first} of {config.num_steps}", flush=True)

    monitor = Monitor(config.output, is_main, first_step=first, num_steps=config.num_steps)
    monitor.text(first, "configuration", f"```json\n{json.dumps(_plain(config), indent=2)}\n```")
    monitor.text(first, "corpus", corpus_description(corpus))
    batches = stream.batches(first * micro_steps, config.num_steps * micro_steps)
    scores: dict[str, Any] = {}
    for step in range(first, config.num_steps):
        learning_rate = scheduled_learning_rate(config.optimizer, step, config.num_steps)
        for group in engine.optimizer.param_groups:
            group["lr"] = learning_rate
        consistency_weight = config.objective.consistency_weight * min(
            1.0, (step + 1) / max(1, config.objective.consistency_warmup_share * config.num_steps)
        )
        report = StepReport()
        engine.train()
        for micro_step in range(micro_steps):
            waited = time.perf_counter()
            batch = next(batches).to(device)
            report.waited += time.perf_counter() - waited
            checkpoint.seed_everything(config.seed, step, micro_step, rank)
            seen, as_it_lies = views(batch, *statistics[batch.source])
            taught = teacher(as_it_lies, batch.source) if config.objective.consistency_weight > 0 else None
            predicted = engine(seen.to(engine.module.head.weight.dtype), batch.source)
            target = targets(batch)
            loss, supervised, consistency = fractions_loss(predicted, target, taught, consistency_weight)
            stop_all_ranks_if_not_finite(loss, batch.keys, step, config.output, device)
            engine.backward(loss)
            engine.step()
            report.add(batch, loss, supervised, consistency)
        teacher.update(engine.module, step)

        done = step + 1
        if done % config.log_every == 0 or done == config.num_steps:
            scalars = report.scalars(world_size) | {"learning_rate": learning_rate, "gradient_norm": _gradient_norm(engine)}
            monitor.scalars(done, scalars)
        if done % config.validate_every == 0 or done == config.num_steps:
            scores = validate(corpus, config.stream, teacher, targets, statistics, rank, world_size, device)
            if scores:
                monitor.scalars(done, {f"validation/{s}/{n}": v for s, each in scores.items() for n, v in each.items()})
            if is_main:
                sensor = corpus.sensors[batch.source]
                monitor.figure(
                    done,
                    f"batch/{batch.source}",
                    rgb_strip_figure(batch.pixels.cpu(), batch.valid.cpu(), sensor, batch.dates.cpu()),
                )
                shown = fractions_figure(target.detach().cpu(), predicted.detach().cpu(), targets.legend)
                monitor.figure(done, f"fractions/{batch.source}", shown)
        if done % config.save_every == 0 or done == config.num_steps:
            checkpoint.save(engine, checkpoints, done, {"teacher": teacher.model.state_dict()}, config.keep)

    if is_main and first < config.num_steps:
        teacher.model.encoder.normalization = encoder.normalization
        save_encoder(teacher.model.encoder, config.output / ENCODER_FILE)
        _write_json(config.output / METRICS_FILE, {"steps": config.num_steps, "validation": scores})
    if is_main:
        finished = json.loads((config.output / METRICS_FILE).read_text())
        rows = [[s, v["mae"], v["mae_of_mean"], v["r2"], v["samples"]] for s, v in finished["validation"].items()]
        header = ["validation", "fraction error", "of predicting the mean", "R2", "samples"]
        print(tabulate(rows, header, floatfmt=".4f") if rows else "no validation split in the corpus")
        print(f"encoder: {config.output / ENCODER_FILE}\nTensorBoard: tensorboard --logdir {config.output}", flush=True)
    monitor.close()
    stream.close()
    ranks.leave()


def first_batches(stream: Stream, device: torch.device) -> Iterator[Batch]:
    """The stream's first batch of each source."""
    waiting = set(stream.sources)
    for micro_step in itertools.count():
        if not waiting:
            return
        if stream.source_of(micro_step) in waiting:
            waiting.remove(stream.source_of(micro_step))
            yield stream.batch(micro_step).to(device)


@dataclasses.dataclass
class StepReport:
    """What happened in one step on this rank."""

    started: float = dataclasses.field(default_factory=time.perf_counter)
    waited: float = 0.0
    samples: int = 0
    frames: int = 0
    bytes: int = 0
    losses: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    def add(self, batch: Any, loss: torch.Tensor, supervised: torch.Tensor, consistency: torch.Tensor) -> None:
        """Count one micro-step."""
        self.samples += len(batch.keys)
        self.frames += batch.pixels.shape[0] * batch.pixels.shape[1]
        self.bytes += batch.nbytes
        self.losses.setdefault("loss/total", []).append(loss.item())
        self.losses.setdefault(f"loss/{batch.source}", []).append(supervised.item())
        self.losses.setdefault("loss/consistency", []).append(consistency.item())

    def scalars(self, world_size: int) -> dict[str, float]:
        """Means of the losses, and rates over all ranks (which read and compute alike)."""
        elapsed = time.perf_counter() - self.started
        return {name: float(np.mean(values)) for name, values in self.losses.items()} | {
            "speed/samples_per_second": world_size * self.samples / elapsed,
            "speed/frames_per_second": world_size * self.frames / elapsed,
            "speed/read_mb_per_second": world_size * self.bytes / elapsed / 1e6,
            "speed/share_waiting_for_data": self.waited / elapsed,
        }


def scheduled_learning_rate(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """Rate of optimizer step `step` (from 0): linear warm-up, then a cosine down to the final share."""
    warmup = max(1, round(config.warmup_share * num_steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    share = config.final_share + (1 - config.final_share) * 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * share


def stop_all_ranks_if_not_finite(loss: torch.Tensor, keys: list[str], step: int, output: Path, device: torch.device) -> None:
    """Raises FloatingPointError on all ranks when any rank's loss is NaN or infinite, after writing the batches' keys."""
    bad = not bool(torch.isfinite(loss))
    if ranks.any_rank(bad, device):
        all_keys = ranks.gather({"loss": repr(loss.item()), "keys": keys})
        path = output / f"non_finite_step_{step}.json"
        if torch.distributed.get_rank() == 0:
            _write_json(path, {"step": step, "ranks": all_keys})
        raise FloatingPointError(f"the loss of step {step} is not finite; no rank took the step; the batch's keys are in {path}")


@torch.no_grad()
def validate(
    corpus: Corpus,
    stream_config: StreamConfig,
    teacher: MeanTeacher,
    targets: FractionTargets,
    statistics: dict[str, tuple[torch.Tensor, torch.Tensor]],
    rank: int,
    world_size: int,
    device: torch.device,
) -> dict[str, dict[str, float]]:
    """Errors of the teacher's fractions on the validation split, per source; every sample once, shared among the ranks."""
    scores = {}
    for source in statistics:
        count = len(corpus.samples(source, "validation"))
        if count == 0:
            continue
        config = dataclasses.replace(stream_config, mixture={source: 1.0}, augment=False)
        stream = Stream(corpus, "validation", config, rank, world_size)
        results: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for batch in stream.batches(0, math.ceil(stream.micro_steps_per_epoch(source))):
            batch = batch.to(device)
            predicted = teacher(normalize(batch, *statistics[source]), source)
            # the last batch runs on into the next epoch; a key that comes again is the same sample and counts once
            for key, p, t in zip(batch.keys, predicted.cpu().numpy(), targets(batch).cpu().numpy(), strict=True):
                results.setdefault(key, (p, t))
        stream.close()
        merged: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for part in ranks.gather(results):
            for key, result in part.items():
                merged.setdefault(key, result)
        keys = sorted(merged)
        predicted_all, target_all = (np.stack([merged[key][i] for key in keys]) for i in (0, 1))
        scores[source] = fraction_scores(predicted_all, target_all, _train_mean(corpus, source, targets)) | {"samples": len(keys)}
        for name, error in zip(targets.classes, np.abs(predicted_all - target_all).mean(axis=0).tolist(), strict=True):
            scores[source][f"mae/{name}"] = error
    return scores


def _train_mean(corpus: Corpus, source: str, targets: FractionTargets) -> np.ndarray:
    """Mean fractions (classes,) of a source's training samples: what the simplest predictor would say."""
    counts = [targets.legends[s.legend].fractions(np.array(s.land_cover)) for s in corpus.samples(source, "train")]
    return np.asarray(np.mean(counts, axis=0))


def claim_output(config: PretrainConfig, fingerprint: str, is_main: bool) -> None:
    """Write `config.json` into a new run's folder, or raise ValueError when the folder's run is another one.

    What may change in mid-run (how often to log, save or validate; how many threads read) does not count.
    """
    path = config.output / "config.json"
    mine = {"fingerprint": fingerprint, **_plain(config)}
    free = {"compile", "checkpoint_stages", "data", "output", "log_every", "save_every", "validate_every", "keep", "zero"}
    if path.is_file():
        theirs = json.loads(path.read_text())
        changed = sorted(k for k in mine.keys() | theirs.keys() if k not in free and _essential(mine, k) != _essential(theirs, k))
        if changed:
            raise ValueError(
                f"{config.output} holds a run with other {', '.join(changed)}; give another --output or the same settings"
            )
    elif is_main:
        config.output.mkdir(parents=True, exist_ok=True)
        _write_json(path, mine)


def _essential(values: dict[str, Any], key: str) -> Any:
    value = values.get(key)
    return {k: v for k, v in value.items() if k != "num_workers"} if key == "stream" and isinstance(value, dict) else value


def _statistics(corpus: Corpus, source: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    mean, std = (
        torch.as_tensor(np.asarray(a), dtype=torch.float32, device=device) for a in (corpus.mean[source], corpus.std[source])
    )
    return mean, std.clamp_min(1e-6)


def _gradient_norm(engine: Any) -> float:
    norm = engine.get_global_grad_norm()
    return float(norm) if norm is not None else float("nan")


def _plain(config: PretrainConfig) -> dict[str, Any]:
    """The configuration as JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    return plain


def _write_json(path: Path, values: Any) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2))


def main() -> NoReturn:
    """Entry of every rank. The launcher's `--local_rank` goes; of a mistake that all ranks see alike, rank 0 alone speaks."""
    arguments = [a for a in sys.argv[1:] if not a.startswith("--local_rank")]
    if ranks.announced_ranks()[0] != 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    run_command(_run, arguments, config_class=PretrainConfig)


def _run(config: PretrainConfig) -> None:
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    try:
        pretrain(config)
    except (ValueError, OSError):
        if ranks.announced_ranks()[0] != 0 and not ranks.joined():
            time.sleep(5)  # the launcher ends all ranks as soon as one ends; rank 0 gets the time to say what is wrong
            sys.exit(USER_ERROR)
        ranks.leave()
        raise


if __name__ == "__main__":
    main()
