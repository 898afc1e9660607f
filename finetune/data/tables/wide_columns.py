"""Which columns of a wide table hold which band at which time."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from common.notes import note
from data_prep.archive.sensor import Sensor
from data_prep.readers.file_metadata import decode_days
from finetune.data.tables.description import TableSource

# WorldCereal and Presto: S2-L2A-B02_ts3_20m and OPTICAL-B02-ts3-10m.
DEFAULT_PATTERNS = {"sentinel2": r"(?:S2-L2A|OPTICAL)-(?P<band>B\w{2})[-_]ts(?P<step>\d+)[-_]\d+m"}
TIMES = ("step", "doy", "date")
MOST_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class WideColumns:
    """The columns of one source.

    Attributes:
        names: name of the column of each band at each time, [time][band], bands in the order of the sensor.
        kind: what the times are: numbers of time steps, days of the year, or dates.
        times: (T,) ascending: int64 for steps and days of the year, datetime64[D] for dates.
    """

    names: Sequence[Sequence[str]]
    kind: Literal["step", "doy", "date"]
    times: np.ndarray

    def all_names(self) -> list[str]:
        """The names of all columns."""
        return [name for of_time in self.names for name in of_time]


def wide_columns(held: Sequence[str], source: TableSource, sensor: Sensor, origin: str) -> WideColumns:
    """The columns of a source among those that a table holds.

    Raises ValueError, which `origin` begins, for a pattern that is none or fits no column, for a band that lacks a time, and for
    two columns of one band and time.
    """
    pattern = source.pattern or DEFAULT_PATTERNS.get(sensor.name)
    if pattern is None:
        raise ValueError(
            f"{origin}: states no `pattern` for the names of its columns, with the groups band and step, doy or date"
        )
    expression, kind = _compiled(pattern, sensor, origin)
    band_of = {source.bands.get(band, band): band for band in sensor.bands}
    if len(band_of) < len(sensor.bands):
        raise ValueError(f"{origin}: bands {dict(source.bands)} give two bands one name")
    found: dict[tuple[str, str], str] = {}  # name of the column by band and time
    others: set[str] = set()
    for name in held:
        match = expression.fullmatch(name)
        if match is None:
            continue
        named = match["band"] if "band" in expression.groupindex else next(iter(band_of))
        if named not in band_of:
            others.add(named)
            continue
        key = band_of[named], match[kind] if kind == "date" else str(int(match[kind]))
        if key in found:
            raise ValueError(f"{origin}: columns {found[key]!r} and {name!r} are both of band {key[0]} at {kind} {key[1]}")
        found[key] = name
    if not found:
        names = ", ".join(repr(name) for name in list(held)[:MOST_NAMED])
        bands = f"; bands in the names of columns: {', '.join(sorted(others))}" if others else ""
        raise ValueError(
            f"{origin}: no column has a name like {pattern!r} and a band of {', '.join(band_of)}{bands}; the first columns are "
            f"{names}: state the `pattern`, and in `bands` the names that the table has for bands"
        )
    if others:
        note(f"{origin}: bands {', '.join(sorted(others))} are not among those of the sensor and are not read")
    texts = list(dict.fromkeys(time for _, time in found))
    times = decode_days(np.array(texts), {}, f"{origin}: names of columns") if kind == "date" else np.array(texts, dtype=np.int64)
    if len(np.unique(times)) < len(times):
        raise ValueError(f"{origin}: several columns of one band are of one day: {texts}")
    texts = [texts[at] for at in np.argsort(times)]
    lacking = [(band, time) for time in texts for band in sensor.bands if (band, time) not in found]
    if lacking:
        band, time = lacking[0]
        similar = next((name for (of_band, at), name in found.items() if at == time or of_band == band), "")
        near = difflib.get_close_matches(similar, [name for name in held if name not in found.values()], 1, 0.5)
        raise ValueError(
            f"{origin}: {len(lacking)} columns are missing, first that of band {band} at {kind} {time}; every band of the sensor "
            f"({', '.join(sensor.bands)}) needs one at every time"
            + (f"; is it {near[0]!r}?" if near else "; describe a sensor with the bands that the table has, in `sources/`")
        )
    return WideColumns(names=[[found[band, time] for band in sensor.bands] for time in texts], kind=kind, times=np.sort(times))


def _compiled(pattern: str, sensor: Sensor, origin: str) -> tuple[re.Pattern[str], Literal["step", "doy", "date"]]:
    """A pattern, and the group in it that holds times. Raises ValueError for a pattern without the groups that are needed."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{origin}: pattern {pattern!r} is no regular expression: {error}") from error
    kinds = [kind for kind in TIMES if kind in expression.groupindex]
    needs_band = len(sensor.bands) > 1 and "band" not in expression.groupindex
    if len(kinds) != 1 or needs_band:
        raise ValueError(
            f"{origin}: pattern {pattern!r} has the groups {sorted(expression.groupindex) or 'none'}; expected (?P<band>...) and "
            "one of (?P<step>\\d+), (?P<doy>\\d+) and (?P<date>...)"
        )
    kind: Literal["step", "doy", "date"] = "step" if kinds == ["step"] else "doy" if kinds == ["doy"] else "date"
    return expression, kind
