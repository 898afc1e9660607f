"""table.yaml: what is refused, with the nearest key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune.data.tables.description import load_table
from tests.support.point_tables import description


def load(folder: Path, values: Any) -> Any:
    (folder / "table.yaml").write_text(yaml.safe_dump(values))
    return load_table(folder / "table.yaml")


@pytest.mark.parametrize("layout", ["wide", "long", "nested"])
def test_what_is_stated_is_read(tmp_path: Path, layout: str) -> None:
    found = load(tmp_path, description(layout))
    assert (found.layout, found.columns.id, found.sources["sentinel2"].offset, found.blocks.side_deg) == (
        layout,
        "sample_id",
        0,
        0.5,
    )
    assert found.path == tmp_path / "table.yaml"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"collumns": {}}, "table.yaml: unknown key 'collumns'; did you mean columns?"),
        ({"files": None}, "missing key files"),
        ({"layout": "broad"}, "layout is 'broad'; expected one of wide, long, nested"),
        ({"columns": {"lable": "crop"}}, "columns: unknown key 'lable'; did you mean label?"),
        ({"columns": {"lon": "lon"}}, "states lon 'lon' and lat None; give both or none"),
        ({"columns": {"lon": "x", "lat": "y", "geometry": "g"}}, "states geometry, and also lon and lat"),
        ({"columns": {"lon": "x", "lat": "y", "crs": 4326}}, "crs without geometry"),
        ({"columns": {"label": 3}}, "columns: label is 3; expected a text"),
        ({"sources": {"sentinel2": {"patern": "x"}}}, "source sentinel2: unknown key 'patern'; did you mean pattern?"),
        ({"sources": {}}, "has no sources"),
        ({"sources": ["sentinel2"]}, "expected the options of each source by its name"),
        ({"dates": {"first": "2021-01-05"}}, "dates states first; expected `column`, or one of"),
        ({"dates": {}}, "dates states nothing; .* dates are never guessed"),
        ({"dates": {"column": "d", "every_days": 3}}, "dates states column, and also every_days"),
        ({"dates": {"first": "2021-01-05", "every_days": 0}}, "must be at least 1"),
        ({"dates": {"column": "d"}}, "is for the long and nested layout"),
        ({"layout": "long"}, "the long layout needs the columns of ids and dates"),
        ({"layout": "nested", "dates": None}, "has no `dates`"),
        ({"blocks": {"side_m": 1000, "side_deg": 1}}, "one of side_m, in metres, and side_deg, in degrees"),
        ({"blocks": {"side_deg": 1, "folds": 2}}, "at least 3 folds"),
        ({"blocks": {"side_deg": 1, "test_fold": 5}}, "a test fold from 0 to folds - 1"),
        ({"blocks": {"side_deg": 0}}, "side_deg is 0"),
        ({"blocks": {"side_deg": 1, "bufer_m": 1}}, "blocks: unknown key 'bufer_m'; did you mean buffer_m?"),
        ({"columns": {"label": "crop"}}, "`blocks` need places"),
        (
            {"columns": {"lon": "lon", "lat": "lat", "split": "split"}, "blocks": {"side_deg": 1, "folds": 4, "seed": 3}},
            "folds, seed of `blocks` has no effect, since the column 'split'",
        ),
        ({"same_day": "newest"}, "same_day is 'newest'; expected one of mosaic, error"),
        ({"classes": ["maize"]}, "classes is .*; expected a mapping"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(tmp_path, description("wide", **changes))


def test_files_that_describe_no_table(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no file"):
        load_table(tmp_path / "table.yaml")
    with pytest.raises(ValueError, match="does not describe a table: it holds list"):
        load(tmp_path, [1])
    with pytest.raises(ValueError, match="`pattern` is for the wide layout"):
        load(tmp_path, description("long", sources={"sentinel2": {"pattern": "x", "offset": 0}}))
