"""Shard indexes: what is written is read, also by earlier versions, and damage is one error."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import xxhash

from common.json_files import json_bytes
from data_prep.shards.shard_index import read_index, sample_columns, sample_entries, sample_rows

CONTENTS = {"pixels.npy": b"pixels" * 7, "valid.npy": b"valid"}


def index(samples: int) -> dict[str, Any]:
    members = {
        name: {"offset": 512 * n, "size": len(content), "xxh3_64": xxhash.xxh3_64(content).hexdigest()}
        for n, (name, content) in enumerate(CONTENTS.items(), 1)
    }
    sample = {"frames": 3, "days": [1, 9], "legend": "own", "land_cover": [0, 2**40]}
    rows = [{"key": f"modis-{n}", **sample, "members": members} for n in range(samples)]
    return {"version": 3, "shard": "a.tar", "bytes": 9, "plan": "0", "samples": rows, "rejected": [{"key": "b", "failed": True}]}


@pytest.mark.parametrize("samples", [0, 1, 105])
def test_columns_are_the_rows(tmp_path: Path, samples: int) -> None:
    rows = index(samples)["samples"]
    path = tmp_path / "a.json"
    path.write_bytes(json_bytes({**index(samples), "samples": sample_columns(rows)}))
    found = read_index(path)
    assert sample_rows(found["samples"]) == rows
    assert {**found, "samples": rows} == index(samples)
    stored = json.loads(path.read_bytes())
    assert stored["samples"]["key"] == [f"modis-{n}" for n in range(samples)]
    assert stored["samples"]["sizes"] == [[42, 5]] * samples


def test_an_index_has_less_than_half_of_the_bytes_of_rows() -> None:
    values = index(105)
    assert len(json_bytes({**values, "samples": sample_columns(values["samples"])})) < len(json_bytes(values)) / 2


def test_members_of_both_versions_know_their_content(tmp_path: Path) -> None:
    former = index(1)
    former["version"] = 2
    for name, place in former["samples"][0]["members"].items():
        del place["xxh3_64"]
        place["sha256"] = hashlib.sha256(CONTENTS[name]).hexdigest()
    (tmp_path / "former.json").write_text(json.dumps(former))
    (tmp_path / "now.json").write_bytes(json_bytes({**index(1), "samples": sample_columns(index(1)["samples"])}))
    for name in ("former", "now"):
        (entry,) = sample_entries(read_index(tmp_path / f"{name}.json"), tmp_path)
        assert {member: (place.offset, place.size) for member, place in entry.members.items()} == {
            "pixels.npy": (512, 42),
            "valid.npy": (1024, 5),
        }
        for member, content in CONTENTS.items():
            assert entry.members[member].holds(content)
            assert not entry.members[member].holds(content[:-1])


@pytest.mark.parametrize("column", ["key", "days", "offsets", "members"])
def test_columns_that_do_not_fit_are_one_error(tmp_path: Path, column: str) -> None:
    path = tmp_path / "a.json"
    values = index(2)
    values["samples"] = sample_columns(values["samples"])
    values["samples"][column] = values["samples"][column][:-1]
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"a\.json is not the index of a shard"):
        read_index(path)
    del values["samples"][column]
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"a\.json is not the index of a shard"):
        read_index(path)
