"""Folder of a fine-tuning run: the names of its files, and whether it holds a run with given settings."""

from __future__ import annotations

import json
import shutil
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from common.atomic_files import TEMPORARY
from common.hub import HubPath
from common.json_files import read_json, write_json
from common.run_lock import RunLock, is_lock
from common.storage import any_path
from finetune.config import FinetuneConfig
from finetune.data.normalization import CHECKPOINT, TASK, read_json_file
from finetune.device import pick_device
from finetune.model.initial_weights import fingerprint
from finetune.task import Task
from finetune.training.precision import chosen_precision
from finetune.training.schedule import FOR_SPEED

RUN_FILE = "run.json"  # the run's settings, written before training
METRICS_FILE = "metrics.json"  # written last: its presence says that the run has finished
REPORT_FILE = "report.html"
WINDOWS_FOLDER = "windows"  # the stores of its windows, unless they are in a --cache_folder; until it has finished
MAPS_FOLDER = "maps"
SEEN_FILE = "seen.json"  # digests of the windows of an unfinished run, which change with the dates of their images


def recorded_settings(config: FinetuneConfig, task: Task, data_sha256: str) -> dict[str, Any]:
    """Content of run.json: everything that the results depend on, as plain values.

    `data_sha256`: fingerprint of the labelled data, which changes with any label.

    Its keys are those of runs on disk, which is why they differ from the names of options. `task` is that of `config`, with the
    override; a checkpoint at the hub is given with its commit. Raises ValueError when there is none at `config.checkpoint`.
    """
    encoder = config.encoder if isinstance(config.encoder, str) else config.encoder.to_dict()
    return {
        **{f"task.{name}": value for name, value in task.to_dict().items()},
        "data": str(config.data.resolve()),
        "data_sha256": data_sha256,
        "checkpoint": fingerprint(config.checkpoint),
        "encoder": None if config.checkpoint else encoder,
        "normalization": _recorded_normalization(config.normalization),
        **_recorded_options(config),
    }


def _recorded_normalization(choice: str) -> Any:
    """The choice, or the content of its file. Raises ValueError when there is no such file."""
    if choice in (CHECKPOINT, TASK):
        return choice
    return read_json_file(any_path(choice))


def _recorded_options(config: FinetuneConfig) -> dict[str, Any]:
    """The part of run.json that options with defaults give."""
    training = {name: value for name, value in asdict(config.training).items() if name not in FOR_SPEED}
    return {
        "checkpoint_revision": str(config.checkpoint) if isinstance(config.checkpoint, HubPath) else None,
        **training,
        "precision": chosen_precision(config.training.precision, pick_device(config.device)),
        **{f"tuning.{name}": value for name, value in asdict(config.tuning).items()},
        # As they are in this run: the defaults may be others in a later version.
        "tuning.encoder_rate": config.rates.encoder,
        "tuning.decoder_rate": config.rates.decoder,
        "statistics": config.statistics,
        "best": config.best,
        "year": config.year,
        "decoder": config.decoder.kind,
        "decoder_channels": config.decoder.channels,
        "detail_channels": config.decoder.skip_channels,
        **asdict(config.augmentation),
        "overlap": config.overlap,
        "label_fraction": config.label_fraction,
        "maps": config.maps,
        "seed": config.seed,
        "split_blocks": asdict(config.split_blocks) if config.split_blocks.side_m is not None else None,
    }


