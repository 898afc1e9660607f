"""The descriptions beside a trained model: its card `README.md` and its STAC item `stac_item.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.atomic_files import whole_file
from common.json_files import write_json
from common.model_card import CARD_FILE
from common.model_item import ITEM_FILE
from finetune.sharing.run_card import run_card
from finetune.sharing.run_item import run_item
from finetune.sharing.trained_run import trained_run


def describe_run(output: Path, settings: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Write the card and the STAC item of the model in the folder of a run.

    `settings` and `metrics`: contents of run.json and metrics.json, which need not be written yet.
    """
    run = trained_run(output, settings, metrics)
    with whole_file(output / CARD_FILE) as temporary:
        temporary.write_text(run_card(run), encoding="utf-8")
    write_json(output / ITEM_FILE, run_item(run))
