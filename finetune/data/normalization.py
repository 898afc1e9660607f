"""By which mean, standard deviation and limits the bands of each source are normalised: the choice of `--normalization`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from common.errors import UNREACHABLE
from common.storage import AnyPath, any_path
from data_prep.archive.sensor import Sensor

# "mean" and "std" of each band of a source, and perhaps the limits "low" and "high", in stored numbers.
BandStatistics = dict[str, list[float]]

CHECKPOINT, TASK = "checkpoint", "task"
# Mean reflectance that the brightest band has over all land of a task; water alone has less, and no task is about water alone.
DARKEST_MEAN = 0.01
# Means of one band differ by up to four times between landscapes, from conifers to deserts; wrong scales by ten or more.
LARGEST_RATIO = 5.0


def choose_normalization(
    choice: str,
    sensors: Mapping[str, Sensor],
    of_checkpoint: Mapping[str, BandStatistics] | None,
    of_training_windows: Callable[[str], BandStatistics],
) -> tuple[dict[str, BandStatistics], dict[str, str]]:
    """Band statistics of each source, and where they are from, in words.

    Args:
        choice: `checkpoint`: those that the encoder was pretrained with, or, of a source that has none, those of the training
            windows; `task`: those of the training windows; or the path of a JSON file, see `read_band_statistics`.
        sensors: sensor of each source of the task.
        of_checkpoint: statistics of the sources that the checkpoint has; None without a checkpoint.
        of_training_windows: gives those of the training windows of a source.

    Raises ValueError when the file is not as expected, and what `of_training_windows` raises.
    """
    known: Mapping[str, BandStatistics] = {}
    if choice == CHECKPOINT:
        known = of_checkpoint or {}
    elif choice != TASK:
        known = read_band_statistics(any_path(choice), sensors)
    origin = "the checkpoint" if choice == CHECKPOINT else choice
    chosen = {source: known.get(source) or of_training_windows(source) for source in sensors}
    return chosen, {source: origin if known.get(source) else "the training windows" for source in sensors}


def check_magnitudes(source: str, found: BandStatistics | None, sensor: Sensor, of_checkpoint: BandStatistics | None) -> None:
    """Raises ValueError when the training windows are not on the scale of the sensor, or not on that of the checkpoint.

    Such a model would map scenes whose numbers are as the product stores them to nonsense.

    Args:
        source: the source.
        found: its statistics in the training windows; None where these have no clear pixel of it.
        sensor: meaning of its numbers.
        of_checkpoint: its statistics in pretraining; None where they are not known.
    """
    if found is None:
        return
    brightest = max(found["mean"]) * sensor.scale
    if 0 <= brightest < DARKEST_MEAN:
        raise ValueError(
            f"the brightest band of {source} has a mean of {max(found['mean']):g} in the training windows, a reflectance of "
            f"{brightest:.2g}, which no land has; expected numbers as the product stores them, which are reflectance / "
            f"{sensor.scale:g}"
        )
    if of_checkpoint is None:
        return
    ratio = other_scale(found["mean"], of_checkpoint["mean"])
    if ratio is not None:
        raise ValueError(
            f"the numbers of {source} in the training windows are {ratio:.2g} times those that the checkpoint was pretrained on, "
            f"with means {_rounded(found['mean'])} instead of {_rounded(of_checkpoint['mean'])}; give numbers on the same scale, "
            "as the product stores them, or normalise by --normalization task if they are meant to be of another scale"
        )


def other_scale(found: Sequence[float], known: Sequence[float]) -> float | None:
    """How many times larger the means `found` of the bands are than the `known` ones, if that tells of another scale; else None.

    It is the median over bands. Means that are not above 0 tell nothing.
    """
    if min(known) <= 0:
        return None
    ratio = median(here / there for here, there in zip(found, known, strict=True))
    return None if 1 / LARGEST_RATIO <= ratio <= LARGEST_RATIO else ratio


def _rounded(values: list[float]) -> str:
    return f"[{', '.join(f'{value:.4g}' for value in values)}]"


def read_band_statistics(path: AnyPath, sensors: Mapping[str, Sensor]) -> dict[str, BandStatistics]:
    """Band statistics of each source in a JSON file {source: {"mean": [...], "std": [...]}}, or in a corpus' dataset.json.

    A source may also have the limits "low" and "high", beyond which numbers count as these.
    Numbers are those that the archive stores, one for each band of the sensor, in its order. Raises ValueError for anything else.
    """
    content = read_json_file(path)
    sources: dict[str, Any] = content.get("sources", content) if isinstance(content, dict) else {}
    found = {}
    for source, sensor in sensors.items():
        values: Any = sources.get(source)
        if isinstance(values, dict):
            values = values.get("normalization", values)  # of a corpus
        if not _is_of_bands(values, len(sensor.bands)):
            raise ValueError(
                f"--normalization {path} has no mean and std above 0 of the {len(sensor.bands)} bands of {source} "
                f"({', '.join(sensor.bands)}), or limits low and high that are not above and below; "
                f"expected {{{source}: {{mean: [...], std: [...]}}}}"
            )
        names = ("mean", "std", "low", "high") if "low" in values else ("mean", "std")
        found[source] = {name: [float(value) for value in values[name]] for name in names}
    return found


def read_json_file(path: AnyPath) -> Any:
    """Content of the file of `--normalization`. Raises ValueError when it cannot be read."""
    try:
        return json.loads(path.read_text())
    except UNREACHABLE:
        raise
    except (OSError, ValueError) as error:
        raise ValueError(f"--normalization {path} is no readable JSON ({error}); expected checkpoint, task or a file") from error


def _is_of_bands(values: object, bands: int) -> bool:
    """Whether values are a mean, a standard deviation above 0, and both limits or none, of so many bands."""
    if not isinstance(values, dict):
        return False
    has_limits = "low" in values or "high" in values
    columns = [values.get(name) for name in ("mean", "std", *(("low", "high") if has_limits else ()))]
    if not all(isinstance(column, list) and len(column) == bands and all(map(_is_finite, column)) for column in columns):
        return False
    return min(values["std"]) > 0 and (
        not has_limits or all(low < high for low, high in zip(values["low"], values["high"], strict=True))
    )


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