def is_finished(output: Path, settings: dict[str, Any]) -> bool:
    """True when `output` holds the run with these settings, finished; False when it is empty or holds it unfinished.

    Raises ValueError when it holds something else.
    """
    path = output / RUN_FILE
    if not path.is_file():
        if output.exists() and (not output.is_dir() or not all(map(_is_of_no_run, output.iterdir()))):
            raise ValueError(f"--output {output} is not empty and holds no run of finetune/run.py; choose another folder")
        return False
    stored, now = json.loads(path.read_text()), json.loads(json.dumps(settings))
    gone = sorted(stored.keys() - now.keys())
    if gone:
        raise ValueError(
            f"{path} has {', '.join(gone)}, which this version does not know; resume the run with the version that began it, or "
            "choose another --output"
        )
    # Earlier versions did not record which data they saw.
    before = {"data_sha256": now["data_sha256"]} | _earlier_values() | stored
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        advice = "choose another folder or remove it"
        if "precision" in changed:
            advice += f"; --training.precision of that run is {before.get('precision')}, and auto is another one on this machine"
        if {"epochs", "steps"} & set(changed):
            advice += "; a run cannot get longer, as its learning rate decays over its epochs"
        if "data_sha256" in changed:
            advice += "; data_sha256: labels, scene.yaml, lists or sensors in --data have changed since that run began"
        if "checkpoint_revision" in changed and before["checkpoint_revision"] is not None:
            advice += f"; that run began with --checkpoint {before['checkpoint_revision']}: give it with this commit to resume"
        raise ValueError(f"--output {output} holds a run with other settings ({', '.join(changed)}); {advice}")
    return (output / METRICS_FILE).is_file()


def _is_of_no_run(path: Path) -> bool:
    """Whether a file or folder in the folder of a run is there before its run.json is."""
    left_by_a_kill = path.name.startswith(".") and path.name.endswith(TEMPORARY)
    return is_lock(path) or path.name in (WINDOWS_FOLDER, SEEN_FILE) or left_by_a_kill


def remove_windows(output: Path) -> None:
    """Remove the windows that a finished run has stored in its folder, which are as large as its images, and their digests."""
    (output / SEEN_FILE).unlink(missing_ok=True)
    shutil.rmtree(output / WINDOWS_FOLDER, ignore_errors=True)


def _earlier_values() -> dict[str, Any]:
    """What runs did before a setting existed, by its key in run.json: mostly what its default says."""
    of_task = {
        f"task.{field.name}": field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(Task)
        if field.default is not MISSING or field.default_factory is not MISSING
    }
    options = _recorded_options(FinetuneConfig(task="", data=Path(), output=Path()))
    options |= {"detail_channels": 0, "normalization": CHECKPOINT, "statistics": "plain"}
    options |= {"tuning.encoder_rate": 1.0, "tuning.decoder_rate": 1.0, "precision": "fp32"}
    earlier: dict[str, Any] = json.loads(json.dumps(of_task | options))
    return earlier


def claim_run_folder(output: Path, settings: dict[str, Any], seen: dict[str, Any], resume: str, lock: RunLock) -> bool:
    """Take the lock of a run and write its run.json; returns whether the run has finished in the meantime.

    Only rank 0 calls this. What was found without the lock is looked at again, as another job may have begun or ended a run.

    `seen`: what the run sees of the data beside labels, scenes and sensors, such as the dates of images.

    Raises ValueError when the folder holds something else, a run that saw other data, or another job writes there, and OSError
    when it cannot be written to.
    """
    lock.acquire()
    if resume == "never":
        check_holds_no_run(output)
    if is_finished(output, settings):
        return True
    before, now = output / SEEN_FILE, json.loads(json.dumps(seen))
    if (output / RUN_FILE).is_file() and before.is_file() and (stored := read_json(before)) != now:
        changed = sorted(name for name in stored.keys() | now.keys() if stored.get(name) != now.get(name))
        raise ValueError(
            f"--output {output} holds a run whose images have changed since it began ({', '.join(changed)}): there are images of "
            "other dates, or the season is of another year; take them away, state --year, or choose another folder"
        )
    write_json(before, now)
    write_json(output / RUN_FILE, settings)
    return False


def check_holds_no_run(output: Path) -> None:
    """Raises ValueError when `output` holds a run, finished or not."""
    if (output / RUN_FILE).is_file():
        raise ValueError(f"{output} holds a run already; give another --output, or resume the run with --resume auto")
