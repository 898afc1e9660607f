"""The command shard.py in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.command_line import run_command
from data_prep.shard import RENAMED, ShardConfig, shard


def run_shard(*arguments: str | Path) -> int:
    """Run shard.py with these arguments; return its exit code."""
    with pytest.raises(SystemExit) as ended:
        run_command(shard, [str(argument) for argument in arguments], config_class=ShardConfig, renamed=RENAMED)
    return int(ended.value.code or 0)
