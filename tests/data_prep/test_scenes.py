"""The command scenes.py on catalogues of pystac and on a STAC API in this process, and shards of the scenes that it writes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pystac
import pytest
import shapely
import yaml
from affine import Affine
from aiohttp import web
from pyproj import Transformer

from common.command_line import run_command
from data_prep.archive.scene import find_scenes
from data_prep.readers.opening import open_reader
from data_prep.scenes import scenes
from data_prep.stac_search.settings import SearchSettings
from docs.generate.commands import ROOT
from tests.support.containers import TRANSFORM_10M
from tests.support.series import CRS, SENSORS, write_raster
from tests.support.sharding import run_shard, stock_samples
from tests.support.stac_api import StacApi
from tests.support.stac_scenes import sentinel2_item, sentinel2_items, write_cogs, write_items
from tests.support.web_server import web_server

C1, PC = "earth_search/sentinel-2-c1-l2a", "planetary_computer/sentinel-2-l2a"
DATES = np.datetime64("2021-12-02") + np.arange(12) * 5  # seven in 2021, five in 2022
SHAPE = 80, 80
EAST = TRANSFORM_10M @ Affine.translation(80, 0)
PERIOD = ("--start", "2021-12-01", "--end", "2022-01-31")


def items_of_two_tiles() -> list[pystac.Item]:
    first = sentinel2_items(C1, DATES, SHAPE)
    second = [sentinel2_item(C1, date, SHAPE, transform=EAST, tile="31TGJ") for date in DATES]
    return [item for pair in zip(first, second, strict=True) for item in pair]


def in_degrees(transform: Affine, first_row: float, first_col: float, end_row: float, end_col: float) -> list[float]:
    """The box in degrees of some pixels of a tile."""
    west, north = transform @ (first_col, first_row)
    east, south = transform @ (end_col, end_row)
    return list(Transformer.from_crs(CRS, "EPSG:4326", always_xy=True).transform_bounds(west, south, east, north))


WHOLE = in_degrees(TRANSFORM_10M, -1, -1, 81, 81)  # all of the first tile, and a little of the second


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    with web_server() as start:
        yield start


def nothing(request: web.Request) -> None:
    """Called before each answer."""


def run_scenes(*arguments: str | Path | float) -> int:
    """Run scenes.py with these arguments; return its exit code."""
    with pytest.raises(SystemExit) as ended:
        run_command(scenes, [str(argument) for argument in arguments], config_class=SearchSettings)
    return int(ended.value.code or 0)


def arguments(output: Path, catalogue: str | Path, *more: str | Path | float) -> list[str | Path | float]:
    area = () if "--area" in more else ("--bbox", *WHOLE)
    usual = ("--catalogue", catalogue, "--collections", "sentinel-2-c1-l2a", *PERIOD, *area)
    return ["--output", output, *usual, *more]


def search(output: Path, catalogue: str | Path, *more: str | Path | float) -> int:
    return run_scenes(*arguments(output, catalogue, *more))


def scene_yaml(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((folder / "scene.yaml").read_text())
    return values


def test_from_an_api_to_shards(tmp_path: Path, serve: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    """An area, a search, shards: the samples hold the numbers of the files less by the offset."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(1001, 9000, (len(DATES), 10, *SHAPE)).astype(np.uint16)
    scl = np.full((len(DATES), *SHAPE), 4, np.uint8)
    write_cogs(tmp_path / "store", pixels, scl, DATES)
    api = StacApi([])
    url = serve(tmp_path / "store", nothing, *api.routes)
    items = [item.to_dict(include_self_link=False) for item in items_of_two_tiles()]
    for item in items:
        for asset in item["assets"].values():
            asset["href"] = f"{url}/{asset['href']}"
    api._items = items
    write_raster(tmp_path / "map.tif", np.full((40, 40), 10, np.uint8), TRANSFORM_10M @ Affine.scale(3))
    more = ("--land_cover.raster", tmp_path / "map.tif", "--split", "validation", "--tiles", "31TFJ")
    assert search(tmp_path / "scenes", f"{url}/api", *more) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1].split() == ["sentinel-2-c1-l2a", "sentinel2", "2", "12", "2021-12-02", "to", "2022-01-26", "1", "km2"]
    assert [body["collections"] for body in api.searches] == [["sentinel-2-c1-l2a"]] * 2  # a month each
    assert api.pages > len(api.searches)

    found = find_scenes(tmp_path / "scenes")
    assert [(one.name, one.region, one.split) for one in found] == [
        ("31TFJ_2021", "31TFJ", "validation"),
        ("31TFJ_2022", "31TFJ", "validation"),
    ]
    with open_reader(found[0], "sentinel2", SENSORS) as reader:
        np.testing.assert_array_equal(reader.dates, DATES[:6])
        np.testing.assert_array_equal(reader.read(0, 0, 80, 80, slice(None)).pixels[:, :4], pixels[:6, :4] - 1000)

    options = ("--chip_px.sentinel2", "40", "--min_frames", "4")
    assert run_shard("--input", tmp_path / "scenes", "--output", tmp_path / "corpus", *options) == 0
    samples = stock_samples(tmp_path / "corpus")
    assert list(samples) == [("sentinel2", "validation")]
    expected = [
        pixels[time : time + 6, :4, row : row + 40, col : col + 40] - 1000
        for time in (0, 6)
        for row in (0, 40)
        for col in (0, 40)
    ]
    got = {sample["pixels.npy"][:, :4].tobytes() for sample in samples["sentinel2", "validation"]}
    assert got == {np.ascontiguousarray(one).tobytes() for one in expected}


