"""Checkpoints that are whole or not there: written aside, listed in a manifest, renamed; read newest good first."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pretrain import engine as ranks

MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{8})")


def save(engine: Any, folder: Path, step: int, state: dict[str, Any], keep: int) -> None:
    """Save model, optimizer and `state` after `step` optimizer steps, and leave the `keep` newest. Every rank calls this."""
    final, temporary = folder / f"step-{step:08d}", folder / f"step-{step:08d}.tmp"
    is_main = engine.global_rank == 0
    if is_main and temporary.exists():
        shutil.rmtree(temporary)  # what a killed run left
    ranks.barrier()
    # `latest` is DeepSpeed's own pointer, written without a barrier after the other ranks' files; ours is the folder's name.
    engine.save_checkpoint(str(temporary), tag="engine", client_state=state | {"step": step}, save_latest=False)
    ranks.barrier()
    if is_main:
        files = {str(path.relative_to(temporary)): _describe(path) for path in sorted(temporary.rglob("*")) if path.is_file()}
        manifest = temporary / MANIFEST
        with open(manifest, "w") as file:
            json.dump({"step": step, "world_size": engine.world_size, "files": files}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        if final.exists():
            shutil.rmtree(final)  # a damaged one of the same step, which the run passed over when it resumed
        temporary.rename(final)
        for old in sorted(_finished(folder))[:-keep]:
            shutil.rmtree(folder / f"step-{old:08d}")
    ranks.barrier()


def load_newest(engine: Any, folder: Path) -> dict[str, Any] | None:
    """Load the newest checkpoint that verifies into `engine`; its state, or None when there is none. Every rank calls this.

    Damaged checkpoints are named and passed over. Raises ValueError when the good one is of another number of ranks.
    """
    for step in sorted(_finished(folder), reverse=True):
        path = folder / f"step-{step:08d}"
        # rank 0 alone reads the files for their hashes; all ranks follow its word
        problem = ranks.gather(_problem(path) if engine.global_rank == 0 else None)[0]
        if problem is not None:
            if engine.global_rank == 0:
                print(f"checkpoint {path} is damaged and passed over: {problem}", flush=True)
            continue
        saved = json.loads((path / MANIFEST).read_text())
        if saved["world_size"] != engine.world_size:
            raise ValueError(f"{path} was saved by {saved['world_size']} ranks, this run has {engine.world_size}; start as many")
        _, state = engine.load_checkpoint(str(path), tag="engine")
        return dict(state)
    return None


def _finished(folder: Path) -> Iterator[int]:
    for path in folder.glob("step-*"):
        if match := _NAME.fullmatch(path.name):
            yield int(match[1])


def _describe(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        while block := file.read(1 << 22):
            digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _problem(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        files = json.loads((path / MANIFEST).read_text())["files"]
        for name, description in files.items():
            if _describe(path / name) != description:
                return f"{name} is not as it was written"
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def seed_everything(*numbers: int) -> None:
    """Seed torch from a tuple of numbers, so that what is random in a micro-step depends on nothing before it."""
    digest = hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
