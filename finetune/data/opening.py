"""Opening labelled data by the path that a user gives as `--data`."""

from __future__ import annotations

from pathlib import Path

from common.checksums import sha256_of
from common.storage import AnyPath, RemotePath, listed
from data_prep.archive.sensor import load_sensors
from data_prep.corpus.dataset import DATASET, load_corpus
from data_prep.plan.label_blocks import SplitBlocks
from finetune.data.hdf5_samples import LISTS, SAMPLE_FOLDER, Hdf5Samples, list_folder, published_fingerprint
from finetune.data.labelled_data import LabelledData, SampleData, SceneData
from finetune.data.own_dataset import own_dataset
from finetune.data.public_datasets.description import PUBLIC_FILE
from finetune.data.public_datasets.opening import open_public_dataset
from finetune.data.shard_samples import ShardSamples, label_of_corpus
from finetune.data.tables.table_data import TABLE_SUFFIXES, TableData


def open_data(data: AnyPath, blocks: SplitBlocks | None = None) -> LabelledData:
    """Open labelled data, a path or URL, in any of these forms:

        FILE.py:CLASS                                  a dataset of your own: CLASS(split) for train, validation and test; a path
        FILE.yaml                                      a table of pixel series (finetune/data/tables/description.py)
        a folder with dataset.json                     shards with labels (`shard.py --label.SOURCE NAME`)
        a folder with public_dataset.yaml              a public data set (`finetune/import_dataset.py`)
        a folder with train.txt, or data_lists/        HDF5 samples in the published layout
        any other folder                               scenes

    `blocks`: how the ground of scenes without a split is divided. Raises ValueError if the data have none of these forms, if a
    split is empty, and for blocks with other data than scenes.
    """
    opened = _opened(data, blocks)
    if blocks is not None and blocks.side_m is not None and not isinstance(opened, SceneData):
        raise ValueError(f"--split_blocks divides the ground of scenes, and {data} holds samples, each of which has its split")
    return opened


def _opened(data: AnyPath, blocks: SplitBlocks | None) -> LabelledData:
    """Labelled data in the form that they have."""
    if data.suffix == ".py":
        raise ValueError(f"--data {data} names a file; name the class in it, too: {data}:CLASS")
    file, _, name = str(data).rpartition(":")
    if file.endswith(".py"):
        if isinstance(data, RemotePath):
            raise ValueError(f"--data {data}: code is loaded from files on this machine only; copy it")
        sensors = load_sensors(Path(file).parent / "sources")
        return SampleData(own_dataset(Path(file), name), sensors, lambda: sha256_of(Path(file)))
    if data.suffix in TABLE_SUFFIXES and not data.is_dir():
        return TableData(data)
    if (data / DATASET).is_file():
        corpus = load_corpus(data)
        return SampleData(
            lambda split, task: ShardSamples(corpus, split, task),
            corpus.sensors,
            lambda: corpus.fingerprint,
            lambda task: [label_of_corpus(corpus, source, data) for source in task.sources if source in corpus.labels],
        )
    if (data / PUBLIC_FILE).is_file():
        return open_public_dataset(data)
    if list_folder(data) is not None:
        return SampleData(
            lambda split, task: Hdf5Samples(data, split, task.sources),
            load_sensors(data / "sources"),
            lambda: published_fingerprint(data),
        )
    if (data / SAMPLE_FOLDER).is_dir() or listed(data, "*.h5"):
        raise ValueError(f"{data} holds HDF5 samples and none of the lists {', '.join(LISTS.values())}, one name per line")
    return SceneData(data, blocks)
