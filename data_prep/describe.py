"""Command: what is in a corpus: counts, dates, validity, classes and statistics by source and split, as tables and pictures.

python data_prep/describe.py corpus/ [--output pictures/] [--json corpus.json]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tabulate import tabulate

from common.atomic_files import whole_file
from common.command_line import run_command
from common.executors import open_executor
from common.json_files import json_bytes, read_json
from common.plot_style import INK, MUTED
from common.progress import Progress
from data_prep.archive.sensor import Sensor
from data_prep.corpus.dataset import Corpus, SampleEntry, load_corpus
from data_prep.corpus.description import ShardSummary, by_source_and_split, summarise
from data_prep.landcover.legend import Legend
from data_prep.quicklook import chosen_samples, draw

SPLIT_COLORS = {"train": "#2f5d8a", "validation": "#d98f2b", "test": "#8a3b5d"}
DPI = 110
_MOST_BARS = 24


def describe_corpus(
    corpus: Path, output: Path | None = None, json: Path | None = None, samples: int = 4, frames: int = 12, workers: int = 1
) -> None:
    """Say what is in a corpus, from its indexes; only the contact sheet reads pixels.

    Args:
        corpus: corpus written by shard.py.
        output: folder for two pictures: overview.png (classes, frames, bands) and samples.png (a contact sheet).
        json: file for the same as JSON.
        samples: samples of each source and split on the contact sheet, evenly spread.
        frames: images of each sample.
        workers: processes that read indexes at the same time.
    """
    if samples < 1 or frames < 1 or workers < 1:
        raise ValueError(f"samples, frames and workers must be at least 1, got {samples}, {frames} and {workers}")
    loaded = load_corpus(corpus)
    paths = [shard.index for shard in loaded.shards]
    found: dict[Path, ShardSummary] = {}
    with open_executor("local", workers) as map_jobs, Progress("describe", total=len(paths)) as progress:
        for path, summary in map_jobs(summary_of, paths):
            found[path] = summary
            progress.add(summary.bytes)
    groups = by_source_and_split(found[path] for path in paths if found[path].samples)
    values = values_of(loaded, groups)
    print(tables(values))
    if json is not None:
        with whole_file(json) as temporary:
            temporary.write_bytes(json_bytes(values) + b"\n")
        print(f"{json} says the same")
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        chosen: dict[str, list[SampleEntry]] = {}
        for source, split in groups:
            chosen.setdefault(source, []).extend(chosen_samples(loaded, source, split, samples))
        for name, picture in (("overview.png", overview(loaded, groups)), ("samples.png", draw(loaded, chosen, frames))):
            with whole_file(output / name) as temporary:
                picture.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
            print(output / name)


def summary_of(index: Path) -> ShardSummary:
    """An index file in short."""
    return summarise(read_json(index))


def class_fractions(group: ShardSummary, legends: dict[str, Legend]) -> dict[str, dict[str, float]]:
    """Area fractions over all samples together by legend and class."""
    fractions = {}
    for name, counts in group.land_cover.items():
        fractions[name] = dict(zip(legends[name].classes, legends[name].fractions(counts).tolist(), strict=True))
    return fractions


def values_of(corpus: Corpus, groups: dict[tuple[str, str], ShardSummary]) -> dict[str, Any]:
    """What is said of each source and split, as plain values for JSON.

    Statistics are in digital numbers of the pixels of that split; `normalization` is what training uses.
    """
    sources: dict[str, Any] = {}
    for (source, split), group in groups.items():
        sensor = corpus.sensors[source]
        lengths = sorted(group.frames)
        reached = np.cumsum([group.frames[length] for length in lengths])
        median = lengths[int(np.searchsorted(reached, group.samples / 2))]
        assert group.days is not None, "a group has samples"
        first, last = (str(np.datetime64(day, "D")) for day in group.days)
        of_source = sources.setdefault(source, {"shape": list(corpus.shapes[source]), "bands": list(sensor.bands), "splits": {}})
        of_source["normalization"] = {"mean": corpus.mean[source].tolist(), "std": corpus.std[source].tolist()}
        of_source["splits"][split] = {
            "shards": len(corpus.shards_of(source, split)),
            "samples": group.samples,
            "bytes": group.bytes,
            "first_date": first,
            "last_date": last,
            "frames": {"min": lengths[0], "median": median, "max": lengths[-1]},
            "valid_share": group.valid_share(corpus.shapes[source][-1]),
            "class_fractions": class_fractions(group, corpus.legends),
            "mean": group.statistics.mean.tolist(),
            "std": group.statistics.std.tolist(),
            "rejected_when_read": group.rejected.total(),
            "failed": group.failed,
        }
    return {"fingerprint": corpus.fingerprint, "rejected": corpus.rejected, "sources": sources}


def tables(values: dict[str, Any]) -> str:
    """The same for people."""
    counts, classes, bands = [], [], []
    for source, of_source in values["sources"].items():
        for split, about in of_source["splits"].items():
            frames = about["frames"]
            length = f"{frames['min']}, {frames['median']}, {frames['max']}"
            dates = f"{about['first_date']} to {about['last_date']}"
            size = f"{about['bytes'] / 1e6:.1f}"
            row = [source, split, about["shards"], about["samples"], size, dates, length, f"{about['valid_share']:.1%}"]
            counts.append([*row, about["failed"]])
            for legend, fractions in about["class_fractions"].items():
                shown = ", ".join(f"{name.replace('_', ' ')} {share:.1%}" for name, share in fractions.items() if share)
                classes.append([source, split, legend, shown])
        for number, band in enumerate(of_source["bands"]):
            of_band = ((split, about["mean"][number], about["std"][number]) for split, about in of_source["splits"].items())
            bands.append([source, band, ", ".join(f"{split} {mean:.1f} ± {std:.1f}" for split, mean, std in of_band)])
    header = ["source", "split", "shards", "samples", "MB", "dates", "frames: least, median, most", "valid", "failed"]
    return "\n\n".join(
        [
            tabulate(counts, header, disable_numparse=True),
            tabulate(classes, ["source", "split", "legend", "share of the area"]),
            tabulate(bands, ["source", "band", "digital numbers, mean ± deviation"]),
            f"{values['rejected']} samples rejected; fingerprint {values['fingerprint']}",
        ]
    )


def overview(corpus: Corpus, groups: dict[tuple[str, str], ShardSummary]) -> Figure:
    """A row a source: land cover of each split, frames a sample, mean reflectance of each band with its deviation."""
    sources = sorted({source for source, _ in groups})
    height = 3.0 * len(sources) + 0.9
    figure = Figure(figsize=(15, height), facecolor="white")
    grid = figure.add_gridspec(len(sources), 3, width_ratios=[1.25, 1, 1.15], wspace=0.24, hspace=0.62)
    grid.update(left=0.075, right=0.985, top=1 - 0.62 / height, bottom=1.25 / height)
    handles: dict[tuple[str, str], Any] = {}
    for row, source in enumerate(sources):
        of_source = {split: group for (name, split), group in groups.items() if name == source}
        sensor = corpus.sensors[source]
        cover, frames, bands = (figure.add_subplot(grid[row, column]) for column in range(3))
        samples = sum(group.samples for group in of_source.values())
        size = sum(group.bytes for group in of_source.values()) / 1e9
        title = f"{sensor.title}: {samples:,} samples, {size:.2g} GB"
        cover.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
        handles |= _draw_land_cover(cover, of_source, corpus.legends)
        _draw_frames(frames, of_source)
        _draw_bands(bands, of_source, sensor)
    names = [name for name, _ in handles]
    figure.legend(list(handles.values()), names, loc="lower center", ncols=min(8, len(names)), fontsize=8.5, frameon=False)
    return figure


def _draw_land_cover(axes: Axes, of_source: dict[str, ShardSummary], legends: dict[str, Legend]) -> dict[tuple[str, str], Any]:
    """Stacked bars, one a split and legend; returns the patches of classes for the figure's legend."""
    handles: dict[tuple[str, str], Any] = {}
    labels: list[str] = []
    for split, group in of_source.items():
        for name, counts in group.land_cover.items():
            legend, left = legends[name], 0.0
            for label, color, share in zip(legend.classes, legend.colors, legend.fractions(counts).tolist(), strict=True):
                bar = axes.barh(len(labels), share, left=left, color=color, edgecolor="white", linewidth=0.6)
                handles.setdefault((label.replace("_", " "), color), bar[0])
                if share > 0.07:
                    ink = "white" if np.mean(to_rgb(color)) < 0.5 else INK
                    axes.text(left + share / 2, len(labels), f"{share:.0%}", ha="center", va="center", fontsize=8, color=ink)
                left += share
            labels.append(split if len(group.land_cover) == 1 else f"{split}, {name}")
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.set_ylim(max(len(labels), 3) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xticks(np.linspace(0, 1, 5), [f"{share:.0%}" for share in np.linspace(0, 1, 5)], fontsize=8)
    axes.set_xlabel("land cover, share of the area", fontsize=8.5, color=MUTED)
    _plain(axes)
    return handles


def _draw_frames(axes: Axes, of_source: dict[str, ShardSummary]) -> None:
    lengths = [list(group.frames) for group in of_source.values()]
    counts = [list(group.frames.values()) for group in of_source.values()]
    shortest, longest = min(map(min, lengths)), max(map(max, lengths))
    width = -(-(longest - shortest + 1) // _MOST_BARS)
    edges = np.arange(shortest, longest + width + 1, width) - 0.5
    colors = [SPLIT_COLORS[split] for split in of_source]
    axes.hist(lengths, edges.tolist(), weights=counts, stacked=True, color=colors, label=list(of_source))
    if shortest == longest:
        axes.set_xlim(shortest - 5, longest + 5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("frames a sample", fontsize=8.5, color=MUTED)
    axes.set_ylabel("samples", fontsize=8.5, color=MUTED)
    _plain(axes)


def _draw_bands(axes: Axes, of_source: dict[str, ShardSummary], sensor: Sensor) -> None:
    width = 0.8 / len(of_source)
    for number, (split, group) in enumerate(of_source.items()):
        mean, std = group.statistics.mean * sensor.scale, group.statistics.std * sensor.scale
        place = np.arange(len(mean)) - 0.4 + width * (number + 0.5)
        label = f"{split}: {group.valid_share(sensor.chip_px):.0%} valid"
        axes.bar(place, mean, width, color=SPLIT_COLORS[split], label=label)
        axes.errorbar(place, mean, std, fmt="none", ecolor=MUTED, elinewidth=0.9, capsize=2)
    axes.set_xticks(range(len(sensor.bands)), sensor.bands)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("reflectance, mean and deviation", fontsize=8.5, color=MUTED)
    _plain(axes)


def _plain(axes: Axes) -> None:
    """Axes without a box, and the legend above them, where it hides nothing."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=8)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1.02, 1.0), ncols=3, borderaxespad=0.2)


if __name__ == "__main__":
    run_command(describe_corpus, positional=True)
