"""Titles in tables and figures of a comparison."""

from __future__ import annotations

from finetune.comparison.encoders import checkpoint_name, encoder_kind

_TITLES = {
    "unet": "U-Net",
    "temporal_cnn": "temporal CNN",
    "random_forest": "random forest",
    "linear_probe": "linear probe",
    "lora": "LoRA",
    "scratch": "from scratch",
}


def encoder_title(encoder: str) -> str:
    """Title of an encoder in tables and figures of a comparison: "pretrained map" for "pretrained.map"."""
    kind, checkpoint = encoder_kind(encoder), checkpoint_name(encoder)
    return " ".join([_TITLES.get(kind, kind), *([checkpoint] if checkpoint else [])])


def label_fraction_title(fraction: float) -> str:
    """Title of a fraction of the labels in tables and figures of a comparison, as percent."""
    return f"{100 * fraction:g} %"
