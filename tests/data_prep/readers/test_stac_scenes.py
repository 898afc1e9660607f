"""STAC items of several catalogues, at paths and on a web server, against the files that they name read in another way."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine
from aiohttp import web
from stac_geoparquet.arrow import parse_stac_items_to_arrow, to_parquet

from common.errors import InfrastructureError
from data_prep.readers import signing
from data_prep.readers.opening import open_reader
from data_prep.readers.signing import TokenSigner
from tests.support.archives import BAND_METRES
from tests.support.containers import TRANSFORM_10M, on_fine_grid
from tests.support.series import SENSORS, assert_windows_equal, coarse, repeated, scene, write_raster
from tests.support.stac_scenes import (
    EARTH_SEARCH_KEYS,
    cog,
    item_id,
    sentinel2_item,
    sentinel2_items,
    write_cogs,
    write_items,
)
from tests.support.web_server import web_server

C1, ES, PC = "earth_search/sentinel-2-c1-l2a", "earth_search/sentinel-2-l2a", "planetary_computer/sentinel-2-l2a"
MINE = "elsewhere/mine"
DATES = np.datetime64("2022-03-01") + np.arange(4) * 5
SHAPE = 180, 120
BOX = 0, 0, *SHAPE
PATTERN = {"pattern": r"(?P<date>\d{8})_(?P<band>\w+)\.tif", "date_format": "%Y%m%d"}


def numbers() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    pixels = rng.integers(1001, 9000, (len(DATES), 10, *SHAPE)).astype(np.uint16)
    pixels[rng.random(pixels.shape) < 0.02] = 0
    return pixels, rng.integers(0, 12, (len(DATES), *SHAPE)).astype(np.uint8)


PIXELS, SCL = numbers()


def minus_offset(pixels: np.ndarray, offset: int = 1000) -> np.ndarray:
    """The pixels on the fine grid, all but no data less by the offset."""
    fine = on_fine_grid(pixels).astype(int)
    return np.where(fine == 0, 0, fine - offset).astype(np.uint16)


@pytest.fixture(scope="module")
def cogs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cogs")
    write_cogs(folder, PIXELS, SCL, DATES)
    return folder


@pytest.fixture
def folder(cogs: Path, tmp_path: Path) -> Path:
    """A folder with the COGs, in which a test may change files."""
    for file in cogs.glob("*.tif"):
        (tmp_path / file.name).hardlink_to(file)
    return tmp_path


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., str]]:
    with web_server() as start:
        yield start


def nothing(request: web.Request) -> None:
    """Called before each answer."""


def opened(path: Path | str, source: str = "sentinel2", **options: Any) -> Any:
    return open_reader(scene(Path(), source, container="stac", path=str(path), **options), source, SENSORS)


def assert_read(reader: Any, offset: int = 1000) -> None:
    """Assert that a window of all dates holds the written numbers less by the offset."""
    with reader:
        np.testing.assert_array_equal(reader.dates, DATES)
        got = reader.read(20, 30, 100, 90, slice(None))
        np.testing.assert_array_equal(got.pixels, minus_offset(PIXELS, offset)[:, :, 20:120, 30:120])
        np.testing.assert_array_equal(got.quality, repeated(coarse(SCL))[:, 20:120, 30:120])


@pytest.mark.parametrize("remote", [False, True])
def test_series_equal_those_of_the_same_files_as_a_folder(folder: Path, serve: Callable[..., str], remote: bool) -> None:
    write_items(folder / "items.json", sentinel2_items(C1, DATES, SHAPE))
    at = f"{serve(folder, nothing)}/items.json" if remote else folder / "items.json"
    files = scene(folder, "sentinel2", container="geotiff_scenes", path=".", offset=-1000, **PATTERN)
    with open_reader(files, "sentinel2", SENSORS) as expected, opened(at) as reader:
        assert (reader.grid, reader.chunk) == (expected.grid, expected.chunk)
        for window in (BOX, (13, 7, 64, 64)):
            for times in (slice(None), np.array([0, 3])):
                for ours, theirs in zip(
                    vars(reader.read(*window, times)).values(), vars(expected.read(*window, times)).values(), strict=True
                ):
                    np.testing.assert_array_equal(ours, theirs)
    with opened(at) as reader:
        assert_windows_equal(reader, minus_offset(PIXELS), repeated(coarse(SCL)), DATES, tries=3)


def static_catalogue(folder: Path) -> Path:
    catalogue = pystac.Catalog("all", "all")
    months = [pystac.Catalog(str(number), "some") for number in range(2)]
    catalogue.add_children(months)
    for number, item in enumerate(sentinel2_items(C1, DATES, SHAPE)):
        for asset in item.assets.values():
            asset.href = f"../../../{asset.href}"
        months[number % 2].add_item(item)
    catalogue.normalize_and_save(str(folder / "catalogue"), pystac.CatalogType.SELF_CONTAINED)
    return folder / "catalogue" / "catalog.json"


def write_as(kind: str, folder: Path) -> Path:
    items = sentinel2_items(C1, DATES, SHAPE)
    match kind:
        case "collection of items":
            write_items(folder / "items.json", items)
            return folder / "items.json"
        case "table":
            to_parquet(parse_stac_items_to_arrow([item.to_dict() for item in items]), folder / "items.parquet")
            return folder / "items.parquet"
        case "folder of items":
            for item in items:
                (folder / f"{item.id}.json").write_text(json.dumps(item.to_dict(include_self_link=False)))
            return folder
        case "folder of a catalogue":
            return static_catalogue(folder).parent
        case _:
            return static_catalogue(folder)


KINDS = ["collection of items", "table", "catalogue", "folder of items", "folder of a catalogue"]


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_of_items_at_a_path(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hrefs of assets begin at the file of the items, not at the current folder."""
    path = write_as(kind, folder)
    monkeypatch.chdir(folder.parent)
    assert_read(opened(path.relative_to(folder.parent)))


