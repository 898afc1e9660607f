"""A user's own dataset: the class that `--data FILE.py:CLASS` names."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from finetune.data.labelled_sample import Samples
from finetune.task import Task


def own_dataset(file: Path, name: str) -> Callable[[str, Task], Samples]:
    """A function (split, task) -> samples that calls the class or function `name` of a Python file.

    It passes the split, and also the task if the class takes two arguments. Raises ValueError if the file or the class is
    missing; the returned function raises ValueError for a split without samples.
    """
    if not file.is_file():
        raise ValueError(f"--data: no file {file}; expected FILE.py:CLASS, a dataset of your own, or a folder")
    spec = importlib.util.spec_from_file_location(f"dataset_of_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as the import statement does
    spec.loader.exec_module(module)
    factory = getattr(module, name, None)
    if not callable(factory):
        known = sorted(n for n, v in vars(module).items() if inspect.isclass(v) and v.__module__ == spec.name)
        raise ValueError(f"--data: {file} has no class {name!r}; it has {', '.join(known) or 'none'}")

    def samples(split: str, task: Task) -> Samples:
        found: Samples = factory(split) if len(inspect.signature(factory).parameters) < 2 else factory(split, task)
        if not len(found):
            raise ValueError(f"{file}:{name} has no sample of split {split}")
        return found

    return samples
