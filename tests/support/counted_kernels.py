"""Kernels that a GPU would launch for code that runs on meta tensors, and the bytes that they would read and write.

No GPU is needed, and nothing is computed. What is counted:

- An operator launches one kernel; views and operators that only allocate launch none, and a few launch more, from the code of
  PyTorch: padding, adding to indexed places, logsumexp, and the gradients of a layer norm. Every product counts as one.
- An operator reads each of its inputs once and writes each of its results once, whatever the caches hold. It does not read what
  it overwrites. Of a tensor that is expanded or indexed only the numbers that exist, or that are chosen, count.
- The operators of the attention are looked into: their own code runs, with kernels of Triton that are only counted.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pretrain.model.attention import cpu, cuda, cuda_bias, home

ATTENTION = "attention: "  # begins the names of what the operators of the attention launch
aten = torch.ops.aten
WITHOUT_KERNEL = {
    *(aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided, aten.new_empty_strided),
    *(aten._unsafe_view, aten.lift_fresh, aten.detach_),
}
# Operators that read no tensor: they take only size and type from it.
FILLING = {aten.zeros_like, aten.ones_like, aten.new_zeros, aten.new_ones, aten.new_full, aten.full_like}
OVERWRITING = {
    aten.copy_,
    aten._foreach_copy_,
    aten.fill_,
    aten.zero_,
    aten.index_copy_,
}  # their first argument is written, not read
WIDENING = {aten.constant_pad_nd, aten.slice_backward}  # they fill a larger tensor, then copy into it
# Operators that read, or write, as many numbers of their first argument as the result, or the values, have.
READING_CHOSEN = {aten.index, aten.index_select}
WRITING_CHOSEN = {aten.index_put, aten._index_put_impl_, aten.index_copy_}
# To add to indexed places PyTorch sorts the indices, so that two runs give the same bits: three kernels for the indices, one for
# their order, four of a radix sort, one that fills, and one that adds.
ADDING_TO_INDEXED = 10
# A maximum, three that replace an infinite one, a difference, an exponential, a sum, a logarithm, and another sum.
LOGSUMEXP = 9


def norm_backward_kernels(rows: int, channels: int) -> int:
    """Kernels of the gradients of a layer norm over `channels`: of the input, and of weight and bias together.

    Over many rows PyTorch first sums parts of them, and then sums those, once for the weight and once for the bias.
    """
    return 4 if rows > 64 * 1024 and channels // 32 < 54 else 2  # 54: half of the SMs of an A100, the fewest


def foreach_kernels(lists: list[Sequence[torch.Tensor]]) -> int:
    """Kernels of an operator over lists of tensors, of which each takes so many tensors, and so many chunks of them."""
    tensors = {1: 110, 2: 64, 3: 48}[len(lists)]
    chunks = sum(math.ceil(tensor.numel() / 65_536) for tensor in lists[0])
    return max(math.ceil(len(lists[0]) / tensors), math.ceil(chunks / 320))


class KernelCounter(TorchDispatchMode):
    """Counts kernels and bytes by `part`, and by operator within it.

    Attributes:
        part: what the kernels that follow belong to.
        launches, nbytes: by part and operator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.part = self._prefix = ""
        self.launches: Counter[tuple[str, str]] = Counter()
        self.nbytes: Counter[tuple[str, str]] = Counter()

    def count(self, name: str, launches: int, nbytes: float) -> None:
        key = self.part, self._prefix + name
        self.launches[key] += launches
        self.nbytes[key] += round(nbytes)

    def total(self, part: str, operators: str = "") -> tuple[int, int]:
        """Launches and bytes of a part, and within it of the operators whose names begin so."""
        counts = (self.launches, self.nbytes)
        launches, nbytes = (sum(n for (of, name), n in c.items() if of == part and name.startswith(operators)) for c in counts)
        return launches, nbytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (implementation := LOOKED_INTO.get(func)) is not None:
            self._prefix = ATTENTION
            with self, _counted_kernels(self):
                result = implementation(*args, **kwargs)
            self._prefix = ""
            return result
        with self:  # below autograd, operators that consist of others arrive whole
            if (result := func.decompose(*args, **kwargs)) is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        packet = func.overloadpacket
        if packet not in WITHOUT_KERNEL and not func.is_view and (nbytes := _bytes_of_call(func, args, kwargs, result)):
            self.count(packet.__name__, _kernels(packet, args), nbytes)
        return result


