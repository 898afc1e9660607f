"""The web map in a real browser: layers, slider, clicks, several maps, a phone; and nothing from other hosts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import rasterio
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from finetune.web_map.server import MapServer
from finetune.web_map.shown_map import maps_of
from tests.support.archives import Cube
from tests.support.browser import Browser, opened_browser
from tests.support.shown_run import SIDE, write_shown_run

COLORS = {0: (0xE9, 0xE2, 0xCF), 1: (0x1F, 0x78, 0xB4)}
READY = "return document.getElementById('status').textContent === '' && {} > 0".format(
    "document.querySelectorAll('.leaflet-tile-loaded').length"
)
# No tile is on its way or fading in.
STILL = """
const tiles = [...document.querySelectorAll('.leaflet-tile')];
return tiles.length > 0 && tiles.every((tile) => tile.classList.contains('leaflet-tile-loaded') && tile.style.opacity === '1');
"""


class Shown:
    """The web map of a run in a browser, and what the run was made from."""

    def __init__(self, folder: Path, browser: Browser, cubes: dict[str, dict[str, Cube]]) -> None:
        self.folder, self.browser, self.cubes = folder, browser, cubes
        self.server = MapServer(maps_of(folder / "run"))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def open(self, **window: Any) -> None:
        self.browser.open(self.server.url, **window)
        self.browser.until(READY)
        self.browser.until(STILL)

    def element(self, name: str) -> Any:
        return self.browser.driver.find_element(By.ID, name)

    def tiles(self, layer: str) -> int:
        """Number of loaded tiles of a layer."""
        script = "return document.querySelectorAll(`.leaflet-${arguments[0]}-pane .leaflet-tile-loaded`).length"
        return int(self.browser.run(script, layer))

    def window_place(self, number: int, row: float, col: float) -> tuple[int, int]:
        """Where in the window (x, y) a place of a map is shown."""
        (lon,), (lat,) = self.server.views[number].shown.grid.lon_lat(np.array([row]), np.array([col]))
        x, y = self.browser.run("const p = map.latLngToContainerPoint([...arguments]); return [p.x, p.y]", lat, lon)
        return round(x), round(y)

    def click(self, x: int, y: int) -> None:
        box = self.element("map").rect
        actions = ActionChains(self.browser.driver)
        across, down = round(x - box["width"] / 2), round(y - box["height"] / 2)
        actions.move_to_element_with_offset(self.element("map"), across, down).click().perform()

    def array(self, name: str) -> np.ndarray:
        with rasterio.open(self.folder / name) as raster:
            return raster.read(1)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    folder = tmp_path_factory.mktemp("shown")
    with opened_browser() as browser:
        found = Shown(folder, browser, write_shown_run(folder))
        yield found
        found.server.shutdown()
        found.server.server_close()


def test_the_page_opens_without_errors_and_asks_no_other_host(shown: Shown) -> None:
    shown.open()
    assert shown.browser.driver.title == "Paddy <rice> & more"
    assert shown.tiles("image") > 0
    assert shown.tiles("prediction") > 0
    assert shown.tiles("label") == 0
    assert shown.element("simulated").is_displayed()
    assert "a (simulated), season ending 2021" in shown.element("about").text
    assert "other" in shown.element("legend").text
    requested = shown.browser.requested()
    assert {urlsplit(url).netloc for url in requested} == {urlsplit(shown.server.url).netloc}
    assert any("/static/leaflet.js" in url for url in requested)
    assert shown.browser.complaints() == []


def test_layers_are_switched_and_show_the_colours_of_their_classes(shown: Shown) -> None:
    shown.open()
    shown.element("on-prediction").click()
    shown.element("on-label").click()
    shown.browser.until("return document.querySelectorAll('.leaflet-label-pane .leaflet-tile-loaded').length > 0")
    shown.browser.until(STILL)
    assert shown.tiles("prediction") == 0
    slider = shown.browser.driver.find_element(By.CSS_SELECTOR, "[aria-label='opacity of label']")
    shown.browser.run("arguments[0].value = 100; arguments[0].dispatchEvent(new Event('input'))", slider)
    assert shown.browser.run("return map.getPane('label').style.opacity") == "1"
    codes, picture = shown.array("scenes/a/crop_type.tif"), shown.browser.screenshot()
    for row, col in ((4, 4), (30, 12), (50, 60), (20, 44)):
        x, y = shown.window_place(0, row + 0.5, col + 0.5)
        assert tuple(picture[y, x]) == COLORS[int(codes[row, col] == 1)], (row, col)
    before = shown.browser.run("return current.layers.image.choice")
    other = next(str(date) for date in shown.cubes["a"]["landsat"].dates if str(date) != before)
    select = shown.element("choice-image")
    shown.browser.run("arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change'))", select, other)
    shown.browser.until(
        "return [...document.querySelectorAll('.leaflet-image-pane img')].some((i) => i.src.includes(arguments[0]))", other
    )
    assert shown.browser.complaints() == []


def test_the_slider_shows_one_layer_left_and_the_other_right_of_it(shown: Shown) -> None:
    shown.open()
    shown.element("swipe").click()
    shown.browser.until("return document.querySelectorAll('.leaflet-label-pane .leaflet-tile-loaded').length > 0")
    shown.browser.until(STILL)
    divider = shown.element("divider")
    assert divider.is_displayed()
    labels, predicted = shown.array("scenes/a/crop_type.tif") == 1, shown.array("run/maps/a.tif")
    differ = np.argwhere(labels != predicted)
    differ = differ[((differ % 8 >= 2) & (differ % 8 <= 5)).all(axis=1)]  # inside of fields
    width = shown.element("map").rect["width"]

    def check(at: float) -> None:
        picture, seen = shown.browser.screenshot(), {"left": 0, "right": 0}
        for row, col in differ[:: max(1, len(differ) // 60)]:
            x, y = shown.window_place(0, row + 0.5, col + 0.5)
            if abs(x - at) < 40:  # the handle
                continue
            side = "left" if x < at else "right"
            number = int(labels[row, col]) if side == "left" else int(predicted[row, col])
            assert tuple(picture[y, x]) == COLORS[number], (row, col, side)
            seen[side] += 1
        assert min(seen.values()) > 3, seen

    check(width / 2)
    ActionChains(shown.browser.driver).drag_and_drop_by_offset(divider, -100, 0).perform()
    share = int(divider.get_attribute("aria-valuenow")) / 100
    assert share == pytest.approx(0.5 - 100 / width, abs=0.02)
    check(share * width)
    divider.send_keys(Keys.ARROW_RIGHT)
    assert int(divider.get_attribute("aria-valuenow")) / 100 == pytest.approx(share + 0.02, abs=0.011)
    shown.browser.run("map.panBy([60, 0], { animate: false })")  # the edge stays where it is in the window
    shown.browser.until(STILL)
    check((share + 0.02) * width)
    shown.element("swipe").click()
    assert not divider.is_displayed()
    assert shown.browser.run("return map.getPane('label').style.clipPath") == ""
    assert shown.browser.complaints() == []


def test_a_click_shows_the_series_of_the_pixel(shown: Shown) -> None:
    shown.open()
    row, col = 21, 43
    shown.click(*shown.window_place(0, row + 0.5, col + 0.5))
    shown.browser.until("return document.querySelectorAll('#chart circle').length > 0")
    assert f"Pixel in row {row}, column {col}" in shown.element("pixel").text
    predicted = shown.array("run/maps/a.tif")[row, col]
    assert shown.element("predicted").text == f"prediction: {['other', 'paddy rice'][predicted]}"
    label = shown.array("scenes/a/crop_type.tif")[row, col] == 1
    assert shown.element("labelled").text == f"label: {['other', 'paddy rice'][int(label)]}"
    probabilities = [float(text) for text in shown.element("probabilities").text.split() if text[0].isdigit()]
    assert sum(probabilities) == pytest.approx(1, abs=0.01)
    assert int(np.argmax(probabilities)) == predicted

    def circles(source: str) -> dict[str, tuple[float, bool]]:
        script = (
            "return [...document.querySelectorAll('#chart circle')].map((c) => ({ ...c.dataset, fill: c.getAttribute('fill') }))"
        )
        dots = [dot for dot in shown.browser.run(script) if dot["source"] == source]
        assert all((dot["fill"] != "none") == (dot["clear"] == "true") for dot in dots)
        return {dot["date"]: (float(dot["value"]), dot["clear"] == "true") for dot in dots}

    for source, red, near_infrared, factor, clear in (("landsat", 2, 3, 1, 64), ("modis", 0, 1, 16, 0)):
        cube = shown.cubes["a"][source]
        stored = cube.pixels[:, :, row // factor, col // factor].astype(float)
        ndvi = (stored[:, near_infrared] - stored[:, red]) / (stored[:, near_infrared] + stored[:, red])
        found = circles(source)
        assert list(found) == [str(date) for date in cube.dates]
        np.testing.assert_allclose([value for value, _ in found.values()], ndvi, atol=1e-5)
        was_clear = cube.quality[:, row // factor, col // factor] == clear
        assert [is_clear for _, is_clear in found.values()] == was_clear.tolist()
    band = shown.element("band")
    options = [option.text for option in band.find_elements(By.TAG_NAME, "option")]
    index = next(number for number, text in enumerate(options) if text.startswith("reflectance of B05"))
    shown.browser.run("arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change'))", band, index)
    cube = shown.cubes["a"]["landsat"]
    np.testing.assert_allclose([value for value, _ in circles("landsat").values()], cube.pixels[:, 3, row, col] / 10_000)
    shown.click(5, 5)  # beside the map
    shown.browser.until("return document.getElementById('status').textContent === 'outside of the map'")
    assert not [line for line in shown.browser.complaints() if "404" not in line]


def test_another_map_of_the_run_has_its_own_layers(shown: Shown) -> None:
    shown.open()
    shown.browser.run("const maps = document.getElementById('maps'); maps.value = 1; maps.dispatchEvent(new Event('change'))")
    shown.browser.until("return document.getElementById('about').textContent.startsWith('b,')")
    shown.browser.until(READY)
    assert not shown.element("simulated").is_displayed()
    drawn = shown.browser.until("return document.querySelectorAll('.leaflet-fields-pane path').length")
    found = shown.server.views[1].fields(-180, -90, 180, 90)["features"]
    assert drawn == len(found)
    shown.element("on-probability").click()
    shown.browser.until("return document.querySelectorAll('.leaflet-probability-pane .leaflet-tile-loaded').length > 0")
    assert "probability" in shown.element("legend").text
    assert shown.browser.complaints() == []


def test_on_a_phone_map_and_controls_fit_the_window(shown: Shown) -> None:
    shown.open(width=390, height=844, dark=True)
    assert shown.browser.run("return document.documentElement.scrollWidth") == 390
    box, panel = shown.element("map").rect, shown.element("panel").rect
    assert box["width"] == panel["width"] == 390
    assert 300 < box["height"] < 600
    assert panel["y"] >= box["height"] - 1
    for row, col in ((1, 1), (SIDE - 1, SIDE - 1)):
        x, y = shown.window_place(0, row, col)
        assert 0 <= x <= 390
        assert 0 <= y <= box["height"]
    back = shown.browser.run("return getComputedStyle(document.body).backgroundColor")
    assert back == "rgb(27, 29, 32)"
    assert shown.browser.complaints() == []
