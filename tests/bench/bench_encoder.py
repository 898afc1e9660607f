"""How fast the encoder is against the naive one, which takes the published model's steps, and how much memory each takes.

    python tests/bench/bench_encoder.py --output tests/bench/results/encoder.json

Both alternate in one process, and the median of the ratios of neighbouring rounds counts, so that a slow spell hits both. A
training step is forward and backward of the pretraining model (mean over the last map's tokens, linear layer, L1 to fractions)
without stochastic depth. On a GPU it also runs compiled, states the share of the card's rate (MFU) and sweeps batch size and
frames; nothing of the script is for one kind of device alone.
"""

from __future__ import annotations

import gc
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

sys.path[:0] = [str(Path(__file__).parents[2])]

from report import write_report  # noqa: E402

from common.command_line import run_command  # noqa: E402
from pretrain.model import EncoderConfig, build_encoder  # noqa: E402
from pretrain.model.flops import forward_flops  # noqa: E402
from pretrain.model.gpus import GPUS  # noqa: E402
from tests.support.naive_encoder import naive_encoder  # noqa: E402

CLASSES = 8
BANDS = 10
Step = Callable[[], None]


def synchronised_time(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(step: Step, device: torch.device) -> float:
    begin = synchronised_time(device)
    step()
    return synchronised_time(device) - begin


def device_and_threads(device: torch.device) -> dict[str, Any]:
    """What a report says of the machine beside its processor."""
    card = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda} if device.type == "cuda" else {}
    return {**card, "threads": torch.get_num_threads()}


