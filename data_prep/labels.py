"""Command: what the labels of scenes hold: GeoTIFFs, pictures, and a table of pixels and objects per class and split.

python data_prep/labels.py --input scenes/ --label crop_type --output labels/
"""

from __future__ import annotations

from typing import NoReturn

from common.command_line import run_command
from data_prep.label_overview.overview import overview
from data_prep.label_overview.settings import LabelsConfig


def labels(config: LabelsConfig) -> int:
    """Write and draw the labels of all scenes, and print the table."""
    return overview(config)


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(labels, config_class=LabelsConfig)


if __name__ == "__main__":
    main()
