"""Opening a public data set by its description."""

from __future__ import annotations

from common.storage import AnyPath
from data_prep.archive.sensor import load_sensors
from finetune.data.labelled_data import SampleData
from finetune.data.public_datasets.description import PastisDescription, read_description
from finetune.data.public_datasets.fields_of_the_world import (
    LABELS,
    FieldsSamples,
    fields_fingerprint,
    fields_label,
    rgbn_sensor,
)
from finetune.data.public_datasets.fields_of_the_world import SOURCE as RGBN
from finetune.data.public_datasets.pastis import SOURCE, PastisSamples, pastis_fingerprint, pastis_label


def open_public_dataset(data: AnyPath) -> SampleData:
    """The samples of the public data set that the folder `data` describes.

    Raises ValueError for a wrong description; the samples raise it for files that are missing or of another form.
    """
    description = read_description(data)
    sensors = load_sensors(data / "sources")
    if isinstance(description, PastisDescription):
        return SampleData(
            lambda split, task: PastisSamples(description, split, task, sensors[SOURCE]),
            sensors,
            lambda: pastis_fingerprint(description),
            lambda _: [pastis_label(description.folder)],
        )
    sensors = {RGBN: rgbn_sensor()} | sensors
    return SampleData(
        lambda split, task: FieldsSamples(description, split, task, sensors[RGBN]),
        sensors,
        lambda: fields_fingerprint(description),
        lambda task: [fields_label(description.folder, task.label)] if task.label in LABELS else [],
    )
