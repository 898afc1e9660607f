"""The configuration of pretraining from words of the command line."""

from __future__ import annotations

from common.command_line import parse
from pretrain.config import RENAMED_OPTIONS, PretrainConfig
from pretrain.train import pretrain


def parsed(*arguments: str) -> PretrainConfig:
    """The configuration that words of the command line give."""
    words = ["--data", "corpus", "--output", "run", *arguments]
    return PretrainConfig(**vars(parse(pretrain, words, config_class=PretrainConfig, renamed=RENAMED_OPTIONS)))
