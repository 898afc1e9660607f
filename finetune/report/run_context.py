"""What a report says of a run beside its scores: folder, data, versions and date."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DISTRIBUTIONS = {"agrifm": "agrifm-pretrain", "torch": "torch"}
MOST_NAMES = 12  # of scenes of one split


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What a report says of a run beside its scores.

    Attributes:
        folder: the run's folder.
        data: the path or URL of its labelled data.
        scenes: names of the scenes by split; empty where the data are samples.
        simulated: names of the scenes whose images are simulated.
        versions: version by name of the software.
        date: day on which the report was made, YYYY-MM-DD.
    """

    folder: Path
    data: str
    scenes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    simulated: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    date: str = ""

    @property
    def about_simulated(self) -> str:
        """A sentence about simulated scenes; "" when there are none."""
        everything = [name for names in self.scenes.values() for name in names]
        if not self.simulated:
            return ""
        if set(everything) <= set(self.simulated):
            return "Simulated data: the images and labels of this run are not real."
        return f"Partly simulated data: the images and labels of {named(self.simulated)} are not real."

    def facts(self) -> list[tuple[str, str]]:
        """Names and values for people."""
        facts = [("data", self.data)]
        facts += [(f"{split} scenes", named(names)) for split, names in self.scenes.items()]
        facts.append(("made on", f"{self.date} by {', '.join(f'{name} {number}' for name, number in self.versions.items())}"))
        return facts

    def commands(self, task_has_scenes: bool) -> dict[str, str]:
        """Command lines that use this run, by what they do."""
        run = shlex.quote(str(self.folder.resolve()))
        commands = {
            "Map a new scene with this run": f"agrifm predict --model {run} --input scenes/NEW_SCENE --output new_scene.tif"
        }
        if task_has_scenes:
            commands["Look at the maps of the test scenes in a browser"] = f"agrifm view {run}"
        return commands


def named(names: Sequence[str]) -> str:
    """Names in a row; of many the first ones and how many there are."""
    shown = ", ".join(names[:MOST_NAMES])
    return shown if len(names) <= MOST_NAMES else f"{shown} and {len(names) - MOST_NAMES} more"


def software_versions() -> dict[str, str]:
    """Version by name of the software that makes a report."""
    found = {}
    for name, distribution in DISTRIBUTIONS.items():
        try:
            found[name] = version(distribution)
        except PackageNotFoundError:  # a checkout that was not installed
            found[name] = "of a checkout"
    return found


def today() -> str:
    """Today's date in UTC, YYYY-MM-DD."""
    return time.strftime("%Y-%m-%d", time.gmtime())