@pytest.mark.parametrize("kind", KINDS[:3])
def test_all_kinds_of_items_at_a_url(folder: Path, serve: Callable[..., str], kind: str) -> None:
    path = write_as(kind, folder)
    assert_read(opened(f"{serve(folder, nothing)}/{path.relative_to(folder)}"))


def test_one_item_is_a_series(folder: Path) -> None:
    item = sentinel2_item(C1, DATES[0], SHAPE)
    (folder / "item.json").write_text(json.dumps(item.to_dict(include_self_link=False)))
    with opened(folder / "item.json") as reader:
        assert reader.dates.tolist() == [DATES[0].item()]
        np.testing.assert_array_equal(reader.read(*BOX, slice(None)).pixels, minus_offset(PIXELS[:1]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{", "is not JSON"),
        ("[]", "holds a list; expected a STAC item"),
        ('{"type": "Polygon"}', "is not a STAC item, ItemCollection, catalogue or collection: ValueError type is 'Polygon'"),
        ('{"type": "Feature", "id": "x"}', "is not a STAC item"),
        ('{"type": "FeatureCollection", "features": []}', "holds no STAC item"),
    ],
)
def test_a_file_without_items_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "items.json").write_text(content)
    with pytest.raises(ValueError, match=rf"items\.json: {re.escape(message)}"):
        opened(tmp_path / "items.json")
    (tmp_path / "items.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"items\.parquet: is not a stac-geoparquet table"):
        opened(tmp_path / "items.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: holds no STAC item"):
        opened(tmp_path / "empty")


def stac_1_1(item: pystac.Item) -> pystac.Item:
    """The item with `bands` instead of eo:bands and raster:bands; what all bands share stands in the asset."""
    for asset in item.assets.values():
        eo, raster = (asset.extra_fields.pop(name, [{}])[0] for name in ("eo:bands", "raster:bands"))
        asset.extra_fields |= {name: raster[name] for name in ("nodata", "data_type") if name in raster}
        asset.extra_fields |= {f"raster:{name}": raster[name] for name in ("scale", "offset") if name in raster}
        if eo:
            rest = {f"eo:{name}": value for name, value in eo.items() if name != "name"}
            asset.extra_fields["bands"] = [{"name": eo["name"], **rest}]
    return item


def with_keys(item: pystac.Item, keys: dict[str, str]) -> pystac.Item:
    """The item with other asset keys."""
    item.assets = {keys.get(key, key): asset for key, asset in item.assets.items()}
    return item


def test_stac_1_1_states_bands_and_numbers_elsewhere(folder: Path) -> None:
    write_items(folder / "items.json", [stac_1_1(item) for item in sentinel2_items(C1, DATES, SHAPE)])
    assert "raster:bands" not in (folder / "items.json").read_text()
    assert_read(opened(folder / "items.json"))


def test_bands_of_an_unknown_collection_are_found_by_their_names(folder: Path) -> None:
    """By the asset's key or by the name of its band; by `assets` where neither is that of the sensor."""
    keys = {"B04": "asset_4", "B05": "asset_5"}
    items = [with_keys(item, keys) for item in sentinel2_items(MINE, DATES, SHAPE)]
    write_items(folder / "items.json", items)
    with pytest.raises(ValueError, match=r"the file states none, so scene.yaml must state it: `offset: -1000`"):
        opened(folder / "items.json")
    assert_read(opened(folder / "items.json", offset=-1000))
    for item in items:  # no longer by its name, but by its common name; asset_5 is `rededge`, as others
        item.assets["asset_4"].extra_fields["eo:bands"][0]["name"] = "4"
    write_items(folder / "items.json", items)
    assert_read(opened(folder / "items.json", offset=-1000))
    items[2].assets["asset_4"].extra_fields["eo:bands"][0] |= {"center_wavelength": 0.56}
    write_items(folder / "items.json", items)
    with pytest.raises(ValueError, match=r"asset asset_4: the file says that this band is red at 560 nm, but B04 of source"):
        opened(folder / "items.json", offset=-1000)
    for item in items:
        item.assets["asset_4"].extra_fields.pop("eo:bands")
    write_items(folder / "items.json", items)
    with pytest.raises(
        ValueError,
        match=r"which assets are B04 of source sentinel2\? Item image_20220301 has B02 \(B02, blue\), .*`assets: {B04: KEY}`",
    ):
        opened(folder / "items.json", offset=-1000)
    assert_read(opened(folder / "items.json", offset=-1000, assets={"B04": "asset_4"}))
    for item in items:
        item.assets["copy"] = item.assets["asset_5"].clone()
    write_items(folder / "items.json", items)
    with pytest.raises(ValueError, match="which assets are B04, B05 of source"):
        opened(folder / "items.json", offset=-1000)
    with pytest.raises(ValueError, match=r"assets speaks of \['B99'\]; source sentinel2 has"):
        opened(folder / "items.json", offset=-1000, assets={"B99": "x"})


def test_one_name_of_two_catalogues_is_told_apart(folder: Path) -> None:
    """Both catalogues call their collection sentinel-2-l2a, with other asset keys and another way to state the offset."""
    write_items(folder / "pc.json", sentinel2_items(PC, DATES, SHAPE))
    assert_read(opened(folder / "pc.json", signer="none"))
    items = sentinel2_items(ES, DATES, SHAPE)
    for item in items:
        item.properties["earthsearch:boa_offset_applied"] = True
    write_items(folder / "es.json", items)
    assert_read(opened(folder / "es.json"), offset=0)


def test_a_collection_that_is_stated_or_not_of_the_source(folder: Path) -> None:
    items = sentinel2_items(C1, DATES, SHAPE)
    for item in items:
        item.id, item.collection_id = f"copy of {item.id}", None
        del item.properties["grid:code"]
    write_items(folder / "items.json", items)
    with pytest.raises(ValueError, match="which assets are SCL of source sentinel2"):
        opened(folder / "items.json")
    assert_read(opened(folder / "items.json", collection=C1))
    with pytest.raises(ValueError, match=r"collection is 'sentinel-2'; known are earth_search/sentinel-2-c1-l2a, "):
        opened(folder / "items.json", collection="sentinel-2")
    with pytest.raises(ValueError, match="collection planetary_computer/hls2-s30 is source hls_s30, not landsat"):
        opened(folder / "items.json", "landsat", collection="planetary_computer/hls2-s30")
    write_items(folder / "items.json", sentinel2_items(C1, DATES, SHAPE))
    with pytest.raises(
        ValueError, match=r"its items are of earth_search/sentinel-2-c1-l2a \(source sentinel2\); none is of source landsat"
    ):
        opened(folder / "items.json", "landsat")
    with pytest.raises(ValueError, match=r"no item of sentinel-2-l2a; its items are of sentinel-2-c1-l2a \(4 items\)"):
        opened(folder / "items.json", collection=PC)


def test_items_of_other_sources_are_passed_over(folder: Path) -> None:
    items = sentinel2_items(C1, DATES, SHAPE)
    others = [
        pystac.Item(f"HLS.L30.T31TFJ.2022{day:03d}T103021.v2.0", None, None, datetime(2022, 3, 1, tzinfo=UTC), {})
        for day in range(60, 64)
    ]
    for item in others:
        item.collection_id = "hls2-l30"
    write_items(folder / "items.json", others + items)
    with pytest.warns(UserWarning, match=r"passed over items of hls2-l30 \(4 items\); source sentinel2 reads sentinel-2-c1-l2a"):
        assert_read(opened(folder / "items.json"))
    write_items(folder / "items.json", items + sentinel2_items(ES, DATES, SHAPE))
    with pytest.raises(
        ValueError, match=r"several collections, sentinel-2-c1-l2a \(4 items\), sentinel-2-l2a \(4 items\), could be"
    ):
        opened(folder / "items.json")


@pytest.mark.parametrize(
    ("collection", "baseline", "applied", "raster", "expected"),
    [
        (C1, "05.00", False, -0.1, -1000),
        (C1, "05.00", None, -0.1, -1000),
        (C1, "05.00", False, None, "the file states none, so scene.yaml must state it"),
        (C1, "05.00", True, -0.1, "contradict each other"),
        (ES, "02.14", False, 0, 0),
        (ES, "05.09", True, -0.1, 0),  # raster:bands states the offset of the original files, too
        (ES, "05.09", False, -0.1, "boa_offset_applied: False for baseline 05.09, which is wrong for some"),
        (ES, "05.09", None, -0.1, "boa_offset_applied: None"),
        (PC, "02.12", None, None, 0),
        (PC, "04.00", None, None, -1000),
        (PC, None, None, None, "the file states none, so scene.yaml must state it"),
        (MINE, "05.09", None, -0.1, -1000),
        (MINE, "05.09", None, 0, 0),
        (MINE, "05.09", None, None, "the file states none, so scene.yaml must state it"),
    ],
)
def test_offsets_are_those_that_items_state(
    folder: Path, collection: str, baseline: str | None, applied: bool | None, raster: float | None, expected: int | str
) -> None:
    items = sentinel2_items(collection, DATES, SHAPE)
    for item in items:
        item.properties |= {"s2:processing_baseline": baseline, "earthsearch:boa_offset_applied": applied}
        for key, asset in item.assets.items():
            if key not in ("thumbnail", "SCL", "scl"):
                asset.extra_fields["raster:bands"] = [{"scale": 0.0001, **({} if raster is None else {"offset": raster})}]
    write_items(folder / "items.json", items)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            opened(folder / "items.json", signer="none")
        assert_read(opened(folder / "items.json", signer="none", offset=-1000))  # scene.yaml states what items do not
        return
    assert_read(opened(folder / "items.json", signer="none"), offset=-expected)
    assert_read(opened(folder / "items.json", signer="none", offset={"00.00": expected}), offset=-expected)
    with pytest.raises(
        ValueError,
        match=rf"states the offsets \[{expected}, .*, but scene.yaml {-1000 - expected}; leave|but its processing baseline is 0",
    ):
        opened(folder / "items.json", signer="none", offset={"00.00": -1000 - expected})


def test_files_state_the_offset_where_items_do_not(folder: Path) -> None:
    """As for files without items; some silent items beside others are an error."""
    items = sentinel2_items(MINE, DATES, SHAPE)
    write_items(folder / "items.json", items)
    for file in folder.glob("*_B*.tif"):
        with rasterio.open(file) as raster:
            values, transform = raster.read(1), raster.transform
        file.unlink()
        cog(file, values, transform)
        with rasterio.open(file, "r+", IGNORE_COG_LAYOUT_BREAK=True) as raster:
            raster.scales, raster.offsets = [0.0001], [-0.1]
    assert_read(opened(folder / "items.json"))
    for key in BAND_METRES:
        items[1].assets[key].extra_fields["raster:bands"] = [{"scale": 0.0001, "offset": -0.1}]
    write_items(folder / "items.json", items)
    with pytest.raises(ValueError, match=r"3 of 4 items state no offset, such as image_20220301; so scene.yaml must"):
        opened(folder / "items.json")


def test_an_offset_by_baseline(folder: Path) -> None:
    baselines = ["02.14", "02.14", "04.00", "05.09"]
    items = [sentinel2_item(MINE, date, SHAPE, baseline) for date, baseline in zip(DATES, baselines, strict=True)]
    write_items(folder / "items.json", items)
    with opened(folder / "items.json", offset={"00.00": 0, "04.00": -1000}) as reader:
        got = reader.read(*BOX, slice(None)).pixels
    np.testing.assert_array_equal(got[:2], on_fine_grid(PIXELS[:2]))
    np.testing.assert_array_equal(got[2:], minus_offset(PIXELS[2:]))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("data_type", "float32", r"asset green: numbers are stored as float32"),
        ("nodata", 65535, r"asset green: no data is 65535 in the file, but 0 for source sentinel2"),
        ("scale", 0.001, r"asset green: the file states reflectance = 0\.001 \* number -0\.1, but it is 0\.0001 \* number"),
    ],
)
def test_numbers_that_are_not_the_sensors(folder: Path, field: str, value: object, message: str) -> None:
    items = sentinel2_items(C1, DATES, SHAPE)
    items[1].assets["green"].extra_fields["raster:bands"][0][field] = value
    write_items(folder / "items.json", items)
    with pytest.raises(ValueError, match=message):
        opened(folder / "items.json")


