"""The additive offsets of the stored numbers of archives, which may differ by date or by processing baseline."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.archive.sensor import Sensor

FIRST_BASELINE_WITH_OFFSET = "04.00"  # of Sentinel-2; since 2022-01-25, and for older images that were processed again

# The option `offset` in scene.yaml: one number, or numbers by the first date or the first processing baseline they apply to.
Offset = int | Mapping[Any, int] | None


def stated_offsets(
    offset: Offset, sensor: Sensor, dates: np.ndarray, origin: str, baselines: Sequence[str | None] | None = None
) -> np.ndarray | None:
    """The additive offset of each date according to scene.yaml: int64 (T,), to be added to the stored numbers.

    None when archives of the sensor differ in the offset and scene.yaml does not state it: then the files must.

    Args:
        offset: one whole number for all dates; or numbers by the date from which they apply,
            `{2015-06-23: 0, 2022-01-25: -1000}`; or numbers by the processing baseline from which they apply,
            `{00.00: 0, 04.00: -1000}`.
        sensor: sensor of the source.
        dates: (T,) datetime64[D].
        origin: begins error messages.
        baselines: (T,) processing baselines where file names contain them.

    Raises ValueError when archives of the sensor do not differ and scene.yaml states an offset, when a date lies before all keys
    of `offset`, and when baselines contradict it.
    """
    if sensor.offset_varies and offset is None:
        return None
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
        offsets, by_baseline = np.full(len(dates), stated[None], dtype=np.int64), False
    else:
        offsets, by_baseline = _offsets_by_key(offset, dates, origin, baselines)
    for date, number, baseline in zip(dates, offsets.tolist(), baselines or [None] * len(dates), strict=True):
        check_baseline(number, baseline, sensor, date, origin, by_baseline)
    return offsets


def _offsets_by_key(
    offset: Mapping[Any, int], dates: np.ndarray, origin: str, baselines: Sequence[str | None] | None
) -> tuple[np.ndarray, bool]:
    """The offset of each image by the keys of `offset`, int64 (T,), and whether these are processing baselines, not dates."""
    keys, sought = _offset_keys(offset, dates, origin, baselines)
    order = np.argsort(keys)
    position = np.searchsorted(keys[order], sought, side="right") - 1
    if (position < 0).any():
        first = int(np.argmax(position < 0))
        raise ValueError(f"{origin}: offset {dict(offset)} says nothing of {dates[first]}, which lies before all of its keys")
    return np.array(list(offset.values()), dtype=np.int64)[order][position], sought is not dates


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


def check_baseline(
    offset: int,
    baseline: str | None,
    sensor: Sensor,
    date: np.datetime64,
    origin: str,
    by_baseline: bool = False,
    stated_by: str = "scene.yaml",
) -> None:
    """Raises ValueError when the offset that is stated for an image contradicts its processing baseline.

    An archive may have removed the offset of later baselines; but whoever means that states it by baseline (`by_baseline`).
    """
    if not sensor.offset_varies or baseline is None:
        return
    later = baseline_number(baseline) >= baseline_number(FIRST_BASELINE_WITH_OFFSET)
    if (offset != 0) == later or (later and by_baseline):
        return
    expected = "-1000 from" if later else "none before"
    removed = ", or `offset: {00.00: 0, 04.00: 0}` if this archive has removed it" if later else ""
    raise ValueError(
        f"{origin}: {stated_by} states the offset {offset} for {date}, but its processing baseline is {baseline}, and the offset "
        f"is {expected} {FIRST_BASELINE_WITH_OFFSET}; state it by baseline, `offset: {{00.00: 0, 04.00: -1000}}`{removed}"
    )


def offset_in_effect(stated: int | None, in_file: float | None, sensor: Sensor, origin: str) -> int:
    """The offset of an image by what scene.yaml or metadata of the product state, and by what the file itself states.

    Raises ValueError when they differ by a stored number or more, and when neither states an offset: it is never guessed.
    """
    if in_file is None and stated is not None:
        return stated
    if in_file is None:
        raise ValueError(
            f"{origin}: archives of {sensor.name} differ in an additive offset, and the file states none, so scene.yaml must "
            "state it: `offset: -1000` for Sentinel-2 from processing baseline 04.00 on, `offset: 0` before or when harmonised "
            "already, or both by date or baseline, `offset: {2015-06-23: 0, 2022-01-25: -1000}`"
        )
    if stated is not None and abs(in_file - stated) >= 1:
        if sensor.offset_varies:
            other = f"scene.yaml or the metadata of the product state {stated}"
            advice = "leave `offset` out, and the file decides, or correct what the file states (add_offset)"
        else:
            other, advice = f"source {sensor.name} has none", "if its archives differ in it, its YAML needs offset_varies: true"
        raise ValueError(f"{origin}: the file states the offset {in_file:g}, but {other}; {advice}")
    if stated is not None:
        return stated
    offset = round(in_file)
    check_offset(offset, sensor, origin)
    return offset


def offsets_in_effect(
    stated: np.ndarray | None, in_file: float | None, sensor: Sensor, dates: np.ndarray, origin: str
) -> np.ndarray:
    """`offset_in_effect` for each date of a file that holds a series: int64 (T,)."""
    if stated is None:
        return np.full(len(dates), offset_in_effect(None, in_file, sensor, origin), dtype=np.int64)
    for offset in np.unique(stated).tolist():
        offset_in_effect(offset, in_file, sensor, origin)
    return stated


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
