"""Sites drawn from land-cover maps: the table is checked site by site against the map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import rasterio

from common.command_line import run_command
from data_prep.draw_sites import RENAMED, draw_sites
from data_prep.landcover.legend import load_legend
from data_prep.plan.build import make_plan
from data_prep.plan.settings import PlanSettings
from data_prep.plan.sites import load_sites
from data_prep.plan.splits import EqualAreaCells, SpatialBlocks, SplitConfig
from data_prep.site_drawing import drawing, map_pixels
from data_prep.site_drawing.settings import SiteSettings
from tests.support.archives import CRS, NORTH, WEST, write_land_cover
from tests.support.land_cover_maps import write_map
from tests.support.sites import distances_km, write_wide_scene

LEGEND = load_legend("glc_fcs30d")
STEP = 0.02  # degrees
CORNER = (-10.0, 56.0)


def country(seed: int = 0) -> np.ndarray:
    """A map of 300 x 600 pixels, mostly sea and forest: fields of 10 pixels, some towns, one glacier of 4 pixels."""
    rng = np.random.default_rng(seed)
    codes = rng.choice(np.array([210, 61, 10, 130]), (30, 60), p=[0.6, 0.3, 0.05, 0.05]).repeat(10, axis=0).repeat(10, axis=1)
    codes[rng.random(codes.shape) < 0.002] = 190
    codes[100:102, 40:42] = 220
    codes[:40, :40] = 0
    return codes


@pytest.fixture(scope="module")
def map_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("map") / "map.tif"
    write_map(path, country()[None], CORNER, step=STEP)
    return path


def drawn(land_cover: Any, folder: Path, count: int = 600, name: str = "sites.parquet", **options: Any) -> dict[str, np.ndarray]:
    settings = {"cell_km": 100.0, "min_distance_km": 0.0, **options}
    draw_sites(SiteSettings(land_cover=land_cover, output=folder / name, count=count, **settings))
    table = pq.read_table(folder / name)
    return {column: np.array(table[column].to_pylist()) for column in table.column_names}


def classes_at(sites: dict[str, np.ndarray], codes: np.ndarray) -> list[str]:
    rows = np.floor((CORNER[1] - sites["lat"]) / STEP).astype(int)
    cols = np.floor((sites["lon"] - CORNER[0]) / STEP).astype(int)
    return [LEGEND.groups[LEGEND.codes.index(code)] for code in codes[rows, cols].tolist()]


def test_classes_are_even_as_far_as_the_map_has_them(map_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sites = drawn(map_path, tmp_path, 604)
    assert sites["class"].tolist() == classes_at(sites, country())
    counts = dict(zip(*np.unique(sites["class"], return_counts=True), strict=True))
    assert counts == {"cropland": 120, "forest": 120, "grass_shrub": 120, "impervious": 120, "snow_ice": 4, "water": 120}
    assert len({(lon, lat) for lon, lat in zip(sites["lon"], sites["lat"], strict=True)}) == len(set(sites["id"])) == 604
    table = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line}
    assert table["water"][:2] == ["120", "19.9%"]
    share = (country()[:, :] == 210) * np.cos(np.radians(CORNER[1] - STEP * (np.arange(300) + 0.5)))[:, None]
    mapped = (country() != 0) * np.cos(np.radians(CORNER[1] - STEP * (np.arange(300) + 0.5)))[:, None]
    assert table["water"][2] == f"{share.sum() / mapped.sum():.1%}"
    with (tmp_path / "sites.png").open("rb") as picture:
        assert picture.read(8) == b"\x89PNG\r\n\x1a\n"


def test_sites_of_a_class_are_spread_over_cells(map_path: Path, tmp_path: Path) -> None:
    sites = drawn(map_path, tmp_path, 500, classes=["water"])
    cells = EqualAreaCells(side_km=100).of_places(sites["lon"], sites["lat"])
    _, counts = np.unique(cells, return_counts=True)
    codes = country()
    row, col = np.nonzero(codes == 210)
    held = EqualAreaCells(side_km=100).of_places(CORNER[0] + STEP * (col + 0.5), CORNER[1] - STEP * (row + 0.5))
    _, available = np.unique(held, return_counts=True)
    assert len(counts) == len(available)
    level = counts.max()  # the fullest cell has at most one site more than any cell with enough pixels
    assert (counts >= np.minimum(available, level - 1)).all()


def test_no_two_sites_are_too_near(map_path: Path, tmp_path: Path) -> None:
    sites = drawn(map_path, tmp_path, 3_000, min_distance_km=12.0)
    distance = distances_km(sites["lon"], sites["lat"])
    np.fill_diagonal(distance, np.inf)
    assert 12.0 <= distance.min() < 13.0
    assert 500 < len(sites["id"]) < 3_000  # no more sites fit


def test_the_same_seed_gives_the_same_sites_however_the_map_is_read(
    map_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"min_distance_km": 5.0, "years": [2019, 2020, 2021], "split": SplitConfig(block_km=50.0)}
    first = drawn(map_path, tmp_path, 400, **options)
    again = (tmp_path / "sites.parquet").read_bytes()
    monkeypatch.setattr(map_pixels, "WINDOW_PIXELS", 5_000)
    monkeypatch.setattr(drawing, "MAX_CANDIDATES", 1)
    monkeypatch.setattr(drawing, "SPARE", 2)
    drawn(map_path, tmp_path, 400, **options)
    assert (tmp_path / "sites.parquet").read_bytes() == again
    other = drawn(map_path, tmp_path, 400, seed=1, **options)
    assert (other["lon"] != first["lon"]).mean() > 0.8
    assert np.unique(first["year"], return_counts=True)[1].tolist() == [134, 133, 133]


def test_splits_are_blocks_with_a_buffer(map_path: Path, tmp_path: Path) -> None:
    options = {"split": SplitConfig(block_km=40.0, buffer_km=8.0, shares={"test": 0.3})}
    sites = drawn(map_path, tmp_path, 1_500, **options)
    assert set(sites["split"]) == {"train", "validation", "test"}
    distance = distances_km(sites["lon"], sites["lat"])
    assert distance[sites["split"][:, None] != sites["split"]].min() >= 8.0
    blocks = SpatialBlocks(block_km=40, shares={"train": 0.7 * 8 / 9, "validation": 0.7 / 9, "test": 0.3}, buffer_km=8)
    assert [("train", "validation", "test")[n] for n in blocks.of_places(sites["lon"], sites["lat"])] == sites["split"].tolist()


def test_tiles_in_several_crs_and_years(tmp_path: Path) -> None:
    codes = np.stack([country(), np.where(country() == 61, 10, country())])
    write_map(tmp_path / "tiles" / "a.tif", codes[:, :, :300], CORNER, step=STEP)
    write_map(tmp_path / "tiles" / "b.tif", np.full((2, 100, 100), 182), (600_000, 5_600_000), step=500, crs="EPSG:32631")
    sites = drawn(tmp_path / "tiles", tmp_path, 300, first_year=2000, year=2001)
    assert "forest" not in sites["class"]
    wetland = sites["class"] == "wetland"
    assert 0 < wetland.sum() < 300
    assert (sites["lon"][wetland] > 4.3).all()
    many = drawn([tmp_path / "tiles" / "b.tif"], tmp_path, 50, first_year=2000)
    assert set(many["class"]) == {"wetland"}
    with pytest.raises(ValueError, match="year is 2003; the land-cover map has the years 2000 to 2001"):
        drawn(tmp_path / "tiles", tmp_path, 10, first_year=2000, year=2003)


def test_drawn_sites_are_planned(tmp_path: Path) -> None:
    write_wide_scene(tmp_path / "scenes")
    rng = np.random.default_rng(0)
    write_land_cover(tmp_path / "scenes" / "wide" / "landcover.tif", rng.choice([10, 61, 190], (68, 68)))
    code = run_to_exit(
        *("--land_cover", tmp_path / "scenes" / "wide" / "landcover.tif", "--output", tmp_path / "sites.csv", "--count", "40"),
        *("--cell_km", "0.5", "--min_distance_km", "0.15", "--split_block_km", "0.4", "--years", "[2021]"),
    )
    assert code == 0
    sites = load_sites(tmp_path / "sites.csv")
    assert len(sites) == 40
    plan = make_plan(
        tmp_path / "scenes", tmp_path / "corpus", PlanSettings(chip_px={"sentinel2": 12}, sites=tmp_path / "sites.csv")
    )
    table = pa_csv.read_csv(tmp_path / "sites.csv").to_pydict()
    split_of = dict(zip(table["id"], table["split"], strict=True))
    samples = [sample for shard in plan.shards() for sample in shard.samples]
    assert len(samples) > 30
    assert all(split_of[sample.site] == sample.split for sample in samples)
    assert {sample.year for sample in samples} == {2021}
    x = WEST + 10 * (np.array([sample.col for sample in samples]) + 6)
    y = NORTH - 10 * (np.array([sample.row for sample in samples]) + 6)
    with rasterio.open(tmp_path / "scenes" / "wide" / "landcover.tif") as raster:
        assert str(raster.crs) == CRS
        there = [int(code[0]) for code in raster.sample(zip(x, y, strict=True))]
    of_class = dict(zip(table["id"], table["class"], strict=True))
    names = {10: "cropland", 61: "forest", 190: "impervious"}
    same = [names[code] == of_class[sample.site] for code, sample in zip(there, samples, strict=True)]
    assert np.mean(same) > 0.95  # the window's centre lies within 5 m of the site, the map's pixels are 30 m wide


def run_to_exit(*arguments: Any) -> int:
    with pytest.raises(SystemExit) as exit_:
        run_command(draw_sites, [str(argument) for argument in arguments], config_class=SiteSettings, renamed=RENAMED)
    return int(exit_.value.code or 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "sites.txt"}, r"ends in \.csv or \.parquet"),
        ({"count": 0}, "count and step must be at least 1"),
        ({"classes": ["woods"]}, r"no classes \['woods'\]"),
        ({"legend": "mcd12q1"}, "land cover holds codes .* is it the right legend"),
        ({"classes": ["bare"]}, "no site to draw"),
        ({"land_cover": Path("none.tif")}, "none.tif does not exist"),
        ({"year": 2003}, "no years: give band_years or first_year"),
        ({"split": SplitConfig(buffer_km=3.0)}, "only with block_km"),
    ],
)
def test_wrong_options(map_path: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    output = tmp_path / options.pop("output", "sites.csv")
    with pytest.raises(ValueError, match=message):
        draw_sites(SiteSettings(**{"land_cover": map_path, "output": output, "count": 10, **options}))
    assert not list(tmp_path.iterdir())
