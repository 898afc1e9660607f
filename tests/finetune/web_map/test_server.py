"""The server of the web map: what it answers, and what it refuses."""

from __future__ import annotations

import http.client
import io
import json
import math
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image

from finetune.web_map.server import MapServer
from finetune.web_map.shown_map import maps_of
from tests.support.archives import Cube
from tests.support.rice_scenes import CODES
from tests.support.shown_run import SIDE, write_shown_run


class Shown:
    """A server of a run, and the cubes of its scenes."""

    def __init__(self, folder: Path, cubes: dict[str, dict[str, Cube]]) -> None:
        self.folder, self.cubes = folder, cubes
        self.server = MapServer(maps_of(folder / "run"))
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def get(self, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection.getresponse()

    def json(self, path: str, status: int = 200) -> Any:
        answer = self.get(path)
        content = json.loads(answer.read())
        assert answer.status == status, content
        return content

    def place(self, number: int, row: float, col: float) -> tuple[float, float]:
        """Longitude and latitude of a place on a map."""
        (lon,), (lat,) = self.server.views[number].shown.grid.lon_lat(np.array([row]), np.array([col]))
        return lon, lat

    def tile(self, number: int, layer: str, choice: str = "", zoom: int = 13) -> np.ndarray:
        """The tile of a layer in the middle of a map, uint8 (256, 256, 4)."""
        lon, lat = self.place(number, SIDE / 2, SIDE / 2)
        x = int((lon + 180) / 360 * 2**zoom)
        y = int((1 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2 * 2**zoom)
        answer = self.get(f"/maps/{number}/tiles/{layer}/{zoom}/{x}/{y}.png?choice={choice}")
        assert answer.status == 200
        assert answer.getheader("Content-Type") == "image/png"
        return np.asarray(Image.open(io.BytesIO(answer.read())))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("shown")
    found = Shown(folder, write_shown_run(folder))
    yield found
    found.server.shutdown()
    made = found.server.folder
    assert made.is_dir()
    found.server.server_close()
    assert not made.exists()


def test_the_page_escapes_names_and_loads_from_this_server_alone(shown: Shown) -> None:
    answer = shown.get("/")
    page = answer.read().decode()
    assert "Paddy &lt;rice&gt; &amp; more" in page
    assert "<rice>" not in page
    assert "//" not in page.replace("<!DOCTYPE html>", "")  # no address of another host
    policy = str(answer.getheader("Content-Security-Policy"))
    assert policy.startswith("default-src 'self';")
    assert "http" not in policy
    assert answer.getheader("Cache-Control") == "no-store"
    for name, kind in (("leaflet.js", "javascript"), ("leaflet.css", "css"), ("map.js", "javascript"), ("map.css", "css")):
        answer = shown.get(f"/static/{name}")
        assert answer.status == 200
        assert kind in str(answer.getheader("Content-Type"))
        assert len(answer.read()) > 1000
    assert b"Leaflet 1.9" in shown.get("/static/leaflet.js").read()


@pytest.mark.parametrize(
    "path",
    [
        "/static/../map_view.py", "/static/..%2f..%2frun.json", "/static/page.py", "/run.json", "/../run.json", "//etc/passwd",
        "/etc/passwd", "/maps/7", "/maps/-1", "/maps/0/tiles/model/1/0/0.png", "/maps/0/tiles/..%2f/1/0/0.png",
        "/maps/0/tiles/image/13/4192/2951.png?choice=../../run", "/maps/0/tiles/probability/1/0/0.png?choice=0",
        "/maps/1/tiles/probability/1/0/0.png?choice=2", "/maps/1/tiles/probability/1/0/0.png?choice=-1", "/maps/0/fields?west=1",
        "/maps/1/fields?west=nan&south=0&east=1&north=1", "/maps/0/pixel?lon=x&lat=1", "/maps/0/pixel?lon=0&lat=0",
        "/maps/0/pixel?lon=inf&lat=0", "/maps/0/prepare/fields", "/maps/0/prepare/errors/1",
    ],
)  # fmt: skip
def test_nothing_else_can_be_read(shown: Shown, path: str) -> None:
    answer = shown.get(path)
    assert answer.status == 404
    assert set(json.loads(answer.read())) == {"error"}


def test_tiles_that_do_not_exist_and_other_methods_are_refused(shown: Shown) -> None:
    assert "there is no tile" in shown.json("/maps/0/tiles/prediction/1/2/0.png", 422)["error"]
    assert shown.get("/", "POST").status == 501
    assert shown.get("/", "DELETE").status == 501


def test_a_page_of_another_site_cannot_ask(shown: Shown) -> None:
    assert shown.get("/maps/0", Host="example.org").status == 403
    assert shown.get("/maps/0", Host=f"127.0.0.1.example.org:{shown.port}").status == 403
    assert shown.get("/maps/0", Host="127.0.0.1:80@example.org").status == 403
    assert shown.get("/maps/0", Host="").status == 403
    for host in (f"localhost:{shown.port}", "localhost:9000", "127.0.0.1"):  # also through a port that is forwarded
        assert shown.get("/maps/0", Host=host).status == 200
    assert shown.server.server_address[0] == "127.0.0.1"


def test_a_map_says_what_it_has(shown: Shown) -> None:
    a, b = shown.json("/maps/0"), shown.json("/maps/1")
    assert (a["name"], a["simulated"], a["year"], b["simulated"]) == ("a", True, 2021, False)
    assert [layer["key"] for layer in a["layers"]] == ["image", "label", "prediction", "errors"]
    assert [layer["key"] for layer in b["layers"]] == ["image", "label", "prediction", "errors", "probability", "fields"]
    assert a["classes"] == [{"name": "other", "color": "#e9e2cf"}, {"name": "paddy rice", "color": "#1f78b4"}]
    cube = shown.cubes["a"]["landsat"]
    assert [image["date"] for image in a["images"]] == [str(date) for date in cube.dates]
    assert {image["source"] for image in a["images"]} == {"landsat"}


def test_tiles_show_map_label_errors_and_probabilities(shown: Shown) -> None:
    zoom = 13
    with rasterio.open(shown.folder / "run/maps/b.tif") as raster:
        predicted = raster.read(1)
    with rasterio.open(shown.folder / "scenes/b/crop_type.tif") as raster:
        codes = raster.read(1)
    with rasterio.open(shown.folder / "run/maps/b_probabilities.tif") as raster:
        stored = raster.read(2)
    lon, lat = shown.place(1, SIDE / 2, SIDE / 2)
    x = int((lon + 180) / 360 * 2**zoom)
    y = int((1 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2 * 2**zoom)
    cols, rows = np.meshgrid(np.arange(256) + 0.5, np.arange(256) + 0.5)
    lons = (x + cols / 256) / 2**zoom * 360 - 180
    lats = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * (y + rows / 256) / 2**zoom))))
    col, row = shown.server.views[1].shown.grid.pixels_at(lons.ravel(), lats.ravel())
    col, row = col.reshape(256, 256), row.reshape(256, 256)
    sure = (np.abs(col - np.round(col)) > 0.15) & (np.abs(row - np.round(row)) > 0.15)
    inside = sure & (col >= 0) & (col < SIDE) & (row >= 0) & (row < SIDE)
    at = row[inside].astype(int), col[inside].astype(int)
    assert inside.sum() > 1000
    colors = np.array([[0xE9, 0xE2, 0xCF, 255], [0x1F, 0x78, 0xB4, 255]])
    prediction = shown.tile(1, "prediction")
    np.testing.assert_array_equal(prediction[inside], colors[predicted[at]])
    assert (prediction[sure & ~inside][:, 3] == 0).all()
    rice = codes[at] == 1
    assert CODES[1] == "paddy_rice"
    labelled = codes[at] != 0
    np.testing.assert_array_equal(shown.tile(1, "label")[inside][labelled], colors[rice[labelled].astype(int)])
    errors = shown.tile(1, "errors")[inside][labelled]
    found = predicted[at][labelled] == 1
    names = {"#009e73": rice[labelled] & found, "#e69f00": rice[labelled] & ~found, "#cc79a7": ~rice[labelled] & found}
    for color, where in names.items():
        expected = [int(color[first : first + 2], 16) for first in (1, 3, 5)]
        assert ((errors[:, :3] == expected).all(axis=1) == where).all()
    probability = shown.tile(1, "probability", "1")[inside]
    by_number = {int(number): tuple(pixel) for number, pixel in zip(stored[at], probability, strict=True)}
    assert all(tuple(pixel) == by_number[int(number)] for number, pixel in zip(stored[at], probability, strict=True))
    date = str(shown.cubes["b"]["landsat"].dates[3])
    image = shown.tile(1, "image", date)
    assert (image[inside][:, 3] == 255).all()
    assert len(np.unique(image[inside][:, 0])) > 20


