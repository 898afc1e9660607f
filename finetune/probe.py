"""Command: classifiers on the embeddings of labelled pixels, scored on the test scenes.

    python finetune/probe.py --task paddy_rice --data scenes/ --model runs/tiny --output runs/paddy_rice_probe
    python finetune/probe.py --task paddy_rice --data scenes/ --embeddings embeddings/ --output runs/paddy_rice_probe

The first computes the embeddings, in the output folder. Started again, the command resumes.
"""

from __future__ import annotations

from typing import NoReturn

from common.command_line import run_command
from finetune.probing.config import ProbeConfig
from finetune.probing.probe_run import probe


def probe_embeddings(config: ProbeConfig) -> None:
    """Probe, and print the scores."""
    probe(config)


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(probe_embeddings, config_class=ProbeConfig)


if __name__ == "__main__":
    main()
