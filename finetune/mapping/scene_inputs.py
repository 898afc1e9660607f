"""The scenes that a command shall map: single ones, folders of scenes, or what a search in a STAC catalogue finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common.command_line import parse
from common.storage import AnyPath, subfolders_with
from common.yaml_files import read_yaml
from data_prep.archive.scene import SCENE_FILE
from data_prep.stac_search.searching import search_scenes
from data_prep.stac_search.settings import SearchSettings


def scene_folders(inputs: Sequence[AnyPath]) -> list[AnyPath]:
    """The folders of all scenes in `inputs`, each a scene or a folder of scenes, without repetitions, in a fixed order.

    Raises ValueError for an input without a scene.
    """
    found: dict[str, AnyPath] = {}
    for folder in inputs:
        scenes = [folder] if (folder / SCENE_FILE).is_file() else subfolders_with(folder, SCENE_FILE) if folder.is_dir() else []
        if not scenes:
            raise ValueError(
                f"no {SCENE_FILE} in {folder} or its subfolders: give scenes, which are folders with a {SCENE_FILE} each, or a "
                "folder of scenes"
            )
        found |= {str(scene.resolve()): scene for scene in scenes}
    return [found[key] for key in sorted(found)]


def searched_folder(search: Path, derived: Path) -> Path:
    """Search a STAC catalogue, and return the folder of the scenes that were found.

    The search resumes, and one that is finished is not repeated. A scene holds all dates of its tile, unless the file says
    otherwise, since seasons may cross New Year.

    Args:
        search: YAML with the options of data_prep/scenes.py.
        derived: folder for the scenes, if the file states no `output`.

    Raises ValueError for a file that is none, and when nothing is found.
    """
    if not search.is_file():
        raise ValueError(f"there is no search {search}: give a YAML file with options of data_prep/scenes.py")
    values = read_yaml(search)
    stated = values if isinstance(values, dict) else {}
    words = ["--config", str(search)] + ([] if "output" in stated else ["--output", str(derived)])
    settings = SearchSettings(**vars(parse(search_scenes, words, config_class=SearchSettings)))
    if "by_year" not in stated:
        settings = replace(settings, by_year=False)
    print(search_scenes(settings))
    return settings.output
