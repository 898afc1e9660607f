"""A report of each interval between two lines of the log: losses, speed, utilisation, memory, and a digest of the samples."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import torch

from pretrain.data.batch import Batch


class StepReport:
    """Counts micro-steps since the last report, without waiting for the device before a report is due.

    Args:
        sources: all sources of the run, the same on all ranks.
        flops_per_sample: model FLOPs of a training step for one sample of each source, from
            `pretrain.model.training_flops.training_flops`.
        peak_flops: FLOP/s of one device by its datasheet (`pretrain.model.gpus.peak_flops`); None if it is not known.
    """

    def __init__(self, sources: Iterable[str], flops_per_sample: Mapping[str, float], peak_flops: float | None) -> None:
        self._sources, self._flops_per_sample, self._peak_flops = sorted(sources), dict(flops_per_sample), peak_flops
        self._start_interval()

    def _start_interval(self) -> None:
        self._started = time.perf_counter()
        self._waited = self._paused = 0.0
        self._samples = self._frames = self._bytes = self._digest = 0
        self._flops = 0.0
        self._order: list[str] = []  # source of each micro-step
        self._losses: list[torch.Tensor] = []

    def add(self, batch: Batch, supervised: torch.Tensor, consistency: torch.Tensor, total: torch.Tensor) -> None:
        """Count one micro-step. The losses are scalars, means over this rank's share of the micro-batch."""
        self._order.append(batch.source)
        # stack() copies: the losses of a compiled step may lie in memory that the next step overwrites.
        self._losses.append(torch.stack((total, consistency, supervised)).detach().double())
        self._samples += len(batch.keys)
        self._frames += batch.pixels.shape[0] * batch.pixels.shape[1]
        self._bytes += batch.nbytes
        self._digest += batch.digest
        self._flops += len(batch.keys) * self._flops_per_sample[batch.source]

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time within as waiting for the next batch."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time within (validating, saving) out of the interval."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # steps that the GPU has not finished belong to the interval
        started = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - started

    def scalars(self, sum_over_ranks: Callable[[torch.Tensor], torch.Tensor], world_size: int) -> dict[str, float | str]:
        """The numbers of the interval; then a new one begins. All ranks call this after the same micro-steps, at least one.

        - `loss/total`, `loss/consistency`, and `loss/SOURCE`, the supervised loss: means over ranks and micro-steps, so they do
          not depend on the number of ranks. Sources that did not occur are left out.
        - `speed/samples_per_second`, `speed/frames_per_second`, `speed/read_gb_per_second`: of all ranks together.
        - `speed/share_waiting_for_data`: mean over ranks, 0 to 1.
        - `speed/mfu`: model FLOPs utilisation (Chowdhery et al., PaLM, 2022, appendix B): the model's FLOPs as a share of those
          that all devices could have computed by their datasheet, if that is known. The student's forward and backward pass
          count, and the teacher's forward pass, which the method also needs; activation checkpointing does not count.
        - `memory/device_gb`: peak of the memory allocated on this rank's GPU; without a GPU the peak of this process.
        - `samples_digest`: 16 hexadecimal digits. They are equal for runs with the same samples and frames, in any order and on
          any number of ranks.

        Args:
            sum_over_ranks: elementwise sum of a float64 or int64 tensor over all ranks.
            world_size: number of ranks.
        """
        device = self._losses[0].device
        total, consistency, supervised = torch.stack(self._losses).cpu().numpy().T
        of_source = {source: np.array([source == each for each in self._order]) for source in self._sources}
        losses = {"loss/total": (total.sum(), len(total)), "loss/consistency": (consistency.sum(), len(total))}
        losses |= {f"loss/{source}": (supervised[here].sum(), here.sum()) for source, here in of_source.items()}
        counts = [self._samples, self._frames, self._bytes / 1e9, self._flops, self._waited]
        mine = torch.tensor([*(loss for loss, _ in losses.values()), *counts], dtype=torch.float64, device=device)
        sums = sum_over_ranks(mine).tolist()
        # Sums of int64 wrap at 2**64, of which 2**63 is a divisor.
        digest = int(sum_over_ranks(torch.tensor([self._digest % 2**63], device=device)).item()) % 2**63
        elapsed = time.perf_counter() - self._started - self._paused  # the device has finished, as the losses were read

        values: dict[str, float | str] = {
            name: loss / (count * world_size)
            for loss, (name, (_, count)) in zip(sums[: len(losses)], losses.items(), strict=True)
            if count
        }
        samples, frames, gigabytes, flops, waited = sums[len(losses) :]
        values |= {
            "speed/samples_per_second": samples / elapsed,
            "speed/frames_per_second": frames / elapsed,
            "speed/read_gb_per_second": gigabytes / elapsed,
            "speed/share_waiting_for_data": waited / (elapsed * world_size),
        }
        if self._peak_flops is not None:
            values["speed/mfu"] = flops / (elapsed * world_size * self._peak_flops)
        values |= {"memory/device_gb": peak_memory_bytes(device) / 1e9, "samples_digest": f"{digest:016x}"}
        self._start_interval()
        return values


def peak_memory_bytes(device: torch.device) -> int:
    """Peak of the memory allocated on this rank's GPU so far; without a GPU the peak of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    kibibytes = sys.platform != "darwin"  # macOS counts in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1024 if kibibytes else 1)
