"""Checkpoints of a pretraining run: complete or absent, and independent of the number of ranks and the ZeRO stage.

    RUN/checkpoints/step-00000123/
      student.safetensors     fp32 weights by the names of LandCoverModel
      teacher.safetensors     the moving average of the weights
      optimizer.safetensors   the two moments of AdamW, `exp_avg/NAME` and `exp_avg_sq/NAME`, fp32
      manifest.json           step, skipped steps, bytes and checksum of each file

Every tensor is whole. DeepSpeed's own files hold each rank's piece, in the layout of a ZeRO stage and as pickles, and must be
converted for another number of ranks. Here reading a file executes nothing. A folder is written under a temporary name, synced
and renamed, so after a kill at any moment the checkpoint before it is complete.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from common.atomic_files import sync
from common.checksums import checksum_of
from common.errors import InfrastructureError, while_running

STUDENT, TEACHER, OPTIMIZER = "student", "teacher", "optimizer"
MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{8})")
_UNFINISHED = ".tmp"

Tensors = Mapping[str, torch.Tensor]


class CheckpointWriter:
    """Writes checkpoints on rank 0, one at a time, while training continues.

    Args:
        folder: folder of a run's checkpoints.
        keep: number of newest checkpoints to keep.
        keep_every: also keep the checkpoints of every so many steps; 0: none of them.
        metadata: metadata of every file, which tell to which encoder the weights belong.
    """

    def __init__(self, folder: Path, keep: int, keep_every: int, metadata: Mapping[str, str]) -> None:
        self._folder, self._keep, self._keep_every, self._metadata = folder, keep, keep_every, dict(metadata)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[float] | None = None

    def start(self, step: int, files: Mapping[str, Tensors], skipped_steps: int = 0) -> None:
        """Begin to write `files` as the checkpoint after `step` optimizer steps, of which AdamW did not take `skipped_steps`.

        The tensors must be on the CPU and not change any more. Waits for the checkpoint before, and raises its error, if any.
        """
        self.wait()
        self._writing = self._thread.submit(self._write, step, files, skipped_steps)

    def wait(self) -> float | None:
        """Wait for the checkpoint that is being written, if any, and return the seconds it took.

        Raises InfrastructureError if it failed.
        """
        writing, self._writing = self._writing, None
        return None if writing is None else writing.result()

    def _write(self, step: int, files: Mapping[str, Tensors], skipped_steps: int) -> float:
        begin = time.perf_counter()
        final = self._folder / f"step-{step:08d}"
        unfinished = final.with_name(final.name + _UNFINISHED)
        try:
            for leftover in self._folder.glob(f"step-*{_UNFINISHED}"):
                shutil.rmtree(leftover)  # of a run that was killed while writing
            unfinished.mkdir(parents=True)
            manifest: dict[str, object] = {"step": step, "skipped_steps": skipped_steps, "files": {}}
            (unfinished / MANIFEST).touch()
            for name, tensors in files.items():
                path = unfinished / f"{name}.safetensors"
                save_file(dict(tensors), path, self._metadata)
                shutil.copymode(unfinished / MANIFEST, path)  # save_file makes a file that only its owner may read
                sync(path)
                manifest["files"][path.name] = _size_and_checksum(path)  # type: ignore[index]
            (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=1))
            sync(unfinished / MANIFEST)
            if final.exists():
                shutil.rmtree(final)  # a damaged checkpoint of the same step, which the resumed run skipped
            unfinished.rename(final)
            sync(self._folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise InfrastructureError(f"the checkpoint {final} cannot be written: {error}; the ones before it stay") from error
        with while_running(f"old checkpoints in {self._folder} cannot be removed"):
            self._remove_old(step)
        return time.perf_counter() - begin

    def _remove_old(self, newest: int) -> None:
        """Remove checkpoints before the last few, and those after `newest`, before which the run was resumed."""
        steps = sorted(finished_steps(self._folder))
        kept = [step for step in steps if step <= newest][-self._keep :]
        for step in steps:
            path = self._folder / f"step-{step:08d}"
            if step > newest:
                print(f"checkpoint {path} is removed: the run was resumed before it and has now saved step {newest}", flush=True)
                shutil.rmtree(path)
            elif step not in kept and (not self._keep_every or step % self._keep_every):
                shutil.rmtree(path)


def newest_good(folder: Path, step: int | None = None) -> Path | None:
    """The newest checkpoint in `folder`, or the one after `step`, that is neither damaged nor unfinished; None without one.

    Damaged and unfinished checkpoints are skipped, with one line on the terminal for each.
    """
    for unfinished in sorted(folder.glob(f"step-*{_UNFINISHED}")):
        print(f"checkpoint {unfinished.name.removesuffix(_UNFINISHED)} was not finished and is skipped", flush=True)
    for found in sorted(finished_steps(folder), reverse=True):
        path = folder / f"step-{found:08d}"
        if step is not None and found != step:
            continue
        damage = _damage(path)
        if damage is None:
            return path
        print(f"checkpoint {path} is damaged and skipped: {damage}", flush=True)
    return None


def finished_steps(folder: Path) -> list[int]:
    """Steps of the finished checkpoints in `folder`, damaged or not, in no particular order."""
    return [int(match[1]) for path in folder.glob("step-*") if (match := _NAME.fullmatch(path.name))]


def read_tensors(checkpoint: Path, name: str) -> dict[str, torch.Tensor]:
    """The tensors of one file (`student`, `teacher` or `optimizer`) of a checkpoint, on the CPU."""
    return load_file(checkpoint / f"{name}.safetensors")


def step_of(checkpoint: Path) -> int:
    """Optimizer steps that were done when the checkpoint was written."""
    return int(checkpoint.name.removeprefix("step-"))


def skipped_steps_of(checkpoint: Path) -> int:
    """Optimizer steps among those of `step_of` that were skipped; 0 for a checkpoint of an earlier version."""
    return int(json.loads((checkpoint / MANIFEST).read_text()).get("skipped_steps", 0))


def _size_and_checksum(path: Path) -> dict[str, int | str]:
    return {"bytes": path.stat().st_size, "xxh3_128": checksum_of(path)}


def _damage(path: Path) -> str | None:
    """The damage of a checkpoint, or None."""
    try:
        files = json.loads((path / MANIFEST).read_text())["files"]
        for name in (f"{file}.safetensors" for file in (STUDENT, TEACHER, OPTIMIZER)):
            if _size_and_checksum(path / name) != files[name]:
                return f"{name} is not as it was written"
    except (OSError, KeyError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None
