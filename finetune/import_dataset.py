"""Command: describe a public data set, so that fine-tuning reads it where it lies.

    python finetune/import_dataset.py --kind pastis --input PASTIS/ --output data/pastis
    python finetune/run.py --task data/pastis/task.yaml --data data/pastis --output runs/pastis

Of PASTIS and Fields of The World it writes a description, by which fine-tuning reads their files, and a task with their classes.
Of CropHarvest, which has a file per point, it writes a table. Of parcels (EuroCrops, fiboa) it writes labels.yaml, by which the
scenes in the same folder get them as a label.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, Literal, NoReturn

import yaml
from tabulate import tabulate

from common.atomic_files import whole_file
from common.command_line import run_command
from common.yaml_files import read_yaml
from finetune.data.public_datasets import cropharvest, fields_of_the_world, pastis
from finetune.data.public_datasets.description import (
    PUBLIC_FILE,
    TASK_FILE,
    Description,
    FieldsDescription,
    PastisDescription,
    description_values,
)
from finetune.data.public_datasets.parcels import ParcelCrops, read_parcels
from finetune.data.public_datasets.tasks import harvest_task_values, task_values

LABELS_FILE = "labels.yaml"
MISSING_FILE = "left_out.csv"
TABLE_FILE = "table.yaml"
MOST_CROPS = 12  # in a table


def import_dataset(
    kind: Literal["pastis", "fields_of_the_world", "cropharvest", "parcels"],
    input: Path,
    output: Path,
    validation_folds: list[int] | None = None,
    test_folds: list[int] | None = None,
    countries: list[str] | None = None,
    offset: int | None = None,
    label: str | None = None,
    layer: str | None = None,
    column: str | None = None,
    name_column: str | None = None,
    year: int | None = None,
) -> None:
    """Describe a public data set of labels, so that fine-tuning reads it. No pixel is copied but those of CropHarvest.

    Args:
        kind: pastis, fields_of_the_world, cropharvest, or parcels, as of EuroCrops and fiboa.
        input: the unpacked folder of the data set; of parcels the vector file.
        output: folder for the description, which becomes the --data of finetune/run.py; of CropHarvest for a table, whose
            table.yaml does; of parcels the folder of scenes.
        validation_folds: folds of PASTIS for validation; the default is 4.
        test_folds: folds of PASTIS for the test; the default is 5. All others are for training.
        countries: countries of Fields of The World, by the names of their folders.
        offset: what is to be added to the numbers of the images of Fields of The World, which do not say it: 0, or -1000 where
            they are as processing baseline 04.00 stores them (products from 25 January 2022 on).
        label: name of the label that parcels become; the default is crop_type.
        layer: layer of the file of parcels, where it has several.
        column: of parcels the column with the crop's code; the default is that of EuroCrops or fiboa. Of CropHarvest
            classification_label (groups of crops, the default), label or is_crop.
        name_column: column with the crop's name; the default is the one that belongs to that column.
        year: year of the parcels, in which their season ends; without it a date column of fiboa says it, if there is one.
    """
    given: dict[str, dict[str, Any]] = {
        "pastis": {"validation_folds": validation_folds, "test_folds": test_folds},
        "fields_of_the_world": {"countries": countries, "offset": offset},
        "cropharvest": {"column": column},
        "parcels": {"label": label, "layer": layer, "column": column, "name_column": name_column, "year": year},
    }
    values = {name: value for options in given.values() for name, value in options.items()}
    stray = [name for name, value in values.items() if value is not None and name not in given[kind]]
    if stray:
        raise ValueError(f"--kind {kind} knows no --{stray[0]}; it knows {', '.join(f'--{name}' for name in given[kind])}")
    if kind == "parcels":
        _import_parcels(input, output, label or "crop_type", read_parcels(input, layer, column, name_column), year)
    elif kind == "cropharvest":
        _import_harvest(input, output, column or "classification_label")
    elif kind == "pastis":
        folds = tuple(validation_folds or (4,)), tuple(test_folds or (5,))
        _import_pastis(PastisDescription(folder=input, validation_folds=folds[0], test_folds=folds[1]), output)
    else:
        if not countries or offset is None:
            raise ValueError(
                "--kind fields_of_the_world needs --countries, and --offset, as its files do not say it: 0, or -1000 where "
                "numbers are as processing baseline 04.00 stores them"
            )
        _import_fields(FieldsDescription(folder=input, countries=tuple(countries), offset=offset), output)


def _import_pastis(description: PastisDescription, output: Path) -> None:
    patches = pastis.read_patches(description.folder)
    splits = pastis.splits_of(patches, description)
    pastis.check_files(description.folder, patches)
    _write_description(description, output)
    rows = [[split, len(found), sum(len(patch.dates) for patch in found)] for split, found in splits.items()]
    print(tabulate(rows, ["split", "patches", "images"]))
    _say_next(output)


def _import_fields(description: FieldsDescription, output: Path) -> None:
    values = task_values(description)
    whole, missing = fields_of_the_world.whole_chips(description, values["label"])
    fields_of_the_world.check_splits(description, whole)
    _write_description(description, output)
    with whole_file(output / MISSING_FILE) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["country", "chip", "split"])
        table.writerows([[chip.country, chip.name, chip.split] for chip in missing])
    counts = Counter((chip.country, chip.split) for chip in whole)
    left_out = Counter(chip.country for chip in missing)
    rows = [
        [country, *(counts[country, split] for split in ("train", "validation", "test")), left_out[country]]
        for country in description.countries
    ]
    print(tabulate(rows, ["country", "training chips", "validation", "test", "left out"]))
    if missing:
        print(f"{len(missing)} chips lack an image or a label: {output / MISSING_FILE}")
    _say_next(output)


def _import_harvest(folder: Path, output: Path, column: str) -> None:
    if column not in cropharvest.LABEL_COLUMNS:
        raise ValueError(f"--column is {column!r}; of CropHarvest expected one of {', '.join(cropharvest.LABEL_COLUMNS)}")
    points = cropharvest.read_points(folder, column)
    ranked = points.crops.most_common()
    if len(ranked) < 2:
        raise ValueError(f"{folder}: points with an array have {len(ranked)} classes in {column}; expected at least two")
    (output / "sources").mkdir(parents=True, exist_ok=True)
    with whole_file(output / cropharvest.POINTS_FILE) as temporary:
        points.table.to_parquet(temporary, index=False)
    shutil.copyfile(cropharvest.SENSOR_FILE, output / "sources" / cropharvest.SENSOR_FILE.name)
    _write_yaml(output / TABLE_FILE, cropharvest.table_values())
    if not (output / TASK_FILE).is_file():
        _write_yaml(output / TASK_FILE, harvest_task_values([name for name, _ in ranked]))
    print(tabulate(ranked[:MOST_CROPS], ["class", "points"]))
    others = len(ranked) - MOST_CROPS
    unlabelled = int(points.table["crop"].isna().sum())
    print(
        f"{max(others, 0)} further classes; {unlabelled} points without a class, {points.without_array} without an array, which "
        "are left out"
    )
    print(f"python finetune/run.py --task {output / TASK_FILE} --data {output / TABLE_FILE} --output RUN")


def _write_description(description: Description, output: Path) -> None:
    """Write the description and a task. A task that somebody has changed stays."""
    output.mkdir(parents=True, exist_ok=True)
    _write_yaml(output / PUBLIC_FILE, dict(description_values(description)))
    if not (output / TASK_FILE).is_file():
        _write_yaml(output / TASK_FILE, task_values(description))


def _say_next(output: Path) -> None:
    print(f"python finetune/run.py --task {output / TASK_FILE} --data {output} --output RUN")


def _import_parcels(path: Path, output: Path, label: str, crops: ParcelCrops, year: int | None) -> None:
    inside = path.resolve().is_relative_to(output.resolve())
    shown = os.path.relpath(path.resolve(), output.resolve()) if inside else str(path.resolve())
    entry = crops.label(shown, year)
    output.mkdir(parents=True, exist_ok=True)
    file = output / LABELS_FILE
    known = read_yaml(file) if file.is_file() else {}
    if not isinstance(known, dict):
        raise ValueError(f"{file} holds a {type(known).__name__}; expected the entries of labels by name")
    if known.get(label, entry) != entry:
        raise ValueError(f"{file} has another label {label!r} already; give another name with --label, or remove it")
    _write_yaml(file, known | {label: entry})
    ranked = crops.parcels.most_common()
    rows = [[code, crops.names[code] or "not labelled", count] for code, count in ranked[:MOST_CROPS]]
    if len(ranked) > MOST_CROPS:
        rows.append(["...", f"{len(ranked) - MOST_CROPS} others", sum(count for _, count in ranked[MOST_CROPS:])])
    if crops.without_code:
        rows.append(["", "without a code, not labelled", crops.without_code])
    print(tabulate(rows, [crops.column, "class", "parcels"]))
    print(f"label {label} of all scenes in {output}: {file}")


def _write_yaml(path: Path, values: dict[str, Any]) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120), encoding="utf-8")


def main() -> NoReturn:
    """Run the command and exit."""
    run_command(import_dataset)


if __name__ == "__main__":
    main()
