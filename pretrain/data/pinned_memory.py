"""Memory of this process from which a GPU copies while the process does something else."""

from __future__ import annotations

from collections.abc import Callable

import torch


def pin(address: int, nbytes: int) -> Callable[[], None]:
    """Pin memory that lies at `address`, also if other processes share it; returns a function that ends this.

    It takes milliseconds, so memory that is reused is pinned once. The function must be called before the memory is unmapped.
    Raises torch.cuda.CudaError when CUDA refuses.
    """
    cuda = torch.cuda.cudart()
    torch.cuda.check_error(cuda.cudaHostRegister(address, nbytes, 0))
    return lambda: torch.cuda.check_error(cuda.cudaHostUnregister(address))