def _kernels(packet: Any, args: Any) -> int:
    """Kernels of an operator on a GPU."""
    if packet in WIDENING:
        return 2
    if packet.__name__.startswith("_foreach_"):
        return foreach_kernels([list_ for list_ in args if isinstance(list_, list | tuple)])
    if packet is aten.logsumexp:
        return LOGSUMEXP
    if packet in (aten.index_put, aten._index_put_impl_):
        return ADDING_TO_INDEXED if len(args) > 3 and args[3] else 1
    if packet is aten.native_layer_norm_backward:
        return norm_backward_kernels(args[1].numel() // args[1].shape[-1], args[1].shape[-1])
    return 1


def _bytes_of_call(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    """Bytes that an operator reads and writes."""
    packet, schema = func.overloadpacket, func._schema.arguments
    results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
    if packet in FILLING:
        return sum(map(bytes_of, results))
    if packet in WIDENING:
        return bytes_of(results[0]) + 2 * bytes_of(args[0])
    if packet in READING_CHOSEN:
        return _bytes_of_all(args[1:]) + 2 * bytes_of(results[0])
    if packet in WRITING_CHOSEN:
        values = args[3] if packet is aten.index_copy_ else args[2]
        is_added = packet is not aten.index_copy_ and len(args) > 3 and args[3]
        return _bytes_of_all(args[1:]) + (2 if is_added else 1) * bytes_of(values)
    total, known = 0, set()
    values_of = [*args, *(kwargs.get(argument.name) for argument in schema[len(args) :])]
    for argument, value in zip(schema, values_of, strict=True):
        writes = argument.alias_info is not None and argument.alias_info.is_write
        reads = not (writes and (argument.kwarg_only or packet in OVERWRITING))
        total += (reads + writes) * _bytes_of_all(value)
        known |= {id(leaf) for leaf in tree_leaves(value)}
    return total + sum(bytes_of(tensor) for tensor in results if id(tensor) not in known)


def _bytes_of_all(values: Any) -> int:
    return sum(bytes_of(leaf) for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor))


def bytes_of(tensor: torch.Tensor) -> int:
    """Bytes of the numbers of a tensor that exist: an expanded one repeats them."""
    sides = (side for side, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride != 0)
    return math.prod(sides) * tensor.element_size() if tensor.numel() else 0


# The operators of the attention, whose own code is run to count what it launches.
LOOKED_INTO: dict[Any, Callable[..., Any]] = {
    operator._opoverload: operator._init_fn for operator in (cpu.attend, cpu.attend_backward, cuda.attend, cuda.attend_backward)
}
# The share of an argument that a kernel of Triton touches, where that is not the whole: the queries, or keys and values.
SHARES = {("_gradient_of_queries", "grad_qkv"): 1 / 3, ("_gradient_of_keys", "grad_qkv"): 2 / 3}


class _CountedKernel:
    """Takes the place of a kernel of Triton; each of its tensors is read or written once."""

    def __init__(self, kernel: Any, counter: KernelCounter) -> None:
        self._kernel, self._counter = kernel, counter

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return self._launch

    def _launch(self, *arguments: Any, **_constants: Any) -> None:
        name = self._kernel.__name__
        named = zip(self._kernel.arg_names, arguments, strict=False)
        nbytes = sum(SHARES.get((name, each), 1) * bytes_of(t) for each, t in named if isinstance(t, torch.Tensor))
        self._counter.count(name, 1, nbytes)


@contextlib.contextmanager
def _counted_kernels(counter: KernelCounter) -> Iterator[None]:
    with contextlib.ExitStack() as patches:
        for module in (cuda, cuda_bias):
            counted = {kernel.__name__: _CountedKernel(kernel, counter) for kernel in module.KERNELS}
            patches.enter_context(mock.patch.multiple(module, **counted))
        yield


@contextlib.contextmanager
def attention_in(kernels: bool) -> Iterator[None]:
    """Attention in the kernels of `cuda.py`, or in the operators of `cpu.py`, on any device."""
    with mock.patch.object(home, "runs_in_kernels", lambda *_: kernels):  # noqa: PT008 (torch.compile traces it)
        yield
