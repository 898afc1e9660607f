"""Which loss, and at what rate, gets the fractions out of the median: divergence or L1, on regions that nobody trained on.

    make bench-data && python tests/bench/bench_loss.py --output tests/bench/results/loss.json

One source, the tiny encoder, batches, views, optimizer and schedule of pretraining, no teacher. The mean absolute error is the
loss that L1 asks for, R2 is 0 for predicting the mean and 1 for no error.
"""

from __future__ import annotations

import math
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tabulate import tabulate
from tqdm import tqdm

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from plain_step import plain_step  # noqa: E402
from report import write_report  # noqa: E402

from common.command_line import run_command  # noqa: E402
from data_prep.corpus.dataset import Corpus, load_corpus  # noqa: E402
from pretrain.config import OptimizerConfig  # noqa: E402
from pretrain.data.config import StreamConfig  # noqa: E402
from pretrain.data.stream import Stream  # noqa: E402
from pretrain.engine import adamw  # noqa: E402
from pretrain.evaluation.scores import fraction_scores  # noqa: E402
from pretrain.evaluation.validation import train_mean  # noqa: E402
from pretrain.model import EncoderConfig, build_encoder  # noqa: E402
from pretrain.objective.losses import LOSSES, LossWeights, land_cover_loss  # noqa: E402
from pretrain.objective.mean_teacher import views  # noqa: E402
from pretrain.objective.model import FRACTIONS, LandCoverModel  # noqa: E402
from pretrain.objective.targets import LandCoverTargets  # noqa: E402

PROJECT = Path(__file__).parents[2]
TINY = PROJECT / "pretrain" / "configs" / "tiny.yaml"
BENCH_DATA = PROJECT / "bench-data" / "corpus"
RATES = (5e-4, 1e-3, 2e-3)
UNSEEN = ("validation", "test")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a run is told beside its seed."""

    loss: str
    learning_rate: float
    source: str
    corpus: Path
    steps: int
    scored_after: tuple[int, ...]


def train(setting: Setting, seed: int) -> dict[str, Any]:
    """Scores after each of `scored_after` steps: of the training samples and of all regions that were not trained on."""
    torch.set_num_threads(1)
    corpus, config = load_corpus(setting.corpus), yaml.safe_load(TINY.read_text())
    stream_config = StreamConfig(**config["stream"] | {"num_workers": 0, "mixture": {setting.source: 1.0}, "seed": seed})
    statistics = tuple(torch.from_numpy(a[setting.source]).float() for a in (corpus.mean, corpus.std))
    targets, optimizer_config = LandCoverTargets(corpus, {}), OptimizerConfig(learning_rate=setting.learning_rate)
    torch.manual_seed(seed)
    sources = {setting.source: corpus.shapes[setting.source][0]}
    encoder = build_encoder(EncoderConfig.from_dict(config["encoder"] | {"sources": sources}))
    model = LandCoverModel(encoder, len(targets.classes)).train()
    optimizer = adamw(model, optimizer_config)
    scores: dict[str, Any] = {}
    with closing(Stream(corpus, "train", stream_config)) as stream:
        for step, batch in enumerate(stream.batches(0, setting.steps)):
            predicted = model(views(batch, *statistics)[0], setting.source)
            loss, *_ = land_cover_loss(predicted, targets(batch), None, LossWeights(loss=setting.loss))
            plain_step(loss, model, optimizer, optimizer_config, step, setting.steps)
            if step + 1 in setting.scored_after:
                scores[str(step + 1)] = {
                    name: scored(model, corpus, splits, targets, stream_config, statistics)
                    for name, splits in (("train", ("train",)), ("unseen", UNSEEN))
                }
    return scores


@torch.no_grad()
def scored(
    model: LandCoverModel,
    corpus: Corpus,
    splits: tuple[str, ...],
    targets: LandCoverTargets,
    config: StreamConfig,
    statistics: tuple[torch.Tensor, ...],
) -> dict[str, float]:
    """Scores of the model on one epoch of the splits, at most 512 samples of each."""
    (source,) = config.mixture or {}
    model.eval()
    columns: tuple[list[np.ndarray], list[np.ndarray]] = [], []
    for split in splits:
        count = min(512, corpus.splits[source, split].samples)
        size = math.gcd(count, 64)
        with closing(Stream(corpus, split, replace(config, global_batch_size=size))) as stream:
            for batch in stream.batches(0, count // size):
                columns[0].append(model(views(batch, *statistics)[1], source)[FRACTIONS].numpy())
                columns[1].append(targets(batch)[FRACTIONS].numpy())
    model.train()
    predicted, true = (np.concatenate(column) for column in columns)
    return fraction_scores(predicted, true, train_mean(corpus, source, targets))


def bench_loss(
    output: Path | None = None,
    corpus: Path = BENCH_DATA,
    source: str = "landsat",
    steps: int = 960,
    seeds: int = 3,
    workers: int = 2,
) -> None:
    """Train with each loss and rate, and score on unseen regions.

    Args:
        output: JSON file to write; default: print only.
        corpus: written by data_prep/shard.py; the default is that of `make bench-data`.
        source: of the corpus.
        steps: optimizer steps of a run; scores are also taken after a quarter and half of them.
        seeds: runs of each setting.
        workers: processes, each with one thread.
    """
    after = (steps // 4, steps // 2, steps)
    settings = [
        Setting(loss=loss, learning_rate=rate, source=source, corpus=corpus, steps=steps, scored_after=after)
        for loss in LOSSES
        for rate in RATES
    ]
    todo = [(setting, seed) for seed in range(seeds) for setting in settings]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        done = tqdm(pool.map(train, *zip(*todo, strict=True)), total=len(todo), unit="run")
        runs = dict(zip(todo, done, strict=True))
    rows, results = [], []
    for setting in settings:
        row: list[Any] = [setting.loss, setting.learning_rate]
        for step in after:
            for part, score in (("train", "r2"), ("unseen", "r2"), ("unseen", "mae")):
                values = [runs[setting, seed][str(step)][part][score] for seed in range(seeds)]
                row.append(f"{np.mean(values):.3f} ± {np.std(values):.3f}")
        rows.append(row)
        by_seed = [runs[setting, seed] for seed in range(seeds)]
        results.append({k: v for k, v in asdict(setting).items() if k != "corpus"} | {"by_seed": by_seed})
    heads = [f"{what}, {step}" for step in after for what in ("R2 train", "R2 unseen", "error unseen")]
    print(tabulate(rows, ["loss", "rate", *heads]))
    write_report(output, ["torch", "numpy"], {"seeds": seeds, "results": results})


if __name__ == "__main__":
    run_command(bench_loss)
