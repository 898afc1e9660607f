"""The stream of batches: the same on any number of ranks and workers; data echoing; damaged samples; memory."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset

from data_prep.corpus.dataset import Corpus, load_corpus
from pretrain.data.batch import Batch
from pretrain.data.stream import Stream
from tests.support.pretraining import assert_equal_batches, python_environment, stream_config
from tests.support.small_corpus import SMALL_CORPUS, damage, write_corpus


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_global_batches_do_not_depend_on_the_number_of_ranks(corpus: Corpus, world_size: int) -> None:
    alone = Stream(corpus, "train", stream_config())
    ranks = [Stream(corpus, "train", stream_config(), rank, world_size) for rank in range(world_size)]
    for step in (0, 1, 2, 5, 1_000_003):
        parts = [stream.batch(step) for stream in ranks]
        whole = alone.batch(step)
        assert {part.source for part in parts} == {whole.source}
        assert [key for part in parts for key in part.keys] == whole.keys == ranks[-1].draws.keys(step)
        for name in ("pixels", "valid", "dates", "day_of_year", "land_cover", "land_cover_map", "orientation"):
            together = torch.cat([getattr(part, name) for part in parts])
            np.testing.assert_array_equal(together.numpy(), getattr(whole, name).numpy())


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_every_sample_once_an_epoch(corpus: Corpus, world_size: int, num_workers: int) -> None:
    size = 6
    ranks = [
        Stream(corpus, "train", stream_config(global_batch_size=size, num_workers=num_workers), rank, world_size)
        for rank in range(world_size)
    ]
    steps = 2 * 7  # seven batches of either source hold three epochs of the larger one
    keys: dict[str, list[str]] = {source: [] for source in SMALL_CORPUS}
    for parts in zip(*(stream.batches(0, steps) for stream in ranks), strict=True):
        for part in parts:
            keys[part.source] += part.keys
    for source, count in SMALL_CORPUS.items():
        expected = Counter(entry.key for entry in corpus.samples(source, "train"))
        epochs = [keys[source][i * count : (i + 1) * count] for i in range(3)]
        assert all(Counter(epoch) == expected for epoch in epochs)
        assert epochs[0] != epochs[1] != epochs[2]


def test_starts_anywhere_and_workers_change_nothing(corpus: Corpus) -> None:
    read = {workers: list(Stream(corpus, "train", stream_config(num_workers=workers)).batches(0, 20)) for workers in (0, 1, 3)}
    late = list(Stream(corpus, "train", stream_config(num_workers=2)).batches(13, 20))
    for step, batch in enumerate(read[0]):
        assert_equal_batches(batch, read[1][step])
        assert_equal_batches(batch, read[3][step])
        if step >= 13:
            assert_equal_batches(batch, late[step - 13])


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2])
def test_several_draws_from_one_read(corpus: Corpus, world_size: int, num_workers: int) -> None:
    stock = {}
    for path in sorted(Path(corpus.folder).glob("*.tar")):
        for sample in webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False).decode():
            stock[sample["__key__"]] = sample
    single = Stream(corpus, "train", stream_config(mixture={"landsat": 1.0}))
    together: list[list[Batch]] = []
    for rank in range(world_size):
        stream = Stream(corpus, "train", stream_config(data_echoing=3, num_workers=num_workers), rank, world_size)
        together.append(list(stream.batches(0, 24)))
        late = Stream(corpus, "train", stream_config(data_echoing=3, num_workers=num_workers), rank, world_size)
        for step, batch in enumerate(late.batches(5, 11), 5):  # begins and ends in the middle of groups of both sources
            assert_equal_batches(batch, together[-1][step])
        assert_equal_batches(late.batch(22), together[-1][22])
    draws: dict[str, list[Any]] = {source: [] for source in SMALL_CORPUS}
    for step in range(24):
        parts = [batches[step] for batches in together]
        keys = [key for part in parts for key in part.keys]
        draw = stream.draws.draw(step)
        assert keys == stream.draws.keys(step)
        pixels = torch.cat([part.pixels for part in parts]).numpy()
        names = ("valid", "dates", "land_cover_map")
        valid, dates, maps = (torch.cat([getattr(part, name) for part in parts]).numpy() for name in names)
        for i, key in enumerate(keys):
            np.testing.assert_array_equal(pixels[i], stock[key]["pixels.npy"][draw.frames[i]])
            np.testing.assert_array_equal(valid[i], stock[key]["valid.npy"][draw.frames[i]])
            np.testing.assert_array_equal(dates[i], stock[key]["dates.npy"][draw.frames[i]])
            np.testing.assert_array_equal(maps[i], stock[key]["landcover_map.npy"])
        draws[parts[0].source].append((keys, draw))
    for source, of_source in draws.items():
        for first in range(0, len(of_source), 3):
            group = of_source[first : first + 3]
            assert group[0][0] == group[1][0] == group[2][0]
            assert all((a[1].frames != b[1].frames).any() for a, b in ((group[0], group[1]), (group[1], group[2])))
            if source == "landsat":  # the first draw is the one that there is without the others
                np.testing.assert_array_equal(group[0][1].frames, single.draws.draw(first // 3).frames)
                np.testing.assert_array_equal(group[0][1].orientation, single.draws.draw(first // 3).orientation)
        # An epoch shows every sample as often as it is drawn.
        seen = Counter(key for keys, _ in of_source for key in keys)
        assert max(seen.values()) - min(seen.values()) <= 3
        assert all(count % 3 == 0 for count in seen.values())
    assert stream.draws.micro_steps_per_epoch("modis") == 3 * SMALL_CORPUS["modis"] / 4
    step = next(step for step in range(50) if stream.draws.epoch_of(step) >= 1 and stream.draws.source_of(step) == "modis")
    before = [stream.draws.keys(k) for k in range(step) if stream.draws.source_of(k) == "modis"]
    assert len(before) == 6  # 5.25 of them


@pytest.mark.usefixtures("reading")
@pytest.mark.parametrize("draws", [1, 2])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_damaged_samples_are_passed_over_and_named(tmp_path: Path, num_workers: int, draws: int) -> None:
    folder = write_corpus(tmp_path, {"modis": 8}, frames=(20, 21), maps=True)
    loaded = load_corpus(folder)
    changes: dict[str, Any] = {"num_workers": num_workers, "data_echoing": draws}
    sound = list(Stream(loaded, "train", stream_config(**changes)).batches(0, 12))
    keys = damage(folder, loaded, [1, 6])
    stream = Stream(loaded, "train", stream_config(**changes, skip_damaged=2))
    assert stream.take_skipped() == []
    batches = list(stream.batches(0, 12))  # three epochs (or two of two draws)
    skipped = stream.take_skipped()
    assert sorted(sample.key for sample in skipped) == keys
    for sample in skipped:
        assert Path(sample.shard).name == f"modis-train-00000{int(sample.key == keys[1])}.tar"
        assert f"5 of 5 frames read of {sample.key}" in sample.reason or draws == 2
    assert stream.take_skipped() == []
    for batch, before in zip(batches, sound, strict=True):
        assert batch.keys == before.keys
        for i, key in enumerate(batch.keys):
            assert bool(batch.usable[i]) == (key not in keys)
            assert before.usable[i]
            for name in ("pixels", "valid", "dates", "land_cover", "land_cover_map"):
                expected = getattr(before, name)[i].numpy()
                np.testing.assert_array_equal(getattr(batch, name)[i].numpy(), 0 * expected if key in keys else expected)
    stream = Stream(loaded, "train", stream_config(**changes, skip_damaged=1))
    with pytest.raises(ValueError, match=r"2 damaged samples, more than skip_damaged=1; the last: .*modis-train-00000\d.tar: "):
        list(stream.batches(0, 12))
    with pytest.raises(ValueError, match=r"modis-train-00000\d.tar: \d+ of \d+ frames read of "):
        list(Stream(loaded, "train", stream_config(**changes)).batches(0, 12))


def test_which_micro_step_stops_does_not_depend_on_workers(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path, {"modis": 40}, frames=(20, 21))
    loaded = load_corpus(folder)
    damage(folder, loaded, [3, 17, 21, 30])
    for allowed in (0, 1, 3):
        made = set()
        for num_workers in (0, 1, 3):
            batches = Stream(loaded, "train", stream_config(num_workers=num_workers, skip_damaged=allowed)).batches(0, 10)
            whole: list[Batch] = []
            with pytest.raises(ValueError, match="frames read of"):
                whole.extend(batches)  # which keeps those before the error
            made.add(len(whole))
        assert len(made) == 1


@pytest.mark.slow
@pytest.mark.parametrize("draws", [1, 3])
def test_memory_does_not_grow(tmp_path: Path, draws: int) -> None:
    """Resident memory after 200 batches and after 1,000, in a process of its own."""
    folder = write_corpus(tmp_path, {"modis": 40, "landsat": 40}, frames=(20, 60), side=32)
    program = (
        "import sys, psutil; from pathlib import Path; from data_prep.corpus.dataset import load_corpus;"
        "from pretrain.data.config import StreamConfig; from pretrain.data.stream import Stream;"
        f"s = Stream(load_corpus(Path(sys.argv[1])), 'train', StreamConfig(global_batch_size=16, data_echoing={draws}));"
        "r = [psutil.Process().memory_info().rss for k, _ in enumerate(s.batches(0, 1000)) if k in (199, 999)];"
        "print(*r)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        capture_output=True,
        check=True,
        text=True,
        env=python_environment(),
    )
    early, late = map(int, done.stdout.split())
    assert late - early < 20_000_000, (early, late)  # 25 kB a batch; a batch has 1 MB
