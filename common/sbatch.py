"""SLURM as executor without Dask: jobs submitted by `sbatch`; and what a refusal of `sbatch` means."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from common.errors import InfrastructureError

_SCRIPT = Path(__file__).parents[1] / "launch" / "shard.sbatch"
# The controller did not answer, or answers again later; everything else that sbatch says is about the job's options.
_NOT_ANSWERED = re.compile(r"contact slurm controller|timed out|connection|temporar|try again|zero bytes", re.IGNORECASE)


def sbatch_error(said: str) -> Exception:
    """Return the error of an `sbatch` that said this: of the infrastructure when SLURM did not answer, else a ValueError."""
    words = " ".join(said.split()) or "nothing"
    if _NOT_ANSWERED.search(words):
        return InfrastructureError(f"SLURM does not answer; sbatch said: {words}")
    return ValueError(f"SLURM refused the job; sbatch said: {words}")


def submit_slurm(writing: Sequence[str], finishing: Sequence[str], tasks: int) -> tuple[str, str]:
    """Submit an array of `tasks` jobs and a job that starts after them; return both ids.

    Both run `launch/shard.sbatch`. `writing` and `finishing` are the arguments of the array and of the last job. Options of
    `sbatch` itself come from its environment (SBATCH_PARTITION, SBATCH_ACCOUNT, ...). The logs lie in the present folder, unless
    SBATCH_OUTPUT says otherwise: `shard-ARRAY_TASK.log` and `shard-finish-JOB.log`.

    Raises ValueError when `sbatch` is missing or refuses the jobs, InfrastructureError when SLURM does not answer.
    """

    def submit(name: str, log: str, option: str, arguments: Sequence[str]) -> str:
        # SLURM runs a copy of the script in another folder.
        own = {"SBATCH_JOB_NAME": name, "SBATCH_OUTPUT": log, **os.environ, "AGRIFM_PROJECT": str(_SCRIPT.parents[1])}
        command = ["sbatch", "--parsable", option, str(_SCRIPT), *arguments]
        try:
            done = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise ValueError("--engine slurm submits jobs with `sbatch`, which is not on this machine") from error
        if done.returncode != 0:
            raise sbatch_error(done.stderr or done.stdout)
        return done.stdout.strip().split(";")[0]

    array = submit("shard", "shard-%A_%a.log", f"--array=0-{tasks - 1}", writing)
    return array, submit("shard-finish", "shard-finish-%j.log", f"--dependency=afterany:{array}", finishing)
