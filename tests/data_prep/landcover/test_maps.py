"""Land cover within footprints, against maps indexed point by point: other CRS, tiles, years, the antimeridian."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from affine import Affine
from rasterio.enums import ColorInterp
from rasterio.warp import transform
from rasterio.windows import Window

from common.grid import Grid
from common.rasters import Raster
from common.storage import any_path
from data_prep.archive.scene import LandCover, load_scene
from data_prep.landcover.base import SampleWindow
from data_prep.landcover.legend import load_legend
from data_prep.landcover.maps import LandCoverMap, map_tiles
from data_prep.plan.build import make_plan
from data_prep.plan.plan import Plan
from data_prep.plan.settings import PlanSettings
from data_prep.shards.shard_index import read_index
from data_prep.site_drawing.map_pixels import read_map_pixels
from tests.support.archives import CODES, CRS, NORTH, WEST, days, make_cube, write_scene
from tests.support.land_cover_maps import MAP_STEP, write_map
from tests.support.series import SENSORS
from tests.support.sharding import write_shard
from tests.support.web_server import web_server

LEGEND = load_legend("glc_fcs30d")
UTM = Grid(crs=CRS, transform=Affine(10, 0, WEST, 0, -10, NORTH), height=64, width=64)


def corner_of(grid: Grid) -> tuple[float, float]:
    """A corner to the north-west of the grid, in degrees, at a whole number of steps."""
    (lon,), (lat,) = transform(grid.crs, "EPSG:4326", [grid.bounds[0]], [grid.bounds[3]])
    return round(lon - 0.01, 3), round(lat + 0.01, 3)


def open_map(*paths: Path, **options: Any) -> LandCoverMap:
    return LandCoverMap(LandCover(legend="glc_fcs30d", rasters=paths, **options), LEGEND, "scene.yaml")


def indexed(grid: Grid, codes: np.ndarray, corner: tuple[float, float], step: float = MAP_STEP) -> np.ndarray:
    """The code at the centre of each pixel of `grid`, on a map in degrees (rows, columns); 0 outside the map."""
    col, row = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    x, y = grid.transform @ (col.ravel(), row.ravel())
    lon, lat = (np.array(values) for values in transform(grid.crs, "EPSG:4326", x, y))
    rows, cols = np.floor((corner[1] - lat) / step).astype(int), np.floor((lon - corner[0]) / step).astype(int)
    inside = (rows >= 0) & (cols >= 0) & (rows < codes.shape[0]) & (cols < codes.shape[1])
    found = np.zeros(len(rows), int)
    found[inside] = codes[rows[inside], cols[inside]]
    return found.reshape(grid.shape)


def patches(rng: np.random.Generator, side: int) -> np.ndarray:
    """Codes in patches of 4 x 4 pixels, so that rounding at edges affects few pixels."""
    return rng.choice(np.array(CODES), (side // 4, side // 4)).repeat(4, axis=0).repeat(4, axis=1)


@pytest.mark.parametrize(
    "footprint",
    [
        UTM,
        Grid(crs="ESRI:54008", transform=Affine(463.3127, 0, 250_000, 0, -463.3127, 5_010_000), height=8, width=8),
        Grid(crs="EPSG:32631", transform=Affine(0, 30, WEST, 30, 0, NORTH - 3_000), height=40, width=20),  # rotated
    ],
)
def test_a_map_in_degrees_under_other_grids(tmp_path: Path, footprint: Grid) -> None:
    corner = corner_of(footprint)
    codes = patches(np.random.default_rng(0), 400)
    write_map(tmp_path / "map.tif", codes[None], corner)
    with open_map(tmp_path / "map.tif") as land_cover:
        found = land_cover.read(footprint, 2021)
    scale = Affine.scale(footprint.width / found.shape[1], footprint.height / found.shape[0])
    grid = Grid(crs=footprint.crs, transform=footprint.transform @ scale, height=found.shape[0], width=found.shape[1])
    expected = indexed(grid, codes, corner)
    assert (found == expected).mean() > 0.98
    # About the map's own pixel size: a pixel of 0.00025 degrees is 27.8 m high and 27.8 m times the cosine of 45 degrees wide.
    area = abs(footprint.transform.determinant) * footprint.height * footprint.width
    assert found.size == pytest.approx(area / (27.8**2 * np.cos(np.radians(45.1))), rel=0.08)


@pytest.mark.parametrize("nodata", [None, 200, 254])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "float32"])
@pytest.mark.parametrize("first", [0, 1])
def test_stored_codes_that_are_a_fill_are_not_changed(tmp_path: Path, dtype: str, nodata: int | None, first: int) -> None:
    """GDAL writes a code that equals the no-data number of its result as the next one, which may be a class."""
    footprint, corner = UTM, corner_of(UTM)
    codes = patches(np.random.default_rng(0), 80)
    codes[first::7] = 0
    codes[:, 3::9] = 250
    profile = {
        "driver": "GTiff",
        "count": 1,
        "crs": "EPSG:4326",
        "transform": Affine(MAP_STEP, 0, corner[0], 0, -MAP_STEP, corner[1]),
    }
    with rasterio.open(tmp_path / "m.tif", "w", height=80, width=80, dtype=dtype, nodata=nodata, **profile) as raster:
        raster.write(codes.astype(dtype), 1)
    window = SampleWindow(source="sentinel2", file=None, grid=footprint, row=0, col=0, size=64, year=2021)
    with open_map(tmp_path / "m.tif") as land_cover:
        found = land_cover.codes(window, None)
        cells = Grid(
            crs=footprint.crs,
            transform=footprint.transform @ Affine.scale(64 / found.shape[1], 64 / found.shape[0]),
            height=found.shape[0],
            width=found.shape[1],
        )
    expected = indexed(cells, codes, corner)
    assert {0, 250} < set(np.unique(expected).tolist())
    assert (found == expected).mean() > 0.99  # edges of pixels may be rounded
    assert set(np.unique(found).tolist()) <= set(np.unique(codes).tolist())


def test_tiles_are_one_map(tmp_path: Path) -> None:
    corner = corner_of(UTM)
    codes = np.random.default_rng(1).choice(np.array(CODES), (120, 120))
    write_map(tmp_path / "whole.tif", codes[None], corner)
    for row in range(0, 120, 40):
        for col in range(0, 120, 40):
            part = codes[None, row : row + 40, col : col + 40]
            part_corner = corner[0] + col * MAP_STEP, corner[1] - row * MAP_STEP
            write_map(tmp_path / "tiles" / f"{row}" / f"{col}.tif", part, part_corner)
    touched = 0
    with open_map(tmp_path / "whole.tif") as whole, open_map(tmp_path / "tiles") as tiles:
        for east in range(-1_500, 1_500, 230):
            for south in range(-1_500, 1_500, 310):
                moved = UTM.transform @ Affine.translation(east / 10, south / 10)
                footprint = Grid(crs=CRS, transform=moved, height=48, width=60)
                one, many = whole.read(footprint, 0), tiles.read(footprint, 0)
                touched = max(touched, len(tiles._tiles_within(footprint)))
                if not (one == 0).all():
                    assert (one == many).mean() > 0.99  # GDAL's warping is exact to an eighth of a pixel
                    assert one.shape == many.shape
    assert touched == 4


def test_the_first_raster_that_maps_a_pixel_counts(tmp_path: Path) -> None:
    upper, lower = np.full((1, 64, 64), 10), np.full((1, 64, 64), 61)
    upper[:, :, 20:] = 250
    upper[:, 30:, :] = 0
    for name, codes in (("a", upper), ("b", lower)):
        write_map(tmp_path / f"{name}.tif", codes, (WEST, NORTH), step=10, crs=CRS)
    with open_map(tmp_path / "a.tif", tmp_path / "b.tif") as land_cover:
        found = land_cover.read(UTM, 0)
    expected = np.full((64, 64), 61)
    expected[:30, :20] = 10
    np.testing.assert_array_equal(found, expected)


def test_over_the_antimeridian(tmp_path: Path) -> None:
    (x,), (y,) = transform("EPSG:4326", "EPSG:32601", [180.0], [-17.0])
    footprint = Grid(crs="EPSG:32601", transform=Affine(20, 0, x - 640, 0, -20, y + 640), height=64, width=64)
    write_map(tmp_path / "west.tif", np.full((1, 200, 200), 10), (180 - 200 * MAP_STEP, -16.97))
    write_map(tmp_path / "east.tif", np.full((1, 200, 200), 61), (-180, -16.97))
    with open_map(tmp_path) as land_cover:
        found = land_cover.read(footprint, 0)
        far = Grid(crs="EPSG:32601", transform=Affine(20, 0, x + 300_000, 0, -20, y), height=64, width=64)
        assert land_cover.read(far, 0).tolist() == [[0]]
    half = found.shape[1] // 2
    assert (found[:, : half - 1] == 10).all()
    assert (found[:, half + 1 :] == 61).all()
    assert found.size < 2 * 64 * 64


def test_years_choose_bands(tmp_path: Path) -> None:
    codes = np.stack([np.full((64, 64), code) for code in CODES])
    write_map(tmp_path / "map.tif", codes, (WEST, NORTH), step=10, crs=CRS)
    years = (1998, 2000, 2003, 2004, 2021)
    with open_map(tmp_path / "map.tif", first_year=2000, nearest_year=True) as land_cover:
        assert land_cover.years == (2000, 2001, 2002, 2003, 2004)
        assert codes_of_years(land_cover, *years) == [{CODES[0]}, {CODES[0]}, {CODES[3]}, {CODES[4]}, {CODES[4]}]
    with open_map(tmp_path / "map.tif", first_year=2000) as land_cover:
        assert codes_of_years(land_cover, *years) == [{0}, {CODES[0]}, {CODES[3]}, {CODES[4]}, {0}]
    with pytest.raises(ValueError, match=r"map\.tif has 5 bands; if they are years, state the years .*band_years: \{3: "):
        open_map(tmp_path / "map.tif")


def codes_of_years(land_cover: LandCoverMap, *years: int) -> list[set[int]]:
    """The codes at the upper left pixels of UTM in each year."""
    return [set(np.unique(land_cover.read(UTM.window(0, 0, 8, 8), year)).tolist()) for year in years]


FIVE_YEARS, ANNUAL = (1985, 1990, 1995), tuple(range(2000, 2023))
RELEASED = [  # names of both files of a tile as they were released
    ("GLC_FCS30D_19851995_5years_E110N30.tif", "GLC_FCS30D_20002022_E110N30.tif"),
    ("GLC_FCS30D_19851995_E110N30_5years_V1.1.tif", "GLC_FCS30D_20002022_E110N30_Annual_V1.1.tif"),
]
STATED = ((3, FIVE_YEARS), (23, ANNUAL))


def write_tile(folder: Path, names: tuple[str, str], descriptions: bool = False) -> None:
    """Both files of a tile of GLC_FCS30D: the code of a year is 10 for 1985, 11 for 1990, ..., 12 + the number of the year."""
    folder.mkdir(parents=True)
    for name, years in zip(names, (FIVE_YEARS, ANNUAL), strict=True):
        codes = np.array([code_of_year(year) for year in years])[:, None, None] * np.ones((1, 64, 64), int)
        write_map(folder / name, codes, (WEST, NORTH), step=10, crs=CRS)
        if descriptions:
            with rasterio.open(folder / name, "r+") as raster:
                raster.descriptions = [f"lc_{year}" for year in years]


def code_of_year(year: int) -> int:
    return LEGEND.codes[(*FIVE_YEARS, *ANNUAL).index(year)]


@pytest.mark.parametrize(
    ("names", "stated", "descriptions"),
    [
        (RELEASED[0], (), False),
        (RELEASED[1], (), False),
        (("a.tif", "b.tif"), (), True),
        (("a.tif", "b.tif"), STATED, False),
        (("GLC_FCS30D_19852000_E110N30_5years_V1.1.tif", RELEASED[1][1]), STATED, False),
        (("a.tif", "b.tif"), (("a*", FIVE_YEARS), ("b*", ANNUAL)), False),
    ],
)
def test_two_files_of_a_tile_are_one_map_of_their_years(tmp_path: Path, names: Any, stated: Any, descriptions: bool) -> None:
    write_tile(tmp_path / "glc", names, descriptions)
    with open_map(tmp_path / "glc", band_years=stated) as land_cover:
        assert land_cover.years == land_cover.years_within(UTM) == (*FIVE_YEARS, *ANNUAL)
        found = codes_of_years(land_cover, 1985, 1990, 1995, 1998, 2000, 2022, 2023)
    assert found == [{code_of_year(year)} if year else {0} for year in (1985, 1990, 1995, None, 2000, 2022, None)]
    with open_map(tmp_path / "glc", band_years=stated, nearest_year=True) as land_cover:
        found = codes_of_years(land_cover, 1972, 1987, 1988, 1997, 1998, 2030)
    assert found == [{code_of_year(year)} for year in (1985, 1985, 1990, 1995, 2000, 2022)]


@pytest.mark.parametrize(
    ("names", "options", "descriptions", "message"),
    [
        (("a.tif", "b.tif"), {}, False, r"a\.tif has 3 bands; if they are years, state the years in `land_cover`"),
        (("GLC_19852000_5years.tif", "b.tif"), {}, False, "3 bands, and its name says 1985 to 2000, which does not tell"),
        (RELEASED[1], {"first_year": 2000}, False, "contradict each other: scene.yaml 2000 to 2002; its name 1985, 1990, 1995"),
        (("19852000.tif", "b.tif"), {"first_year": 2000}, False, "would be of 2000 to 2002, but its name says 1985 to 2000"),
        (RELEASED[0][::-1], {}, True, "its 23 bands would be of 2000 to 2022, but its name says 1985 to 1995"),
        (("a.tif", "b.tif"), {"band_years": (("*", FIVE_YEARS),)}, False, r"b\.tif: has 23 bands, but band_years states 3 years"),
        (("a.tif", "b.tif"), {"band_years": ((3, FIVE_YEARS), ("a*", (1, 2, 3)))}, False, r"keys \[3, 'a\*'\] .* other years"),
        (
            ("a_2000_2004.tif", "b.tif"),
            {"band_years": STATED},
            False,
            "would be of 1985, 1990, 1995, but its name says 2000 to 2004",
        ),
    ],
)
def test_unknown_and_contradictory_years_are_refused(
    tmp_path: Path, names: Any, options: dict[str, Any], descriptions: bool, message: str
) -> None:
    write_tile(tmp_path / "glc", names, descriptions)
    with pytest.raises(ValueError, match=message):
        open_map(tmp_path / "glc", **options)


def test_rasters_with_and_without_years_are_no_map(tmp_path: Path) -> None:
    write_tile(tmp_path / "glc", RELEASED[1])
    write_map(tmp_path / "glc" / "other.tif", np.full((1, 64, 64), 10), (WEST, NORTH), step=10, crs=CRS)
    with pytest.raises(ValueError, match=r"has years, but the year of .*other\.tif is not known; state"):
        open_map(tmp_path / "glc")
    with open_map(tmp_path / "glc", band_years=((1, (1979,)),)) as land_cover:
        assert codes_of_years(land_cover, 1979, 1985) == [{10}, {code_of_year(1985)}]


@pytest.mark.parametrize("nearest", [False, True])
def test_samples_of_two_files_have_the_codes_of_their_year(tmp_path: Path, nearest: bool) -> None:
    cube = make_cube(
        SENSORS["sentinel2"], 12, np.concatenate([days(1995, 17), days(1998, 17), days(2021, 18)]), np.random.default_rng(0)
    )
    stated = {"raster": "glc", "legend": "glc_fcs30d", "band_years": {3: [1985, 1990, 1995], "*Annual*": "2000-2022"}}
    land_cover = stated | ({"nearest_year": True} if nearest else {})
    write_scene(tmp_path / "scenes" / "delta", {"sentinel2": cube}, {"sentinel2": 10.0}, land_cover=land_cover)
    write_tile(tmp_path / "scenes" / "delta" / "glc", ("GLC_FCS30D_19852000_E110N30_5years_V1.1.tif", RELEASED[1][1]))
    plan, (index,) = written(tmp_path)
    seen = [
        [code for code, count in zip(LEGEND.codes, land_cover, strict=True) if count]
        for land_cover in index["samples"]["land_cover"]
    ]
    assert seen == [[code_of_year(year)] for year in ((1995, 2000, 2021) if nearest else (1995, 2021))]
    said = "the land-cover map is of 1985, 1990, 1995, 2000 to 2022; take its nearest year with nearest_year"
    assert [group.reason for group in plan.rejected_groups] == ([] if nearest else [said])


@pytest.fixture
def web() -> Iterator[Callable[[Path], str]]:
    """A function that serves a folder and returns its URL."""
    with web_server() as serve:
        yield lambda folder: serve(folder, lambda _: None)


def write_unmapped(path: Path, kind: str, codes: np.ndarray) -> None:
    """Codes (64, 64) with the upper left 16 x 16 pixels unmapped by a mask, an alpha band, or tiles that are not stored."""
    profile = {"driver": "GTiff", "dtype": "uint8", "crs": CRS, "transform": UTM.transform, "height": 64, "width": 64}
    mapped = np.full((64, 64), 255, np.uint8)
    mapped[:16, :16] = 0
    profile |= {"count": 2 if kind == "alpha" else 1, "tiled": True, "blockxsize": 16, "blockysize": 16}
    if kind == "alpha":
        profile["alpha"] = "yes"
    if kind == "sparse":
        profile["sparse_ok"] = True
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind == "mask"), rasterio.open(path, "w", **profile) as raster:
        if kind == "sparse":
            for row, col in ((0, 16), (16, 0), (16, 16)):
                part = codes[row : 64 if row else 16, col : 64 if col else 16]
                raster.write(part.astype(np.uint8), 1, window=Window(col, row, part.shape[1], part.shape[0]))
        else:
            raster.write(codes.astype(np.uint8), 1)
        if kind == "alpha":
            raster.write(mapped, 2)
        elif kind != "sparse":
            raster.write_mask(mapped)


@pytest.mark.parametrize("kind", ["mask", "side_car", "alpha", "sparse"])
@pytest.mark.parametrize("place", ["local", "url"])
def test_unmapped_ground_is_no_class(tmp_path: Path, web: Callable[[Path], str], kind: str, place: str) -> None:
    legend = replace(
        LEGEND, codes=(0, *LEGEND.codes), code_names=("other", *LEGEND.code_names), groups=("bare", *LEGEND.groups), fill=(250,)
    )
    codes = np.random.default_rng(0).choice(np.array([0, 10, 61]), (64, 64))
    write_unmapped(tmp_path / "map.tif", kind, codes)
    assert (tmp_path / "map.tif.msk").exists() == (kind == "side_car")
    expected = codes.copy()
    expected[:16, :16] = 250
    path = tmp_path / "map.tif" if place == "local" else any_path(f"{web(tmp_path)}/map.tif")
    cover = LandCover(legend="own", rasters=(path,))
    with LandCoverMap(cover, legend, "scene.yaml") as land_cover:
        np.testing.assert_array_equal(land_cover.read(UTM, 2021), expected)
        np.testing.assert_array_equal(land_cover.read(UTM.window(8, 4, 20, 20), 2021), expected[8:28, 4:24])
    (tile,) = map_tiles(cover, "scene.yaml")
    pixels = list(read_map_pixels(tile, 0, 1, 1, legend, 0))
    assert sum(len(part) for part in pixels) == 64 * 64 - 16 * 16
    with Raster(path, "label") as raster:
        np.testing.assert_array_equal(raster.read(250), expected)


def test_four_bands_of_bytes_are_no_alpha_band(tmp_path: Path) -> None:
    codes = np.stack([np.full((64, 64), code) for code in CODES[:4]])
    write_map(tmp_path / "map.tif", codes, (WEST, NORTH), step=10, crs=CRS)
    with rasterio.open(tmp_path / "map.tif") as raster:
        assert raster.colorinterp[3] == ColorInterp.alpha
    with open_map(tmp_path / "map.tif", first_year=2000) as land_cover:
        assert codes_of_years(land_cover, *range(2000, 2004)) == [{code} for code in CODES[:4]]


def write_small(folder: Path, land_cover: dict[str, Any], side: int = 24) -> None:
    cube = make_cube(SENSORS["sentinel2"], side, np.concatenate([days(2021, 17), days(2023, 18)]), np.random.default_rng(0))
    write_scene(folder / "scenes" / "delta", {"sentinel2": cube}, {"sentinel2": 10.0}, land_cover=land_cover)


def written(folder: Path) -> tuple[Plan, list[dict[str, Any]]]:
    """The plan and all indexes of a corpus of 12 px samples."""
    plan = make_plan(folder / "scenes", folder / "corpus", PlanSettings(chip_px={"sentinel2": 12}))
    for number in range(plan.num_shards):
        write_shard(folder / "scenes", folder / "corpus", number)
    return plan, [read_index(folder / "corpus" / f"{name}.json") for name in plan.names]


@pytest.mark.parametrize("nearest", [False, True])
def test_years_beyond_the_map_are_rejected_or_use_the_nearest(tmp_path: Path, nearest: bool) -> None:
    options = {"raster": "glc", "legend": "glc_fcs30d", "first_year": 2019} | ({"nearest_year": True} if nearest else {})
    write_small(tmp_path, options)
    codes = np.stack([np.full((30, 30), code) for code in CODES[:4]])  # 2019 to 2022
    write_map(tmp_path / "scenes" / "delta" / "glc" / "tile.tif", codes, (WEST - 30, NORTH + 30), step=10, crs=CRS)
    plan, (index,) = written(tmp_path)
    counts = [dict(zip(LEGEND.codes, land_cover, strict=True)) for land_cover in index["samples"]["land_cover"]]
    seen = [{code for code, count in of_sample.items() if count} for of_sample in counts]
    assert seen == ([{CODES[2]}] * 4 + [{CODES[3]}] * 4 if nearest else [{CODES[2]}] * 4)
    reasons = [(group.reason, group.samples) for group in plan.rejected_groups]
    assert reasons == ([] if nearest else [("the land-cover map is of 2019 to 2022; take its nearest year with nearest_year", 4)])


def test_a_foreign_code_outside_the_checked_parts_rejects_its_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.landcover.maps.CHECKED_PX", 2)
    write_small(tmp_path, {"raster": "map.tif", "legend": "glc_fcs30d"})
    codes = np.full((1, 24, 24), 10)
    codes[0, 5, 17] = 99
    write_map(tmp_path / "scenes" / "delta" / "map.tif", codes, (WEST, NORTH), step=10, crs=CRS)
    _, (index,) = written(tmp_path)
    assert len(index["samples"]["key"]) == 6
    assert [row["key"].rsplit("-", 3)[1:] for row in index["rejected"]] == [[y, "r00000", "c00012"] for y in ("2021", "2023")]
    assert all("land cover holds codes [99]" in row["reason"] for row in index["rejected"])


def test_built_in_legends_group_into_the_same_classes() -> None:
    modis = load_legend("mcd12q1")
    assert (modis.classes, modis.colors) == (LEGEND.classes, LEGEND.colors)
    assert set(modis.groups) == set(LEGEND.groups) == set(LEGEND.classes)
    assert modis.codes == tuple(range(1, 18))
    fractions = modis.fractions(modis.count(np.array([12, 14, 1, 5, 8, 17, 255, 255])))
    assert dict(zip(modis.classes, fractions.tolist(), strict=True)) == {
        **dict.fromkeys(LEGEND.classes, 0.0),
        "cropland": 2 / 6,
        "forest": 2 / 6,
        "grass_shrub": 1 / 6,
        "water": 1 / 6,
    }


def test_the_finer_grouping_splits_the_default_classes_of_the_same_codes() -> None:
    fine = load_legend("glc_fcs30d_fine")
    assert (fine.codes, fine.code_names, fine.fill) == (LEGEND.codes, LEGEND.code_names, LEGEND.fill)
    assert len({*zip(fine.groups, LEGEND.groups, strict=True)}) == len(fine.classes) > len(LEGEND.classes)  # none across two
    group_of = dict(zip(fine.codes, fine.groups, strict=True))
    assert group_of[20] not in {group_of[code] for code in fine.codes if code != 20}  # irrigated cropland, alone


@pytest.mark.parametrize(
    ("land_cover", "message"),
    [
        ({"legend": "scl"}, "either `raster`"),
        ({"legend": "scl", "quality": "sentinel2", "label": "label"}, "either `raster`"),
        ({"legend": "scl", "quality": "sentinel2", "first_year": 2000}, "belong to a raster"),
        ({"legend": "scl", "raster": "a.tif", "firstyear": 2000}, r"knows .*found \['firstyear'\]"),
    ],
)
def test_wrong_descriptions(tmp_path: Path, land_cover: dict[str, Any], message: str) -> None:
    values = {"name": "s", "sources": {"sentinel2": {}}, "land_cover": land_cover}
    (tmp_path / "scene.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=message):
        load_scene(tmp_path)
