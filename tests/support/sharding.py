"""The command shard.py in this process, a small corpus, and its samples as a stock reader gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import webdataset

from common.command_line import run_command
from data_prep.shard import RENAMED, ShardConfig, shard
from data_prep.shards.shard_writer import write_sweep
from tests.support.archives import CHIPS, write_archive


def run_shard(*arguments: str | Path) -> int:
    """Run shard.py with these arguments; return its exit code."""
    with pytest.raises(SystemExit) as ended:
        run_command(shard, [str(argument) for argument in arguments], config_class=ShardConfig, renamed=RENAMED)
    return int(ended.value.code or 0)


def write_shard(archive: Path, output: Path, number: int) -> int:
    """Write one shard of the plan in `output` in this process; return the bytes of its tar."""
    ((_, size),) = write_sweep(archive, output, 1_000_000_000, 3, [number])
    return size


def write_small_corpus(folder: Path) -> Path:
    """Shard the archive of `write_archive` in six shards; return the folder of the corpus."""
    write_archive(folder / "scenes")
    assert run_shard("--input", folder / "scenes", "--output", folder / "corpus", *CHIPS, "--shard_mb", "0.2") == 0
    return folder / "corpus"


def stock_samples(corpus: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """All samples as WebDataset's own reader and decoders give them, by source and split."""
    samples: dict[tuple[str, str], list[dict[str, Any]]] = {}
    urls = [str(path) for path in sorted(corpus.glob("*.tar"))]
    for sample in webdataset.WebDataset(urls, shardshuffle=False).decode():
        samples.setdefault((sample["json"]["source"], sample["json"]["split"]), []).append(sample)
    return samples
