"""The packages are layers: each imports lower ones only, and each of their folders can be imported alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = {
    "data_prep": ("archive", "readers", "landcover", "plan", "shards", "corpus", "plots"),  # lowest first; then the commands
}
STAGES = ("common", "data_prep", "pretrain", "finetune")


def modules(folder: str) -> list[Path]:
    return sorted(path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Names of all modules that a file imports, also within functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_no_later_stage(stage: str) -> None:
    later = STAGES[STAGES.index(stage) + 1 :]
    wrong = {str(path): sorted(name for name in imported(path) if name.split(".")[0] in later) for path in modules(stage)}
    assert {path: names for path, names in wrong.items() if names} == {}


@pytest.mark.parametrize("folder", LAYERS["data_prep"])
def test_a_folder_of_data_prep_imports_no_higher_one(folder: str) -> None:
    lower = LAYERS["data_prep"][: LAYERS["data_prep"].index(folder) + 1]
    wrong = {}
    for path in modules(f"data_prep/{folder}"):
        of_package = [name for name in imported(path) if name.startswith("data_prep.")]
        wrong[str(path)] = sorted(name for name in of_package if name.split(".")[1] not in lower)
    assert {path: names for path, names in wrong.items() if names} == {}


@pytest.mark.parametrize("stage", ["common", "data_prep"])
def test_no_import_circle(stage: str) -> None:
    names = {module_name(path): path for path in modules(stage)}
    remaining = {name: {other for other in imported(path) if other in names and other != name} for name, path in names.items()}
    while free := [name for name, needed in remaining.items() if not needed & remaining.keys()]:
        for name in free:
            del remaining[name]
    assert remaining == {}


def test_each_folder_can_be_imported_alone() -> None:
    """One fresh process per folder imports all its modules; the processes run one after the other."""
    folders = sorted({path.parent for stage in ("common", "data_prep") for path in modules(stage)})
    for folder in folders:
        files = [path for path in sorted((ROOT / folder).glob("*.py")) if path.name != "make_spectra.py"]  # needs an extra
        program = "import " + ", ".join(module_name(path.relative_to(ROOT)) for path in files)
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{folder}: {done.stderr}"