def test_two_items_of_one_day_are_named(folder: Path) -> None:
    items = sentinel2_items(C1, DATES, SHAPE)
    second = sentinel2_item(C1, DATES[2], SHAPE, baseline="05.10", hour=12)
    second.id = second.id.replace("S2B", "S2A")
    write_items(folder / "items.json", [*items, second])
    both = rf"{second.id} \(baseline 05.10\), {items[2].id} \(baseline 05.09\)"
    with pytest.raises(ValueError, match=rf"1 of 4 days have several images, such as {DATES[2]}: {both}; keep one"):
        opened(folder / "items.json", same_day="error")


@pytest.mark.parametrize(
    ("time", "bbox", "day"),
    [
        ("2022-03-01T10:30:00Z", [2, 45, 3, 46], "2022-03-01"),
        ("2022-03-01T23:50:00Z", [158, 60, 160, 61], "2022-03-02"),
        ("2022-03-02T00:10:00Z", [158, 60, 160, 61], "2022-03-02"),
        ("2022-03-01T22:10:00Z", [179, 60, -179.5, 61], "2022-03-02"),
        ("2022-03-01T22:10:00Z", [-180, 60, 180, 61], "2022-03-01"),
        ("2022-03-01T18:30:00Z", [-121, 60, 0, -120, 61, 9], "2022-03-01"),
        ("2022-03-01T00:00:00Z", [-121, 60, -120, 61], "2022-03-01"),  # of a day, not of a moment
    ],
)
def test_the_day_is_the_solar_one(time: str, bbox: list[float], day: str) -> None:
    from data_prep.archive.stac_items import day_of

    moment = datetime.fromisoformat(time)
    assert str(day_of(pystac.Item("x", None, bbox, moment, {}), None)) == day