def test_scenes_are_cut_to_the_area_and_state_what_they_need(tmp_path: Path) -> None:
    write_items(tmp_path / "items.json", sentinel2_items(PC, DATES, SHAPE))
    area = shapely.box(*in_degrees(TRANSFORM_10M, 10.5, 20.5, 30.5, 44.5))
    gpd.GeoDataFrame(geometry=[area], crs="EPSG:4326").to_file(tmp_path / "area.geojson")
    more = ("--options.sentinel2.compose.every_days", "16", "--options.sentinel2.incomplete", "leave_out")
    words = ("--collections", "sentinel2=sentinel-2-l2a", *PERIOD, "--area", tmp_path / "area.geojson", *more)
    assert run_scenes("--output", tmp_path / "scenes", "--catalogue", tmp_path / "items.json", *words) == 0
    written = scene_yaml(tmp_path / "scenes" / "31TFJ_2021")
    assert "split" not in written  # so that fine-tuning can divide its ground
    source = written["sources"]["sentinel2"]
    np.testing.assert_allclose(source.pop("bbox"), area.bounds, atol=1e-6)
    assert source == {
        "container": "stac",
        "path": "sentinel2.json",
        "signer": "planetary_computer",
        "collection": PC,
        "compose": {"every_days": 16},
        "incomplete": "leave_out",
    }
    features = json.loads((tmp_path / "scenes" / "31TFJ_2021" / "sentinel2.json").read_text())["features"]
    assert len(features) == 6
    assert set(features[0]["assets"]) == {*SENSORS["sentinel2"].bands, "SCL"}


