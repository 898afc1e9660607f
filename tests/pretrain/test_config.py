"""Options of pretraining under their old names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.pretraining_options import parsed


def test_old_names_of_options_say_the_same_with_one_line_of_warning_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = parsed("--gradient_accumulation_steps", "4", "--activation_checkpointing", "[1, 2]", "--stream.data_echoing", "3")
    assert (new.gradient_accumulation_steps, new.activation_checkpointing, new.stream.data_echoing) == (4, (1, 2), 3)
    assert capsys.readouterr().err == ""
    assert parsed("--passes", "4", "--checkpoint-stages", "[1, 2]", "--stream.draws_per_read=3") == new
    assert len(capsys.readouterr().err.splitlines()) == 3
    (tmp_path / "old.yaml").write_text("passes: 4\ncheckpoint_stages: [1, 2]\nstream:\n  draws_per_read: 3\n")
    assert parsed("--config", str(tmp_path / "old.yaml")) == new
    assert len(capsys.readouterr().err.splitlines()) == 3