def product_rate(device: torch.device, dtype: torch.dtype, rounds: int = 7) -> float:
    """FLOP/s of a plain product of two square matrices: what the device itself reaches."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    a @ b
    return 2 * size**3 / min(timed(lambda: a @ b, device) for _ in range(rounds))


def peak_bytes(step: Step, device: torch.device) -> int:
    """Most bytes of tensors that lay in memory at once during `step`, above those before it. Gradients lie there before."""
    step()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    changes = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    level = peak = 0
    for event in sorted(changes, key=lambda e: e.start_ns()):
        level += event.nbytes()
        peak = max(peak, level)
    return peak


class Contest:
    """The naive and our pretraining model with the same weights, on the same pixels."""

    def __init__(self, device: torch.device, dtype: torch.dtype, batch: int, frames: int, side: int, compiled: bool) -> None:
        torch.manual_seed(0)
        config = EncoderConfig(sources={"sentinel2": BANDS}, drop_path_rate=0.0)
        encoder = build_encoder(config).to(device, dtype)
        weights = {name: tensor.detach().clone().requires_grad_() for name, tensor in encoder.state_dict().items()}
        pixels = torch.randn(batch, frames, BANDS, side, side, device=device).to(dtype)
        target = torch.rand(batch, CLASSES, device=device).softmax(-1)
        head = torch.randn(encoder.norm.normalized_shape[0], CLASSES, device=device).to(dtype) * 0.02
        parameters = list(encoder.parameters())
        if compiled:
            encoder.compile_blocks()
        naive = torch.compile(naive_encoder) if compiled else naive_encoder

        def loss_of(tokens: torch.Tensor) -> torch.Tensor:
            return ((tokens @ head).float().softmax(-1) - target).abs().mean()

        def train_ours() -> None:
            loss_of(encoder.tokens(pixels, "sentinel2")[-1].mean((1, 2, 3))).backward()

        def train_naive() -> None:
            last = naive(weights, config, pixels, "sentinel2")[-1]
            loss_of(last.unflatten(1, (len(head), -1)).mean((2, 3, 4))).backward()

        def infer_ours() -> None:
            with torch.inference_mode():
                encoder(pixels, "sentinel2")

        def infer_naive() -> None:
            with torch.inference_mode():
                naive(weights, config, pixels, "sentinel2")

        self.steps = {"training": (train_naive, train_ours), "inference": (infer_naive, infer_ours)}
        self.flops = forward_flops(config, BANDS, frames, side, side)
        self.published_flops = forward_flops(config, BANDS, frames, side, side, padded=True)
        self.encoder, self.parameters, self.device, self.batch = encoder, [*parameters, *weights.values()], device, batch

    def time(self, step: Step) -> float:
        """Seconds of a step that finds no gradients, as training loops and DeepSpeed leave it."""
        for parameter in self.parameters:
            parameter.grad = None
        return timed(step, self.device)

    def result(self, kind: str, rounds: int, rate: float, datasheet: float | None) -> dict[str, Any]:
        naive, ours = self.steps[kind]
        naive(), ours()
        pairs = [(self.time(naive), self.time(ours)) for _ in range(rounds)]
        seconds = statistics.median(b for _, b in pairs)
        useful = self.batch * (self.flops.training if kind == "training" else self.flops.forward)
        memory = [peak_bytes(step, self.device) for step in (naive, ours)]
        result = {
            "samples_s": round(self.batch / seconds, 3),
            "naive_samples_s": round(self.batch / statistics.median(a for a, _ in pairs), 3),
            "speed_up": round(statistics.median(a / b for a, b in pairs), 3),
            "speed_up_quartiles": [round(q, 3) for q in statistics.quantiles([a / b for a, b in pairs], n=4)[::2]],
            "gflop_s": round(useful / seconds / 1e9),
            "share_of_matrix_product": round(useful / seconds / rate, 3),
            "peak_mb": round(memory[1] / 1e6),
            "naive_peak_mb": round(memory[0] / 1e6),
            "peak_share": round(memory[1] / memory[0], 3),
        }
        return result if datasheet is None else result | {"mfu": round(useful / seconds / datasheet, 3)}

    def checkpointing(self, rounds: int) -> list[dict[str, Any]]:
        """Time and memory of checkpointed stages against none, alternating."""
        _, step = self.steps["training"]
        results = []
        for stages in ((1,), (1, 2), (1, 2, 3, 4)):
            pairs = []
            for _ in range(rounds):
                self.encoder.checkpoint_activations(())
                plain = self.time(step)
                self.encoder.checkpoint_activations(stages)
                pairs.append((plain, self.time(step)))
            peak = peak_bytes(step, self.device)
            self.encoder.checkpoint_activations(())
            entry = {"stages": list(stages), "time": round(statistics.median(b / a for a, b in pairs), 3)}
            results.append(entry | {"peak_share": round(peak / peak_bytes(step, self.device), 3)})
        return results


def measure(setting: tuple[str, int, int, int, bool, int, float | None, bool]) -> list[dict[str, Any]]:
    """All results of one setting."""
    dtype_name, batch, frames, side, compiled, rounds, datasheet, with_checkpointing = setting
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    dtype = getattr(torch, dtype_name)
    name = {"dtype": dtype_name, "batch": batch, "frames": frames, "side": side, "compiled": compiled}
    rate = product_rate(device, dtype)
    try:
        contest = Contest(device, dtype, batch, frames, side, compiled)
        results = [{**name, "kind": k, **contest.result(k, rounds, rate, datasheet)} for k in ("training", "inference")]
        if with_checkpointing:
            results.append({**name, "kind": "checkpointing", "settings": contest.checkpointing(max(3, rounds // 2))})
    except torch.OutOfMemoryError as error:
        return [{**name, "kind": "out of memory", "error": str(error).splitlines()[0]}]
    return results


def bench_encoder(
    output: Path | None = None,
    rounds: int = 9,
    dtypes: list[str] | None = None,
    batches: list[int] | None = None,
    frames: list[int] | None = None,
    sides: list[int] | None = None,
    compiled: bool | None = None,
    gpu: str = "h100",
) -> None:
    """Measure the encoder against the naive one.

    Args:
        output: JSON file to write; default: print only.
        rounds: rounds of naive and ours, alternating.
        dtypes: of float32 (TF32 on a GPU) and bfloat16; default: both.
        batches: samples a step; default: 1, 4, 8 and 16 on a CPU, 8, 32 and 128 on a GPU.
        frames: frames a sample; default: 16, on a GPU 16 and 32.
        sides: pixels along rows and columns; default: 128, on a GPU 128 and 224.
        compiled: also with torch.compile; default: on a GPU.
        gpu: whose datasheet the MFU is of: a100, h100, h200, l40, l40s or v100.
    """
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    datasheet = GPUS[gpu][0] if on_gpu else None
    shapes = [
        (batch, count, side)
        for side in sides or ([128, 224] if on_gpu else [128])
        for count in frames or ([16, 32] if on_gpu else [16])
        for batch in batches or ([8, 32, 128] if on_gpu else [1, 4, 8, 16])
    ]
    modes = [False, True] if (on_gpu if compiled is None else compiled) else [False]
    jobs = [(dtype, *shape, mode) for dtype in dtypes for shape in shapes for mode in modes]
    results: list[dict[str, Any]] = []
    dtypes = dtypes or ["float32", "bfloat16"]
    products = {dtype: round(product_rate(device, getattr(torch, dtype)) / 1e9) for dtype in dtypes}
    machine = {**device_and_threads(device), "matrix_product_gflop_s": products}
    # A process for each setting: what the allocator kept from a larger one changes the speed of the next.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        work = [(*job, rounds, datasheet, job[1] == shapes[-1][0] and job[0] == "bfloat16" and not job[-1]) for job in jobs]
        for found in tqdm(pool.imap(measure, work, chunksize=1), desc="encoder", unit="setting", total=len(work)):
            results += found
            write_report(output, ["torch"], {"rounds": rounds, "results": results}, machine)  # it stays when the time is up
    columns = ["dtype", "batch", "frames", "side", "compiled", "kind", "speed_up", "samples_s", "share_of_matrix_product"]
    columns += ["peak_share", "mfu"] if on_gpu else ["peak_share"]
    print(tabulate([[r.get(c) for c in columns] for r in results if "speed_up" in r], columns))


if __name__ == "__main__":
    run_command(bench_encoder)
