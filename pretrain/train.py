"""Pretraining: `deepspeed launch/pretrain.sh --config pretrain/configs/tiny.yaml --data corpus/ --output runs/tiny`."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import sys
import time
from typing import Any, NoReturn

import numpy as np
import torch
from tabulate import tabulate

from data_prep.command import USER_ERROR, run_command
from data_prep.corpus import Corpus
from data_prep.durable import whole_file
from pretrain import checkpoint
from pretrain import engine as ranks
from pretrain.config import ObjectiveConfig, OptimizerConfig, PretrainConfig
from pretrain.model import save_encoder
from pretrain.model.pretrained import ENCODER_FILE
from pretrain.monitor import Monitor, corpus_description, fractions_figure, rgb_strip_figure
from pretrain.objective import FractionTargets, fraction_scores, normalize
from pretrain.stream import Batch, Stream
from pretrain.training_run import MicroBatchResult, TrainingRun, plain, prepare

METRICS_FILE = "metrics.json"
FAILED = 1
STOPPED = os.EX_TEMPFAIL  # 75: saved after it was asked to stop; starting again goes on
_UNTIL_SAID_S = 5.0  # the launcher ends all ranks as soon as it sees one that ended, and takes that one's exit code


def pretrain(config: PretrainConfig) -> int:
    """Train from where the run in `config.output` stopped (or from the start) to `config.num_steps`; returns the exit code."""
    run = prepare(config)
    monitor = Monitor(config.output, run.is_main, first_step=run.first_step, num_steps=config.num_steps)
    monitor.text(run.first_step, "configuration", f"```json\n{json.dumps(plain(config), indent=2)}\n```")
    monitor.text(run.first_step, "corpus", corpus_description(run.corpus))
    writer = checkpoint.CheckpointWriter(config.output / checkpoint.CHECKPOINTS, config.keep, config.keep_every, run.metadata)
    stop_signals = StopSignals()
    scores: dict[str, Any] = {}

    batches = run.stream.batches(run.first_step * run.micro_steps, config.num_steps * run.micro_steps)
    for step in range(run.first_step, config.num_steps):
        done, is_last = step + 1, step + 1 == config.num_steps
        learning_rate = scheduled_learning_rate(config.optimizer, step, config.num_steps)
        consistency_weight = scheduled_consistency_weight(config.objective, step, config.num_steps)
        report = StepReport()
        seen: list[tuple[Batch, MicroBatchResult]] = []
        run.engine.train()
        for micro_step in range(run.micro_steps):
            waited = time.perf_counter()
            batch = next(batches).to(run.device)
            report.waited += time.perf_counter() - waited
            seen.append((batch, run.backward(batch, step, micro_step, consistency_weight)))
            report.add(*seen[-1])
        is_asked_to_stop = agree_to_step(run, seen, step, stop_signals)
        run.optimizer_step(step, learning_rate)

        if done % config.log_every == 0 or is_last:
            scalars = report.scalars(run.world_size) | {"learning_rate": learning_rate, "gradient_norm": run.gradient_norm}
            monitor.scalars(done, scalars)
        if done % config.validate_every == 0 or is_last:
            scores = validate(run)
            monitor.scalars(done, {f"validation/{s}/{n}": v for s, each in scores.items() for n, v in each.items()})
            show_examples(monitor, done, run, *seen[-1])
        if done % config.save_every == 0 or is_last or is_asked_to_stop:
            save(run, writer, monitor, done)
        if is_asked_to_stop and not is_last:
            writer.wait()
            if run.is_main:
                print(f"asked to stop: saved after step {done} of {config.num_steps}; start again to go on", flush=True)
            return STOPPED
    writer.wait()
    finish(run, scores)
    monitor.close()
    run.stream.close()
    return 0


class StopSignals:
    """SIGTERM and SIGUSR1, which schedulers send a while before they end a job."""

    def __init__(self) -> None:
        self.received = False
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._note)

    def _note(self, *_: object) -> None:
        self.received = True


def agree_to_step(run: TrainingRun, seen: list[tuple[Batch, MicroBatchResult]], step: int, stop: StopSignals) -> bool:
    """Before the optimizer step, on all ranks: True when any was asked to stop after it.

    Raises FloatingPointError on all ranks when any rank's loss is NaN or infinite, after writing the keys of the batches.
    """
    is_finite = bool(torch.isfinite(torch.stack([result.total for _, result in seen])).all())
    is_bad, is_asked_to_stop = ranks.any_rank([not is_finite, stop.received], run.device)
    if is_bad:
        mine = [{"source": b.source, "loss": repr(r.total.item()), "keys": b.keys} for b, r in seen]
        micro_batches = ranks.gather(mine)
        path = run.config.output / f"non_finite_step_{step}.json"
        if run.is_main:
            with whole_file(path) as temporary:
                temporary.write_text(json.dumps({"step": step, "ranks": micro_batches}, indent=2))
        raise FloatingPointError(f"the loss of step {step} is not finite; no rank took the step; the batches' keys are in {path}")
    return is_asked_to_stop


def save(run: TrainingRun, writer: checkpoint.CheckpointWriter, monitor: Monitor, step: int) -> None:
    """Begin a checkpoint after `step` steps: training waits until its tensors lie in the memory of rank 0.

    Raises FloatingPointError on all ranks when the last gradient was not finite: the weights are spoilt.
    """
    begin = time.perf_counter()
    if not math.isfinite(run.gradient_norm):
        raise FloatingPointError(f"the gradient of step {step - 1} was not finite; the checkpoints before it stay")
    weights, moments = ranks.gather_state(run.engine)
    if run.is_main:
        average = {name: tensor.to("cpu", copy=True) for name, tensor in run.teacher.average.state_dict().items()}
        writer.start(step, {checkpoint.STUDENT: weights, checkpoint.TEACHER: average, checkpoint.OPTIMIZER: moments})
    monitor.scalars(step, {"checkpoint/pause_seconds": time.perf_counter() - begin})


def finish(run: TrainingRun, scores: dict[str, Any]) -> None:
    """Write the encoder and the last scores, unless an earlier start of the finished run did, and show them."""
    output, num_steps = run.config.output, run.config.num_steps
    if run.first_step < num_steps or not ranks.gather((output / METRICS_FILE).is_file())[0]:
        scores = scores or validate(run)
        if run.is_main:
            run.teacher.average.encoder.normalization = run.encoder.normalization
            save_encoder(run.teacher.average.encoder, output / ENCODER_FILE)
            with whole_file(output / METRICS_FILE) as temporary:
                temporary.write_text(json.dumps({"steps": num_steps, "validation": scores}, indent=2))
    if run.is_main:
        finished = json.loads((output / METRICS_FILE).read_text())
        rows = [[s, v["mae"], v["mae_of_mean"], v["r2"], v["samples"]] for s, v in finished["validation"].items()]
        header = ["validation", "fraction error", "of predicting the mean", "R2", "samples"]
        print(tabulate(rows, header, floatfmt=".4f") if rows else "no validation split in the corpus")
        print(f"encoder: {output / ENCODER_FILE}\nTensorBoard: tensorboard --logdir {output}", flush=True)


def show_examples(monitor: Monitor, step: int, run: TrainingRun, batch: Batch, result: MicroBatchResult) -> None:
    """Pictures of the first samples of a batch: their frames, and the map's and the predicted fractions."""
    if run.is_main:
        sensor = run.corpus.sensors[batch.source]
        strip = rgb_strip_figure(batch.pixels.cpu(), batch.valid.cpu(), sensor, batch.dates.cpu())
        monitor.figure(step, f"batch/{batch.source}", strip)
        bars = fractions_figure(result.target.cpu(), result.predicted.cpu(), run.targets.legend)
        monitor.figure(step, f"fractions/{batch.source}", bars)


