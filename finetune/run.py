"""Command: fine-tune an encoder for a task, or train a baseline, score it on the test scenes, and map them.

    python finetune/run.py --task paddy_rice --data scenes/ --checkpoint runs/tiny --output runs/paddy_rice
    python finetune/run.py --task paddy_rice --data scenes/ --encoder unet --output runs/paddy_rice_unet
    python finetune/run.py --config agrifm --task cropland --data samples/ --checkpoint AgriFM.pth --output runs/cropland
    bash launch/finetune.sh --task paddy_rice ...           # the same on several GPUs, or on two CPU processes

The third has the settings of the published fine-tuning, finetune/configs/agrifm.yaml.

Where the weights come from:
    1. output holds the same run, finished: the command only shows its scores again;
    2. output holds the same run, interrupted: it resumes after the last epoch, or at the step at which it was asked to stop;
    3. --checkpoint: a pretraining run, an encoder.safetensors or the published AgriFM.pth, loaded strictly;
    4. otherwise random weights, for the shape in --encoder or for the baseline that it names.
"""

from __future__ import annotations

from functools import partial
from typing import NoReturn

from common.command_line import run_command
from common.rank_process import end_when_asked, end_with, read_arguments
from finetune.config import CONFIGS, RENAMED_OPTIONS, FinetuneConfig
from finetune.fine_tuning import fine_tune


def main() -> NoReturn:
    """Entry of every rank; of several, rank 0 alone prints."""
    command = partial(run_command, _run, config_class=FinetuneConfig, renamed=RENAMED_OPTIONS, built_in=CONFIGS)
    read_arguments(command)


def _run(config: FinetuneConfig) -> NoReturn:
    """Fine-tune, and end this process with the run's exit code."""
    end_when_asked()
    end_with(lambda: fine_tune(config))


if __name__ == "__main__":
    main()
