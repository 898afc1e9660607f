"""The world in which context matters: what it is built for, and that the plain world has stayed as it was."""

import hashlib
import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from data_prep.archive.scene import find_scenes, load_scene
from data_prep.archive.sensor import load_sensors
from data_prep.readers.opening import open_reader
from data_prep.simulation.context_labels import USE_NAMES, use_codes
from data_prep.simulation.context_regions import CONTEXT_REGIONS
from data_prep.simulation.land_cover_map import land_cover_codes
from data_prep.simulation.landscape import Kind
from data_prep.simulation.map_errors import TYPICAL, MapErrors, load_map_errors
from data_prep.simulation.objects import whole_key
from data_prep.simulation.phenology import Season
from data_prep.simulation.preview import write_preview
from data_prep.simulation.scene_folder import is_finished, write_scene_folder
from data_prep.simulation.scene_grids import scene_grids
from data_prep.simulation.scene_land import SceneLand, make_scene_land
from data_prep.simulation.scene_series import planned_dates
from data_prep.simulation.scene_settings import SceneSettings
from data_prep.simulation.spectra import Spectra
from data_prep.simulation.surface import Surface
from data_prep.simulation.weather import make_weather
from finetune.task import load_task
from tests.bench.make_test_bed import FOLDERS, scenes_of

BED_TASKS = sorted((Path(__file__).parents[2] / "bench" / "test_bed").glob("*.yaml"))


