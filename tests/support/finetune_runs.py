"""Fine-tuning runs in tests: in this process by dotted options, and by the command as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from common.command_line import run_command
from data_prep.plan.label_blocks import SplitBlocks
from finetune.config import CONFIGS, RENAMED_OPTIONS, DecoderConfig, FinetuneConfig, TaskOverride
from finetune.data.augmentation import Augmentation
from finetune.fine_tuning import fine_tune
from finetune.model.tuning import Tuning
from finetune.training.schedule import Schedule
from pretrain.model import EncoderConfig
from tests.support.launching import ROOT

GROUPS: dict[str, type] = {
    "override": TaskOverride,
    "training": Schedule,
    "tuning": Tuning,
    "decoder": DecoderConfig,
    "augmentation": Augmentation,
    "split_blocks": SplitBlocks,
}
SMALL_ENCODER = EncoderConfig(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=(2, 3, 3), drop_path_rate=0.3)


def finetune_config(**options: Any) -> FinetuneConfig:
    """The configuration with these options by dotted name: `finetune_config(data=..., **{"training.epochs": 3})`."""
    values: dict[str, Any] = {name: value for name, value in options.items() if "." not in name}
    for group, kind in GROUPS.items():
        values[group] = kind(**{name.partition(".")[2]: v for name, v in options.items() if name.startswith(f"{group}.")})
    unknown = {name.partition(".")[0] for name in options if "." in name} - set(GROUPS)
    assert not unknown, unknown
    return FinetuneConfig(**values)


def run(**options: Any) -> int:
    """Fine-tune in this process, with options by dotted name; returns the exit code."""
    return fine_tune(finetune_config(**options))


def run_arguments(arguments: Sequence[str]) -> None:
    """Fine-tune in this process by a command line; raises SystemExit with the exit code."""
    run_command(fine_tune, arguments, config_class=FinetuneConfig, renamed=RENAMED_OPTIONS, built_in=CONFIGS)


def code_of_run(arguments: Sequence[str]) -> int:
    """The exit code of fine-tuning in this process by a command line."""
    with pytest.raises(SystemExit) as ended:
        run_arguments(arguments)
    return int(ended.value.code or 0)


def assert_equal_runs(run: Path, other: Path) -> None:
    """The model of the best epoch, and all scores, are the same bit for bit."""
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (run, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs | ours)
    assert json.loads((run / "metrics.json").read_text()) == json.loads((other / "metrics.json").read_text())


def start(arguments: Sequence[str], ranks: int = 1, script: str | None = None, **environment: str) -> subprocess.Popen[str]:
    """Start the command: launch/finetune.sh for several ranks, finetune/run.py for one, or the Python `script` instead."""
    command = (
        ["bash", "launch/finetune.sh"] if ranks > 1 else [sys.executable, *(["-c", script] if script else ["finetune/run.py"])]
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    known = {"NUM_RANKS": str(ranks), "OMP_NUM_THREADS": "1", "PATH": path, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*command, *arguments],
        cwd=ROOT,
        env=os.environ | known | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """Wait for a process that shall end with `code`; returns what it printed, and its errors."""
    output, errors = process.communicate(timeout=900)  # against a run that hangs
    assert process.returncode == code, output[-2000:] + errors[-3000:]
    return output, errors
