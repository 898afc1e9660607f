"""The output of a drawing of sites: their table, their map, and the counts of their classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from tabulate import tabulate

from common.atomic_files import whole_file
from data_prep.archive.scene import SPLITS
from data_prep.site_drawing.drawing import DrawnSites

MAX_DOTS = 200_000  # sites in the map; more cannot be distinguished


def write_sites(path: Path, drawn: DrawnSites, years: list[int] | None) -> None:
    """Write the table of sites that `data_prep/plan/sites.py` reads, with the class of each site, as .csv or .parquet."""
    sites, classes = drawn.sites, drawn.legend.classes
    digits = len(str(len(sites) - 1))
    columns: dict[str, Any] = {
        "id": [f"s{number:0{digits}d}" for number in range(len(sites))],
        "lon": np.round(sites.lon, 6),
        "lat": np.round(sites.lat, 6),
        "class": [classes[label] for label in sites.label.tolist()],
    }
    if years:
        columns["year"] = pa.array(np.resize(years, len(sites)), pa.int16())
    if drawn.splits is not None:
        columns["split"] = [SPLITS[split] for split in drawn.splits.tolist()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as temporary:
        if path.suffix.lower() == ".csv":
            pa_csv.write_csv(pa.table(columns), temporary)
        else:
            pq.write_table(pa.table(columns), temporary)


def write_sites_map(path: Path, drawn: DrawnSites) -> None:
    """Write a map of the sites as PNG."""
    with whole_file(path) as temporary:
        sites_figure(drawn).savefig(temporary, format="png", dpi=120, metadata={"Software": None})


def sites_figure(drawn: DrawnSites) -> Figure:
    """A map of the sites in degrees, coloured by class; of the first sites only, when there are very many."""
    sites, legend = drawn.sites, drawn.legend
    shown = sites.take(np.arange(min(len(sites), MAX_DOTS)))
    width, height = (max(float(np.ptp(values)), 1e-3) for values in (shown.lon, shown.lat))
    stretch = 1 / max(0.2, np.cos(np.radians(float(shown.lat.mean()))))
    tall = min(max(10 * height * stretch / width, 4.0), 12.0)
    figure = Figure(figsize=(10.0, tall + 1.2), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    size = min(max(40_000 / len(shown), 1.0), 30.0)
    for label, (name, color) in enumerate(zip(legend.classes, legend.colors, strict=True)):
        of_class = shown.label == label
        count = int((sites.label == label).sum())
        if count:
            text = f"{name.replace('_', ' ')} ({count:,})"
            edge = 0.3 if size > 2 else 0.0
            axes.scatter(shown.lon[of_class], shown.lat[of_class], size, color, label=text, edgecolors="#6a6a6a", linewidths=edge)
    axes.set_aspect(stretch)
    axes.set(xlabel="degrees east", ylabel="degrees north", title=f"{len(sites):,} sites by class of {legend.title}")
    axes.grid(color="#e4e4e4", linewidth=0.5)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, markerscale=max(1.0, (30 / size) ** 0.5), fontsize=9)
    return figure


def class_table(drawn: DrawnSites) -> str:
    """A table with the number of sites of each class, their share of all sites, and the share of the class in the map."""
    total, area = len(drawn.sites), drawn.area_km2
    counts = np.bincount(drawn.sites.label, minlength=len(area))
    rows = [
        [name, int(n), f"{n / total:.1%}", f"{of_class / max(area.sum(), 1e-9):.1%}"]
        for name, n, of_class in zip(drawn.legend.classes, counts, area, strict=True)
    ]
    return tabulate([*rows, ["all", total, "", ""]], ["class", "sites", "of sites", "of the map"], disable_numparse=True)
