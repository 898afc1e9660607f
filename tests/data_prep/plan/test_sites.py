"""Splits by place and windows at sites, against plain loops over places and distances on the sphere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rasterio.warp import transform

from data_prep.archive.scene import SPLITS
from data_prep.plan.build import make_plan
from data_prep.plan.plan import Plan, PlannedSample
from data_prep.plan.settings import PlanSettings
from data_prep.plan.sites import load_sites
from data_prep.plan.splits import EARTH_RADIUS_KM, EqualAreaCells, SpatialBlocks, SplitConfig
from tests.support.archives import CRS, NORTH, WEST, change_split, west_of, write_archive
from tests.support.sites import distances_km, write_wide_scene


def places(centre: tuple[float, float], reach_km: float, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    degrees = reach_km / 111.2
    lat = centre[1] + rng.uniform(-degrees, degrees, count)
    lon = centre[0] + rng.uniform(-degrees, degrees, count) / np.cos(np.radians(lat))
    return (lon + 180) % 360 - 180, lat


@pytest.mark.parametrize("centre", [(10.0, 0.0), (179.95, -38.0), (-120.0, 45.0), (25.0, 69.5), (-40.0, 80.0)])
@pytest.mark.parametrize("buffer_km", [2.0, 10.0])
def test_no_sample_lies_within_the_buffer_of_another_split(centre: tuple[float, float], buffer_km: float) -> None:
    lon, lat = places(centre, 100, 1_500, seed=1)
    blocks = SpatialBlocks(block_km=20, shares={"train": 0.6, "validation": 0.2, "test": 0.2}, buffer_km=buffer_km, seed=3)
    split = blocks.of_places(lon, lat)
    unbuffered = SpatialBlocks(block_km=20, shares=blocks.shares, seed=3).of_places(lon, lat)
    kept = split >= 0
    assert np.array_equal(split[kept], unbuffered[kept])
    assert set(unbuffered[~kept].tolist()) <= {0, 1}  # nothing of the last split is left out
    distance = distances_km(lon, lat)
    differs = split[kept][:, None] != split[kept]
    assert distance[np.ix_(kept, kept)][differs].min() >= buffer_km
    without = unbuffered[:, None] != unbuffered
    assert distance[without].min() < buffer_km / 2  # it is the buffer that keeps them apart
    assert 0.2 < kept.mean() < 1
    # Nothing is left out without cause: a box around the circle reaches a block of a later split.
    north, east = np.meshgrid(*[np.linspace(-1.05, 1.05, 41) * np.degrees(buffer_km / EARTH_RADIUS_KM)] * 2)
    around_lat = lat[~kept][:, None] + north.ravel()
    around_lon = lon[~kept][:, None] + east.ravel() / np.cos(np.radians(lat[~kept][:, None]))
    around = SpatialBlocks(block_km=20, shares=blocks.shares, seed=3).of_places(around_lon.ravel(), around_lat.ravel())
    assert (around.reshape(around_lat.shape).max(axis=1) > unbuffered[~kept]).all()


def test_blocks_are_whole_drawn_by_share_and_the_same_anywhere() -> None:
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(-180, 180, 200_000), np.degrees(np.arcsin(rng.uniform(-1, 1, 200_000)))
    blocks = SpatialBlocks(block_km=100, shares={"train": 0.7, "validation": 0.1, "test": 0.2})
    split = blocks.of_places(lon, lat)
    np.testing.assert_allclose(np.bincount(split) / len(split), [0.7, 0.1, 0.2], atol=0.01)
    cells = EqualAreaCells(side_km=100).of_places(lon, lat)
    for cell in np.unique(cells)[:2_000]:
        assert len(set(split[cells == cell].tolist())) == 1
    order = rng.permutation(len(lon))
    assert np.array_equal(blocks.of_places(lon[order], lat[order]), split[order])
    cities = np.array([(2.35, 48.86), (31.24, 30.04), (77.21, 28.61), (-46.63, -23.55), (-93.27, 44.98), (151.21, -33.87)])
    assert blocks.of_places(*cities.T).tolist() == [1, 0, 0, 2, 0, 2]  # a hash of the block, whatever the library
    assert not np.array_equal(SpatialBlocks(block_km=100, shares=blocks.shares, seed=1).of_places(lon, lat), split)


def test_cells_are_of_equal_area() -> None:
    rng = np.random.default_rng(0)
    lat = np.degrees(np.arcsin(rng.uniform(-1, 1, 1_000_000)))  # even over the sphere
    cells, counts = np.unique(EqualAreaCells(side_km=1_000).of_places(rng.uniform(-180, 180, len(lat)), lat), return_counts=True)
    assert abs(len(cells) - 510) < 15  # 510 million square kilometres
    assert counts.std() / counts.mean() < 0.12
    assert len(np.unique(EqualAreaCells(side_km=1_000).of_places(np.array([180.0, -180.0]), np.zeros(2)))) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_km": 0}, "side of a cell or block is 0 km"),
        ({"block_km": 10, "buffer_km": 6}, "expected 0 to 5.0"),
        ({"block_km": 10, "shares": {"train": 0.5, "test": 0.6}}, "sum to 1"),
        ({"block_km": 10, "shares": {"trian": 1.0}}, "expected shares of train"),
    ],
)
def test_wrong_blocks(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpatialBlocks(**options)


def test_shares_that_are_not_given_keep_their_proportions() -> None:
    blocks = SplitConfig(block_km=50, shares={"test": 0.46}).spatial_blocks()
    assert blocks is not None
    assert blocks.shares == pytest.approx({"train": 0.48, "validation": 0.06, "test": 0.46})
    assert SplitConfig().spatial_blocks() is None
    with pytest.raises(ValueError, match=r"no splits are called \['tset'\]"):
        SplitConfig(block_km=50, shares={"tset": 0.3}).spatial_blocks()
    with pytest.raises(ValueError, match="only with block_km"):
        SplitConfig(buffer_km=3).spatial_blocks()


def degrees(x_m: Any, y_m: Any) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude of places in metres east and south of the scenes' corner."""
    lon, lat = transform(CRS, "EPSG:4326", WEST + np.atleast_1d(x_m), NORTH - np.atleast_1d(y_m))
    return np.array(lon), np.array(lat)


