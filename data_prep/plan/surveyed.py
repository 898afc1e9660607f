"""A series of an archive that was opened for a plan."""

from __future__ import annotations

from dataclasses import dataclass

from data_prep.plan.plan import PlannedSeries


@dataclass(frozen=True, kw_only=True)
class Surveyed:
    """One series that was opened.

    Attributes:
        series: its grid, dates and origin.
        split: the split that its scene states.
        reason: why all its samples are rejected, or None.
        cover_years: years of its land-cover map there when other years are rejected, else None.
        notes: notes of its reader; the process that started the survey shows them.
    """

    series: PlannedSeries
    split: str
    reason: str | None = None
    cover_years: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()
