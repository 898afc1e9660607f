"""A task: what is mapped, from which sources, in which season. One YAML file a task in `finetune/tasks/`."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from data_prep.scene import Label

TASKS = Path(__file__).parent / "tasks"
IGNORE = -1
LOSSES = ("cross_entropy", "balanced_cross_entropy", "dice", "focal")


@dataclass(frozen=True, kw_only=True)
class MapClass:
    """One class of the map: its name, colour (`#rrggbb`) and the names in a scene's label that belong to it."""

    name: str
    color: str
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"#[0-9a-fA-F]{6}", self.color):
            raise ValueError(f"class {self.name}: color is {self.color!r}; expected #rrggbb")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A mapping task.

    Attributes:
        name, title: for files and for people.
        label: name of the label raster in `scene.yaml`; its grid is the grid of the map.
        classes: the first takes every labelled pixel that no other class claims; the index is the value in the map.
        sources: sources the model reads, in the order of the decoder's channels.
        frames: images a source, one from each of so many equal periods of the season.
        season: first and last (month, day); when the first comes later in the year than the last, the season begins in
            the year before.
        window_px: side of a training window in pixels of the label.
        target: the class whose F1 stands for the task in titles and tables; None for the mean over classes.
        loss: `cross_entropy`, `balanced_cross_entropy` with weights by inverse square root of the class's frequency, `dice`,
            `focal` (see `finetune/losses.py`), or the weights of several that are summed: `{cross_entropy: 1, dice: 0.5}`.
    """

    name: str
    title: str
    label: str
    classes: tuple[MapClass, ...]
    sources: tuple[str, ...]
    frames: int
    season: tuple[str, str]
    window_px: int
    target: str | None = None
    loss: str | Mapping[str, float] = "cross_entropy"

    def __post_init__(self) -> None:
        names = [c.name for c in self.classes]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"task {self.name}: needs at least two classes with distinct names, got {names}")
        claimed = [label for c in self.classes for label in c.labels]
        twice = sorted({label for label in claimed if claimed.count(label) > 1})
        if self.classes[0].labels or twice or not all(c.labels for c in self.classes[1:]):
            raise ValueError(
                f"task {self.name}: the first class takes the rest and lists no labels, every other class lists its own; "
                f"listed twice: {twice or 'none'}"
            )
        if self.target is not None and self.target not in names:
            raise ValueError(f"task {self.name}: target is {self.target!r}, which is none of its classes {names}")
        if not self.sources or len(set(self.sources)) < len(self.sources):
            raise ValueError(f"task {self.name}: sources must be distinct and at least one, got {list(self.sources)}")
        if self.frames < 1 or self.window_px < 1:
            raise ValueError(f"task {self.name}: frames {self.frames} and window_px {self.window_px} must be at least 1")
        self._check_loss()
        self.season_of(2001)

    def _check_loss(self) -> None:
        """Raises ValueError unless `loss` is a known one, or weights above 0 of known ones."""
        if isinstance(self.loss, Mapping):
            good = len(self.loss) > 0 and all(
                name in LOSSES and isinstance(weight, int | float) and 0 < weight < math.inf for name, weight in self.loss.items()
            )
        else:
            good = self.loss in LOSSES
        if not good:
            raise ValueError(
                f"task {self.name}: loss is {self.loss!r}; expected one of {', '.join(LOSSES)}, "
                "or weights above 0 of some of them: {cross_entropy: 1, dice: 1}"
            )

    @property
    def loss_terms(self) -> dict[str, float]:
        """The weight of each loss in the sum."""
        return dict(self.loss) if isinstance(self.loss, Mapping) else {self.loss: 1.0}

    def season_of(self, year: int) -> tuple[np.datetime64, np.datetime64]:
        """First day of the season that ends in `year`, and the day after its last."""
        try:
            (first_month, first_day), (last_month, last_day) = (
                tuple(int(part) for part in month_day.split("-")) for month_day in self.season
            )
            crosses_new_year = (first_month, first_day) > (last_month, last_day)
            first = date(year - crosses_new_year, first_month, first_day)
            last = date(year, last_month, last_day)
        except (ValueError, AttributeError) as error:
            raise ValueError(
                f"task {self.name}: season is {list(self.season)}; expected two of the form MM-DD ({error})"
            ) from error
        return np.datetime64(first, "D"), np.datetime64(last, "D") + np.timedelta64(1, "D")

    def year_of(self, dates: np.ndarray) -> int:
        """The year whose season holds most of `dates` (datetime64[D]), the first of equals."""
        years = np.unique(dates.astype("datetime64[Y]").astype(int) + 1970)
        candidates = range(int(years.min()), int(years.max()) + 2)

        def images(year: int) -> int:
            first, end = self.season_of(year)
            return int(((dates >= first) & (dates < end)).sum())

        return max(candidates, key=lambda year: (images(year), -year))

    def class_indices(self, codes: np.ndarray, label: Label) -> np.ndarray:
        """Label codes -> class indices int64 of the same shape, `IGNORE` where not labelled.

        Raises ValueError for a code without a name in `scene.yaml`: a wrong raster must not pass as "other".
        """
        unknown = sorted(set(np.unique(codes).tolist()) - set(label.classes) - {label.nodata})
        if unknown:
            raise ValueError(
                f"{label.path} holds codes {unknown[:5]} that scene.yaml does not name; known: {dict(label.classes)}"
            )
        indices = np.full(codes.shape, IGNORE, dtype=np.int64)
        owner = {name: index for index, c in enumerate(self.classes) for name in c.labels}
        for code, name in label.classes.items():
            if code != label.nodata:
                indices[codes == code] = owner.get(name, 0)
        return indices

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `task_from_dict` is the inverse."""
        return asdict(self)


def task_from_dict(values: Mapping[str, Any], origin: str = "task") -> Task:
    """Build a Task from plain values. Raises ValueError that names `origin` and the key that is wrong."""
    try:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        classes = tuple(MapClass(**(entry | {"labels": tuple(entry.get("labels", ()))})) for entry in values["classes"])
        return Task(**(fields | {"classes": classes}))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{origin} does not describe a task: {error}; see {TASKS / 'paddy_rice.yaml'} for every key") from error


def load_task(name_or_path: str) -> Task:
    """A task of `finetune/tasks/` by name, or any task by the path of its YAML."""
    path = Path(name_or_path) if name_or_path.endswith(".yaml") else TASKS / f"{name_or_path}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in TASKS.glob("*.yaml"))
        near = difflib.get_close_matches(name_or_path, known, 1, 0.5)
        raise ValueError(
            f"unknown task {name_or_path!r}"
            + (f", did you mean {near[0]}?" if near else ";")
            + f" known tasks: {', '.join(known)}; or give the path of a .yaml file"
        )
    values = yaml.safe_load(path.read_text())
    if not isinstance(values, dict):
        raise ValueError(f"{path} does not describe a task: it holds {type(values).__name__}, expected keys and values")
    return task_from_dict(values, origin=str(path))
