"""Whether a run that failed is worth starting again: `python -m pretrain.restart` with the arguments of the run.

Launchers call it after a failure that is not the user's: a lost node, a killed rank, storage that did not answer. Such a failure
may pass, so the run is started again for as long as it gets further each time.
"""

from __future__ import annotations

import os
import time
from typing import NoReturn

from common.command_line import run_command
from common.exit_codes import FAILED
from common.json_files import append_json_lines, read_json_lines
from pretrain.checkpoint import newest_good, step_of
from pretrain.config import CONFIGS, RENAMED_OPTIONS, PretrainConfig
from pretrain.model.encoder_files import CHECKPOINTS

RESTARTS_FILE = "restarts.jsonl"


def worth_restarting(config: PretrainConfig) -> int:
    """Compare the newest checkpoint with that at the failure before, and append it to `restarts.jsonl` in the run's folder.

    Returns the exit code: 0 when the run has got further since then or has never failed before; 1 otherwise, with one line that
    says why.

    Raises OSError when the run's folder cannot be read or written.
    """
    checkpoint = newest_good(config.output / CHECKPOINTS)  # no progress is a damaged one, before which the run resumed
    newest = 0 if checkpoint is None else step_of(checkpoint)
    file = config.output / RESTARTS_FILE
    before = read_json_lines(file)
    if before and newest <= before[-1]["step"]:
        print(
            f"not worth starting again: the newest checkpoint is of step {newest}, as at the failure before ({file}); the cause "
            "stands in the log, and the same command resumes"
        )
        return FAILED
    config.output.mkdir(parents=True, exist_ok=True)
    append_json_lines(file, [{"step": newest, "job": os.environ.get("SLURM_JOB_ID"), "time": time.time()}])
    return 0


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(worth_restarting, config_class=PretrainConfig, renamed=RENAMED_OPTIONS, built_in=CONFIGS)


if __name__ == "__main__":
    main()