def test_a_pixel_has_the_numbers_of_the_scene_and_of_the_model(shown: Shown) -> None:
    with rasterio.open(shown.folder / "run/maps/b_probabilities.tif") as raster:
        stored = raster.read()
    for number, name in enumerate("ab"):
        cubes = shown.cubes[name]
        with (
            rasterio.open(shown.folder / f"run/maps/{name}.tif") as raster,
            rasterio.open(shown.folder / f"scenes/{name}/crop_type.tif") as label,
        ):
            predicted, codes = raster.read(1), label.read(1)
        for row, col in ((0, 0), (40, 13), (63, 63)):
            lon, lat = shown.place(number, row + 0.5, col + 0.5)
            found = shown.json(f"/maps/{number}/pixel?lon={lon}&lat={lat}")
            assert (found["row"], found["col"]) == (row, col)
            assert found["prediction"] == ["other", "paddy_rice"][predicted[row, col]]
            assert found["label"] == (None if codes[row, col] == 0 else ["other", "paddy_rice"][int(codes[row, col] == 1)])
            landsat, modis = found["series"]
            np.testing.assert_allclose(landsat["reflectance"], cubes["landsat"].pixels[:, :, row, col] / 10_000)
            np.testing.assert_allclose(modis["reflectance"], cubes["modis"].pixels[:, :, row // 16, col // 16] / 10_000)
            if name == "a":  # computed by the model, as the map was
                assert found["probabilities_from"] == "the model"
                assert sum(found["probabilities"]) == pytest.approx(1, abs=1e-3)
                assert np.argmax(found["probabilities"]) == predicted[row, col]
            else:
                assert found["probabilities_from"] == "b_probabilities.tif"
                np.testing.assert_allclose(found["probabilities"], stored[:, row, col] / 250)


def test_the_model_gives_the_probabilities_of_the_map(shown: Shown, tmp_path: Path) -> None:
    """Those that `predict --probabilities` wrote for scene b, when their file is not there."""
    shutil.copytree(shown.folder / "run", tmp_path / "run")
    (tmp_path / "run/maps/b_probabilities.tif").unlink()
    other = Shown(tmp_path, shown.cubes)
    try:
        for row, col in ((3, 50), (31, 32), (60, 5)):
            lon, lat = shown.place(1, row + 0.5, col + 0.5)
            written, computed = (one.json(f"/maps/1/pixel?lon={lon}&lat={lat}") for one in (shown, other))
            assert computed["probabilities_from"] == "the model"
            np.testing.assert_allclose(computed["probabilities"], written["probabilities"], atol=0.5 / 250 + 1e-4)
    finally:
        other.server.shutdown()
        other.server.server_close()


def test_fields_are_those_of_the_file(shown: Shown) -> None:
    import geopandas

    table = geopandas.read_parquet(shown.folder / "run/maps/b_fields.parquet")
    found = shown.json("/maps/1/fields?west=-180&south=-90&east=180&north=90")
    assert {feature["properties"]["id"] for feature in found["features"]} == set(table["id"])


def test_many_requests_at_once_and_maps_in_turn_are_answered(shown: Shown) -> None:
    lon, lat = shown.place(0, 5.5, 6.5)
    other = shown.place(1, 5.5, 6.5)
    paths = [f"/maps/0/pixel?lon={lon}&lat={lat}", f"/maps/1/pixel?lon={other[0]}&lat={other[1]}", "/maps/0", "/"] * 4
    expected = {path: shown.get(path).read() for path in set(paths)}
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda path: shown.get(path).read(), paths)) == [expected[path] for path in paths]


