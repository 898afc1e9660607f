"""Reads planned samples from the archive.

Four kinds of errors are kept apart. Transient errors are tried again. Errors of the infrastructure are raised and never become
part of a corpus. Errors in a sample's data reject this sample only, with the traceback of the error. Bugs of this code are raised
with the key of the sample.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from common.errors import is_data_error, portable_text, portable_traceback
from common.retries import retried
from common.storage import AnyPath
from data_prep.archive.scene import Scene
from data_prep.landcover.base import LandCoverReader, SampleWindow
from data_prep.landcover.label_opening import LabelOnSource
from data_prep.landcover.legend import Legend
from data_prep.landcover.opening import open_land_cover
from data_prep.landcover.sample_map import MapLayout, counts_and_map
from data_prep.plan.plan import CANNOT_BE_READ, Plan, PlannedSample, PlannedSeries, Rejection
from data_prep.plan.planned_reader import load_planned_scene, open_planned_reader
from data_prep.shards.chunk_reader import ChunkReader
from data_prep.shards.sample import Sample

NOTHING_VALID = "no valid observation in the year"
NOTHING_MAPPED = "no mapped land cover in the footprint"


@dataclass(frozen=True)
class Failure:
    """A sample that could not be read: its row among the rejected samples, and the traceback of the error."""

    rejection: Rejection
    traceback: list[str]


def read_samples(
    archive: AnyPath, plan: Plan, planned_samples: Iterable[PlannedSample], retries: int, most_bytes: int
) -> Generator[Sample | Rejection | Failure]:
    """Read samples from the archive, in order; yield a Rejection or Failure for those that are not written.

    `most_bytes`: see ChunkReader. Raises ValueError when the archive is no longer as it was planned, and errors of the
    infrastructure after `retries`.
    """
    for planned, group in groupby(planned_samples, key=lambda sample: sample.series):
        scene = load_planned_scene(archive, planned)
        legend, label = plan.legends[planned.legend], plan.labels.get(planned.source)
        with (
            _opened_label(scene, None if label is None else label.name, planned, plan, retries) as labels,
            retried(partial(open_planned_reader, scene, planned, plan.sensors), retries) as reader,
            retried(partial(open_land_cover, scene, legend), retries) as land_cover,
        ):
            samples = list(group)
            chunks = ChunkReader(reader, samples, most_bytes)
            layout = plan.map_layout(planned.source, planned.legend)
            series = _OpenSeries(
                scene=scene, legend=legend, chunks=chunks, land_cover=land_cover, map_layout=layout, labels=labels
            )
            for sample in samples:
                yield retried(partial(series.read, sample), retries)


def _opened_label(
    scene: Scene, name: str | None, planned: PlannedSeries, plan: Plan, retries: int
) -> LabelOnSource | nullcontext[None]:
    """The label of the samples of a series, or nothing without a name."""
    if name is None:
        return nullcontext()
    return retried(partial(LabelOnSource, scene, name, planned.source, planned.grid, plan.sensors), retries)


@dataclass(frozen=True, kw_only=True)
class _OpenSeries:
    """Everything that samples of one series are read from.

    `map_layout` is None for samples without a land-cover map, `labels` for samples without a label.
    """

    scene: Scene
    legend: Legend
    chunks: ChunkReader
    land_cover: LandCoverReader
    map_layout: MapLayout | None
    labels: LabelOnSource | None

    def read(self, planned: PlannedSample) -> Sample | Rejection | Failure:
        """Read one sample; raise errors of the infrastructure."""
        try:
            return self._sample(planned)
        except Exception as error:  # codecs raise errors of all kinds for damaged chunks
            if not is_data_error(error):
                error.add_note(f"while reading sample {planned.key} of scene {planned.scene}")
                raise
            reason = CANNOT_BE_READ + portable_text(error, self.scene.folder)
            return Failure(_reject(planned, reason), portable_traceback(error, self.scene.folder))

    def _sample(self, planned: PlannedSample) -> Sample | Rejection:
        series, window = self.chunks.read(planned), sample_window(planned)
        if not series.valid.any():
            return _reject(planned, NOTHING_VALID)
        counts, land_cover_map = counts_and_map(self.land_cover, self.legend, self.map_layout, window, series)
        if not counts.any():
            return _reject(planned, NOTHING_MAPPED)
        return Sample(
            key=planned.key,
            source=planned.source,
            scene=self.scene.name,
            region=self.scene.region,
            split=planned.split,
            pixels=series.pixels,
            valid=series.valid,
            dates=series.dates,
            footprint=window.footprint,
            legend=self.legend.name,
            land_cover=counts,
            land_cover_map=land_cover_map,
            label=None if self.labels is None else self.labels.read(planned.row, planned.col, planned.size, planned.year),
        )


def _reject(planned: PlannedSample, reason: str) -> Rejection:
    return Rejection(planned.key, planned.source, planned.scene, reason)


def sample_window(planned: PlannedSample) -> SampleWindow:
    """Return the window of a planned sample."""
    return SampleWindow(
        source=planned.source,
        file=planned.series.file,
        grid=planned.series.grid,
        row=planned.row,
        col=planned.col,
        size=planned.size,
        year=planned.year,
    )