def test_items_of_two_tiles_are_named(folder: Path) -> None:
    items = sentinel2_items(C1, DATES, SHAPE)
    items[3].id = item_id(C1, DATES[3], "31TGJ")
    write_items(folder / "items.json", items)
    with pytest.raises(
        ValueError, match=r"holds items of the tiles 31TFJ \(3 items\), 31TGJ \(1 items\); a series lies on one grid"
    ):
        opened(folder / "items.json")
    elsewhere = sentinel2_item(MINE, DATES[3], SHAPE, transform=TRANSFORM_10M @ Affine.translation(18, 0))
    write_items(folder / "items.json", [*sentinel2_items(MINE, DATES[:3], SHAPE), elsewhere])
    with pytest.raises(ValueError, match=r"tiles 32631_600000_4900020 \(3 items\), 32631_600180_4900020 \(1 items\)"):
        opened(folder / "items.json", offset=0)


def test_a_file_off_the_grid_is_named(folder: Path) -> None:
    """Even where the items say nothing of their grids."""
    path = folder / "20220311_B03.tif"
    path.unlink()
    cog(path, PIXELS[2, 1], TRANSFORM_10M @ Affine.translation(18, 0))
    write_items(folder / "items.json", sentinel2_items(C1, DATES, SHAPE, projection=False))
    with (
        opened(folder / "items.json") as reader,
        pytest.raises(ValueError, match=r"20220311_B03\.tif: its grid .* does not nest"),
    ):
        reader.read(*BOX, slice(None))


