"""torch.compile: training runs the code that was compared."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from tests.support.pretraining import ENCODER, STREAM, options
from tests.support.rank_programs import run_ranks
from tests.support.small_corpus import write_corpus


@pytest.mark.slow
def test_training_compiles_nothing_that_was_not_compared(tmp_path: Path) -> None:
    """With stochastic depth and batches in parts. The teacher, whose code is another one, is switched off."""
    (tmp_path / "corpus").mkdir()
    corpus = write_corpus(tmp_path / "corpus", {"modis": 8, "landsat": 8}, side=12)
    words = ["--data", str(corpus), "--output", str(tmp_path / "run"), "--precision", "bf16", "--num_steps", "3", "--compile"]
    words += ["--gradient_accumulation_steps", "2", "--objective.consistency_weight", "0"]
    words += [*options(dataclasses.replace(ENCODER, drop_path_rate=0.3), "encoder"), *options(STREAM, "stream")]
    ended = run_ranks(words, ranks=1, program="tests.support.counted_compilations")
    assert ended.codes == [0], ended.stderr[-3000:]
    assert len(re.findall(r"compiled and eager loss differ by", ended.stdout)) == 2
    graphs = {when: int(number) for when, number in re.findall(r"graphs (\w+): (\d+)", ended.stdout)}
    assert graphs["compared"] >= 4  # of each stage
    assert graphs["trained"] == graphs["compared"]
