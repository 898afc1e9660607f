"""Setting up a run: which output folders it may use, also those of runs from before options were renamed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.command_line import parse
from pretrain.config import RENAMED_OPTIONS, PretrainConfig
from pretrain.setup import CONFIG_FILE, claim_output, plain
from pretrain.train import pretrain


def parsed(*arguments: str) -> PretrainConfig:
    words = ["--data", "corpus", "--output", "run", *arguments]
    return PretrainConfig(**vars(parse(pretrain, words, config_class=PretrainConfig, renamed=RENAMED_OPTIONS)))


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


def write_under_old_names(run: Path, config: PretrainConfig) -> None:
    """The `config.json` of a run that was started before options were renamed."""
    settings = {"fingerprint": "abc", **plain(config)}
    settings["passes"] = settings.pop("gradient_accumulation_steps")
    settings["checkpoint_stages"] = settings.pop("activation_checkpointing")
    settings["stream"]["draws_per_read"] = settings["stream"].pop("data_echoing")
    run.mkdir()
    (run / CONFIG_FILE).write_text(json.dumps(settings))


def test_a_run_whose_configuration_has_old_names_is_resumed(tmp_path: Path) -> None:
    run = ("--output", str(tmp_path / "run"))
    write_under_old_names(tmp_path / "run", parsed(*run, "--gradient_accumulation_steps", "4", "--stream.data_echoing", "2"))
    with pytest.raises(ValueError, match="holds a run with other stream; give another --output"):
        claim_output(parsed(*run), "abc", is_main=True)  # without data echoing
    same = parsed(*run, "--gradient_accumulation_steps", "1", "--stream.data_echoing", "2")  # the first may change
    claim_output(same, "abc", is_main=True)
    assert json.loads((tmp_path / "run" / CONFIG_FILE).read_text()) == {"fingerprint": "abc", **plain(same)}
    claim_output(same, "abc", is_main=True)


def test_another_run_is_not_overwritten(tmp_path: Path) -> None:
    run = ("--output", str(tmp_path / "run"))
    claim_output(parsed(*run), "abc", is_main=True)
    for other, fingerprint, match in (
        (parsed(*run, "--num_steps", "7", "--seed", "3"), "abc", "holds a run with other num_steps, seed;"),
        (parsed(*run), "xyz", "holds a run with other fingerprint;"),
        (parsed(*run, "--resume", "never"), "abc", "holds a run already"),
    ):
        with pytest.raises(ValueError, match=match):
            claim_output(other, fingerprint, is_main=True)
    claim_output(parsed(*run, "--log_every", "3", "--stream.num_workers", "0"), "abc", is_main=True)
