"""The additive offsets of the stored numbers of archives, which may differ by date or by processing baseline."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.archive.sensor import Sensor

# The option `offset` in scene.yaml: one number, or numbers by the first date or the first processing baseline they apply to.
Offset = int | Mapping[Any, int] | None


def stated_offsets(
    offset: Offset, sensor: Sensor, dates: np.ndarray, origin: str, baselines: Sequence[str | None] | None = None
) -> np.ndarray:
    """The additive offset of each date according to scene.yaml: int64 (T,), to be added to the stored numbers.

    Args:
        offset: one whole number for all dates; or numbers by the date from which they apply,
            `{2015-06-23: 0, 2022-01-25: -1000}`; or numbers by the processing baseline from which they apply,
            `{00.00: 0, 04.00: -1000}`.
        sensor: sensor of the source.
        dates: (T,) datetime64[D].
        origin: begins error messages.
        baselines: (T,) processing baselines where file names contain them.

    Raises ValueError when archives of the sensor differ in the offset and scene.yaml does not state it (it is never guessed),
    when they do not differ and scene.yaml states one, and when a date lies before all keys of `offset`.
    """
    if sensor.offset_varies and offset is None:
        raise ValueError(
            f"{origin}: archives of {sensor.name} differ in an additive offset, so scene.yaml must state it: "
            "`offset: -1000` for Sentinel-2 from processing baseline 04.00 on, `offset: 0` before or when harmonised already, "
            "or both by date or baseline, `offset: {2015-06-23: 0, 2022-01-25: -1000}`"
        )
    stated = offset if isinstance(offset, Mapping) else {None: 0 if offset is None else offset}
    for number in stated.values():
        if isinstance(number, bool) or not isinstance(number, int):
            raise ValueError(f"{origin}: offset is {number!r}; expected a whole number that is added to the stored numbers")
        check_offset(number, sensor, origin)
    if not sensor.offset_varies and any(stated.values()):
        raise ValueError(
            f"{origin}: offset {offset}, but source {sensor.name} has none; "
            "if its archives differ in it, its YAML needs offset_varies: true"
        )
    if not isinstance(offset, Mapping):
        return np.full(len(dates), stated[None], dtype=np.int64)
    keys, sought = _offset_keys(offset, dates, origin, baselines)
    order = np.argsort(keys)
    position = np.searchsorted(keys[order], sought, side="right") - 1
    if (position < 0).any():
        first = int(np.argmax(position < 0))
        raise ValueError(f"{origin}: offset {dict(offset)} says nothing of {dates[first]}, which lies before all of its keys")
    return np.array(list(offset.values()), dtype=np.int64)[order][position]


def _offset_keys(
    offset: Mapping[Any, int], dates: np.ndarray, origin: str, baselines: Sequence[str | None] | None
) -> tuple[np.ndarray, np.ndarray]:
    """The keys of `offset` as dates or processing baselines, and those of the images (T,) to find among them."""
    if offset and all(re.fullmatch(r"\d{1,2}\.\d{1,2}", str(key)) for key in offset):
        if baselines is None or None in baselines:
            raise ValueError(
                f"{origin}: offset by processing baseline, but file names give none; `pattern` needs a group baseline"
            )
        keys = np.array([baseline_number(str(key)) for key in offset])
        return keys, np.array([baseline_number(str(baseline)) for baseline in baselines])
    try:
        return np.array([np.datetime64(str(key), "D") for key in offset]), dates
    except ValueError as error:
        raise ValueError(
            f"{origin}: offset {dict(offset)}: keys must all be dates like 2022-01-25, or baselines: {error}"
        ) from error


def check_offset(offset: int, sensor: Sensor, origin: str) -> None:
    """Raises ValueError when `offset` moves every number of the sensor's dtype out of the valid range."""
    limits, (low, high) = np.iinfo(sensor.dtype), sensor.valid_range
    if not (limits.min + offset <= high and limits.max + offset >= low):
        raise ValueError(f"{origin}: offset {offset} moves every number of {sensor.dtype} out of the valid range {low} to {high}")


def baseline_number(baseline: str) -> int:
    """A processing baseline as a number, by which offsets are looked up: 400 for 04.00, 4.0, 0400 and N0400."""
    match = re.fullmatch(r"N?(?:(\d{2})(\d{2})|(\d{1,2})\.(\d{1,2}))", baseline)
    if match is None:
        raise ValueError(f"{baseline!r} is not a processing baseline; expected one like 04.00 or N0400")
    major, minor = (match[1], match[2]) if match[1] else (match[3], match[4].ljust(2, "0"))
    return int(major) * 100 + int(minor)
