"""The folder of a pretraining run, which belongs to one run: its configuration lies there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.atomic_files import whole_file
from common.command_line import rename_keys
from common.run_lock import RunLock
from pretrain.config import EARLIER_VALUES, RENAMED_OPTIONS, PretrainConfig

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.json"  # the last scores; written last
_GROUPS = ("encoder", "stream", "objective", "optimizer")
# Options that may differ when a run is resumed: where things lie, how fast training is, what is logged. They do not change what
# is learned, except for rounding. `num_steps` is another matter: the schedules change with it, from the resumed step on.
CHANGEABLE_OPTIONS = {
    *("data", "output", "dry_run", "resume", "zero", "gradient_accumulation_steps", "compile", "activation_checkpointing"),
    *("log_every", "save_every", "keep", "keep_every", "validate_every", "validate_samples", "probe_samples", "num_steps"),
    *("stream.num_workers", "stream.read_timeout_s", "stream.check_reads", "stream.skip_damaged"),
    *("stream.cache", "stream.cache_keep_free_gb"),
}


def claim_run_folder(config: PretrainConfig, fingerprint: str, saved_steps: int, lock: RunLock) -> int:
    """Take the lock of a pretraining run and write its `config.json`, or check that it is that of the same run.

    Only rank 0 calls this. `saved_steps`: optimizer steps that the newest checkpoint has. Returns the number of steps that the
    run was to have before.

    Raises ValueError when the folder holds another run or another job writes there, and OSError when it cannot be written to.
    """
    lock.acquire()
    path = config.output / CONFIG_FILE
    settings = {"fingerprint": fingerprint, **config.as_json()}
    num_steps_before = config.num_steps
    if path.is_file():
        if config.resume == "never":
            raise ValueError(f"{config.output} holds a run already; give another --output, or resume it with --resume auto")
        if config.num_steps < saved_steps:
            raise ValueError(
                f"{config.output} holds {saved_steps} finished steps, more than --num_steps {config.num_steps}; give at least "
                f"{saved_steps}, or another --output"
            )
        stored = _stored_options(path)
        changed = sorted(
            name for name, value in _dotted(settings).items() if stored[name] != value and name not in CHANGEABLE_OPTIONS
        )
        if changed:
            raise ValueError(
                f"{config.output} holds a run with other {', '.join(changed)}; give another --output or the same settings"
            )
        num_steps_before = stored["num_steps"]
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=2))
    return num_steps_before


def has_final_files(output: Path, num_steps: int) -> bool:
    """Whether the run in `output` wrote its last files after `num_steps` steps, and was not lengthened or shortened since."""
    path = output / METRICS_FILE
    return path.is_file() and json.loads(path.read_text())["steps"] == num_steps


def _stored_options(path: Path) -> dict[str, Any]:
    """The options of the run in a `config.json`, by dotted names, and its fingerprint.

    An option that did not exist when the run began has the value that it stood for then. Raises ValueError for options that no
    longer exist.
    """
    values = json.loads(path.read_text())
    rename_keys(values, RENAMED_OPTIONS)
    stored, defaults = _dotted(values), _dotted(PretrainConfig(data="", output=Path()).as_json())
    gone = sorted(stored.keys() - defaults.keys() - {"fingerprint"})
    if gone:
        raise ValueError(
            f"{path} has {', '.join(gone)}, which this version does not know; resume the run with the version that began it, or "
            "give another --output"
        )
    return defaults | EARLIER_VALUES | stored


def _dotted(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested options by dotted names: {"stream": {"seed": 0}} -> {"stream.seed": 0}."""
    groups = {name: values[name] for name in _GROUPS if name in values}
    of_groups = {f"{group}.{name}": value for group, options in groups.items() for name, value in options.items()}
    return {name: value for name, value in values.items() if name not in groups} | of_groups
