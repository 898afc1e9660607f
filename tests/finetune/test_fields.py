"""The command that writes fields as polygons: the file, and errors."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.command_line import run_command
from finetune.fields import fields
from tests.support.class_maps import write_map


def test_file_is_geoparquet_with_the_names_of_fiboa(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes = np.zeros((40, 40), np.uint8)
    classes[2:30, 2:30] = 1
    classes[35, 35] = 1
    write_map(tmp_path / "map.tif", classes)
    fields(tmp_path / "map.tif", "paddy_rice", tmp_path / "new" / "fields.parquet", min_area_ha=0.05)
    assert "1 of 2 areas are smaller than 0.05 ha and left out" in capsys.readouterr().out
    schema = pq.read_schema(tmp_path / "new" / "fields.parquet")
    types = {field.name: field.type for field in schema}
    text = {pa.string(), pa.large_string()}
    assert types["id"] in text
    assert types["determination_method"] in text
    assert types["determination_datetime"] == pa.timestamp("ms", tz="UTC")
    assert (types["area"], types["perimeter"]) == (pa.float32(), pa.float32())
    determination = {"determination_datetime", "determination_method", "determination_details"}
    assert set(types) == {"id", "geometry", "area", "perimeter", "collection"} | determination
    geo = json.loads(schema.metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    assert geo["primary_column"] == "geometry"
    assert geo["columns"]["geometry"]["encoding"] == "WKB"
    assert geo["columns"]["geometry"]["geometry_types"] == ["Polygon"]
    assert json.loads(schema.metadata[b"fiboa"])["fiboa_version"] == "0.2.0"
    (row,) = geopandas.read_parquet(tmp_path / "new" / "fields.parquet").to_dict("records")
    assert (row["id"], row["determination_method"], row["collection"]) == ("1", "auto-imagery", "delta_2021")
    assert row["determination_datetime"].isoformat() == "2021-10-28T00:00:00+00:00"
    assert row["area"] == pytest.approx(28 * 28 / 100 / 0.9996**2, rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--class_name", "rice_paddy"], "the map has no class 'rice_paddy', did you mean paddy_rice? it has other, paddy_rice"),
        (["--map", "nowhere.tif"], "no map at nowhere.tif"),
    ],
)
def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    path = write_map(tmp_path / "map.tif", np.ones((20, 20)))
    known = ["--map", str(path), "--class_name", "paddy_rice", "--output", str(tmp_path / "fields.parquet")]
    with pytest.raises(SystemExit) as stopped:
        run_command(fields, [*known, *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "fields.parquet").exists()
