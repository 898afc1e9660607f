"""A pretraining small enough for tests: its encoder and stream, and how a command line says them."""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretrain.config import OptimizerConfig
from pretrain.data.batch import Batch
from pretrain.data.config import StreamConfig
from pretrain.model import EncoderConfig

ROOT = Path(__file__).parents[2]
ENCODER = EncoderConfig(
    patch_size=(4, 2, 2), embed_dim=8, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), window_size=(4, 3, 3), drop_path_rate=0.0
)
STREAM = StreamConfig(num_frames=8, global_batch_size=4, num_workers=0)


def options(config: EncoderConfig | StreamConfig | OptimizerConfig, prefix: str) -> list[str]:
    """A configuration as words of a command line: `--PREFIX.NAME VALUE` for each field; an encoder's sources are the corpus's."""
    flags = []
    for name, value in vars(config).items():
        if value is not None and name != "sources":
            flags += [f"--{prefix}.{name}", value if isinstance(value, str) else json.dumps(value)]
    return flags


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def python_environment() -> dict[str, str]:
    """The environment of a Python that imports what this one does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def stream_config(**changes: Any) -> StreamConfig:
    """Four samples of five frames in a batch, read here; with some of it changed."""
    return StreamConfig(**{"num_frames": 5, "global_batch_size": 4, "num_workers": 0, **changes})


def assert_equal_batches(a: Batch, b: Batch) -> None:
    assert (a.source, a.legend, a.keys) == (b.source, b.legend, b.keys)
    for name, value in vars(a).items():
        if isinstance(value, torch.Tensor):
            np.testing.assert_array_equal(value.numpy(), getattr(b, name).numpy(), err_msg=name)


def random_tensors(step: int) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors of the three files of the checkpoint after a step, other ones for each step."""
    generator = torch.Generator().manual_seed(step)
    names = ("student", "teacher", "optimizer")
    return {name: {f"a.{i}": torch.randn(7, 11, generator=generator) for i in range(3)} for name in names}
