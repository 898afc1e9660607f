"""Records where the host would wait for a GPU: calls that bring a tensor's numbers to the host, or the host's to the device.

`python -m tests.support.recorded_waits ARGUMENTS` is pretraining that prints, as JSON, what its loop did of that kind between two
lines of its log, from the third step on: the first ones make tables that are kept. What stands on the CPU of a run with a GPU,
too, is left out: agreements of ranks on flags, and the reading of batches.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.pretraining import ROOT

aten = torch.ops.aten
_OPERATORS = {aten._local_scalar_dense, aten.is_nonzero, aten.equal, aten.nonzero, aten.masked_select, aten._unique2}
_OPERATORS |= {aten.unique_dim, aten.lift_fresh, aten.repeat_interleave, aten.bincount, aten._pin_memory}
_INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
# These read or copy without an operator, or without one on a CPU.
_FUNCTIONS = {"tolist", "numpy", "cpu", "cuda", "as_tensor", "from_numpy", "asarray", "synchronize"}


class RecordedWaits:
    """While it is a context: how often the host would have waited for a GPU, by call and place in the code.

    Args:
        apart_from: names of functions within which nothing is recorded.
    """

    def __init__(self, apart_from: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        self.found: Counter[str] = Counter()
        self.is_recording = True
        self._apart_from = apart_from
        self._modes = _Functions(self), _Operators(self)

    def __enter__(self) -> RecordedWaits:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*exception)

    def note(self, call: str) -> None:
        """Count a call of the present line of code that is not PyTorch's."""
        stack = traceback.extract_stack()
        if not self.is_recording or self._apart_from & {frame.name for frame in stack}:
            return
        ours = [frame for frame in stack if "/torch/" not in frame.filename and frame.filename != __file__]
        self.found[f"{call} at {Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].line}"] += 1


class _Functions(TorchFunctionMode):
    def __init__(self, waits: RecordedWaits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, given = getattr(function, "__name__", ""), [*args[1:], *(kwargs or {}).values()]
        if name in _FUNCTIONS:
            self._waits.note(name)
        elif name == "to" and any(isinstance(each, torch.device | str) for each in given):
            caller = sys._getframe(1).f_code.co_filename
            if caller.startswith(str(ROOT / "pretrain")):  # DeepSpeed often copies to where a tensor is
                self._waits.note("to(device)")
        return function(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    def __init__(self, waits: RecordedWaits) -> None:
        super().__init__()
        self._waits = waits

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = function.overloadpacket
        has_mask = packet in _INDEXING and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if packet in _OPERATORS or has_mask:
            self._waits.note(str(packet))
        return function(*args, **(kwargs or {}))


def main() -> None:
    from deepspeed.accelerator import get_accelerator

    from pretrain import train
    from pretrain.step_checks import StepChecks

    where_due = {"check", "scalars", "save", "wait", "_optimizer_scalars", "list_new", "show_examples", "_validate", "_finish"}
    on_the_cpu = {"any_rank", "_next_batch", "_new_validation"}
    waits = RecordedWaits(where_due | on_the_cpu)
    waits.is_recording = False
    accelerator, add, inner = get_accelerator(), StepChecks.add, train._train
    accelerator.synchronize = lambda *_: waits.note("synchronize")
    accelerator.resolves_data_dependency = lambda: False  # as of a GPU

    def recording(self: StepChecks, number: int, *more: Any) -> None:
        add(self, number, *more)
        waits.is_recording = number >= 1

    def recorded_training(run: Any) -> int:
        with waits:
            code = inner(run)
        print(json.dumps(waits.found), flush=True)
        return code

    StepChecks.add, train._train = recording, recorded_training  # type: ignore[method-assign]
    train.main()


if __name__ == "__main__":
    main()