def test_a_broken_scene_is_named_and_its_map_is_shown(shown: Shown, tmp_path: Path) -> None:
    shutil.copytree(shown.folder, tmp_path / "all")
    run = tmp_path / "all/run"
    settings = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(settings | {"data": str(tmp_path / "all/scenes")}))
    shutil.rmtree(tmp_path / "all/scenes/a/landsat.zarr")
    (tmp_path / "all/scenes/b/crop_type.tif").write_bytes(b"no raster")
    other = Shown(tmp_path / "all", shown.cubes)
    try:
        a, b = other.json("/maps/0"), other.json("/maps/1")
        assert "landsat" in a["notes"][0]
        assert [layer["key"] for layer in a["layers"]] == ["label", "prediction", "errors"]
        assert "crop_type.tif" in b["notes"][0]
        assert [layer["key"] for layer in b["layers"]] == ["image", "prediction", "probability", "fields"]
        lon, lat = shown.place(0, 5.5, 6.5)
        found = other.json(f"/maps/0/pixel?lon={lon}&lat={lat}")
        assert found["series"] == []
        assert "landsat" in found["about_series"]
        assert found["prediction"] is not None
        lon, lat = shown.place(1, 5.5, 6.5)
        found = other.json(f"/maps/1/pixel?lon={lon}&lat={lat}")
        assert (found["label"], found["has_label"], len(found["series"])) == (None, False, 2)
    finally:
        other.server.shutdown()
        other.server.server_close()


def test_a_port_that_is_taken_is_a_mistake(shown: Shown) -> None:
    with pytest.raises(ValueError, match=rf"--port {shown.port} cannot be used"):
        MapServer(maps_of(shown.folder / "run"), shown.port)
    with pytest.raises(ValueError, match="--port 70000 cannot be used"):
        MapServer(maps_of(shown.folder / "run"), 70000)
