"""The description of a public data set, `public_dataset.yaml`, which stands for it as `--data` of fine-tuning.

    kind: pastis
    folder: /data/PASTIS                 # where its files lie; they are read there
    validation_folds: [4]
    test_folds: [5]

    kind: fields_of_the_world
    folder: /data/ftw
    countries: [austria, kenya]
    offset: 0                            # added to the stored numbers of Sentinel-2

`finetune/import_dataset.py` writes it, with a task that fits, after a look at all names of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from common.storage import AnyPath, joined
from common.value_types import check_value
from common.yaml_files import read_yaml

PUBLIC_FILE = "public_dataset.yaml"
TASK_FILE = "task.yaml"
Kind = Literal["pastis", "fields_of_the_world"]
_KEYS: dict[str, dict[str, Any]] = {
    "pastis": {"kind": str, "folder": str, "validation_folds": list[int], "test_folds": list[int]},
    "fields_of_the_world": {"kind": str, "folder": str, "countries": list[str], "offset": int},
}


@dataclass(frozen=True, kw_only=True)
class PastisDescription:
    """PASTIS: which of its folds are for validation and for the test; all others are for training."""

    folder: AnyPath
    validation_folds: tuple[int, ...] = (4,)
    test_folds: tuple[int, ...] = (5,)

    def __post_init__(self) -> None:
        held_out = [*self.validation_folds, *self.test_folds]
        if not self.validation_folds or not self.test_folds or len(set(held_out)) < len(held_out):
            raise ValueError(
                f"validation_folds {list(self.validation_folds)} and test_folds {list(self.test_folds)} must hold a fold each, "
                "and none twice"
            )


@dataclass(frozen=True, kw_only=True)
class FieldsDescription:
    """Fields of The World: which countries, and what is added to the stored numbers of Sentinel-2 (`offset`)."""

    folder: AnyPath
    countries: tuple[str, ...]
    offset: int

    def __post_init__(self) -> None:
        if not self.countries or len(set(self.countries)) < len(self.countries):
            raise ValueError(f"countries are {list(self.countries)}; expected at least one, each once")


Description = PastisDescription | FieldsDescription
_CLASSES: dict[str, type[Any]] = {"pastis": PastisDescription, "fields_of_the_world": FieldsDescription}


def read_description(data: AnyPath) -> Description:
    """The public data set that the folder `data` describes. Raises ValueError that names the file and the wrong key."""
    path = data / PUBLIC_FILE
    values = read_yaml(path)
    if not isinstance(values, dict) or values.get("kind") not in get_args(Kind):
        found = values.get("kind") if isinstance(values, dict) else values
        raise ValueError(f"{path}: kind is {found!r}; expected {' or '.join(get_args(Kind))}")
    kind = values["kind"]
    if set(values) != set(_KEYS[kind]):
        raise ValueError(f"{path}: a description of {kind} has the keys {sorted(_KEYS[kind])}; found {sorted(map(str, values))}")
    for key, value in values.items():
        check_value(value, _KEYS[kind][key], f"{path}: {key}")
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if key != "kind"}
    try:
        made: Description = _CLASSES[kind](**options | {"folder": joined(data, values["folder"])})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return made


def description_values(description: Description) -> Mapping[str, Any]:
    """The content of `public_dataset.yaml`, with the whole path of the folder."""
    kind = next(name for name, made in _CLASSES.items() if isinstance(description, made))
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(description).items()}
    folder = description.folder.resolve() if isinstance(description.folder, Path) else description.folder
    return {"kind": kind} | values | {"folder": str(folder)}