def plan_at(folder: Path, sites: Path, **changes: Any) -> Plan:
    settings = PlanSettings(**{"chip_px": {"sentinel2": 12}, "shard_mb": 0.3, "sites": sites, **changes})
    return make_plan(folder / "scenes", folder / f"corpus-{sites.stem}", settings)


def samples_of(plan: Plan) -> list[PlannedSample]:
    return [sample for shard in plan.shards() for sample in shard.samples]


def test_windows_at_sites_equal_a_plain_loop(tmp_path: Path) -> None:
    write_wide_scene(tmp_path / "scenes")
    rng = np.random.default_rng(5)
    x, y = rng.uniform(-300, 2_300, (2, 300))
    lon, lat = degrees(x, y)
    ids = [f"s{n}" for n in range(300)]
    pq.write_table(pa.table({"id": ids, "lon": lon, "lat": lat}), tmp_path / "sites.parquet")
    lines = [f"{i},{a!r},{b!r}" for i, a, b in zip(ids, lon.tolist(), lat.tolist(), strict=True)]
    (tmp_path / "sites.csv").write_text("\n".join(["id,lon,lat", *lines]))

    expected, outside, at_border, seen = {}, [], [], set()
    for site, east, south in zip(ids, x, y, strict=True):
        row, col = round(south / 10 - 6), round(east / 10 - 6)
        if not (0 <= east < 2_000 and 0 <= south < 2_000):
            outside.append(site)
        elif not (0 <= row <= 188 and 0 <= col <= 188):
            at_border.append(site)
        elif (row, col) not in seen:
            seen.add((row, col))
            expected[site] = (row, col)
    assert len(expected) > 150
    assert len(outside) > 50
    assert len(at_border) > 5
    plan = plan_at(tmp_path, tmp_path / "sites.parquet")
    assert {sample.site: (sample.row, sample.col) for sample in samples_of(plan)} == expected
    rejected = {(row.key, row.reason) for row in plan.rejected()}
    assert {key for key, reason in rejected if "outside" in reason} == {f"sentinel2-site-{site}" for site in outside}
    assert {key for key, reason in rejected if "border" in reason} == {f"sentinel2-site-{site}" for site in at_border}
    (tmp_path / "again").mkdir()
    (tmp_path / "scenes").rename(tmp_path / "again" / "scenes")
    assert samples_of(plan_at(tmp_path / "again", tmp_path / "sites.csv")) == samples_of(plan)


def test_years_sources_splits_and_doubles_of_sites(tmp_path: Path) -> None:
    write_archive(tmp_path / "scenes")  # delta: sentinel2 in 2019 (5 dates), 2020, 2021, and modis in 2021
    coast_m = west_of("test") - WEST
    lon, lat = degrees([150, 150, coast_m + 150, 150, 152, 100], [150, 150, 150, 150, 151, 150])
    columns = {
        "id": ["all", "old", "coast", "absent", "same", "modis"],
        "lon": lon,
        "lat": lat,
        "year": pa.array([None, 2019, 2021, 1999, 2020, None], pa.int16()),
        "source": pa.array(["sentinel2", "sentinel2", "sentinel2", None, "sentinel2", "modis"]),
        "split": pa.array([None, None, None, None, None, "validation"]),
    }
    pq.write_table(pa.table(columns), tmp_path / "sites.parquet")
    plan = plan_at(tmp_path, tmp_path / "sites.parquet", chip_px={"sentinel2": 12, "modis": 4}, sources=("sentinel2", "modis"))
    found = {(sample.site, sample.source, sample.scene, sample.year, sample.split) for sample in samples_of(plan)}
    assert found == {
        ("all", "sentinel2", "delta", 2020, "train"),
        ("modis", "modis", "delta", 2021, "validation"),
        ("all", "sentinel2", "delta", 2021, "train"),
        ("coast", "sentinel2", "coast", 2021, "test"),
    }
    reasons = {(row.source, row.key.rsplit("-", 3)[0] if "-r0" in row.key else row.key, row.reason) for row in plan.rejected()}
    assert ("sentinel2", "sentinel2-site-absent", "the scenes at the site have no image of its year") in reasons
    assert ("sentinel2", "sentinel2-delta", "fewer than 16 dates in the year") in reasons
    assert ("sentinel2", "sentinel2-delta", "another site has the same window") in reasons


