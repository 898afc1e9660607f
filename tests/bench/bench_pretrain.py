"""A training step fed by the stream against the same step on tensors that lie on the device, by ZeRO stage.

    python tests/bench/bench_pretrain.py --output tests/bench/results/pretrain.json

Each stage runs in processes of its own, one a GPU (without a GPU: two, and a small encoder). Within a run, rounds of real steps
and of steps on one kept batch of each source alternate, so that a slow spell hits both; the median of the ratios of neighbouring
rounds counts. The shards lie in the page cache: what is asked is whether the stream keeps up, not how fast a disk is.

On GPUs the waits for them between two lines of the log are counted, too, in as many steps as a round has, and the kernels that a
step launches.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import torch  # noqa: E402
from report import write_report  # noqa: E402
from tabulate import tabulate  # noqa: E402

from common import ranks  # noqa: E402
from common.command_line import run_command  # noqa: E402
from common.run_lock import LOCK, RunLock  # noqa: E402
from pretrain.config import PretrainConfig  # noqa: E402
from pretrain.data.batch import Batch  # noqa: E402
from pretrain.data.config import StreamConfig  # noqa: E402
from pretrain.log.step_report import peak_memory_bytes  # noqa: E402
from pretrain.model import EncoderConfig  # noqa: E402
from pretrain.model.gpus import peak_flops  # noqa: E402
from pretrain.setup import TrainingRun, set_up_run  # noqa: E402
from pretrain.train import forward_backward, optimizer_step  # noqa: E402
from tests.support.small_corpus import write_corpus  # noqa: E402

ROOT = Path(__file__).parents[2]
SMALL = EncoderConfig(embed_dim=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=(4, 7, 7))
_STAGES = ("zero1", "zero2", "zero3", "zero2_offload")


def bench_pretrain(
    output: Path | None = None,
    rounds: int = 5,
    steps: int = 4,
    samples_a_rank: int | None = None,
    chip_px: int | None = None,
    stages: list[str] | None = None,
    compile: bool = False,
    corpus: Path | None = None,
) -> None:
    """Measure training steps with real reading against synthetic tensors, their MFU and memory, by ZeRO stage.

    Args:
        output: JSON file to write; default: print only.
        rounds: rounds of real and of synthetic steps, alternating.
        steps: optimizer steps a round, each of one micro-batch of Landsat and one of Sentinel-2.
        samples_a_rank: of a micro-batch; default: 32 on a GPU, 8 without.
        chip_px: side of a sample; default: 128 on a GPU, 32 without.
        stages: names of files in launch/ without `.json`; default: zero1, zero2, zero3, zero2_offload.
        compile: let torch.compile fuse the blocks; not for zero3.
        corpus: folder of the samples, which are written there if it does not exist; default: a temporary one.
    """
    gpus = torch.cuda.device_count()
    num_ranks, samples, side = gpus or 2, samples_a_rank or (32 if gpus else 8), chip_px or (128 if gpus else 32)
    results = []
    device = torch.cuda.get_device_name() if gpus else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        corpus = corpus or Path(folder, "corpus")
        if not corpus.exists():
            corpus.mkdir(parents=True)
            write_corpus(corpus, {"landsat": 4 * samples, "sentinel2": 4 * samples}, frames=(40, 60), side=side)
        for stage in stages or _STAGES:
            settings = [str(corpus), str(samples * num_ranks), stage, str(rounds), str(steps), str(int(compile))]
            launcher = [str(Path(sys.executable).parent / "deepspeed"), "--log_level", "error", "--no_local_rank"]
            command = [
                *launcher,
                "--num_accelerators",
                str(num_ranks),
                "--master_port",
                "29617",
                __file__,
                "--rank-of",
                *settings,
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
            line = next((line for line in done.stdout.splitlines() if line.startswith("{")), None)
            if line is None:
                raise RuntimeError(f"{stage} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
            results.append(json.loads(line))
            about = {"device": device, "ranks": num_ranks, "chip_px": side, "results": results}
            write_report(output, ["torch", "deepspeed"], about)  # what is there stays when the time is up
    print(tabulate([list(result.values()) for result in results], list(results[0]), floatfmt=".3f"))


def measure(corpus: str, global_batch: int, stage: str, rounds: int, steps: int, compiled: bool) -> None:
    """On every rank of one stage; rank 0 prints a line of JSON."""
    on_gpu = torch.cuda.is_available()
    config = PretrainConfig(
        data=corpus,
        output=Path(corpus).parent / "run",
        encoder=EncoderConfig() if on_gpu else SMALL,
        stream=StreamConfig(global_batch_size=global_batch, num_workers=4 if on_gpu else 1),
        zero=ROOT / "launch" / f"{stage}.json",
        precision="bf16" if on_gpu else "fp32",
        compile=compiled,
        dry_run=True,  # nothing is written
    )
    run = set_up_run(config, RunLock(config.output / LOCK, config.output))
    kept = {batch.source: batch.to(run.device) for batch in run.stream.first_batches()}
    order = [run.stream.draws.source_of(i) for i in range(run.micro_steps)]
    batches = run.stream.batches(0, 10**9, run.device)
    run.engine.train()
    take_steps(run, 2, lambda _: next(batches))
    real, synthetic = [], []
    for _ in range(rounds):
        real.append(take_steps(run, steps, lambda _: next(batches)))
        synthetic.append(take_steps(run, steps, lambda i: kept[order[i]]))
    flops = run.flops_per_sample
    of_step = sum(flops[source] for source in order) * global_batch
    peak = peak_flops(torch.cuda.get_device_name()) if on_gpu else None
    seconds = statistics.median(real) / steps
    memory = max(ranks.gather(peak_memory_bytes(run.device)))
    syncs = sum(ranks.gather(count_syncs(run, steps, lambda _: next(batches)))) if on_gpu else None
    launches = count_launches(run, lambda i: kept[order[i]]) if on_gpu else None
    if run.is_main:
        result: dict[str, Any] = {
            "stage": stage,
            "samples_s": round(global_batch * run.micro_steps / seconds, 2),
            "share_of_synthetic": round(statistics.median(s / r for r, s in zip(real, synthetic, strict=True)), 3),
            "read_gb_s": round(sum(kept[s].nbytes for s in order) * run.world_size / seconds / 1e9, 3),
            "tflop_s_a_rank": round(of_step / seconds / run.world_size / 1e12, 3),
            "mfu": round(of_step / seconds / run.world_size / peak, 4) if peak else None,
            "memory_gb": round(memory / 1e9, 3),
            "syncs_between_log_lines": syncs,
            "launches_a_step": launches,
        }
        print(json.dumps(result), flush=True)
    batches.close()  # type: ignore[attr-defined]
    ranks.leave()


def take_steps(run: TrainingRun, steps: int, batch_of: Any) -> float:
    """Seconds of `steps` optimizer steps; `batch_of` gives the batch of a micro-step."""
    ranks.barrier()
    begin = time.perf_counter()
    train_steps(run, steps, batch_of)
    if run.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def train_steps(run: TrainingRun, steps: int, batch_of: Any) -> None:
    """So many optimizer steps as between two lines of the log."""
    for step in range(steps):
        for micro_step in range(run.micro_steps):
            batch: Batch = batch_of(micro_step)
            forward_backward(run, batch, step, micro_step, 1.0)
        optimizer_step(run, step, 1e-5)


def _counted(owner: Any, name: str) -> Any:
    """A context in which the calls of a function are counted."""
    return mock.patch.object(owner, name, autospec=True, side_effect=getattr(owner, name))


def count_syncs(run: TrainingRun, steps: int, batch_of: Any) -> int:
    """How often this rank waited for its GPU in so many steps; the places in the code are printed to stderr.

    PyTorch warns of each operation that waits; calls that do nothing else are counted here.
    """
    calls = [(torch.cuda, "synchronize"), (torch.cuda.Stream, "synchronize"), (torch.cuda.Event, "synchronize")]
    with warnings.catch_warnings(record=True) as caught, ExitStack() as patched:
        warnings.simplefilter("always")
        counters = [patched.enter_context(_counted(owner, name)) for owner, name in calls]
        torch.cuda.set_sync_debug_mode("warn")
        try:
            train_steps(run, steps, batch_of)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waited = [warning for warning in caught if "synchronizing CUDA operation" in str(warning.message)]
    for place, times in Counter(f"{warning.filename}:{warning.lineno}" for warning in waited).items():
        print(f"waited {times} times at {place}", file=sys.stderr)
    return len(waited) + sum(counter.call_count for counter in counters)


def count_launches(run: TrainingRun, batch_of: Any) -> int:
    """Kernels that this rank's GPU runs in one optimizer step, copies and fills left out."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        train_steps(run, 1, batch_of)
        torch.cuda.synchronize()
    on_gpu = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return sum(not name.startswith(("Memcpy", "Memset")) for name in on_gpu)


if __name__ == "__main__":
    if "--rank-of" in sys.argv:
        place = sys.argv.index("--rank-of")
        data, size, name, *numbers = sys.argv[place + 1 :]
        measure(data, int(size), name, int(numbers[0]), int(numbers[1]), bool(int(numbers[2])))
    else:
        run_command(bench_pretrain)