def context(location: int, **changes: object) -> SceneSettings:
    settings = {"year": 2021, "landsat_px": 48, "sentinel2_px": 144, "world": "context", "sources": ("sentinel2",)}
    return SceneSettings(location=location, **(settings | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for location in (0, 12):
        write_scene_folder(context(location, map_errors=load_map_errors("typical")), folder)
    return folder


@pytest.fixture(scope="module")
def lands() -> list[SceneLand]:
    return [make_scene_land(context(location, landsat_px=80, sentinel2_px=240)) for location in (0, 11)]


# The plain world.


@pytest.mark.parametrize(
    ("location", "digest", "shift_days", "reflectance"),
    [(0, "5ceab72f77cf4f9a", -2.473643542535458, 0.181267), (8, "2d5e2809f41595d6", -5.0547435555919975, 0.188115)],
)
def test_plain_land_weather_and_seasons_are_those_of_before(
    location: int, digest: str, shift_days: float, reflectance: float
) -> None:
    """The expected values are of the version before there was a second world."""
    settings = SceneSettings(location=location, year=2022, landsat_px=32, sentinel2_px=48)
    objects = make_scene_land(settings).objects
    arrays = objects.key, objects.kind, objects.cover.astype(np.int64), objects.next_cover.astype(np.int64), objects.parcel
    assert hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16] == digest
    weather = make_weather(settings.region, 2022, 0)
    assert weather.shift_days == pytest.approx(shift_days)
    spectra = Surface(objects, Spectra("sentinel2"), 0).spectra(Season(settings.region, objects, weather, 2022, 0).state(170))
    assert spectra[0].mean() == pytest.approx(reflectance, abs=1e-5)


def test_plain_scenes_record_what_they_recorded_before(tmp_path: Path) -> None:
    (tmp_path / "simulation.json").write_text(
        '{"place": 5, "year": 2022, "seed": 0, "landsat_px": 32, "sentinel2_px": 12, "modis_days": 4, "version": 3}'
    )
    settings = SceneSettings(location=5, year=2022, landsat_px=32, sentinel2_px=12)
    assert is_finished(tmp_path, settings)
    for later in ({"world": "context"}, {"sources": ("sentinel2",)}, {"map_errors": load_map_errors("typical")}):
        with pytest.raises(ValueError, match=f"other settings .{next(iter(later))} differ"):
            is_finished(tmp_path, replace(settings, **later))  # type: ignore[arg-type]


# Classes that only context separates.


PAIRS = ((Kind.ORCHARD, Kind.OPEN_WOODLAND), (Kind.PLANTATION, Kind.FOREST), (Kind.GREENHOUSE, Kind.BUILDINGS))


def pixel_series(land: SceneLand, location: int) -> tuple[np.ndarray, np.ndarray]:
    """Reflectance without noise and clouds (H, W, days * bands), and kinds that fill whole pixels, -1 for others (H, W)."""
    settings, pixels = context(location), land.pixels["sentinel2"]
    surface = Surface(land.objects, Spectra("sentinel2"), 0)
    season = Season(settings.region, land.objects, make_weather(settings.region, 2021, 0), 2021, 0)
    series = [pixels.render(surface.spectra(season.state(day))) for day in range(20, 365, 60)]
    kinds = pixels.majority(land.objects.kind).astype(int)
    for kind in np.unique(kinds):
        kinds[(kinds == kind) & (pixels.share(land.objects.kind == kind) < 0.999)] = -1
    return np.concatenate(series, axis=-1), kinds


def row_direction(image: np.ndarray) -> np.ndarray:
    """Coherence of the structure tensor within about 90 m, from 0, no direction, to 1: (H, W) -> (H, W)."""
    gy, gx = np.gradient(ndimage.gaussian_filter(image, 0.6))
    xx, yy, xy = (ndimage.gaussian_filter(a, 4) for a in (gx * gx, gy * gy, gx * gy))
    return np.hypot(xx - yy, 2 * xy) / np.maximum(xx + yy, 1e-12)


def test_pixels_do_not_separate_what_patterns_do(lands: list[SceneLand]) -> None:
    (train, train_kinds), (test, test_kinds) = (pixel_series(land, at) for land, at in zip(lands, (0, 11), strict=True))
    rows = np.mean([row_direction(test[..., 10 * date + 3]) for date in (0, 1, 5)], axis=0)  # near infrared, no leaves
    for pair in PAIRS:
        in_train, in_test = np.isin(train_kinds, pair), np.isin(test_kinds, pair)
        assert min((test_kinds == kind).sum() for kind in pair) > 100, pair
        forest = RandomForestClassifier(20, class_weight="balanced", min_samples_leaf=5, random_state=0)
        forest.fit(train[in_train][::2], train_kinds[in_train][::2])
        by_pixel = balanced_accuracy_score(test_kinds[in_test], forest.predict(test[in_test]))
        assert by_pixel < 0.66, f"{pair}: {by_pixel:.2f}"
        assert roc_auc_score(test_kinds[in_test] == pair[0], rows[in_test]) > 0.7


def test_pairs_have_the_same_covers_and_the_same_crops(lands: list[SceneLand]) -> None:
    for land in lands:
        objects = land.objects
        part = objects.key & np.uint64(3)
        for one, other in (*PAIRS, (Kind.FISH_POND, Kind.STILL_WATER)):
            for i in (0, 1):
                covers = [set(objects.cover[(objects.kind == kind) & (part == i)]) for kind in (one, other)]
                assert not covers[0] or not covers[1] or covers[0] == covers[1]
        irrigated, rainfed = (set(objects.cover[np.isin(objects.kind, k)]) for k in ((Kind.STRIP, Kind.PIVOT), (Kind.FIELD,)))
        assert len(irrigated & rainfed) >= 4


def test_a_parcel_is_one_field_with_one_use_whatever_its_parts(lands: list[SceneLand]) -> None:
    objects = lands[0].objects
    orchards = objects.kind == Kind.ORCHARD
    for key in np.unique(whole_key(objects.key[orchards])):
        parts = whole_key(objects.key) == key
        assert len(np.unique(objects.parcel[parts])) == 1
        assert {USE_NAMES[code] for code in use_codes(objects)[parts]} == {"orchard"}
    parcels = np.unique(objects.parcel[objects.parcel > 0])
    np.testing.assert_array_equal(parcels, np.arange(1, len(parcels) + 1))


def test_irrigated_fields_are_round_or_long(lands: list[SceneLand]) -> None:
    land = lands[0]
    parcels = land.objects.parcel[land.pixels["sentinel2"].largest()]
    kinds = land.pixels["sentinel2"].majority(land.objects.kind)
    fill = {kind: [] for kind in (Kind.PIVOT, Kind.FIELD)}  # type: ignore[var-annotated]
    for number, box in enumerate(ndimage.find_objects(parcels), 1):
        height, width = (s.stop - s.start for s in box) if box else (0, 0)
        kind = kinds[parcels == number][0] if box else -1
        if kind in fill and min(height, width) >= 20 and max(height, width) <= 1.1 * min(height, width):
            fill[kind].append((parcels[box] == number).mean())
    assert np.pi / 4 - 0.05 < np.max(fill[Kind.PIVOT]) < np.pi / 4 + 0.05


# Clouds and calendars.


def test_a_pixel_has_four_to_six_clear_dates(output: Path) -> None:
    sensors = load_sensors()
    for scene in find_scenes(output):
        with open_reader(scene, "sentinel2", sensors) as reader:
            clear = reader.read(0, 0, *reader.grid.shape, slice(None)).valid.sum(axis=0)
        assert 3.5 < clear.mean() < 6.5
        assert len(reader.dates) >= 16, "as many as sharding asks for"


def test_archives_expect_as_many_clear_dates_in_every_climate() -> None:
    for location, year in itertools.product(range(0, 15, 3), (2018, 2021)):
        settings = context(location, year=year)
        dates = planned_dates(settings, make_weather(settings.region, year, 0), load_sensors()["sentinel2"])
        assert sum(1 - date.cloud_cover for date in dates) == pytest.approx(8.3, abs=1.5)


def test_calendars_shift_by_region_and_year_by_at_most_thirty_days() -> None:
    shifts = np.array([[make_weather(region, year, 0).shift_days for year in range(2018, 2024)] for region in CONTEXT_REGIONS])
    assert np.abs(shifts).max() <= 30
    assert np.ptp(shifts) > 40
    assert np.ptp(shifts.mean(axis=1)) > 25, "regions differ"
    assert np.ptp(shifts, axis=1).min() > 5, "so do years"


# The map that pretraining sees.


def test_map_errors_have_the_stated_rates_and_are_of_whole_objects() -> None:
    errors = load_map_errors("typical")
    assert errors is not None
    keys = np.random.default_rng(0).integers(0, 2**63, 20_000, dtype=np.uint64)
    for code, others in errors.confusion.items():
        true = np.full(keys.shape, code, dtype=np.uint8)
        found = errors.confused(true, keys, seed=3)
        np.testing.assert_array_equal(found, errors.confused(true, keys, seed=3))
        rates = {int(other): float((found == other).mean()) for other in np.unique(found)}
        expected = {**others, code: 1 - sum(others.values())}
        assert rates == pytest.approx(expected, abs=0.012)
    np.testing.assert_array_equal(errors.confused(np.full(9, 220, np.uint8), keys[:9], 0), 220)


def test_small_areas_of_the_map_merge_with_their_neighbours() -> None:
    cover = np.full((12, 12), 10, dtype=np.uint8)
    cover[2, 2:5], cover[6:9, 6:9] = 62, 210
    merged = MapErrors(confusion={}, smallest_px=4).without_small_areas(cover)
    assert (merged[2] == 10).all()
    np.testing.assert_array_equal(merged == 210, cover == 210)


def test_the_map_of_a_scene_errs_and_its_labels_do_not(output: Path) -> None:
    settings = context(0)
    land = make_scene_land(settings)
    true = land.pixels["landsat"].majority(land_cover_codes(land.objects))
    scene = load_scene(output / "sim_ardenmoor_2021")
    assert scene.land_cover is not None
    with rasterio.open(scene.land_cover.rasters[0]) as raster:
        found = raster.read(1)
    assert 0.55 < (found == true).mean() < 0.9
    pieces, count = ndimage.label(found == 10)
    assert ndimage.sum_labels(found == 10, pieces, range(1, count + 1)).min() >= 6
    with rasterio.open(scene.labels["lulc_10m"].path) as raster:
        np.testing.assert_array_equal(raster.read(1), land.pixels["sentinel2"].majority(use_codes(land.objects)))
    recorded = json.loads((scene.folder / "simulation.json").read_text())["map_errors"]
    errors = load_map_errors("typical")
    assert errors is not None
    assert recorded["confusion"] == {str(code): {str(k): v for k, v in row.items()} for code, row in errors.confusion.items()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("confusion: {10: {13: 0.1}}", r"\[13\] are no codes"),
        ("confusion: {10: {20: 0.7, 130: 0.6}}", "at most 1"),
        ("confusion: {}\nsmallest_px: 0", "at least 1"),
        ("confused: {}", "unknown key 'confused'"),
        ("confusion: [1]", "describes no map errors"),
    ],
)
def test_impossible_map_errors_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "errors.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_map_errors(str(tmp_path / "errors.yaml"))
    with pytest.raises(ValueError, match="none, typical, or the path"):
        load_map_errors("usual")
    assert load_map_errors("none") is None
    assert load_map_errors(str(TYPICAL)) == load_map_errors("typical")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ()}, "at least one of"),
        ({"sources": ("spot",)}, "at least one of"),
        ({"split": "dev"}, "expected one of train"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        context(0, **changes)


# The bed.


def test_folders_of_the_bed_share_no_land_with_its_test() -> None:
    scenes = {folder: scenes_of(folder, seed=0) for folder in FOLDERS}
    tests = [scene for scene in scenes["finetuning"] if scene.region.split == "test"]
    assert len({scene.region.name for scene in tests}) >= 20
    assert sum(scene.region.split == "validation" for scene in scenes["finetuning"]) >= 5
    same, held_out = ([s for s in scenes[f"pretraining_{name}"] if s.region.split == "train"] for name in ("same", "held_out"))
    assert len(same) == len(held_out) >= 20
    climates = [{scene.location % len(CONTEXT_REGIONS) for scene in part} for part in (same, held_out, tests)]
    assert climates[2] < climates[0]
    assert not climates[2] & climates[1]
    labelled = [scene for scene in scenes["finetuning"] if scene.region.split == "train"]
    assert len({scene.location % len(CONTEXT_REGIONS) for scene in labelled}) == 1
    for folder in FOLDERS:
        splits = {scene.region.name: scene.region.split for scene in scenes[folder]}
        assert len(splits) == len(scenes[folder]), "scenes of a folder have regions, and so splits, of their own"
    others = [scene for folder in FOLDERS for scene in scenes[folder] if scene.region.split != "test" or folder == "tuning"]
    footprints = [[(grid.crs, grid.bounds) for grid in (scene_grids(s)["landsat"] for s in part)] for part in (tests, others)]
    for (crs, one), (other_crs, two) in itertools.product(*footprints):
        assert crs != other_crs or one[2] <= two[0] or two[2] <= one[0], (one, two)


def test_tasks_of_the_bed_know_all_labels_of_its_scenes(output: Path) -> None:
    assert len(BED_TASKS) == 6
    for path, scene in itertools.product(BED_TASKS, find_scenes(output)):
        task = load_task(str(path))
        assert task.window_px <= 64
        with rasterio.open(scene.labels[task.label].path) as raster:
            found = np.unique(task.class_indices(raster.read(1), scene.labels[task.label]))
        assert found.min() >= 0
        assert len(found) >= 2, path


def test_preview_of_a_scene_with_sentinel2_only(output: Path, tmp_path: Path) -> None:
    for path in (output / "sim_merrano_2021").iterdir():
        (tmp_path / path.name).symlink_to(path)
    assert write_preview(tmp_path).stat().st_size > 50_000


def test_command(tmp_path: Path) -> None:
    command = [sys.executable, "data_prep/simulate.py", "--output", str(tmp_path), "--regions", "1", "--workers", "1"]
    command += ["--world", "context", "--sources", "sentinel2", "--landsat_px", "32", "--sentinel2_px", "48"]
    done = subprocess.run([*command, "--map_errors", "none"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [s.region for s in find_scenes(tmp_path)] == ["sim_ardenmoor"]
