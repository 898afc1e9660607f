"""A dataset of your own, FILE.py:CLASS."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.data.own_dataset import own_dataset
from finetune.task import load_task


def test_a_class_that_is_not_there_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("class Rice:\n    def __init__(self, split):\n        pass\n    def __len__(self):\n        return 0\n")
    with pytest.raises(ValueError, match=r"no file .*yours.py; expected FILE.py:CLASS"):
        own_dataset(tmp_path / "yours.py", "Rice")
    with pytest.raises(ValueError, match="has no class 'Wheat'; it has Rice"):
        own_dataset(file, "Wheat")
    with pytest.raises(ValueError, match=r"mine\.py:Rice has no sample of split train"):
        own_dataset(file, "Rice")("train", load_task("paddy_rice"))
