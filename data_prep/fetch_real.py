"""Command: fetch real satellite series that Python packages ship as sample data, as scene folders.

python data_prep/fetch_real.py --output scenes/
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from tabulate import tabulate

from common.command_line import run_command
from data_prep.archive.scene import load_scene
from data_prep.archive.sensor import load_sensors
from data_prep.readers.opening import open_reader
from data_prep.real_series.download import SAMPLES, download, lay_out


def fetch_real(output: Path, downloads: Path = Path("downloads")) -> None:
    """Fetch real Sentinel-2 (Romania) and Landsat (Colorado) series and lay them out as scenes.

    The packages are downloaded and checked, but never installed or imported: only their data files are extracted.

    Args:
        output: folder for the scenes; existing scenes stay as they are.
        downloads: folder that keeps the downloaded packages.
    """
    for data in SAMPLES:
        lay_out(data, download(data, downloads), output)
    sensors = load_sensors(output / "sources")
    rows = []
    for data in SAMPLES:
        scene = load_scene(output / data.scene)
        for source in scene.sources:
            with open_reader(scene, source, sensors) as reader:
                first, last, shape = reader.dates[0], reader.dates[-1], f"{reader.grid.height} x {reader.grid.width}"
                bands = ", ".join(reader.sensor.bands)
                rows.append([data.scene, source, len(reader.dates), f"{first} to {last}", shape, reader.sensor.gsd_m, bands])
    print(tabulate(rows, ["scene", "source", "dates", "from, to", "pixels", "metres", "bands"]))


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(fetch_real)


if __name__ == "__main__":
    main()
