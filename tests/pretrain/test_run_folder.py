"""Which folders a run may use, also those of runs from before options were renamed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.run_lock import LOCK, RunLock
from pretrain.config import PretrainConfig
from pretrain.run_folder import CONFIG_FILE, claim_run_folder
from tests.support.pretraining_options import parsed


def claim(config: PretrainConfig, fingerprint: str = "abc", saved_steps: int = 0) -> int:
    with RunLock(config.output / LOCK, config.output) as lock:
        return claim_run_folder(config, fingerprint, saved_steps, lock)


def write_under_old_names(run: Path, config: PretrainConfig) -> None:
    """The `config.json` of a run that was started before options were renamed."""
    settings = {"fingerprint": "abc", **config.as_json()}
    settings["passes"] = settings.pop("gradient_accumulation_steps")
    settings["checkpoint_stages"] = settings.pop("activation_checkpointing")
    settings["stream"]["draws_per_read"] = settings["stream"].pop("data_echoing")
    run.mkdir()
    (run / CONFIG_FILE).write_text(json.dumps(settings))


def test_a_run_whose_configuration_has_old_names_is_resumed(tmp_path: Path) -> None:
    run = ("--output", str(tmp_path / "run"))
    write_under_old_names(tmp_path / "run", parsed(*run, "--gradient_accumulation_steps", "4", "--stream.data_echoing", "2"))
    with pytest.raises(ValueError, match=r"holds a run with other stream\.data_echoing; give another --output"):
        claim(parsed(*run))  # without data echoing
    same = parsed(*run, "--gradient_accumulation_steps", "1", "--stream.data_echoing", "2")  # the first may change
    claim(same)
    assert json.loads((tmp_path / "run" / CONFIG_FILE).read_text()) == {"fingerprint": "abc", **same.as_json()}
    claim(same)


def test_another_run_is_not_overwritten(tmp_path: Path) -> None:
    run = ("--output", str(tmp_path / "run"))
    claim(parsed(*run))
    for other, fingerprint, match in (
        (parsed(*run, "--micro_steps", "7", "--stream.seed", "3"), "abc", "holds a run with other micro_steps, stream.seed;"),
        (parsed(*run), "xyz", "holds a run with other fingerprint;"),
        (parsed(*run, "--resume", "never"), "abc", "holds a run already"),
    ):
        with pytest.raises(ValueError, match=match):
            claim(other, fingerprint)
    claim(parsed(*run, "--log_every", "3", "--stream.num_workers", "0"))


def change_stored(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    stored = json.loads((run / CONFIG_FILE).read_text())
    change(stored)
    (run / CONFIG_FILE).write_text(json.dumps(stored))


def test_a_run_from_before_options_existed_did_what_runs_did_then(tmp_path: Path) -> None:
    run = ("--output", str(tmp_path / "run"))

    def of_an_earlier_version(stored: dict[str, Any]) -> None:
        for name in ("initial_encoder", "probe_samples", "resume"):
            del stored[name]
        del stored["stream"]["skip_damaged"], stored["stream"]["data_echoing"], stored["objective"]["loss"]

    claim(parsed(*run))
    change_stored(tmp_path / "run", of_an_earlier_version)
    for other, match in (
        ((), r"other objective\.loss;"),  # it has learned by L1, and would go on by the divergence
        (("--objective.loss", "l1", "--stream.data_echoing", "2"), r"other stream\.data_echoing;"),
        (("--objective.loss", "l1", "--initial_encoder", "other"), "other initial_encoder;"),
    ):
        with pytest.raises(ValueError, match=match):
            claim(parsed(*run, *other))
    claim(parsed(*run, "--objective.loss", "l1"))


def test_an_option_that_no_longer_exists_is_named(tmp_path: Path) -> None:
    claim(parsed("--output", str(tmp_path)))
    change_stored(tmp_path, lambda stored: stored["stream"].update(threads=3))
    change_stored(tmp_path, lambda stored: stored.update(flavour="sweet"))
    with pytest.raises(ValueError, match=r"config\.json has flavour, stream\.threads, which this version does not know; resume"):
        claim(parsed("--output", str(tmp_path)))


def test_a_run_may_get_longer_or_shorter_but_not_than_what_is_done(tmp_path: Path) -> None:
    run = ("--output", str(tmp_path))
    assert claim(parsed(*run, "--num_steps", "100")) == 100
    assert claim(parsed(*run, "--num_steps", "200"), saved_steps=100) == 100
    assert claim(parsed(*run, "--num_steps", "120"), saved_steps=120) == 200
    with pytest.raises(ValueError, match="holds 120 finished steps, more than --num_steps 119; give at least 120"):
        claim(parsed(*run, "--num_steps", "119"), saved_steps=120)
    assert json.loads((tmp_path / CONFIG_FILE).read_text())["num_steps"] == 120
