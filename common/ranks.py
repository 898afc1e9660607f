"""The ranks of a run: processes that deepspeed, torchrun, srun or mpirun starts. Plain torch.distributed."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from common.errors import sendable

Result = TypeVar("Result")

# deepspeed and torchrun set these variables to a process's rank, the number of ranks and its rank on this machine; srun and
# mpirun set others. The number of ranks is that of srun's job step, because SLURM sets SLURM_PROCID also for the job's script,
# which is not a rank.
_RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_OTHER_LAUNCHERS = (
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
)
_raised_together: Exception | None = None


def announced_ranks() -> tuple[int, int]:
    """Rank and world size that the launcher set for this process, before the ranks are joined; (0, 1) without a launcher."""
    for names in _OTHER_LAUNCHERS:
        if "RANK" not in os.environ and int(os.environ.get(names[1], "1")) > 1:
            os.environ.update(zip(_RANK_VARIABLES, (os.environ[name] for name in names), strict=True))
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def start_ranks(join: Callable[[str], object] = dist.init_process_group, device_type: str | None = None) -> torch.device:
    """Join the process group that the launcher describes, by `join(backend)`, and return the device of this rank.

    Without a launcher the group has one rank. The device is a GPU if there is one, unless `device_type` is "cpu".

    Raises ValueError when there are several ranks but no address at which they meet.
    """
    if announced_ranks()[1] > 1 and not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise ValueError(
            f"{os.environ['WORLD_SIZE']} ranks without MASTER_ADDR and MASTER_PORT, where they meet: start with `deepspeed` or "
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


def rank_and_world_size() -> tuple[int, int]:
    """This rank and the number of ranks; (0, 1) for a process that has joined no others."""
    return (dist.get_rank(), dist.get_world_size()) if joined() else (0, 1)


def any_rank(flags: Sequence[bool]) -> list[bool]:
    """Whether each flag is true on any rank. The result is the same on all ranks. No rank waits for its GPU."""
    values = torch.tensor(flags, dtype=torch.float32)
    if joined():
        dist.all_reduce(values, op=dist.ReduceOp.MAX, group=_cpu_group())
    return values.bool().tolist()


def _cpu_group() -> dist.ProcessGroup | None:
    """The group of all ranks whose collectives work in the memory of CPUs; None: the default group is one."""
    return _gloo_group() if dist.get_backend() == "nccl" else None


@cache
def _gloo_group() -> dist.ProcessGroup:
    """Made in the first collective that needs it, as all ranks must make it together."""
    return dist.new_group(backend="gloo")


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor over all ranks, on each of them; with one rank the tensor itself.

    The sum has a gradient: when every rank computes the same loss from sums, the mean over ranks of the gradients of their
    weights is the gradient of a single process.
    """
    if rank_and_world_size()[1] == 1:
        return values
    result: torch.Tensor = _Sum.apply(values)
    return result


class _Sum(torch.autograd.Function):
    """The value of one rank counts in the losses of all ranks, so their gradients are summed as well."""

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


def raise_together(error: Exception | None) -> None:
    """Raise on all ranks when any rank gives an error, so that none waits for a rank that has ended. Every rank calls this.

    A rank raises its own error, the others raise that of the first rank that has one. No rank waits for its GPU, unless there is
    an error.
    """
    global _raised_together
    if any_rank([error is not None])[0]:
        errors = gather(None if error is None else sendable(error))
        _raised_together = error or next(each for each in errors if each is not None)
        raise _raised_together


def is_raised_together(error: Exception) -> bool:
    """Whether `raise_together` raised it, so that one rank may print it for all."""
    return error is _raised_together


def on_main(work: Callable[[], Result]) -> Result:
    """The result of `work`, which rank 0 alone does, on every rank. Raises on every rank the error that `work` raised."""
    result: Result | None = None
    error: Exception | None = None
    if rank_and_world_size()[0] == 0:
        try:
            result = work()
        except Exception as raised:
            error = raised
    raise_together(error)
    return cast(Result, gather(result)[0])


def gather(value: Any) -> list[Any]:
    """The `value` of every rank, in the order of ranks, on every rank."""
    values: list[Any] = [value] * rank_and_world_size()[1]
    if joined():
        dist.all_gather_object(values, value)
    return values


def gather_tensors(values: torch.Tensor) -> torch.Tensor:
    """The tensors `values` (n,) of all ranks, (ranks, n), on each of them."""
    world_size = rank_and_world_size()[1]
    if world_size == 1:
        return values[None]
    gathered = values.new_empty(world_size * len(values))
    dist.all_gather_into_tensor(gathered, values)
    return gathered.view(world_size, -1)


def barrier() -> None:
    """Wait for all ranks."""
    if joined():
        dist.barrier()


def joined() -> bool:
    """Whether this process has joined the process group."""
    return dist.is_initialized()


def is_lost_rank(error: RuntimeError) -> bool:
    """True for the error of a collective when another rank has ended. Of gloo only the message tells."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def leave() -> None:
    """Leave the process group, if this process has joined it."""
    if joined():
        dist.destroy_process_group()
        _gloo_group.cache_clear()
