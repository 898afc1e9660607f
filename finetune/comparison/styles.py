"""Colours, markers and lines of encoders in the figures of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.colors import to_hex, to_rgb

from finetune.comparison.encoders import encoder_kind

# Okabe and Ito's colours, which colour-blind people can tell apart; the markers differ as well.
KIND_STYLES = {
    "pretrained": ("#0072b2", "o"),
    "frozen": ("#56b4e9", "s"),
    "linear_probe": ("#000000", "|"),
    "lora": ("#cc79a7", "D"),
    "scratch": ("#d55e00", "^"),
    "unet": ("#009e73", "v"),
    "temporal_cnn": ("#666666", "P"),
    "random_forest": ("#e69f00", "X"),
}
LINES = ("-", "--", ":", "-.")


@dataclass(frozen=True, kw_only=True)
class Style:
    """How an encoder is drawn: colours of line and of marker, marker, line style of matplotlib."""

    color: str
    face: str
    marker: str
    line: str


def encoder_style(encoder: str, encoders: Sequence[str]) -> Style:
    """The style of an encoder among `encoders`: of one kind, further checkpoints are paler, with open markers, and dashed."""
    kind = encoder_kind(encoder)
    number = [other for other in encoders if encoder_kind(other) == kind].index(encoder)
    color, marker = KIND_STYLES[kind]
    pale = 1 - 0.7**number
    red, green, blue = ((1 - pale) * part + pale for part in to_rgb(color))
    color = to_hex((red, green, blue))
    return Style(color=color, face="white" if number else color, marker=marker, line=LINES[number % len(LINES)])