@pytest.mark.parametrize("stated", ["test", None])
def test_scenes_on_common_ground_need_sites_with_splits(tmp_path: Path, stated: str | None) -> None:
    for name, split, year in (("a", "train", 2021), ("b", "test", 2022)):
        write_wide_scene(tmp_path / "scenes", name, year=year)
        change_split(tmp_path / "scenes" / name, split)
    lon, lat = degrees([500], [500])
    table = pa.table({"id": ["1"], "lon": lon, "lat": lat, "split": pa.array([stated], pa.string())})
    pq.write_table(table, tmp_path / "sites.parquet")
    if stated is None:
        with pytest.raises(ValueError, match=r"b \(test\) by 100 %"):
            plan_at(tmp_path, tmp_path / "sites.parquet")
    else:
        assert {(sample.scene, sample.split) for sample in samples_of(plan_at(tmp_path, tmp_path / "sites.parquet"))} == {
            ("a", "test"), ("b", "test")
        }  # fmt: skip


def test_a_site_in_two_scenes_is_cut_once_a_year(tmp_path: Path) -> None:
    write_wide_scene(tmp_path / "scenes", "a_2021")
    write_wide_scene(tmp_path / "scenes", "b_2021")
    write_wide_scene(tmp_path / "scenes", "c_2022", year=2022)
    lon, lat = degrees([500, 900], [500, 700])
    pq.write_table(pa.table({"id": ["1", "2"], "lon": lon, "lat": lat}), tmp_path / "sites.parquet")
    found = [(sample.site, sample.scene) for sample in samples_of(plan_at(tmp_path, tmp_path / "sites.parquet"))]
    assert sorted(found) == [("1", "a_2021"), ("1", "c_2022"), ("2", "a_2021"), ("2", "c_2022")]


def test_blocks_decide_on_the_splits_of_windows_of_a_grid(tmp_path: Path) -> None:
    write_wide_scene(tmp_path / "scenes")
    blocks = SpatialBlocks(block_km=0.5, shares={"train": 0.5, "validation": 0.5}, buffer_km=0.1)
    settings = PlanSettings(chip_px={"sentinel2": 6}, spatial_blocks=blocks)
    plan = make_plan(tmp_path / "scenes", tmp_path / "corpus", settings)
    assert make_plan(tmp_path / "scenes", tmp_path / "corpus", settings).hash == plan.hash
    other = PlanSettings(chip_px={"sentinel2": 6}, spatial_blocks=SpatialBlocks(block_km=0.5, shares=blocks.shares))
    with pytest.raises(ValueError, match="another plan"):
        make_plan(tmp_path / "scenes", tmp_path / "corpus", other)
    samples = samples_of(plan)
    centres = np.array([(sample.col + 3, sample.row + 3) for sample in samples]) * 10.0
    lon, lat = degrees(*centres.T)
    assert [sample.split for sample in samples] == [SPLITS[n] for n in blocks.of_places(lon, lat)]
    split = np.array([sample.split for sample in samples])
    assert set(split) == {"train", "validation"}
    apart = np.hypot(*(centres[split == "train"][:, None] - centres[split == "validation"]).transpose(2, 0, 1))
    assert apart.min() >= 100 * 0.998  # UTM stretches distances by less than that
    (group,) = plan.rejected_groups
    assert group.reason == "in the buffer beside a block of another split"
    assert group.samples + len(samples) == 33 * 33


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,lon,lat\n", "holds no sites"),
        ("id,lon\n1,2", r"columns \['lat'\] are missing"),
        ("id,lon,lat\n1,east,3", "cannot be read as a table of sites"),
        ("id,lon,lat\n1,,3", "1 of 1 rows have no lon"),
        ("id,lon,lat\n1,5,3\n2,300000,5000000", "site 2 lies at lon 300000"),
        ("id,lon,lat,split\n1,5,3,training", r"splits \['training'\]"),
    ],
)
def test_wrong_tables_of_sites(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "sites.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_sites(tmp_path / "sites.csv")
    with pytest.raises(ValueError, match="does not exist"):
        load_sites(tmp_path / "none.csv")
