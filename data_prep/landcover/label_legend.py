"""What the codes in the labels of samples mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import is_data_error
from data_prep.archive.scene import SCENE_FILE, Scene


@dataclass(frozen=True, kw_only=True)
class LabelLegend:
    """What the codes in the labels of samples mean.

    Attributes:
        name: name of the label in scene.yaml.
        classes: name of the class by code.
        nodata: code that means "not labelled".
    """

    name: str
    classes: Mapping[int, str]
    nodata: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `label_legend_from_dict` is the inverse."""
        return {"name": self.name, "classes": {str(code): name for code, name in self.classes.items()}, "nodata": self.nodata}


def label_legend_from_dict(values: Mapping[str, Any]) -> LabelLegend:
    """Inverse of `LabelLegend.to_dict`."""
    return LabelLegend(
        name=values["name"], classes={int(code): name for code, name in values["classes"].items()}, nodata=values["nodata"]
    )


def label_legends(scenes: Sequence[Scene], labels: Mapping[str, str]) -> dict[str, LabelLegend]:
    """The legend of each source's label. `labels`: name of the label by source. Scenes without the label, or
    whose file of it cannot be read, do not count.

    Raises ValueError when no scene with the source has the label, and when two scenes give it different codes.
    """
    # Imported here because pandas comes along, which modules that only read a legend do without.
    from data_prep.landcover.label_classes import with_classes

    found: dict[str, tuple[LabelLegend, str]] = {}
    for source, name in labels.items():
        with_source = [scene for scene in scenes if source in scene.sources]
        for scene in with_source:
            if name not in scene.labels:
                continue
            try:
                label = with_classes(scene.labels[name], f"{scene.folder / SCENE_FILE}, label {name}")
            except ValueError as error:
                if not is_data_error(error):
                    raise
                continue  # the survey rejects its series
            here = LabelLegend(name=name, classes=dict(label.classes), nodata=label.nodata)
            first, other = found.setdefault(source, (here, scene.name))
            if here != first:
                raise ValueError(
                    f"label {name!r} of scene {scene.name} has the codes {dict(here.classes)} and no data {here.nodata}; that of "
                    f"{other} {dict(first.classes)} and {first.nodata}: samples of one corpus need the same"
                )
        if source not in found:
            held = sorted({label for scene in with_source for label in scene.labels})
            raise ValueError(f"--label.{source} {name}: no scene with {source} has this label; they have {held or 'none'}")
    return {source: legend for source, (legend, _) in found.items()}
