"""Ranks: the processes of one run, as deepspeed, torchrun, srun and mpirun start them. Plain torch.distributed."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

# deepspeed and torchrun tell a process its rank, the number of ranks and its rank on this machine; srun and mpirun do so by other
# names. Those of srun are of its own step: a job's script, which is no rank, has SLURM_PROCID as well.
_PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_PLACES_ELSEWHERE = (
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
)


def announced_ranks() -> tuple[int, int]:
    """Rank and world size that the launcher gave this process, before any rank is spoken to; (0, 1) without a launcher."""
    for names in _PLACES_ELSEWHERE:
        if "RANK" not in os.environ and int(os.environ.get(names[1], "1")) > 1:
            os.environ.update(zip(_PLACE, (os.environ[name] for name in names), strict=True))
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def start_ranks(join: Callable[[str], object] = dist.init_process_group, device_type: str | None = None) -> torch.device:
    """Join the process group that the launcher describes (or be alone), by `join(backend)`: the device of this rank.

    On GPUs where there are any, unless `device_type` says "cpu".

    Raises ValueError when there are several ranks but no word of where they meet.
    """
    if announced_ranks()[1] > 1 and not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise ValueError(
            f"{os.environ['WORLD_SIZE']} ranks without MASTER_ADDR and MASTER_PORT, where they meet: start by `deepspeed` or "
            "a script of launch/, or set both (mpirun -x MASTER_ADDR=the first host -x MASTER_PORT=29500)"
        )
    if "RANK" not in os.environ:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]))
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    device = torch.device("cpu")
    if torch.cuda.is_available() and device_type != "cpu":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    join("nccl" if device.type == "cuda" else "gloo")
    return device


def place() -> tuple[int, int]:
    """This rank and how many there are; (0, 1) for a process that joined no others."""
    return (dist.get_rank(), dist.get_world_size()) if joined() else (0, 1)


def any_rank(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """For each flag whether it is true on any rank; the same on all ranks."""
    values = torch.tensor(flags, dtype=torch.float32, device=device)
    if joined():
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values.bool().tolist()


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor over all ranks, on each of them; the tensor itself where there is one rank.

    It can be differentiated: where each rank computes one and the same loss from sums, the mean over ranks of the gradients of
    their weights is that of a single process.
    """
    if place()[1] == 1:
        return values
    result: torch.Tensor = _Sum.apply(values)
    return result


class _Sum(torch.autograd.Function):
    """What a rank puts in counts in the losses of all: their gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        total = values.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def gather(value: Any) -> list[Any]:
    """Every rank's `value`, on every rank, in order of ranks."""
    values: list[Any] = [value] * place()[1]
    if joined():
        dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait for all ranks."""
    if joined():
        dist.barrier()


def joined() -> bool:
    """Whether this rank is in the process group."""
    return dist.is_initialized()


def is_lost_rank(error: RuntimeError) -> bool:
    """True for what a collective raises when another rank has ended; gloo says so in words only."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def leave() -> None:
    """Leave the process group, if it was joined."""
    if joined():
        dist.destroy_process_group()
