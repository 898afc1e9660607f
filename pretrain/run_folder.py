"""The folder of a pretraining run, which belongs to one run: its configuration lies there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from common.atomic_files import whole_file
from common.command_line import rename_keys
from common.run_lock import RunLock
from pretrain.config import RENAMED_OPTIONS, PretrainConfig

CONFIG_FILE = "config.json"
# Options that may differ when a run is resumed: where things lie, how fast training is, what is logged. They do not change what
# is learned, except for rounding.
CHANGEABLE_OPTIONS = {
    *("data", "output", "dry_run", "resume", "zero", "gradient_accumulation_steps", "compile", "activation_checkpointing"),
    *("log_every", "save_every", "keep", "keep_every", "validate_every", "validate_samples", "probe_samples"),
}
CHANGEABLE_STREAM_OPTIONS = {"num_workers", "check_reads", "cache", "cache_keep_free_gb", "skip_damaged"}


def claim_run_folder(config: PretrainConfig, fingerprint: str, lock: RunLock) -> None:
    """Take the lock of a pretraining run and write its `config.json`, or check that it is that of the same run.

    Only rank 0 calls this. Raises ValueError when the folder holds another run or another job writes there, and OSError when it
    cannot be written to.
    """
    lock.acquire()
    path = config.output / CONFIG_FILE
    settings = {"fingerprint": fingerprint, **config.as_json()}
    if path.is_file():
        if config.resume == "never":
            raise ValueError(f"{config.output} holds a run already; give another --output, or resume it with --resume auto")
        stored = json.loads(path.read_text())
        rename_keys(stored, RENAMED_OPTIONS)  # a run that was started before options were renamed
        fixed = (settings.keys() | stored.keys()) - CHANGEABLE_OPTIONS
        changed = sorted(name for name in fixed if _fixed_part(settings, name) != _fixed_part(stored, name))
        if changed:
            raise ValueError(
                f"{config.output} holds a run with other {', '.join(changed)}; give another --output or the same settings"
            )
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=2))


def _fixed_part(settings: Mapping[str, Any], name: str) -> Any:
    """A setting, of `stream` only the options that must not change when a run is resumed."""
    value = settings.get(name)
    if name == "stream" and isinstance(value, dict):
        return {option: v for option, v in value.items() if option not in CHANGEABLE_STREAM_OPTIONS}
    return value