def test_points_are_searched_and_leave_scenes_whole(
    tmp_path: Path, serve: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Points far from each other are searched in parts; the table of points is that of shard.py --sites."""
    api = StacApi([item.to_dict(include_self_link=False) for item in items_of_two_tiles()], page_items=100)
    west, south, *_ = in_degrees(TRANSFORM_10M, 40, 40, 41, 41)
    east = in_degrees(EAST, 40, 40, 41, 41)
    (tmp_path / "sites.csv").write_text(f"id,lon,lat\na,{west},{south}\nb,{east[0]},{east[1]}\nc,-60,-10\n")
    assert search(tmp_path / "scenes", f"{serve(tmp_path, nothing, *api.routes)}/api", "--area", tmp_path / "sites.csv") == 0
    assert "2 of 3 points" in capsys.readouterr().out
    assert len(api.searches) == 2 * 2  # two parts, two years
    found = find_scenes(tmp_path / "scenes")
    assert [one.name for one in found] == ["31TFJ_2021", "31TFJ_2022", "31TGJ_2021", "31TGJ_2022"]
    assert "bbox" not in found[0].sources["sentinel2"]


def test_tiles_and_splits_by_place(tmp_path: Path) -> None:
    write_items(tmp_path / "items.json", items_of_two_tiles())
    wide = ("--bbox", *in_degrees(TRANSFORM_10M, 1, 1, 79, 159))
    words = ("--catalogue", tmp_path / "items.json", "--collections", "sentinel-2-c1-l2a", *PERIOD, *wide)
    assert run_scenes("--output", tmp_path / "one", *words, "--tiles", "31TGJ") == 0
    assert [one.region for one in find_scenes(tmp_path / "one")] == ["31TGJ"] * 2
    assert run_scenes("--output", tmp_path / "two", *words, "--split_by_place.block_km", "0.5", "--split_by_place.seed", "3") == 0
    splits = {one.region: one.split for one in find_scenes(tmp_path / "two")}
    assert len(set(splits.values())) == 2


@pytest.mark.parametrize("pages", [1, 6])
def test_a_search_that_was_killed_is_resumed(tmp_path: Path, serve: Callable[..., str], pages: int) -> None:
    """Finished steps are not searched again, and the scenes are those of a search without interruption."""
    api = StacApi([item.to_dict(include_self_link=False) for item in items_of_two_tiles()])
    killed: subprocess.Popen[bytes] | None = None

    def kill(request: web.Request) -> None:
        if killed is not None and request.path.endswith("search") and api.pages >= pages:
            killed.kill()

    url = f"{serve(tmp_path, kill, *api.routes)}/api"
    killed = subprocess.Popen([sys.executable, ROOT / "data_prep" / "scenes.py", *map(str, arguments(tmp_path / "scenes", url))])
    assert killed.wait(timeout=120) == -signal.SIGKILL
    killed = None
    assert not list((tmp_path / "scenes").glob("*/scene.yaml"))
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "scenes" / "search").glob("*.jsonl")}
    assert len(done) == (0 if pages == 1 else 1)
    before = len(api.searches)
    assert search(tmp_path / "scenes", url) == 0
    assert len(api.searches) == before + 2 - len(done)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert search(tmp_path / "at_once", url) == 0
    for file in (tmp_path / "at_once").rglob("*.*"):
        assert file.read_bytes() == (tmp_path / "scenes" / file.relative_to(tmp_path / "at_once")).read_bytes()
    scene_file = tmp_path / "scenes" / "31TFJ_2021" / "scene.yaml"
    written = scene_file.stat().st_mtime_ns
    assert search(tmp_path / "scenes", url) == 0
    assert scene_file.stat().st_mtime_ns == written


def test_another_search_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_items(tmp_path / "items.json", items_of_two_tiles())
    assert search(tmp_path / "scenes", tmp_path / "items.json") == 0
    assert search(tmp_path / "scenes", tmp_path / "items.json", "--split", "test") == 2
    assert "was begun by another search: split was None, is test; give another --output" in capsys.readouterr().err
    (tmp_path / "mine" / "one").mkdir(parents=True)
    (tmp_path / "mine" / "one" / "scene.yaml").write_text("")
    assert search(tmp_path / "mine", tmp_path / "items.json") == 2
    assert "holds scenes that no search wrote" in capsys.readouterr().err


def test_what_cannot_be_read_yet_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = items_of_two_tiles()
    items[0].assets["green"].extra_fields["raster:bands"][0]["nodata"] = 65535
    write_items(tmp_path / "items.json", items)
    assert search(tmp_path / "scenes", tmp_path / "items.json") == 0
    said = capsys.readouterr().out
    assert "31TFJ_2021, sentinel2 cannot be read yet: sentinel2.json: item" in said
    assert "no data is 65535 in the file, but 0 for source sentinel2" in said
    assert "31TFJ_2022" not in said


def test_an_offset_is_asked_for_and_stated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Items of one catalogue say that no offset was removed, which is wrong for some of them."""
    write_items(tmp_path / "items.json", sentinel2_items("earth_search/sentinel-2-l2a", DATES, SHAPE))
    words = ("--catalogue", tmp_path / "items.json", "--collections", "sentinel-2-l2a", *PERIOD, "--bbox", *WHOLE)
    assert run_scenes("--output", tmp_path / "asked", *words) == 0
    assert "boa_offset_applied: False for baseline 05.09" in capsys.readouterr().out
    stated = ("--options.sentinel2.offset", "{00.00: 0, 04.00: 0}")
    assert run_scenes("--output", tmp_path / "stated", *words, *stated) == 0
    assert "cannot be read" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no geometry", "has no geometry, so its place is not known"),
        ("no tile", "states neither its tile (grid:code) nor its grid (proj:transform): which items form a series is not known"),
    ],
)
def test_items_whose_place_is_unknown(tmp_path: Path, change: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    item = sentinel2_item("elsewhere/mine", DATES[0], SHAPE, projection=change == "no geometry")
    if change == "no geometry":
        item.geometry = item.bbox = None
    write_items(tmp_path / "items.json", [item])
    words = ("--collections", "sentinel2=mine", *PERIOD, "--bbox", *WHOLE)
    assert run_scenes("--output", tmp_path / "scenes", "--catalogue", tmp_path / "items.json", *words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--catalogue", "nowhere.json"), "catalogue nowhere.json is neither a file nor a URL nor one of earth_search, "),
        (("--start", "2021-13-01"), "start is '2021-13-01'"),
        (("--end", "yesterday"), "end is 'yesterday'; expected a day like 2021-01-31"),
        (("--end", "2020-01-01"), "start 2021-12-01 lies after end 2020-01-01"),
        (("--bbox", "3", "50", "4"), "bbox is [3.0, 50.0, 4.0]; expected WEST SOUTH EAST NORTH"),
        (("--bbox", "3", "51", "4", "50"), "expected WEST SOUTH EAST NORTH"),
        (("--bbox", "3", "50", "4", "51", "--area", "area.geojson"), "give either --bbox WEST SOUTH EAST NORTH or --area FILE"),
        (
            ("--collections", "sentinel-2"),
            "collection sentinel-2 is not known, so say which source it is, --collections SOURCE=sentinel-2",
        ),
        (("--collections", "sentinel-2-c1-l2a", "sentinel-2-l2a"), "are all source sentinel2; search for one of them"),
        (("--signer", "azure"), "--signer: signer is 'azure'; expected one of none, planetary_computer"),
        (("--options.landsat.offset", "0"), "options speaks of the sources ['landsat']; the collections are of ['sentinel2']"),
        (("--land_cover.raster", "x.tif", "--land_cover.quality", "sentinel2"), "not from both"),
        (("--split_by_place.block_km", "100", "--split_by_place.buffer_km", "9"), "give --split.buffer_km to shard.py"),
    ],
)
def test_mistakes_are_named_in_one_line(
    tmp_path: Path, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_items(tmp_path / "items.json", [])
    assert search(tmp_path / "scenes", tmp_path / "items.json", *words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "scenes").exists()


@pytest.mark.parametrize(("status", "code"), [(503, 74), (403, 2)])
def test_an_api_that_fails(
    tmp_path: Path,
    serve: Callable[..., str],
    status: int,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A server that is away is infrastructure, one that refuses a mistake; the one is asked again."""
    monkeypatch.setattr("data_prep.stac_search.catalogues.RETRIES", 2)
    api, tries = StacApi([]), 0

    def fail(request: web.Request) -> None:
        nonlocal tries
        if request.path.endswith("search"):
            tries += 1
            raise {503: web.HTTPServiceUnavailable, 403: web.HTTPForbidden}[status](text="not now")

    assert search(tmp_path / "scenes", f"{serve(tmp_path, fail, *api.routes)}/api") == code
    assert "not now" in capsys.readouterr().err
    assert tries == (3 if status == 503 else 1)


def test_what_is_no_api_is_named(tmp_path: Path, serve: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page.json").write_text('{"links": [{"rel": "search", "href": "search"}]}')
    url = serve(tmp_path, nothing)
    assert search(tmp_path / "scenes", f"{url}/page.json") == 2
    assert "page.json: is not a STAC API that can be searched" in capsys.readouterr().err
    assert search(tmp_path / "scenes", f"{url}/none.json") == 2
    assert "none.json: no such file" in capsys.readouterr().err


def test_an_area_that_crosses_180_degrees() -> None:
    from data_prep.stac_search.area import box_of, load_area

    area = load_area([179, -1, -179, 1], None)
    assert area.touches(shapely.box(179.5, 0, 179.6, 1))
    assert area.touches(shapely.box(-179.6, 0, -179.5, 1))
    assert not area.touches(shapely.box(-1, 0, 1, 1))
    assert area.queries == ({"bbox": [179, -1, -179, 1]},)
    tile = shapely.MultiPolygon([shapely.box(179.2, 0, 180, 1), shapely.box(-180, 0, -179.8, 1)])
    assert area.box_within(tile) == [179, -1, -179, 1]
    assert box_of([shapely.box(1, 2, 3, 4), shapely.box(-5, 0, -4, 1)]) == [-5, 0, 3, 4]