@pytest.mark.parametrize("code", ["EPSG:32731", 32731, "nonsense"])
def test_a_wrong_projection_is_noted_and_the_files_decide(folder: Path, code: str | int) -> None:
    items = sentinel2_items(C1, DATES, SHAPE)
    for item in items:
        item.properties["proj:code"] = code
    write_items(folder / "items.json", items)
    with pytest.warns(UserWarning, match=rf"states the projection (EPSG:)?{code}, but its files EPSG:32631: the files decide"):
        reader = opened(folder / "items.json")
    assert reader.grid.crs == "EPSG:32631"
    assert_read(reader)


def test_items_without_projection(folder: Path) -> None:
    write_items(folder / "items.json", sentinel2_items(C1, DATES, SHAPE, projection=False))
    with warnings.catch_warnings(action="error"):
        assert_read(opened(folder / "items.json"))


def test_an_item_that_lacks_an_asset_is_named_or_left_out(folder: Path) -> None:
    items = sentinel2_items(C1, DATES, SHAPE)
    del items[0].assets["nir08"]
    write_items(folder / "items.json", items)
    with pytest.raises(ValueError, match=f"1 of 4 images are incomplete, missing: nir08 of {DATES[0]}"):
        opened(folder / "items.json")
    with pytest.warns(UserWarning, match=f"1 of 4 images left out.*nir08 of {DATES[0]}"):
        reader = opened(folder / "items.json", incomplete="leave_out")
    with reader:
        np.testing.assert_array_equal(reader.dates, DATES[1:])
        np.testing.assert_array_equal(reader.read(*BOX, slice(None)).pixels, minus_offset(PIXELS[1:]))
    items[0].assets = {"thumbnail": items[0].assets["thumbnail"]}
    write_items(folder / "items.json", items)
    with pytest.raises(ValueError, match=rf"item {items[0].id} has no asset of source sentinel2, only thumbnail"):
        opened(folder / "items.json")