@dataclasses.dataclass
class StepReport:
    """What happened in one step on this rank."""

    started: float = dataclasses.field(default_factory=time.perf_counter)
    waited: float = 0.0
    samples: int = 0
    frames: int = 0
    bytes: int = 0
    losses: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    def add(self, batch: Batch, result: MicroBatchResult) -> None:
        """Count one micro-step."""
        self.samples += len(batch.keys)
        self.frames += batch.pixels.shape[0] * batch.pixels.shape[1]
        self.bytes += batch.nbytes
        self.losses.setdefault("loss/total", []).append(result.total.item())
        self.losses.setdefault(f"loss/{batch.source}", []).append(result.supervised.item())
        self.losses.setdefault("loss/consistency", []).append(result.consistency.item())

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


def scheduled_consistency_weight(config: ObjectiveConfig, step: int, num_steps: int) -> float:
    """Weight of the student-teacher term at optimizer step `step` (from 0): it grows linearly from 0."""
    return config.consistency_weight * min(1.0, (step + 1) / max(1, config.consistency_warmup_share * num_steps))


@torch.no_grad()
def validate(run: TrainingRun) -> dict[str, dict[str, float]]:
    """Errors of the teacher's fractions on the validation split, per source; every sample once, shared among the ranks."""
    corpus, stream_config, teacher, targets, statistics = run.corpus, run.config.stream, run.teacher, run.targets, run.statistics
    rank, world_size, device = run.rank, run.world_size, run.device
    scores = {}
    for source in statistics:
        if (source, "validation") not in corpus.splits:
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
    shares = corpus.splits[source, "train"].mean_shares
    (legend,) = shares
    grouped = targets.legends[legend].grouping_matrix() @ shares[legend]
    return np.asarray(grouped / grouped.sum())


def main() -> NoReturn:
    """Entry of every rank. The launcher's `--local_rank` goes; of a mistake that all ranks see alike, rank 0 alone speaks."""
    arguments = [a for a in sys.argv[1:] if not a.startswith("--local_rank")]
    if ranks.announced_ranks()[0] != 0:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    run_command(_run, arguments, config_class=PretrainConfig)


def _run(config: PretrainConfig) -> NoReturn:
    """Train, and end this process with the run's exit code.

    At once: threads below DeepSpeed and its back ends do not always survive the interpreter's own end, nor would a rank that
    others wait for be let go by them.
    """
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    is_main = ranks.announced_ranks()[0] == 0
    message = ""
    try:
        code = pretrain(config)
        ranks.leave()
    except (ValueError, OSError, FloatingPointError) as error:
        code = FAILED if isinstance(error, FloatingPointError) else USER_ERROR
        message = f"error: {' '.join(str(error).split())}"
        if not is_main and (isinstance(error, FloatingPointError) or not ranks.joined()):
            message = ""  # all ranks know, rank 0 says it
            time.sleep(_UNTIL_SAID_S)
    except RuntimeError as error:
        if not ranks.is_lost_rank(error):
            raise
        code, message = FAILED, "error: another rank ended; its own message says why"
        time.sleep(_UNTIL_SAID_S)
    if message:
        print(message, file=sys.stderr, flush=True)
    print(end="", flush=True)
    os._exit(code)


if __name__ == "__main__":
    main()
