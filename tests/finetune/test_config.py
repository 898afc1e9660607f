"""Options of finetune/run.py: groups, and the names that options had before there were groups."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from common.command_line import parse
from finetune.config import RENAMED_OPTIONS, FinetuneConfig, TaskOverride
from finetune.task import load_task
from tests.support.finetune_runs import GROUPS

NEEDED = ["--task", "paddy_rice", "--data", "scenes", "--output", "run"]
# A value for each renamed option that is not its default.
VALUES = {
    "sources": ["landsat"], "label": "crops", "frames": 5, "window_px": 32, "missing_sources": "allow",
    "epochs": 3, "batch_size": 5, "min_steps": 7, "learning_rate": 0.25, "weight_decay": 0.125,
    "tune": "frozen", "layer_decay": 1.0, "lora_rank": 3,
    "decoder_channels": 11, "detail_channels": 4,
    "rotations": False, "flips": False, "shift_days": 4.5, "crop_px": 16, "drop_images": 0.25, "drop_sources": 0.5,
}  # fmt: skip


def parsed(*arguments: str) -> FinetuneConfig:
    return FinetuneConfig(
        **vars(parse(FinetuneConfig, [*NEEDED, *arguments], config_class=FinetuneConfig, renamed=RENAMED_OPTIONS))
    )


def words(name: str, value: object) -> list[str]:
    return [f"--{name}", yaml.safe_dump(value, default_flow_style=True).splitlines()[0]]


def test_every_option_of_a_group_that_had_another_name_still_has_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert VALUES.keys() == RENAMED_OPTIONS.keys()
    new = parsed(*(word for name, value in VALUES.items() for word in words(RENAMED_OPTIONS[name], value)))
    assert capsys.readouterr().err == ""
    old = parsed(*(word for name, value in VALUES.items() for word in words(name, value)))
    warnings = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in warnings] == [f"--{name}" for name in VALUES]
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(VALUES))
    assert parsed("--config", str(tmp_path / "old.yaml")) == old == new != parsed()
    for name, value in VALUES.items():
        group, _, key = RENAMED_OPTIONS[name].partition(".")
        assert getattr(getattr(new, group), key) == value


def test_help_shows_the_options_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--help")
    shown = capsys.readouterr().out
    for group, kind in GROUPS.items():
        for field in fields(kind):
            assert f"--{group}.{field.name}" in shown
    for title in ("values that replace those of the task:", "schedule of the training:", "size of the decoder:"):
        assert f"\n{title}\n" in shown


def test_an_override_replaces_what_it_names() -> None:
    task = load_task("paddy_rice")
    assert TaskOverride().applied_to(task) == task == TaskOverride(sources=[]).applied_to(task)
    changed = TaskOverride(sources=["landsat"], frames=3, missing_sources="allow").applied_to(task)
    assert (changed.sources, changed.frames, changed.missing_sources) == (("landsat",), 3, "allow")
    assert (changed.label, changed.window_px, changed.classes) == (task.label, task.window_px, task.classes)
    with pytest.raises(ValueError, match="must be at least 1"):
        TaskOverride(frames=0).applied_to(task)
