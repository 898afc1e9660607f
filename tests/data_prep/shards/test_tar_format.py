"""The tar writer against plain tarfile."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.shards.tar_format import TarWriter


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.lists(st.integers(0, 1500), max_size=3), min_size=0, max_size=5),
    length=st.sampled_from([1, 40, 99, 100, 101, 300]),
)
def test_tar_is_that_of_tarfile(sizes: list[list[int]], length: int) -> None:
    rng = np.random.default_rng(0)
    members = {f"{'k' * length}{number}.npy": [rng.bytes(size) for size in parts] for number, parts in enumerate(sizes)}
    expected, file = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=expected, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, parts in members.items():
            info = tarfile.TarInfo(name)
            info.size = sum(map(len, parts))
            tar.addfile(info, io.BytesIO(b"".join(parts)))
    writer = TarWriter(file)
    places = {name: writer.add(name, parts) for name, parts in members.items()}
    writer.end()
    assert file.getvalue() == expected.getvalue()
    assert writer.size == len(expected.getvalue())
    assert writer.checksum == xxhash.xxh3_128(expected.getvalue()).hexdigest()
    for name, parts in members.items():
        place = places[name]
        assert file.getvalue()[place["offset"] : place["offset"] + place["size"]] == b"".join(parts)
