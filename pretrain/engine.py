"""The only file that imports deepspeed: ranks, ZeRO, and the engine around the model."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from pretrain.config import OptimizerConfig, PretrainConfig

# DeepSpeed decides at import; without a GPU it must not look for one.
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
warnings.filterwarnings(
    "ignore", message=".*deprecated. Please use `torch.distributed", category=FutureWarning
)  # DeepSpeed's calls


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Send the process's stderr, that of its children too, to nowhere for a while. Exceptions still come through."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


# On import DeepSpeed asks the linker which of its operators could be built, and the linker complains of each that could not.
with _quiet_stderr():
    import deepspeed
if not torch.cuda.is_available():
    # DeepSpeed would compile a shared-memory all-reduce for CPU ranks at the first start: a minute, and it fails where there
    # is no C++ compiler. CPU ranks are for trying things out; gloo serves them.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


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


def start_ranks() -> torch.device:
    """Join the process group that the launcher describes (or be alone): the device of this rank.

    Raises ValueError when there are several ranks but no word of where they meet.
    """
    if announced_ranks()[1] > 1 and not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise ValueError(
            f"{os.environ['WORLD_SIZE']} ranks without MASTER_ADDR and MASTER_PORT, where they meet: start by `deepspeed` or "
            "launch/pretrain.sbatch, or set both (mpirun -x MASTER_ADDR=the first host -x MASTER_PORT=29500)"
        )
    if "RANK" not in os.environ:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free.getsockname()[1]))
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", verbose=False)
    return device


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices with weight decay; norms, biases and relative position tables without."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim > 1 and not name.endswith("relative_position_bias_table")
        (decayed if is_matrix else plain).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def adamw(model: nn.Module, config: OptimizerConfig, device: torch.device) -> torch.optim.AdamW:
    """AdamW over `parameter_groups`; fused on a GPU."""
    groups = parameter_groups(model, config.weight_decay)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=device.type == "cuda")


def wrap(model: nn.Module, config: PretrainConfig, micro_steps: int, device: torch.device) -> Any:
    """The DeepSpeed engine: ZeRO by `config.zero`, gradients averaged over ranks and micro-steps, clipping as configured.

    Raises ValueError when the JSON is unreadable or sets what the run's own configuration decides.
    """
    settings = read_zero_json(config.zero)
    settings |= {
        "train_micro_batch_size_per_gpu": 1,  # DeepSpeed only multiplies it into its reports; the stream makes the batches
        "gradient_accumulation_steps": micro_steps,
        "gradient_clipping": config.optimizer.gradient_clipping,
        "bf16": {"enabled": config.precision == "bf16"},
        "steps_per_print": 1_000_000_000,
        "zero_allow_untested_optimizer": True,
    }
    optimizer = adamw(model, config.optimizer, device)
    engine, *_ = deepspeed.initialize(model=model.to(device), optimizer=optimizer, config=settings)
    return engine


def read_zero_json(path: Path) -> dict[str, Any]:
    """A file of `launch/zero*.json`. Raises ValueError unless it is JSON with a ZeRO stage of 1 or 2 and nothing we decide."""
    try:
        settings: dict[str, Any] = json.loads(path.read_text())
        stage = settings["zero_optimization"]["stage"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a DeepSpeed JSON with zero_optimization.stage: {error!r}") from error
    if stage not in (0, 1, 2):
        raise ValueError(f"{path}: ZeRO stage {stage}; the mean teacher reads whole weights, so stages 0, 1 and 2 are possible")
    ours = {"gradient_clipping", "gradient_accumulation_steps", "train_batch_size", "bf16", "optimizer", "scheduler"} & set(
        settings
    )
    if ours:
        raise ValueError(f"{path} sets {sorted(ours)}; these follow from the run's configuration (--optimizer, --precision, ...)")
    return settings


def any_rank(flag: bool, device: torch.device) -> bool:
    """True on all ranks when `flag` is true on any."""
    value = torch.tensor([float(flag)], device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())


def mean_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Mean of a tensor over all ranks, on each of them."""
    total = values.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def gather(value: Any) -> list[Any]:
    """Every rank's `value`, on every rank, in order of ranks."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait for all ranks."""
    dist.barrier()


def joined() -> bool:
    """Whether this rank is in the process group."""
    return dist.is_initialized()


def leave() -> None:
    """Leave the process group, if it was joined."""
    if joined():
        dist.destroy_process_group()
