"""A mapping task: its classes, sources and season. `finetune/tasks/` has one YAML file per task."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from common.storage import any_path
from common.yaml_files import read_yaml
from common.yaml_keys import check_keys
from data_prep.archive.label import Label

TASKS = Path(__file__).parent / "tasks"
IGNORE = -1
CLASS_DTYPE = np.int16  # of class indices and IGNORE
SHORTEST_MISSPELT = 5  # letters of the shortest name that one letter does not make another: "oat" and "goat" are two
MOST_CLASSES = 255  # a map stores class indices in one byte, where 255 means no data
MISSING_SOURCES = ("error", "allow")
Compositing = Literal["image", "pixel"]
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
        label: name of the label in `scene.yaml`, a raster, parcels or points; its grid is the grid of the map.
        classes: at most 255; a class's index is its value in the map. Each class lists the names in the label that belong to it;
            the first may list none, and then gets every labelled pixel that belongs to no other class.
        sources: sources the model reads, in the order of the decoder's channels.
        frames: images per source; the season has as many equal periods, and each gives one image.
        season: first and last day, MM-DD, both included; when the first is later in the year than the last, the season begins in
            the year before.
        window_px: side of a training window in pixels of the label.
        target: the class whose F1 is the task's headline score; None for the mean F1 over classes.
        loss: `cross_entropy`, `balanced_cross_entropy` with weights by inverse square root of the class's frequency, `dice`,
            `focal` (see `finetune/training/losses.py`), or weights of a sum: `{cross_entropy: 1, dice: 0.5}`.
        cut_dates: last dates, MM-DD and ascending, that an early-season map may use. In training, the series of a window ends at
            one of them or at the season's end; the model is scored at each (`finetune/scoring/early_season.py`). Empty: always
            the whole season.
        season_share: share of the whole season's score that a map must reach to be early enough.
        objects: the class whose connected areas are scored as objects, such as the interiors of fields; None for none.
        upsample: for each source, how often its pixels are repeated along rows and columns before the encoder; 1 for sources that
            it does not name. A patch of the encoder is 4 x 4 pixels: a coarse source repeated 4 times has one patch per pixel.
            Repeated, not interpolated: interpolation would mix the zeros of pixels that are not clear into their neighbours.
        compositing: what a period gives: `image`, its clearest image; or `pixel`, that image, and where it is not clear the pixel
            of the next clearest image that is. Dates then differ within a frame.
        missing_sources: `error`, or `allow`: scenes and samples that lack some of the sources are used with zeros (the mean of
            each band) in their place.
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
    cut_dates: tuple[str, ...] = ()
    season_share: float = 0.95
    objects: str | None = None
    upsample: Mapping[str, int] = field(default_factory=dict)
    compositing: Compositing = "image"
    missing_sources: str = "error"

    def __post_init__(self) -> None:
        names = [c.name for c in self.classes]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"task {self.name}: needs at least two classes with distinct names, got {names}")
        if len(names) > MOST_CLASSES:
            raise ValueError(
                f"task {self.name}: has {len(names)} classes; a map holds at most {MOST_CLASSES}, as it stores class indices in "
                "one byte, where 255 means no data: merge classes, by listing the labels of several in one"
            )
        claimed = [label for c in self.classes for label in c.labels]
        twice = sorted({label for label in claimed if claimed.count(label) > 1})
        if twice or not all(c.labels for c in self.classes[1:]):
            raise ValueError(
                f"task {self.name}: every class must list its labels; only the first class may list none, to get the rest; "
                f"listed twice: {twice or 'none'}"
            )
        for key, named in (("target", self.target), ("objects", self.objects)):
            if named is not None and named not in names:
                raise ValueError(f"task {self.name}: {key} is {named!r}, which is none of its classes {names}")
        if not self.sources or len(set(self.sources)) < len(self.sources):
            raise ValueError(f"task {self.name}: sources must be distinct and at least one, got {list(self.sources)}")
        if self.frames < 1 or self.window_px < 1:
            raise ValueError(f"task {self.name}: frames {self.frames} and window_px {self.window_px} must be at least 1")
        if self.missing_sources not in MISSING_SOURCES:
            raise ValueError(f"task {self.name}: missing_sources is {self.missing_sources!r}; expected error or allow")
        if self.compositing not in get_args(Compositing):
            raise ValueError(f"task {self.name}: compositing is {self.compositing!r}; expected image or pixel")
        self._check_loss()
        self.season_of(2001)
        if not 0 < self.season_share <= 1:
            raise ValueError(f"task {self.name}: season_share is {self.season_share}; expected a share above 0, at most 1")
        if not isinstance(self.upsample, Mapping) or not all(isinstance(n, int) and n >= 1 for n in self.upsample.values()):
            raise ValueError(f"task {self.name}: upsample is {self.upsample}; expected {{source: whole number, at least 1}}")
        days = self.days_seen(2001)
        if list(days) != sorted(set(days)):
            raise ValueError(
                f"task {self.name}: cut_dates {list(self.cut_dates)} must be distinct, in order, and in the season "
                f"{list(self.season)}"
            )

    def _check_loss(self) -> None:
        """Raises ValueError unless `loss` is a known loss, or weights above 0 of known losses."""
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
        """First day of the season that ends in `year`, and the day after its last day."""
        try:
            (first_month, first_day), (last_month, last_day) = map(_month_and_day, self.season)
            crosses_new_year = (first_month, first_day) > (last_month, last_day)
            first = date(year - crosses_new_year, first_month, first_day)
            last = date(year, last_month, last_day)
        except (ValueError, AttributeError) as error:
            raise ValueError(
                f"task {self.name}: season is {list(self.season)}; expected two dates of the form MM-DD ({error})"
            ) from error
        return np.datetime64(first, "D"), np.datetime64(last, "D") + np.timedelta64(1, "D")

    def days_seen(self, year: int) -> tuple[int, ...]:
        """Number of days of the season that ends in `year` up to each cut date, that date included, and of the whole season."""
        first, end = self.season_of(year)
        begin = first.astype(date)
        days = []
        for cut in self.cut_dates:
            try:
                month_day = _month_and_day(cut)
                last = date(begin.year + (month_day < (begin.month, begin.day)), *month_day)
            except (ValueError, AttributeError) as error:
                raise ValueError(f"task {self.name}: cut date {cut!r}; expected MM-DD of any year ({error})") from error
            days.append((last - begin).days + 1)
        whole = int((end - first).astype(int))
        return (*days, whole) if not days or days[-1] != whole else tuple(days)

    def year_of(self, dates: np.ndarray) -> int:
        """The year whose season holds most of `dates` (datetime64[D]); the first year if several hold as many."""
        images = self._images_of_seasons(dates)
        return max(images, key=lambda year: (images[year], -year))

    def year_among(self, years: Sequence[int], dates: np.ndarray) -> int:
        """That of some years whose season holds most of `dates` (datetime64[D]); the first if several hold as many."""
        images = {year: int(((dates >= first) & (dates < end)).sum()) for year in years for first, end in [self.season_of(year)]}
        return max(images, key=lambda year: (images[year], -year))

    def begins_in_year_before(self) -> tuple[int, int] | None:
        """Month and day at which the season begins, if it begins in the year before that in which it ends; else None."""
        first, last = map(_month_and_day, self.season)
        return first if first > last else None

    def likely_years(self, dates: np.ndarray) -> list[int]:
        """The years whose seasons hold at least half as many of `dates` (datetime64[D]) as the one that holds most."""
        images = self._images_of_seasons(dates)
        return [year for year, count in images.items() if count and 2 * count >= max(images.values())]

    def _images_of_seasons(self, dates: np.ndarray) -> dict[int, int]:
        """Number of `dates` in the season that ends in each year."""
        years = np.unique(dates.astype("datetime64[Y]").astype(int) + 1970)
        seasons = {year: self.season_of(year) for year in range(int(years.min()), int(years.max()) + 2)}
        return {year: int(((dates >= first) & (dates < end)).sum()) for year, (first, end) in seasons.items()}

    def class_indices(self, codes: np.ndarray, label: Label) -> np.ndarray:
        """Label codes -> class indices int64 of the same shape, `IGNORE` where not labelled.

        Raises ValueError for a code without a name in the label's `classes`, for a name that belongs to no class, and as
        `names_of_rest` does: a wrong raster must not count as "other".
        """
        self.names_of_rest(label)
        label.check_codes(codes)
        indices = np.full(codes.shape, IGNORE, dtype=np.int64)
        owner = {name: index for index, c in enumerate(self.classes) for name in c.labels}
        for code, name in label.classes.items():
            where = codes == code
            if name not in owner and self.classes[0].labels and where.any():
                raise ValueError(
                    f"{label.path} holds {name!r} (code {code}), which no class of task {self.name} lists in its labels; add it "
                    "to one of them, or let the first class list none to get the rest"
                )
            indices[where] = owner.get(name, 0)
        return indices

    def names_of_rest(self, label: Label) -> list[str]:
        """The names in a label that no class lists, whose pixels the first class gets; none where that lists its own names.

        Raises ValueError for such a name that is nearly one that a class lists, as "Paddy rice" is nearly paddy_rice: whether it
        is the same cannot be known.
        """
        if self.classes[0].labels:
            return []
        listed = [name for c in self.classes for name in c.labels]
        rest = [name for name in label.classes.values() if name not in listed]
        for name in rest:
            near = next((other for other in listed if _are_near(name, other)), None)
            if near is not None:
                raise ValueError(
                    f"{label.path}: its `classes` name a class {name!r}, which is nearly {near!r} of task {self.name}, and would "
                    f"count as {self.classes[0].name!r}; write {near!r} there if it is the same, else a name that "
                    "differs in more than a letter"
                )
        return rest

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `task_from_dict` reads them."""
        return asdict(self)


