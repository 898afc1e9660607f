"""Ten disturbances at random moments of runs on two hosts change no bit of their result."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune.training.checkpoint import NEWEST_CHECKPOINT
from tests.support.disturbed_hosts import HostsRun, disturb
from tests.support.disturbed_training import assert_same_bits, log_of
from tests.support.finetune_runs import assert_equal_runs
from tests.support.launching import ROOT
from tests.support.pretraining import ENCODER, STREAM, options
from tests.support.rice_scenes import write_rice_scene
from tests.support.small_corpus import write_corpus
from tests.support.two_hosts import TwoHosts, two_hosts

pytestmark = pytest.mark.slow

STEPS = 120
SPOILED = {step: "inf" if step % 2 else "nan" for step in (0, 9, 10, 33, 56, 57, 58, 99)}
# launch/pretrain.sh with gradients that are not finite in some steps
SPOILED_PRETRAINING = f"""''':'
source "{ROOT}/launch/ranks.sh"
'''
from pretrain import train
from tests.support.spoiled_gradients import spoil_gradients

spoil_gradients({{step: float(number) for step, number in {SPOILED!r}.items()}})
train.main()
"""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHosts]:
    with two_hosts(tmp_path_factory.mktemp("hosts")) as machines:
        yield machines


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_pretraining_with_skipped_steps(hosts: TwoHosts, tmp_path: Path, precision: str) -> None:
    corpus = write_corpus(tmp_path, {"modis": 9, "landsat": 7, "sentinel2": 8}, side=12)
    script = tmp_path / "pretrain.sh"
    script.write_text(SPOILED_PRETRAINING)

    def start(output: Path) -> HostsRun:
        arguments = ["--data", str(corpus), "--output", str(output), "--precision", precision, "--num_steps", str(STEPS)]
        arguments += ["--log_every", "1", "--save_every", "4", "--validate_every", "30", "--keep", "100"]
        arguments += [*options(ENCODER, "encoder"), *options(STREAM, "stream"), "--encoder.drop_path_rate", "0.2"]
        return HostsRun(hosts, script, arguments, tmp_path / f"{output.name}.log")

    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    assert start(undisturbed).ends() == 0, (tmp_path / "undisturbed.log").read_text()
    story = disturb(lambda: start(run), lambda: len(log_of(run)), most=9, times=10, seed=2026)
    print("\n".join(story))
    log = (tmp_path / "run.log").read_text()
    assert log.count("resuming after step") >= 8, log
    assert log_of(run) == log_of(undisturbed)
    assert sorted(log_of(run)) == list(range(1, STEPS + 1))
    assert_same_bits(run, undisturbed, STEPS)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics == json.loads((undisturbed / "metrics.json").read_text())
    assert metrics["skipped_steps"] == len(SPOILED)


def test_a_fine_tuning(hosts: TwoHosts, tmp_path: Path) -> None:
    scenes = tmp_path / "scenes"
    for seed, (name, split) in enumerate([("a", "train"), ("b", "validation"), ("c", "test")]):
        write_rice_scene(scenes / name, split, side=64, seed=seed, frames=6)
    settings = ["--task", "paddy_rice", "--override.frames", "4", "--override.window_px", "32", "--training.batch_size", "2"]
    settings += ["--training.epochs", "60", "--encoder", "temporal_cnn", "--decoder.channels", "4", "--maps", "false"]

    def start(output: Path) -> HostsRun:
        arguments = [*settings, "--data", str(scenes), "--output", str(output)]
        return HostsRun(hosts, ROOT / "launch/finetune.sh", arguments, tmp_path / f"{output.name}.log")

    undisturbed, run, seen = tmp_path / "undisturbed", tmp_path / "run", set[int]()

    def checkpoints_seen() -> int:
        newest = run / NEWEST_CHECKPOINT
        seen.update([newest.stat().st_mtime_ns] if newest.exists() else [])
        return len(seen)

    assert start(undisturbed).ends() == 0, (tmp_path / "undisturbed.log").read_text()
    story = disturb(lambda: start(run), checkpoints_seen, most=6, times=10, seed=2027)
    print("\n".join(story))
    log = (tmp_path / "run.log").read_text()
    assert log.count("continuing after epoch") >= 8, log
    assert_equal_runs(run, undisturbed)
