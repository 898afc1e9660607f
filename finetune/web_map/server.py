"""A small web server for the maps of a run, on this machine only.

It listens on 127.0.0.1, and answers only requests that call it so or localhost: no page of another site can ask it. No part of a
request is ever a path of a file: all addresses name a map by its number and a layer by its name.

    /                                        the page
    /static/NAME                             its script and style, and Leaflet's
    /maps/N                                  what a map has: bounds, classes, layers, dates
    /maps/N/prepare/LAYER?choice=            makes the raster of a layer, which may take a while
    /maps/N/tiles/LAYER/Z/X/Y.png?choice=    a tile; choice: the date of an image, the number of a class
    /maps/N/fields?west=&south=&east=&north= polygons as GeoJSON
    /maps/N/pixel?lon=&lat=                  the series and the classes of a pixel
"""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from common.errors import MissingPackageError
from common.exit_codes import exit_code
from common.json_files import without_nan
from finetune.model.model_file import load_model
from finetune.web_map.leaflet import FILES, leaflet_file
from finetune.web_map.map_view import MapView, Missing
from finetune.web_map.page import page_html, static_file
from finetune.web_map.shown_map import Shown, check_task

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")  # under which a request may call this server
# The page may load from this server alone. Leaflet sets styles of elements.
POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; form-action 'none'; frame-ancestors 'none'"
_LAYER = r"(?P<layer>[a-z]+)"
_TILE = r"(?P<zoom>\d{1,2})/(?P<x>\d{1,8})/(?P<y>\d{1,8})\.png"
_Answer = tuple[str, bytes]  # type of the content, and the content


class MapServer(ThreadingHTTPServer):
    """Serves what is shown until it is closed; see the module.

    Args:
        shown: what is shown.
        port: the port; 0 takes a free one.

    Raises ValueError for a port that is taken, and when the model of the maps has other classes.
    """

    daemon_threads = True

    def __init__(self, shown: Shown, port: int = 0) -> None:
        self.shown = shown
        model, recipe = (None, None) if shown.model is None else load_model(shown.model)
        if recipe is not None:
            for one in shown.maps:
                check_task(one, recipe.task)
        self.folder = Path(tempfile.mkdtemp(prefix="agrifm-view-"))
        self.views = [MapView(one, self.folder / str(number), recipe, model) for number, one in enumerate(shown.maps)]
        self._last: MapView | None = None
        self._choosing = threading.Lock()
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise ValueError(f"--port {port} cannot be used: {error}; give another one, or 0 for a free one") from error

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{HOST}:{self.server_address[1]}/"

    def view(self, number: int) -> MapView:
        """A map by its number; the files of the one that was looked at before are closed. Raises Missing."""
        if number >= len(self.views):
            raise Missing(f"there is no map number {number}")
        view = self.views[number]
        with self._choosing:
            if self._last is not None and self._last is not view:
                self._last.close()
            self._last = view
        return view

    def server_close(self) -> None:
        """Close the socket and the files of the scenes, and remove the rasters that were made."""
        super().server_close()
        for view in self.views:
            view.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: MapServer
    protocol_version = "HTTP/1.1"
    server_version = "agrifm"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with what was asked for, or with the reason why not, as JSON."""
        name, _, port = str(self.headers.get("Host")).partition(":")
        if name not in NAMES or not (port or "80").isdecimal():  # the port is another one where it is forwarded
            self._refuse(HTTPStatus.FORBIDDEN, "this server answers on its own address only")
            return
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        try:
            kind, content = self._answer(parts.path, query)
        except Missing as error:
            self._refuse(HTTPStatus.NOT_FOUND, str(error))
        except Exception as error:
            if exit_code(error) is None and not isinstance(error, MissingPackageError):
                self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "a bug: see the terminal")
                raise
            print(f"error: {error}", file=sys.stderr)
            self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        else:
            self._send(HTTPStatus.OK, kind, content)

    def _answer(self, path: str, query: Mapping[str, str]) -> _Answer:
        """The answer to a path. Raises Missing for one that is not known."""
        if path == "/":
            return "text/html; charset=utf-8", page_html(self.server.shown).encode()
        if found := re.fullmatch(r"/static/([a-z.]+)", path):
            name = found[1]
            return (FILES[name], leaflet_file(name)) if name in FILES else static_file(name)
        for pattern, answer in _ROUTES:
            if found := re.fullmatch(rf"/maps/(?P<number>\d{{1,6}}){pattern}", path):
                values = found.groupdict()
                return answer(self.server.view(int(values.pop("number"))), values, query)
        raise Missing(f"there is nothing at {path}")

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        self._send(status, *_json({"error": reason}))

    def handle(self) -> None:
        """Answer the requests of a connection; a browser that goes away is no error."""
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Write no log: a page asks for hundreds of tiles."""


def _json(values: Mapping[str, Any]) -> _Answer:
    return "application/json", json.dumps(without_nan(dict(values))).encode()


def _number(query: Mapping[str, str], name: str) -> float:
    """A finite number of a query. Raises Missing when it is none."""
    try:
        value = float(query.get(name, ""))
    except ValueError as error:
        raise Missing(f"{name} is {query.get(name)!r}; expected a number") from error
    if not math.isfinite(value):
        raise Missing(f"{name} is {value}; expected a finite number")
    return value


def _describe(view: MapView, _: Mapping[str, str], __: Mapping[str, str]) -> _Answer:
    return _json(view.description())


def _prepare(view: MapView, values: Mapping[str, str], query: Mapping[str, str]) -> _Answer:
    view.prepare(values["layer"], query.get("choice", ""))
    return _json({"ready": True})


def _tile(view: MapView, values: Mapping[str, str], query: Mapping[str, str]) -> _Answer:
    place = (int(values[name]) for name in ("zoom", "x", "y"))
    return "image/png", view.tile(values["layer"], query.get("choice", ""), *place)


def _fields(view: MapView, _: Mapping[str, str], query: Mapping[str, str]) -> _Answer:
    west, south, east, north = (_number(query, name) for name in ("west", "south", "east", "north"))
    return _json(view.fields(west, south, east, north))


def _pixel(view: MapView, _: Mapping[str, str], query: Mapping[str, str]) -> _Answer:
    return _json(view.pixel(_number(query, "lon"), _number(query, "lat")))


_ROUTES: tuple[tuple[str, Callable[[MapView, Mapping[str, str], Mapping[str, str]], _Answer]], ...] = (
    ("", _describe),
    (rf"/prepare/{_LAYER}", _prepare),
    (rf"/tiles/{_LAYER}/{_TILE}", _tile),
    ("/fields", _fields),
    ("/pixel", _pixel),
)
