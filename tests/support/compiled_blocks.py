"""How many kernels torch.compile makes of a block, and what they read and write, from the schedule of its compiler, inductor.

Inductor is asked for a CPU, because it refuses to schedule for a GPU that is not there. This is a stand-in. The graph, its matrix
products and its custom operators are those for a GPU, and so are most fusions of pointwise operators and sums. But the schedule
for a GPU may fuse a sum over rows with fewer or more of its neighbours, split a long sum into two kernels, and join kernels of
equal shape. Nothing is compiled to machine code, and nothing runs.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch._inductor.compile_fx import compile_fx, compile_fx_inner
from torch._inductor.exc import InductorError
from torch._inductor.ir import MultiOutput
from torch._inductor.scheduler import NopKernelSchedulerNode, Scheduler
from torch._subclasses.fake_tensor import FakeTensorMode

from pretrain.model import recompute
from pretrain.model.attention.layout import Size, window_layout
from pretrain.model.video_swin import Block, EncoderConfig
from tests.support.counted_kernels import attention_in


@dataclass
class Schedule:
    """Kernels of one pass of a block.

    Attributes:
        generated: kernels that inductor writes itself.
        products: matrix products.
        custom: names of the project's own operators, whose kernels are counted elsewhere.
        nbytes: what all of them but the custom ones read and write.
    """

    generated: int = 0
    products: int = 0
    custom: list[str] = field(default_factory=list)
    nbytes: int = 0


class _Scheduled(Exception):
    """The schedule is made; its code is not wanted."""


def schedules_of_block(
    config: EncoderConfig, stage: int, size: Size, batch: int, dtype: torch.dtype, shifted: bool
) -> dict[str, Schedule]:
    """Schedules of `forward` and `backward` in training and of `teacher`, for a block of `stage` (from 0) on a map of `size`."""
    channels = config.embed_dim * 2**stage
    with torch.device("meta"):
        block = Block(channels, config.num_heads[stage], config.window_size, config.mlp_ratio).to(dtype)
    layout = window_layout(size, config.window_size, shifted, torch.device("cpu"), may_join=False)
    found: list[Schedule] = []
    with (
        attention_in(kernels=True),
        mock.patch.object(recompute, "CPU_WORKING_SET", 1 << 62),  # all rows at once, as on a GPU
        mock.patch.object(torch._inductor.config, "fx_graph_cache", False),
        FakeTensorMode(allow_non_fake_inputs=True),
    ):
        block.to_empty(device="cpu")
        tokens = torch.empty(batch, math.prod(size), channels, dtype=dtype, requires_grad=True)
        scales = torch.empty(2, batch, dtype=dtype)
        torch._dynamo.reset()
        block.compile(dynamic=False, backend=partial(compile_fx, inner_compile=partial(_scheduled_only, found)))
        block(tokens, layout, scales).sum().backward()
        with torch.no_grad():
            block(tokens, layout)
    return dict(zip(("forward", "backward", "teacher"), found, strict=True))


def _scheduled_only(found: list[Schedule], graph: torch.fx.GraphModule, inputs: Any, **options: Any) -> Callable[..., Any]:
    """Take the place of inductor's compiler: add the schedule to `found`, and let the graph run as it is."""

    def stop(scheduler: Scheduler) -> None:
        found.append(_counted(scheduler))
        raise _Scheduled

    def run(arguments: list[Any]) -> Any:
        return graph(*arguments)

    with mock.patch.object(Scheduler, "codegen", stop), contextlib.suppress(_Scheduled, InductorError):
        compile_fx_inner(graph, inputs, **options)
    run._boxed_call = True  # type: ignore[attr-defined]
    return run


def _counted(scheduler: Scheduler) -> Schedule:
    schedule = Schedule()
    for node in scheduler.nodes:
        if isinstance(node, NopKernelSchedulerNode) or isinstance(node.node, MultiOutput):
            continue
        if node.is_extern():
            name = str(node.node.op_overload)
            if name.startswith("agrifm"):
                schedule.custom.append(name)
                continue
            schedule.products += 1
        else:
            schedule.generated += 1
        schedule.nbytes += node.get_read_write_buffers_sizes()
    return schedule