@pytest.mark.parametrize("remote", [False, True])
def test_a_file_that_is_missing_or_damaged_is_named(folder: Path, serve: Callable[..., str], remote: bool) -> None:
    write_items(folder / "items.json", sentinel2_items(C1, DATES, SHAPE))
    at = f"{serve(folder, nothing)}/items.json" if remote else folder / "items.json"
    (folder / "20220306_B11.tif").unlink()
    damaged = folder / "20220311_B11.tif"
    content = damaged.read_bytes()
    damaged.unlink()
    damaged.write_bytes(content[: len(content) // 2])
    with opened(at) as reader:
        np.testing.assert_array_equal(reader.read(*BOX, slice(0, 1)).pixels, minus_offset(PIXELS[:1]))
        with pytest.raises(ValueError, match=r"20220306_B11\.tif: (does not exist|cannot be read as a raster: it is missing)"):
            reader.read(*BOX, slice(1, 2))
        with pytest.raises(ValueError, match=r"20220311_B11\.tif: cannot be read as a raster"):
            reader.read(*BOX, slice(2, 3))
        np.testing.assert_array_equal(reader.read(*BOX, slice(3, 4)).pixels, minus_offset(PIXELS[3:]))
    (folder / "20220301_B02.tif").unlink()
    with pytest.raises(ValueError, match=r"20220301_B02\.tif: (does not exist|cannot be read as a raster: it is missing)"):
        opened(at)


def test_a_server_that_is_away_is_not_a_damaged_file(
    folder: Path, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.retries.time.sleep", lambda _: None)
    write_items(folder / "items.json", sentinel2_items(C1, DATES, SHAPE))
    is_away = False

    def fail(request: web.Request) -> None:
        if is_away and request.path.endswith("_B8A.tif"):
            raise web.HTTPServiceUnavailable

    with opened(f"{serve(folder, fail)}/items.json") as reader:
        is_away = True
        with pytest.raises(InfrastructureError, match=r"20220306_B8A\.tif: looking it up failed, 7 tries .*Service Unavailable"):
            reader.read(*BOX, slice(1, 2))
        is_away = False
        np.testing.assert_array_equal(reader.read(*BOX, slice(1, 2)).pixels, minus_offset(PIXELS[1:2]))


class TokenServer:
    """A storage that gives files out only with a token that has not expired, and the place where tokens come from."""

    def __init__(self, start: Callable[..., str], folder: Path, valid: timedelta) -> None:
        self.now, self.valid, self.given = datetime.now(UTC), valid, 0
        self.url = start(folder, self._check, web.get("/token/{account}/{container}", self._give))

    def _check(self, request: web.Request) -> None:
        if request.path.endswith(".tif"):
            expiry = request.query.get("expires")
            if expiry is None:
                raise web.HTTPConflict(text="PublicAccessNotPermitted")
            if datetime.fromisoformat(expiry) < self.now:
                raise web.HTTPForbidden(text="AuthenticationFailed")

    async def _give(self, request: web.Request) -> web.Response:
        if request.match_info["account"] != "store":
            raise web.HTTPNotFound
        self.given += 1
        expiry = (self.now + self.valid).isoformat()
        return web.json_response({"msft:expiry": expiry, "token": f"expires={expiry.replace('+', '%2B')}"})

    def signer(self, account: str = "store") -> TokenSigner:
        return TokenSigner(
            name="planetary_computer",
            files=rf"{self.url}/(?P<container>)",
            token_url=f"{self.url}/token/{account}/{{container}}x",
        )


def test_urls_are_signed_when_they_are_read(folder: Path, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that stays open is read on with a new token after the first one has expired."""
    write_items(folder / "items.json", sentinel2_items(PC, DATES, SHAPE))
    server = TokenServer(serve, folder, timedelta(minutes=45))
    monkeypatch.setitem(signing.SIGNERS, "planetary_computer", server.signer())

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:  # noqa: ARG003
            return server.now

    monkeypatch.setattr(signing, "datetime", Clock)
    with opened(f"{server.url}/items.json") as reader:
        np.testing.assert_array_equal(reader.read(0, 0, 60, 60, slice(0, 1)).pixels, minus_offset(PIXELS)[:1, :, :60, :60])
        assert server.given == 1
        server.now += timedelta(minutes=50)
        np.testing.assert_array_equal(reader.read(*BOX, slice(None)).pixels, minus_offset(PIXELS))
        assert server.given == 2


def test_a_wrong_signer_is_named(folder: Path, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    write_items(folder / "items.json", sentinel2_items(PC, DATES, SHAPE))
    server = TokenServer(serve, folder, timedelta(minutes=45))
    at = f"{server.url}/items.json"
    with pytest.raises(ValueError, match="signer is 'azure'; expected one of none, planetary_computer"):
        opened(at, signer="azure")
    with pytest.raises(PermissionError, match=r"_B02\.tif: looking it up is refused \(HTTP 409\): .* for STAC items, `signer`"):
        opened(at, signer="none")
    with pytest.raises(ValueError, match=r"_B02\.tif: signer planetary_computer has no token for this host; give `signer: none`"):
        opened(at)
    monkeypatch.setitem(signing.SIGNERS, "planetary_computer", server.signer("elsewhere"))
    with pytest.raises(ValueError, match=r"/token/elsewhere/x: no token there"):
        opened(at)


def test_few_bytes_are_read_ahead(tmp_path: Path, serve: Callable[..., str]) -> None:
    """Of large files at a URL, a small window costs about the tiles that it touches, not megabytes for each file."""
    side = 1024
    rng = np.random.default_rng(0)
    fine = rng.integers(1001, 9000, (side, side)).astype(np.uint16)
    for band, metres in {**BAND_METRES, "SCL": 20}.items():
        values = fine if metres == 10 else coarse(fine)
        cog(
            tmp_path / f"20220301_{band}.tif",
            (values % 12).astype(np.uint8) if band == "SCL" else values,
            TRANSFORM_10M @ Affine.scale(metres // 10),
        )
    write_items(tmp_path / "items.json", [sentinel2_item(C1, DATES[0], (side, side))])
    asked: list[int] = []

    def count(request: web.Request) -> None:
        first, _, last = request.headers.get("Range", "=-").partition("=")[2].partition("-")
        if request.path.endswith(".tif") and first:
            asked.append(int(last) - int(first) + 1)

    with opened(f"{serve(tmp_path, count)}/items.json") as reader:
        got = reader.read(500, 500, 64, 64, slice(None)).pixels[0, 0]
    np.testing.assert_array_equal(got, fine[500:564, 500:564] - 1000)
    assert sum(asked) < 11 * 256 * 1024
    assert len(asked) <= 11 * 4


def test_the_known_collections_fit_their_sensors() -> None:
    from data_prep.archive.stac_collections import stac_catalogues, stac_collections

    for name, collection in stac_collections().items():
        assert name.partition("/")[0] in stac_catalogues()
        if collection.source in SENSORS:
            sensor = SENSORS[collection.source]
            assert set(collection.assets) <= {*sensor.bands, sensor.quality.name}
            assert (collection.offset is not None) == sensor.offset_varies


@pytest.mark.parametrize(
    ("collection", "id", "tile"),
    [
        (C1, "S2C_T01KAA_20240825T221936_L2A", "01KAA"),
        (ES, "S2B_52SFA_20220126_0_L2A", "52SFA"),
        (ES, "S2A_1KAA_20220126_1_L2A", "01KAA"),
        (PC, "S2B_MSIL2A_20190629T212529_R043_T06VVN_20201006T080531", "06VVN"),
        ("planetary_computer/hls2-l30", "HLS.L30.T32UMF.2020261T103255.v2.0", "32UMF"),
        ("lpdaac/HLSS30_2.0", "HLS.S30.T14TPN.2020032T171219.v2.0", "14TPN"),
        ("planetary_computer/modis-43A4-061", "MCD43A4.A2022032.h14v10.061.2022041051831", "h14v10"),
    ],
)
def test_tiles_in_the_ids_of_items(collection: str, id: str, tile: str) -> None:
    from data_prep.archive.stac_collections import stac_collections
    from data_prep.archive.stac_items import day_of, tile_of

    item = pystac.Item(id, None, None, None, {"start_datetime": "2022-01-24T00:00:00Z", "end_datetime": "2022-02-08T23:59:59Z"})
    assert tile_of(item, stac_collections()[collection]) == tile
    if "modis" in collection:
        assert str(day_of(item, stac_collections()[collection])) == "2022-02-01"
    else:
        with pytest.raises(ValueError, match="states no datetime, only a period"):
            day_of(item, stac_collections()[collection])


def test_modis_has_one_quality_layer_per_band(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 32_767, (7, 24, 24)).astype(np.int16)
    quality = rng.integers(0, 2, (7, 24, 24)).astype(np.uint8)
    item = pystac.Item("MCD43A4.A2022032.h14v10.061.2022041051831", None, None, datetime(2022, 2, 1, tzinfo=UTC), {})
    item.collection_id = "modis-43A4-061"
    for band in range(7):
        for name, values, nodata in (("Nadir_Reflectance", pixels, 32_767), ("BRDF_Albedo_Band_Mandatory_Quality", quality, 255)):
            key = f"{name}_Band{band + 1}"
            write_raster(tmp_path / f"{key}.tif", values[band], nodata=nodata)
            item.add_asset(key, pystac.Asset(f"{key}.tif", roles=["data"], extra_fields={"raster:bands": [{"scale": 0.0001}]}))
    write_items(tmp_path / "items.json", [item])
    with opened(tmp_path / "items.json", "modis", signer="none") as reader:
        got = reader.read(0, 0, 24, 24, slice(None))
    np.testing.assert_array_equal(got.pixels[0], pixels)
    np.testing.assert_array_equal(got.quality[0], quality.max(axis=0))
    assert EARTH_SEARCH_KEYS["SCL"] == "scl"