def task_from_dict(values: Mapping[str, Any], origin: str = "task") -> Task:
    """Build a Task from plain values. Raises ValueError that names `origin` and the key that is wrong."""
    check_keys(values, Task, origin)
    try:
        for number, entry in enumerate(values["classes"], 1):
            check_keys(entry, MapClass, f"{origin}, class {number}")
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        classes = tuple(MapClass(**(entry | {"labels": tuple(entry.get("labels", ()))})) for entry in values["classes"])
        return Task(**(fields | {"classes": classes}))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{origin} does not describe a task: {error}; docs/reference/task-yaml.md explains every key") from error


def load_task(name_or_path: str) -> Task:
    """A task of `finetune/tasks/` by name, or any task by the path or URL of its YAML."""
    path = any_path(name_or_path) if name_or_path.endswith(".yaml") else TASKS / f"{name_or_path}.yaml"
    if name_or_path.endswith(".yaml") and not path.is_file():
        raise ValueError(f"there is no task file {path}")
    if not path.is_file():
        known = sorted(p.stem for p in TASKS.glob("*.yaml"))
        near = difflib.get_close_matches(name_or_path, known, 1, 0.5)
        raise ValueError(
            f"unknown task {name_or_path!r}"
            + (f", did you mean {near[0]}?" if near else ";")
            + f" known tasks: {', '.join(known)}; or give the path of a .yaml file"
        )
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise ValueError(f"{path} does not describe a task: it holds {type(values).__name__}, expected keys and values")
    task = task_from_dict(values, origin=str(path))
    check_upsampled_sources(task, str(path))
    return task


def check_upsampled_sources(task: Task, origin: str) -> None:
    """Raises ValueError that names `origin` when `upsample` of the task names a source that the task does not read."""
    unused = sorted(set(task.upsample) - set(task.sources))
    if unused:
        raise ValueError(f"{origin}: upsample names {', '.join(unused)}, none of the task's sources {', '.join(task.sources)}")


@lru_cache(maxsize=4096)  # samples of one corpus have the same names
def _are_near(name: str, other: str) -> bool:
    """Whether two names differ only in case, in what stands between words, or in one letter. Names with other digits differ."""
    one, two = (re.sub(r"[\W_]", "", text).casefold() for text in (name, other))
    if one == two:
        return True
    if re.findall(r"\d", one) != re.findall(r"\d", two) or min(len(one), len(two)) < SHORTEST_MISSPELT:
        return False
    common = sum(block.size for block in difflib.SequenceMatcher(None, one, two, autojunk=False).get_matching_blocks())
    return max(len(one), len(two)) - common <= 1


def _month_and_day(text: str) -> tuple[int, int]:
    """Month and day of "MM-DD". Raises ValueError or AttributeError for anything else."""
    month, day = (int(part) for part in text.split("-"))
    return month, day
