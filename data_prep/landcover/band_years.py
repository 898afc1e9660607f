"""The years of the bands of land-cover rasters: from scene.yaml, descriptions of bands and names of files. Never guessed.

GLC_FCS30D has two files per tile: 1985, 1990 and 1995 in `GLC_FCS30D_19851995_5years_E110N30.tif`, 2000 to 2022 in
`GLC_FCS30D_20002022_E110N30_Annual_V1.1.tif`. Some releases name the first one `19852000_5years`, which does not fit its three
bands. Source: GLC_FCS30D user guide (Zhang et al. 2024, doi 10.5194/essd-16-1353-2024).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from data_prep.archive.scene import LandCover

STATE_THEM = (
    "state the years in `land_cover`, by number of bands or by name, as for GLC_FCS30D: "
    "`band_years: {3: [1985, 1990, 1995], 23: 2000-2022}` or `band_years: {'*_5years*': [1985, 1990, 1995]}`"
)
_YEAR = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)")
_SPAN = re.compile(r"(?<!\d)((?:19|20)\d\d)[-_]?((?:19|20)\d\d)(?!\d)")
_STEP = re.compile(r"(?<![a-z0-9])(?:(annual)|(\d+) ?years?)(?![a-z0-9])", re.IGNORECASE)


def band_years(cover: LandCover, name: str, descriptions: Sequence[str | None], where: str) -> tuple[int, ...] | None:
    """The year of each band of a raster; None for a raster of one band for which scene.yaml states no year.

    Args:
        cover: what scene.yaml states.
        name: name of the file.
        descriptions: description of each band in the file; None without one.
        where: begins error messages.

    Raises ValueError when the years of several bands are not known, and when two statements contradict each other.
    """
    count = len(descriptions)
    known = {
        "scene.yaml": _stated(cover, name, count, where),
        "the descriptions of its bands": _described(descriptions),
        "its name": _named(name, count),
    }
    found = {origin: years for origin, years in known.items() if years is not None}
    if len(set(found.values())) > 1:
        said = "; ".join(f"{origin} {years_in_words(years)}" for origin, years in found.items())
        raise ValueError(f"{where}: the years of its {count} bands contradict each other: {said}; {STATE_THEM}")
    years = next(iter(found.values()), None)
    span = _span(name)
    if years is not None and span is not None and not span[0] <= min(years) <= max(years) <= span[1]:
        raise ValueError(
            f"{where}: its {count} bands would be of {years_in_words(years)}, but its name says {span[0]} to {span[1]}; "
            + STATE_THEM
        )
    if count == 1 and known["scene.yaml"] is None:
        return None
    if years is None:
        hint = "" if span is None else f", and its name says {span[0]} to {span[1]}, which does not tell the year of each"
        raise ValueError(f"{where} has {count} bands{hint}; if they are years, {STATE_THEM}; else give a raster of one band")
    return years


def years_in_words(years: Sequence[int]) -> str:
    """Ascending years as `1985, 1990, 2000 to 2022`."""
    runs: list[list[int]] = []
    for year in years:
        if runs and year == runs[-1][-1] + 1:
            runs[-1].append(year)
        else:
            runs.append([year])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _stated(cover: LandCover, name: str, count: int, where: str) -> tuple[int, ...] | None:
    """The years by scene.yaml. Raises ValueError when it states others for the same file, or not one per band."""
    if cover.first_year is not None:
        return tuple(range(cover.first_year, cover.first_year + count))
    fitting = {key: years for key, years in cover.band_years if key == count or fnmatchcase(name, str(key))}
    if len(set(fitting.values())) > 1:
        raise ValueError(f"{where}: the keys {list(fitting)} of band_years both fit it and state other years")
    years = next(iter(fitting.values()), None)
    if years is not None and len(years) != count:
        raise ValueError(f"{where}: has {count} bands, but band_years states {len(years)} years, {years_in_words(years)}")
    return years


def _described(descriptions: Sequence[str | None]) -> tuple[int, ...] | None:
    """The years by descriptions such as `2000` or `lc_2000`; None unless each band has one year of its own."""
    found = [_YEAR.findall(text or "") for text in descriptions]
    if any(len(years) != 1 for years in found):
        return None
    years = tuple(int(text) for (text,) in found)
    return years if len(set(years)) == len(years) else None


def _named(name: str, count: int) -> tuple[int, ...] | None:
    """The years by a name with the first and last year, and the step unless it is a year; None unless all fit the bands."""
    span, steps = _span(name), {1 if step[0] else int(step[1]) for step in _STEP.findall(name.replace("_", " "))}
    if span is None or len(steps) > 1 or count == 1:
        return None
    step = steps.pop() if steps else 1
    years = tuple(range(span[0], span[1] + 1, max(1, step)))
    return years if len(years) == count and years[-1] == span[1] else None


def _span(name: str) -> tuple[int, int] | None:
    """The first and last year in a name, such as `19851995` or `2000-2022`; None unless there is one such pair."""
    found = {(int(first), int(last)) for first, last in _SPAN.findall(name) if first < last}
    return found.pop() if len(found) == 1 else None
