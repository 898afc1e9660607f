"""Whether a run that failed is worth starting again: `python -m pretrain.restart` with the arguments of the run.

Launchers call it after a failure that is not the user's: a lost node, a killed rank, storage that did not answer. Such a failure
may pass, so the run is started again for as long as it gets further each time.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from common.command_line import run_command
from common.exit_codes import FAILED
from pretrain.checkpoint import finished_steps
from pretrain.config import CONFIGS, RENAMED_OPTIONS, PretrainConfig
from pretrain.model.encoder_files import CHECKPOINTS

RESTARTS_FILE = "restarts.jsonl"


def worth_restarting(config: PretrainConfig) -> int:
    """Compare the newest checkpoint with that at the failure before, and append it to `restarts.jsonl` in the run's folder.

    Returns the exit code: 0 when the run has got further since then or has never failed before; 1 otherwise, with one line that
    says why.

    Raises OSError when the run's folder cannot be read or written.
    """
    newest = max(finished_steps(config.output / CHECKPOINTS), default=0)
    file = config.output / RESTARTS_FILE
    before = _steps_of_failures(file)
    if before and newest <= before[-1]:
        print(
            f"not worth starting again: the newest checkpoint is of step {newest}, as at the failure before ({file}); the cause "
            "stands in the log, and the same command resumes"
        )
        return FAILED
    config.output.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"step": newest, "job": os.environ.get("SLURM_JOB_ID"), "time": time.time()})
    with file.open("a") as log:
        log.write(f"\n{line}\n")  # the line before may have been cut by a kill
    return 0


def _steps_of_failures(file: Path) -> list[int]:
    """Steps of the newest checkpoints at the failures before, without lines that were cut by a kill."""
    steps = []
    for line in file.read_text().splitlines() if file.is_file() else []:
        with suppress(json.JSONDecodeError):
            steps.append(json.loads(line)["step"])
    return steps


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(worth_restarting, config_class=PretrainConfig, renamed=RENAMED_OPTIONS, built_in=CONFIGS)


if __name__ == "__main__":
    main()
