"""Each folder of the code can be imported alone, in a fresh process. `lint-imports` checks the direction of imports."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = ("common", "data_prep", "pretrain", "finetune", "launch")
NEEDS_AN_EXTRA = "make_spectra.py"


def import_alone(folder: Path) -> str:
    """Errors of a fresh process that imports all modules of a folder."""
    files = [path.relative_to(ROOT).with_suffix("") for path in sorted(folder.glob("*.py")) if path.name != NEEDS_AN_EXTRA]
    program = "import " + ", ".join(".".join(path.parts).removesuffix(".__init__") for path in files)
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False).stderr


@pytest.mark.slow
def test_each_folder_can_be_imported_alone() -> None:
    folders = sorted({path.parent for stage in STAGES for path in (ROOT / stage).rglob("*.py")})
    assert len(folders) > 20
    with ThreadPoolExecutor(2) as pool:
        errors = dict(zip(map(str, folders), pool.map(import_alone, folders), strict=True))
    assert {folder: error for folder, error in errors.items() if error} == {}
