"""Simulated scenes: their files, and whether they behave like land seen from space."""

import dataclasses
import hashlib
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
import zarr
from scipy import ndimage

from data_prep.archive.scene import find_scenes, load_scene
from data_prep.archive.sensor import load_sensors
from data_prep.landcover.legend import load_legend
from data_prep.readers.opening import open_reader
from data_prep.simulation import container_writers
from data_prep.simulation.acquisitions import sun_position
from data_prep.simulation.covers import COVERS, CROP_NAMES, INDEX
from data_prep.simulation.label_maps import LULC_NAMES, WHEAT_COVERS, boundaries, write_labels
from data_prep.simulation.landscape_raster import rasterise
from data_prep.simulation.phenology import Season
from data_prep.simulation.preview import write_preview
from data_prep.simulation.quality_codes import dilated
from data_prep.simulation.randomness import SmoothNoise, generator, normal, power_law_field, uniform
from data_prep.simulation.regions import REGIONS
from data_prep.simulation.scene_folder import write_scene_folder
from data_prep.simulation.scene_grids import mgrs_tile, scene_grids, tile_margin_m
from data_prep.simulation.scene_land import make_scene_land
from data_prep.simulation.scene_settings import SceneSettings
from data_prep.simulation.sensor_images import block_mean
from data_prep.simulation.sky import make_sky
from data_prep.simulation.spectra import Spectra
from data_prep.simulation.surface import Surface
from data_prep.simulation.weather import Weather, make_weather

LOCATIONS = {region.name: location for location, region in enumerate(REGIONS)}


def small(region: str, **changes: int) -> SceneSettings:
    return SceneSettings(**({"location": LOCATIONS[region], "year": 2022, "landsat_px": 96, "sentinel2_px": 96} | changes))


