"""Light modules of the corpus stay light: training and fine-tuning import them in every process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HEAVY = ("h5py", "matplotlib", "pyarrow", "rasterio", "scipy", "torch", "zarr")


@pytest.mark.parametrize(
    "module", ["data_prep.corpus.dataset", "data_prep.corpus.sample_index", "data_prep.shards.frame_checksums"]
)
def test_reading_a_corpus_imports_no_heavy_library(module: str) -> None:
    program = f"import sys, {module}; print(*sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
