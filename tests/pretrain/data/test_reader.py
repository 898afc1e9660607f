"""What is read: against the stock WebDataset reader, against checksums, and from damaged shards."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from data_prep.corpus.dataset import Corpus, check_has_maps, load_corpus
from pretrain.data import reader as sample_reader
from pretrain.data.storage import Storage, Wanted
from pretrain.data.stream import Skipped, Stream
from tests.support.pretraining import assert_equal_batches, stream_config
from tests.support.small_corpus import SIDE_PX, damage, write_corpus


@pytest.mark.usefixtures("reading")
def test_batches_hold_what_the_stock_reader_reads(corpus: Corpus) -> None:
    stock = {}
    for path in sorted(Path(corpus.folder).glob("*.tar")):
        for sample in webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False).decode():
            stock[sample["__key__"]] = sample
    stream = Stream(corpus, "train", stream_config())
    seen = set()
    for step in range(12):
        batch, draw = stream.batch(step), stream.draws.draw(step)
        assert batch.keys == stream.draws.keys(step)
        assert batch.source == stream.draws.source_of(step) == draw.source
        for i, key in enumerate(batch.keys):
            sample, frames = stock[key], draw.frames[i]
            assert len(set(frames.tolist())) == 5
            assert (np.diff(frames) > 0).all()
            pixels = batch.pixels[i].numpy()
            assert pixels.dtype == sample["pixels.npy"].dtype
            np.testing.assert_array_equal(pixels, sample["pixels.npy"][frames])
            np.testing.assert_array_equal(batch.valid[i].numpy(), sample["valid.npy"][frames])
            np.testing.assert_array_equal(batch.dates[i].numpy(), sample["dates.npy"][frames])
            np.testing.assert_array_equal(batch.land_cover[i].numpy(), sample["landcover.npy"])
            assert batch.land_cover_map is not None
            land_cover_map = batch.land_cover_map[i].numpy()
            assert (
                land_cover_map.dtype == sample["landcover_map.npy"].dtype == {"landsat": "uint8", "modis": "uint16"}[batch.source]
            )
            np.testing.assert_array_equal(land_cover_map, sample["landcover_map.npy"])
            days = [int(str(date.astype("datetime64[D]").item().timetuple().tm_yday)) for date in batch.dates[i].numpy()]
            assert batch.day_of_year[i].tolist() == days
            seen.add(key)
    assert len(seen) > 15


def test_draws_of_a_group_are_read_once(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[list[Wanted]] = []
    original = Storage.open

    def record(self: Storage, samples: list[Wanted], again: bool = False) -> Any:
        opened.append(list(samples))
        return original(self, samples, again)

    monkeypatch.setattr(Storage, "open", record)
    monkeypatch.setattr(sample_reader, "_SMALL_FRAME_BYTES", 0)  # or small samples would be read whole
    stream = Stream(corpus, "train", stream_config(mixture={"landsat": 1.0}, data_echoing=4))
    list(stream.batches(2, 12))  # the second half of a group, and two groups
    assert len(opened) == 3
    frame_bytes = 6 * SIDE_PX * SIDE_PX * 2
    expected = set()
    for group in range(3):
        frames = [stream.draws.draw(4 * group + number).frames for number in range(4)]
        expected.add(sum(len(set(np.concatenate([each[i] for each in frames]).tolist())) for i in range(4)) * frame_bytes)
    read = set()
    for batch in opened:
        read.add(sum(len(buffer) for wanted in batch for buffer, _, first, last in wanted.reads if last > first))
    assert read == expected
    assert not stream._groups


@pytest.mark.usefixtures("reading")
def test_damaged_shards_are_named(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path, {"modis": 4})
    stream = Stream(load_corpus(folder), "train", stream_config())
    shard = folder / "modis-train-000001.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"modis-train-000001\.tar ends at byte"):
        stream.batch(0)
    shard.write_bytes(data.replace(b"'shape': (", b"'shape': [", 3))
    with pytest.raises(ValueError, match=r"modis-train-000001\.tar: modis-scene-2021-r0000\d-c00000\.\w+\.npy is not"):
        stream.batch(0)


@pytest.mark.usefixtures("reading")
def test_what_is_read_is_compared_with_its_checksums(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path, {"modis": 4}, frames=(20, 21), maps=True)
    loaded = load_corpus(folder)
    stream, unchecked = (Stream(loaded, "train", stream_config(check_reads=check)) for check in (True, False))
    entry = loaded.samples("modis", "train")[3]
    sound = entry.shard.read_bytes()
    for member in ("pixels.npy", "valid.npy", "dates.npy", "landcover.npy", "landcover_map.npy", "checksums.npy"):
        flipped = bytearray(sound)
        place = entry.members[member]
        # Every frame is hit, so that the drawn ones are: a bit of each 8 bytes behind the header.
        for at in range(place.offset + 128, place.offset + place.size, 8):
            flipped[at] ^= 1
        entry.shard.write_bytes(flipped)
        unchecked.batch(0)
        with pytest.raises(
            ValueError, match=rf"modis-train-000001.tar: \d+ of \d+ frames read of {entry.key} are not as they were"
        ):
            stream.batch(0)
    flipped = bytearray(sound)
    flipped[entry.members["landcover_map.npy"].offset + 128] ^= 1  # one bit of the map is enough
    entry.shard.write_bytes(flipped)
    with pytest.raises(ValueError, match=rf"5 of 5 frames read of {entry.key} are not as they were"):
        stream.batch(0)
    entry.shard.write_bytes(sound)
    stream.batch(0)


@pytest.mark.usefixtures("reading")
@pytest.mark.parametrize("draws", [1, 2])
def test_a_former_corpus_is_read_as_one_with_maps_without_them(tmp_path: Path, draws: int) -> None:
    (tmp_path / "former").mkdir()
    (tmp_path / "present").mkdir()
    former, present = (
        load_corpus(write_corpus(tmp_path / name, {"modis": 4, "landsat": 5}, maps=name == "present"))
        for name in ("former", "present")
    )
    check_has_maps(present, ["landsat", "modis"])
    with pytest.raises(ValueError, match=r"former has no land-cover maps for the sources \['modis'\]; .*data_prep/add_maps\.py"):
        check_has_maps(former, ["modis"])
    assert (former.has_maps("modis"), present.has_maps("modis"), present.has_maps("sentinel2")) == (False, True, False)
    former = replace(former, fingerprint=present.fingerprint)  # which determines the order of samples
    without, with_maps = (Stream(loaded, "train", stream_config(data_echoing=draws)) for loaded in (former, present))
    for step in range(6):
        batch, expected = with_maps.batch(step), without.batch(step)
        assert expected.land_cover_map is None
        assert batch.land_cover_map is not None
        assert batch.nbytes == expected.nbytes + batch.land_cover_map.nbytes
        assert batch.digest == expected.digest
        assert_equal_batches(expected, batch)
        for part, of_map in zip(batch.split(2), batch.land_cover_map.split(2), strict=True):
            assert part.land_cover_map is not None
            np.testing.assert_array_equal(part.land_cover_map.numpy(), of_map.numpy())
        assert batch.to("cpu").land_cover_map is not None
        assert expected.to("cpu").land_cover_map is None


@pytest.mark.usefixtures("reading")
def test_the_map_of_a_damaged_sample_is_not_mapped(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path, {"landsat": 4}, frames=(20, 21), maps=True)
    loaded = load_corpus(folder)
    (key,) = damage(folder, loaded, [2], "landsat")
    batch = Stream(loaded, "train", stream_config(skip_damaged=1)).batch(0)
    assert batch.land_cover_map is not None
    for usable, name, of_map in zip(batch.usable.tolist(), batch.keys, batch.land_cover_map, strict=True):
        assert usable == (name != key) == bool((of_map != 255).any())


@pytest.mark.usefixtures("reading")
def test_shards_under_each_others_names_are_noticed(tmp_path: Path) -> None:
    """Their samples are of equal sizes, so all offsets, headers and shapes fit."""
    folder = write_corpus(tmp_path, {"modis": 4}, frames=(20, 21))
    stream = Stream(load_corpus(folder), "train", stream_config())
    one, other = folder / "modis-train-000000.tar", folder / "modis-train-000001.tar"
    assert one.stat().st_size == other.stat().st_size
    one.rename(folder / "third")
    other.rename(one)
    (folder / "third").rename(other)
    with pytest.raises(ValueError, match="are not as they were written"):
        stream.batch(0)


@pytest.mark.usefixtures("reading")
def test_a_shard_that_is_cut_off_is_damage_and_a_lost_mount_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_corpus(tmp_path, {"modis": 8}, frames=(20, 21))
    loaded = load_corpus(folder)
    monkeypatch.setattr("common.retries.time.sleep", lambda _: None)
    stream = Stream(loaded, "train", stream_config(skip_damaged=8))
    expected = [stream.batch(step) for step in range(2)]
    original = os.preadv
    stale = {path.stat().st_ino for path in folder.glob("*.tar")}
    tries: list[int] = []

    def stale_at_first(fd: int, buffers: list[memoryview], offset: int) -> int:
        """As of a mount that was lost: files that were opened before stay unusable."""
        tries.append(fd)
        if os.fstat(fd).st_ino in stale or len(tries) < 4:
            raise OSError(errno.ESTALE, "Stale file handle")
        return original(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", stale_at_first)
    for path in folder.glob("*.tar"):
        (folder / "copy").write_bytes(path.read_bytes())
        (folder / "copy").rename(path)
    for step in range(2):
        assert_equal_batches(stream.batch(step), expected[step])
    stale |= {path.stat().st_ino for path in folder.glob("*.tar")}
    with pytest.raises(OSError, match="Stale"):
        stream.batch(0)
    monkeypatch.undo()
    shard = folder / "modis-train-000001.tar"
    with shard.open("r+b") as file:
        file.truncate(10_000)
    cut = [stream.batch(step) for step in range(2)]
    assert 0 < sum(int(batch.usable.sum()) for batch in cut) < 8
    skipped = stream.take_skipped()
    assert all("ends at byte" in sample.reason and sample.shard == str(shard) for sample in skipped)
    assert {sample.key for sample in skipped} == {
        key for batch in cut for key, usable in zip(batch.keys, batch.usable.tolist(), strict=True) if not usable
    }
    assert isinstance(skipped[0], Skipped)
    shard.unlink()
    with pytest.raises(FileNotFoundError):
        list(Stream(loaded, "train", stream_config(skip_damaged=8)).batches(0, 2))


@pytest.mark.usefixtures("reading")
def test_members_may_lie_in_any_order(tmp_path: Path) -> None:
    loaded = load_corpus(write_corpus(tmp_path, {"modis": 8}, maps=True))
    expected = [Stream(loaded, "train", stream_config()).batch(step) for step in range(4)]
    entries = loaded.samples("modis", "train")
    names = ["pixels.npy", "valid.npy", "dates.npy", "landcover.npy", "checksums.npy", "landcover_map.npy"]
    for seed in range(4):
        stream = Stream(loaded, "train", stream_config())
        table = stream.draws.tables["modis"]
        rng = np.random.default_rng(seed)
        offsets, content = table.offsets.copy(), bytearray()
        for i, entry in enumerate(entries):
            for member in rng.permutation(6):
                place = entry.members[names[member]]
                content += bytes(512 * int(rng.integers(0, 20)))
                offsets[i, member] = len(content)
                data = Path(entry.shard).read_bytes()[place.offset : place.offset + place.size]
                content += data + bytes(-len(data) % 512)
        (tmp_path / "shuffled").write_bytes(content)
        table.offsets, table.shards = offsets, [str(tmp_path / "shuffled")] * 2
        for step, batch in enumerate(expected):
            assert_equal_batches(stream.batch(step), batch)