def digests(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for region in ("lomellina", "sanjiang"):
        write_scene_folder(small(region), folder)
    return folder


@pytest.fixture(scope="module")
def italian(output: Path) -> Path:
    return output / "lomellina_2022"


# Files of a scene.


def test_scenes_are_found_and_read_back_by_the_readers(output: Path) -> None:
    scenes = find_scenes(output)
    assert [(s.name, s.split) for s in scenes] == [("lomellina_2022", "train"), ("sanjiang_2022", "validation")]
    sensors = load_sensors()
    for scene, source in ((each, source) for each in scenes for source in each.sources):
        with open_reader(scene, source, sensors) as reader:
            series = reader.read(0, 0, *reader.grid.shape, slice(None))
            assert reader.grid == scene_grids(small(scene.region))[source]
        assert len(series.dates) >= 20
        assert set(series.dates.astype("datetime64[Y]").astype(str)) == {"2022"}
        assert 0.15 < series.valid.mean() <= 1


def test_sentinel2_is_a_zarr_group_with_the_offset_of_its_archives(italian: Path) -> None:
    group = zarr.open_group(italian / "sentinel2.zarr", mode="r")
    reflectance, scl = group["reflectance"], group["SCL"]
    assert reflectance.dtype == np.uint16
    assert reflectance.metadata.dimension_names == ("time", "band", "y", "x")
    assert group["time"].attrs["units"] == "days since 1970-01-01"
    assert tuple(str(b) for b in group["band"][:]) == load_sensors()["sentinel2"].bands
    numbers, codes = reflectance[:], scl[:]
    np.testing.assert_array_equal((numbers == 0).all(axis=1), codes == 0)
    np.testing.assert_array_equal((numbers == 0).any(axis=1), codes == 0)
    assert set(np.unique(codes)) <= {0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}
    water = numbers[:, 8][codes == 6].astype(float)  # B11: nearly black, so that the offset shows
    assert -0.01 < np.median(water - 1000) / 10000 < 0.08
    assert np.median(numbers[:, 0][codes == 9]) > 6000, "clouds are bright"
    corner = group["x"][0], group["y"][0]
    transform = scene_grids(small("lomellina"))["sentinel2"].transform
    assert corner == pytest.approx(transform @ (0.5, 0.5))


def test_landsat_has_hls_names_fill_and_mask_bits(italian: Path) -> None:
    folder = italian / "landsat"
    masks = sorted(folder.glob("*.Fmask.tif"))
    assert len(list(folder.iterdir())) == 7 * len(masks)
    bits_seen = 0
    for path in masks:
        head = path.name.removesuffix(".Fmask.tif").split(".")
        assert head[:2] == ["HLS", "L30"]
        assert head[2] == "T32TMR", "the 100 km square of 8.7 E, 45.25 N"
        assert head[3].startswith("2022")
        with rasterio.open(path) as raster, rasterio.open(folder / path.name.replace("Fmask", "B05")) as nir:
            assert raster.crs.to_epsg() == 32632
            assert raster.nodata == 255
            assert nir.nodata == -9999
            assert nir.dtypes == ("int16",)
            codes, numbers = raster.read(1), nir.read(1)
        np.testing.assert_array_equal(numbers == -9999, codes == 255)
        observed = codes[codes != 255]
        bits_seen |= int(np.bitwise_or.reduce(observed, initial=0))
        # adjacent pixels are neither cloud nor shadow themselves
        assert not ((observed & 4 > 0) & (observed & 0b1010 > 0)).any()
    assert bits_seen & 0b00101110 == 0b00101110, "cloud, adjacent, shadow and water occur in a year"


def test_modis_is_filled_where_quality_says_so(italian: Path) -> None:
    with h5py.File(italian / "modis.h5") as file:
        numbers, quality = file["reflectance"][:], file["BRDF_Albedo_Band_Mandatory_Quality"][:]
        assert numbers.dtype == np.int16
        assert file.attrs["crs"] == "EPSG:32632"
        dates = file["dates"][:].astype("datetime64[D]")
    assert (np.diff(dates) == np.timedelta64(4, "D")).all()
    assert set(np.unique(quality)) <= {0, 1, 255}
    np.testing.assert_array_equal((numbers == 32767).all(axis=1), quality == 255)
    np.testing.assert_array_equal((numbers == 32767).any(axis=1), quality == 255)
    # 16-day composites: from one date to the next there is less change than from month to month
    ndvi = np.where(quality == 255, np.nan, (numbers[:, 1] - 1.0 * numbers[:, 0]) / (numbers[:, 1] + 1.0 * numbers[:, 0]))
    assert np.nanmean(np.abs(ndvi[1:] - ndvi[:-1])) < 0.4 * np.nanmean(np.abs(ndvi[8:] - ndvi[:-8]))


def test_maps_lie_on_the_grids_and_agree(italian: Path) -> None:
    scene, legend = load_scene(italian), load_legend("glc_fcs30d")
    assert scene.land_cover is not None
    assert scene.land_cover.rasters
    grid = scene_grids(small("lomellina"))
    with rasterio.open(scene.land_cover.rasters[0]) as raster:
        assert raster.transform == grid["landsat"].transform
        assert raster.colormap(1)[210][:3] == (44, 111, 178)
        cover = raster.read(1)
    fractions = dict(zip(legend.classes, legend.fractions(legend.count(cover)), strict=True))
    assert fractions["cropland"] > 0.4
    assert sum(value > 0 for value in fractions.values()) >= 4
    maps = {}
    for name, label in scene.labels.items():
        with rasterio.open(label.path) as raster:
            expected = grid["sentinel2" if name.endswith("10m") else "modis" if name.endswith("480m") else "landsat"]
            assert raster.transform == expected.transform, name
            assert raster.crs.to_epsg() == 32632
            maps[name] = raster.read(1)
        if label.classes:
            assert set(np.unique(maps[name])) <= set(label.classes), name
    crops = maps["crop_type"]
    assert {1, 2, 3, 4} <= set(np.unique(crops)), [CROP_NAMES[c] for c in np.unique(crops)]
    # a crop stands on cropland; both maps show the same land
    assert np.isin(cover[(crops != 100) & (maps["parcels"] > 0)], (10, 11, 12, 20)).mean() > 0.97
    assert (maps["parcels"][crops != 100] > 0).mean() > 0.95
    inside = slice(32, 64)
    fine = maps["crop_type_10m"][1::3, 1::3]  # the 10 m pixel in the middle of each 30 m pixel
    assert (fine == crops[inside, inside]).mean() > 0.85
    assert set(np.unique(maps["field_boundary_10m"])) == {1, 2, 100}
    # The land-use map has the same crops, and water, forest and wetland where the land cover has them.
    lulc, is_crop = maps["lulc_10m"], maps["crop_type_10m"] < 11
    assert (lulc[is_crop] == maps["crop_type_10m"][is_crop]).all()
    coarse = cover[inside, inside]
    for code, glc in ((15, (210,)), (12, (52, 62, 72)), (14, (182,))):
        same = (lulc[1::3, 1::3] == code)[np.isin(coarse, glc)]
        assert same.size == 0 or same.mean() > 0.8, LULC_NAMES[code]


def test_labels_of_each_task_by_counting_cells() -> None:
    settings = small("jianghan", seed=2)  # with wheat on 0.245 and 0.255 of two pixels
    land = make_scene_land(settings)
    margin = tile_margin_m(settings)
    names = np.array([cover.name for cover in COVERS])

    def covers(left: int, cell_m: int, cells: int) -> np.ndarray:
        flat = SmoothNoise("none", scale=100.0, extent=3000.0)
        keys = rasterise(land.landscape, left, left, cell_m, cells, (flat, flat)).key
        return names[land.objects.cover[np.searchsorted(land.objects.key, keys)]]

    crops = {cover.name: CROP_NAMES[cover.crop] for cover in COVERS if cover.crop < 11}
    land_classes = {
        "bare_or_fallow": {"fallow", "rock", "sparse_vegetation"},
        "forest": {"deciduous_forest", "evergreen_forest", "needle_forest"},
        "grassland": {"grassland", "annual_grassland", "shrubland"},
        "wetland": {"marsh"},
        "water": {"river", "lake", "pond"},
        "built_up": {"paved_road", "red_roofs", "grey_roofs", "blue_roofs", "yard", "track"},
    }
    of_cover = crops | {cover: name for name, found in land_classes.items() for cover in found}
    with tempfile.TemporaryDirectory() as folder:
        labels = write_labels(land.objects, land.pixels, scene_grids(settings), Path(folder))
        found = {}
        for name in ("lulc_10m", "winter_wheat_480m"):
            with rasterio.open(Path(folder) / labels[name]["path"]) as raster:
                found[name] = np.vectorize(labels[name]["classes"].get)(raster.read(1))
    fine = np.vectorize(of_cover.get)(covers(margin, 5, 192))
    order = list(labels["lulc_10m"]["classes"].values())
    assert len(order) == 16
    for row, column in itertools.product(range(0, 96, 5), range(0, 96, 5)):
        cells = fine[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].ravel().tolist()
        assert found["lulc_10m"][row, column] == max(order, key=cells.count), "the most frequent, the first of equals"
    wheat = np.isin(covers(0, 10, 288), ["winter_wheat", "wheat_then_maize", "wheat_then_rice"])
    share = wheat.reshape(6, 48, 6, 48).mean(axis=(1, 3))
    np.testing.assert_allclose(land.pixels["modis"].share(np.isin(names[land.objects.cover], WHEAT_COVERS)), share, atol=1e-5)
    expected = share >= 0.25
    np.testing.assert_array_equal(found["winter_wheat_480m"] == "winter_wheat", expected)
    assert 0 < expected.mean() < 1


def test_interiors_that_a_boundary_keeps_apart_are_the_fields(italian: Path) -> None:
    with rasterio.open(italian / "field_boundary_10m.tif") as raster, rasterio.open(italian / "parcels_10m.tif") as fields:
        kinds, parcels = raster.read(1), fields.read(1)
    np.testing.assert_array_equal(kinds == 100, parcels == 0)
    pieces, count = ndimage.label(kinds == 1)
    owners = [np.unique(parcels[pieces == piece]) for piece in range(1, count + 1)]
    assert all(len(owner) == 1 for owner in owners), "no piece reaches into a second field"
    # Roads and narrow ends divide some fields; most of the land of a field is one piece.
    largest: dict[int, int] = {}
    for piece, (owner,) in enumerate(owners, 1):
        largest[owner] = max(largest.get(owner, 0), int((pieces == piece).sum()))
    assert sum(largest.values()) > 0.85 * (kinds == 1).sum()
    # A boundary is one pixel wide in its field: all pixels further inside are interior.
    inside = np.zeros(kinds.shape, dtype=bool)
    for parcel in np.unique(parcels[parcels > 0]):
        inside |= ndimage.binary_erosion(parcels == parcel, border_value=1)
    np.testing.assert_array_equal(kinds == 1, inside)


def test_grids_nest() -> None:
    for settings in (small("iowa"), SceneSettings(location=8, year=2022), small("jianghan", sentinel2_px=102)):
        grid = scene_grids(settings)
        assert grid["modis"].bounds == grid["landsat"].bounds
        assert grid["modis"].height * 16 == grid["landsat"].height
        left, bottom, right, top = grid["landsat"].bounds
        x0, y0, x1, y1 = grid["sentinel2"].bounds
        assert left <= x0 < x1 <= right
        assert bottom <= y0 < y1 <= top
        assert (x0 - left) % 30 == (top - y0) % 30 == left % 30 == top % 30 == 0


def test_coarse_pixels_are_means_of_fine_ones() -> None:
    settings = small("limagne")
    land = make_scene_land(settings)
    surface = Surface(land.objects, Spectra("modis"), 0)
    weather = make_weather(settings.region, 2022, 0)
    spectra = surface.spectra(Season(settings.region, land.objects, weather, 2022, 0).state(170))
    fine, coarse = land.pixels["landsat"].render(spectra), land.pixels["modis"].render(spectra)
    assert fine.shape == (96, 96, 7)
    assert fine.std(axis=(0, 1)).min() > 0.005
    np.testing.assert_allclose(coarse, block_mean(fine, 16), atol=2e-6)


@pytest.mark.slow
def test_same_seed_same_bytes_in_another_process_and_another_seed_not(italian: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; import sys; from data_prep.simulation.scene_folder import write_scene_folder; "
        "from data_prep.simulation.scene_settings import SceneSettings; "
        f"settings = SceneSettings(location={LOCATIONS['lomellina']}, year=2022, landsat_px=96, sentinel2_px=96); "
        "write_scene_folder(settings, Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "again")], check=True)
    assert digests(tmp_path / "again" / italian.name) == digests(italian)
    write_scene_folder(small("lomellina", seed=1), tmp_path / "other")
    other = digests(tmp_path / "other" / italian.name)
    assert other["crop_type.tif"] != digests(italian)["crop_type.tif"]
    assert other["modis.h5"] != digests(italian)["modis.h5"]


# Restarts and errors.


def test_finished_scene_is_kept_and_other_settings_are_refused(italian: Path, output: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in italian.rglob("*")}
    row = write_scene_folder(small("lomellina"), output)
    assert row["split"] == "train"
    assert before == {p: p.stat().st_mtime_ns for p in italian.rglob("*")}
    with pytest.raises(ValueError, match=r"exists with other settings \(seed differ"):
        write_scene_folder(small("lomellina", seed=3), output)


def test_interrupted_scene_leaves_nothing_under_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = small("iowa", landsat_px=32, sentinel2_px=12)
    with monkeypatch.context() as patch:
        patch.setattr(container_writers, "write_hdf5", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_scene_folder(settings, tmp_path)
    assert not (tmp_path / "iowa_2022").exists()
    with pytest.raises(ValueError, match="no scenes"):
        find_scenes(tmp_path)
    write_scene_folder(settings, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["iowa_2022"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"landsat_px": 100}, "multiple of 16"),
        ({"sentinel2_px": 96 * 3 + 6}, "3 x landsat_px = 288"),
        ({"sentinel2_px": 64}, "multiple of 6"),
        ({"modis_days": 0}, "at least 1"),
        ({"year": 22}, "from 1985"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small("iowa", **changes)


def test_command(tmp_path: Path) -> None:
    command = [sys.executable, "data_prep/simulate.py", "--output", str(tmp_path / "scenes"), "--regions", "2", "--workers", "1"]
    sizes = ["--landsat_px", "32", "--sentinel2_px", "48"]
    done = subprocess.run([*command, *sizes, "--preview", "true"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "jianghan_2022" in done.stdout
    assert [s.split for s in find_scenes(tmp_path / "scenes")] == ["train", "test"]
    assert (tmp_path / "scenes" / "jianghan_2022" / "preview.png").stat().st_size > 10_000
    refused = subprocess.run([*command, "--landsat_px", "48", "--sentinel2_px", "48"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "landsat_px differ" in refused.stderr


def test_preview_of_a_scene(italian: Path, tmp_path: Path) -> None:
    for path in italian.iterdir():
        (tmp_path / path.name).symlink_to(path)
    assert write_preview(tmp_path).stat().st_size > 100_000


# Behaviour of the land.


@dataclasses.dataclass
class Year:
    """A year of a region without clouds: NDVI and LSWI of each crop, as medians over its fields on each day."""

    region: str

    def __post_init__(self) -> None:
        settings = small(self.region)
        self.land = make_scene_land(settings)
        self.weather = make_weather(settings.region, 2022, 0)
        self.season = Season(settings.region, self.land.objects, self.weather, 2022, 0)
        surface = Surface(self.land.objects, Spectra("landsat"), 0)
        self.days = np.arange(0, 365, 5)
        spectra = np.array([surface.spectra(self.season.state(day))[0] for day in self.days])
        red, nir, swir = spectra[..., 2], spectra[..., 3], spectra[..., 4]
        self.ndvi, self.lswi = (nir - red) / (nir + red), (nir - swir) / (nir + swir)

    def of(self, values: np.ndarray, cover: str) -> np.ndarray:
        chosen = self.land.objects.cover == INDEX[cover]
        assert chosen.sum() >= 5, f"{self.region} has {chosen.sum()} {cover}"
        return np.median(values[:, chosen], axis=1)


@pytest.fixture(scope="module")
def italy() -> Year:
    return Year("lomellina")


def test_paddies_are_flooded_before_they_are_green(italy: Year) -> None:
    ndvi, lswi = italy.of(italy.ndvi, "paddy_rice"), italy.of(italy.lswi, "paddy_rice")
    flooded = lswi + 0.05 > ndvi  # Xiao et al. 2005
    spring = (italy.days > 115) & (italy.days < 175)
    assert flooded[spring].mean() > 0.5
    assert ndvi[(italy.days > 195) & (italy.days < 235)].max() > 0.8
    for other in ("maize", "soybean"):
        dry = italy.of(italy.lswi, other) + 0.05 > italy.of(italy.ndvi, other)
        assert dry[spring].mean() < 0.2, other


def test_wheat_peaks_before_maize_and_is_green_in_winter(italy: Year) -> None:
    wheat, maize = italy.of(italy.ndvi, "winter_wheat"), italy.of(italy.ndvi, "maize")
    assert 90 < italy.days[wheat.argmax()] < 160
    assert italy.days[wheat.argmax()] + 40 < italy.days[maize.argmax()]
    snowless = (italy.days < 60) & (italy.weather.snow[italy.days] < 0.05)
    assert (wheat[snowless] > maize[snowless] + 0.1).all()
    assert wheat[(italy.days > 195) & (italy.days < 240)].max() < 0.5, "stubble after the harvest"


def test_winter_crops_of_next_year_are_sown_this_autumn(italy: Year) -> None:
    objects = italy.land.objects
    sown = (objects.cover == INDEX["maize"]) & (objects.next_cover == INDEX["winter_wheat"])
    left = (objects.cover == INDEX["maize"]) & (objects.next_cover == INDEX["maize"])
    december = italy.days > 335
    assert np.median(italy.ndvi[december][:, sown]) > np.median(italy.ndvi[december][:, left]) + 0.1


def test_rice_stays_on_its_fields_and_annual_crops_change() -> None:
    settings = small("lomellina")
    this, following = make_scene_land(settings).objects, make_scene_land(dataclasses.replace(settings, year=2023)).objects
    np.testing.assert_array_equal(this.key, following.key)
    np.testing.assert_array_equal(this.next_cover, following.cover)
    rice = this.cover == INDEX["paddy_rice"]
    np.testing.assert_array_equal(rice, following.cover == INDEX["paddy_rice"])
    maize = this.cover == INDEX["maize"]
    assert 0.1 < (following.cover[maize] == INDEX["maize"]).mean() < 0.9


def test_the_south_is_earlier() -> None:
    def half_way(region: str, cover: str) -> float:
        year = Year(region)
        ndvi = year.of(year.ndvi, cover)
        peak = int(ndvi.argmax())
        return float(year.days[peak + int(np.argmax(ndvi[peak:] < 0.55))])

    assert half_way("jianghan", "winter_rapeseed") + 20 < half_way("limagne", "winter_rapeseed")


def test_fields_differ_but_belong_together(italy: Year) -> None:
    day = int(np.argmin(np.abs(italy.days - 165)))
    maize = italy.ndvi[day][italy.land.objects.cover == INDEX["maize"]]
    assert 0.02 < maize.std() < 0.25


def test_snow_lies_in_the_cold_north_only() -> None:
    cold, warm = (make_weather(REGIONS[LOCATIONS[name]], 2022, 0) for name in ("sanjiang", "red_river"))
    assert cold.snow[:45].mean() > 0.5
    assert cold.snow[150:240].max() == 0
    assert warm.snow.max() < 0.05
    assert cold.ice[15] > 0.9
    assert cold.ice[200] < 0.01


def test_every_region_has_what_its_split_needs() -> None:
    assert [r.split for r in REGIONS].count("train") == 5
    for region in REGIONS:
        assert set(region.crops) | set(region.forests) | set(region.roofs) <= set(INDEX)
        if region.split != "train":
            assert any("rice" in name for name in region.crops)
            assert len(region.crops) >= 4
    later = SceneSettings(location=len(REGIONS) + LOCATIONS["sacramento"], year=2022).region
    assert (later.name, later.split) == ("sacramento2", "train")
    legend = load_legend("glc_fcs30d")
    assert {cover.glc for cover in COVERS} <= set(legend.codes)


# Components.


def test_hashed_numbers_are_uniform_and_normal() -> None:
    keys = np.arange(20_000, dtype=np.uint64)
    u, z = uniform(keys, "a"), normal(keys, "a")
    assert np.abs(np.histogram(u, 10, (0, 1))[0] / 2000 - 1).max() < 0.12
    assert abs(z.mean()) < 0.03
    assert abs(z.std() - 1) < 0.03
    assert abs(np.corrcoef(u, uniform(keys, "b"))[0, 1]) < 0.03
    np.testing.assert_array_equal(u, uniform(keys, "a"))


def test_smooth_noise_is_a_function_of_coordinates() -> None:
    noise = SmoothNoise("test", scale=100.0, extent=3000.0)
    x, y = np.meshgrid(np.arange(0, 3000, 7.0), np.arange(0, 3000, 7.0))
    values = noise(x, y)
    assert abs(values.mean()) < 0.2
    assert 0.7 < values.std() < 1.3
    np.testing.assert_array_equal(noise(x[:5, :5], y[:5, :5]), values[:5, :5])
    assert np.abs(noise(x + 0.5, y) - values).max() < 0.2


def test_shadows_fall_away_from_the_sun() -> None:
    zenith, azimuth = sun_position(45.0, 171)
    assert np.degrees(zenith) == pytest.approx(29, abs=4), "10:30 at midsummer at 45 degrees north"
    assert 90 < np.degrees(azimuth) < 180, "in the south-east"
    assert sun_position(45.0, 355)[0] > zenith + 0.6
    along = np.zeros(2)  # fit of clouds, moved to the north-west and to the south-east, to the shadows
    for i in range(12):
        sky = make_sky(generator("sky", i), (200, 200), 30.0, 0.15, (0.5, azimuth))
        cloud, shadow = (np.fft.fft2(a - a.mean()) for a in (sky.cloud, sky.shadow))
        fit = np.fft.ifft2(shadow * np.conj(cloud)).real
        steps = np.arange(11, 40)
        rows, columns = np.rint(np.outer((np.cos(azimuth), -np.sin(azimuth)), steps)).astype(int)
        assert rows.max() < 0, "up, to the north"
        assert columns.max() < 0, "left, to the west"
        along += fit[rows, columns].sum(), fit[-rows, -columns].sum()
    assert along[0] > 0.0
    assert along[0] > 2 * along[1]


def test_clouds_cover_what_was_asked_for() -> None:
    covers = [(make_sky(generator("cover", i), (128, 128), 30.0, 0.4, (0.6, 2.5)).cloud > 0).mean() for i in range(24)]
    assert np.mean(covers) == pytest.approx(0.4, abs=0.12)
    field = power_law_field(generator("field"), 128, 1.8)
    assert field.std() == pytest.approx(1, abs=1e-3)


def test_dilation_by_brute_force() -> None:
    mask = generator("mask").random((30, 40)) < 0.01
    expected = np.zeros_like(mask)
    for row, column in np.argwhere(mask):
        expected[max(0, row - 3) : row + 4, max(0, column - 3) : column + 4] = True
    np.testing.assert_array_equal(dilated(mask, 3), expected)


def test_boundaries() -> None:
    parcels = np.array([[1, 1, 1, 2], [1, 1, 1, 2], [1, 1, 1, 0]])
    np.testing.assert_array_equal(boundaries(parcels), [[1, 1, 2, 2], [1, 1, 2, 2], [1, 1, 2, 100]])


@pytest.mark.parametrize(
    ("longitude", "latitude", "easting", "northing", "tile"),
    [
        (2.35, 48.85, 452_000, 5_411_000, "31UDQ"),
        (5.45, 43.53, 698_000, 4_822_000, "31TFJ"),
        (-93.6, 42.0, 450_000, 4_650_000, "15TVG"),
    ],
)
def test_mgrs_tiles(longitude: float, latitude: float, easting: float, northing: float, tile: str) -> None:
    """Paris, Aix-en-Provence, and Ames in Iowa."""
    assert mgrs_tile(longitude, latitude, easting, northing) == tile


def test_summary_is_recorded(italian: Path) -> None:
    record = json.loads((italian / "simulation.json").read_text())
    assert record["seed"] == 0
    assert record["landsat_px"] == 96


def test_weather_is_daily() -> None:
    weather = make_weather(REGIONS[0], 2024, 5)
    for field in dataclasses.fields(Weather):
        if field.name != "shift_days":
            assert getattr(weather, field.name).shape == (366,)
