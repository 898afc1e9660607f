"""A STAC API that pages its answers, for a web server of the tests."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import shapely
from aiohttp import web

CORE = "https://api.stacspec.org/v1.0.0"


class StacApi:
    """Routes of a STAC API with items as dictionaries; answers of a search hold `page_items` items.

    Attributes:
        searches: the bodies of the searches that came, without those for further pages.
        pages: number of pages that were asked for.
    """

    def __init__(self, items: Sequence[dict[str, Any]], page_items: int = 3) -> None:
        self._items, self._page_items = items, page_items
        self.searches: list[dict[str, Any]] = []
        self.pages = 0
        self.routes = [web.get("/api", self._root), web.post("/api/search", self._search)]

    async def _root(self, request: web.Request) -> web.Response:
        url = str(request.url)
        links = [
            {"rel": "self", "href": url, "type": "application/json"},
            {"rel": "root", "href": url, "type": "application/json"},
            {"rel": "search", "href": f"{url}/search", "type": "application/geo+json", "method": "POST"},
        ]
        conforms = [f"{CORE}/core", f"{CORE}/item-search"]
        root = {"type": "Catalog", "id": "api", "description": "a STAC API", "stac_version": "1.0.0"}
        return web.json_response({**root, "conformsTo": conforms, "links": links})

    async def _search(self, request: web.Request) -> web.Response:
        body = await request.json()
        begin = body.pop("token", 0)
        if not begin:
            self.searches.append(body)
        self.pages += 1
        found = [item for item in self._items if _fits(item, body)]
        end = begin + self._page_items
        links = []
        if end < len(found):
            links = [{"rel": "next", "href": str(request.url), "method": "POST", "body": {**body, "token": end}}]
        return web.json_response({"type": "FeatureCollection", "features": found[begin:end], "links": links})


def _fits(item: dict[str, Any], body: dict[str, Any]) -> bool:
    """Whether an item is of the collections, period and area of a search."""
    begin, end = (datetime.fromisoformat(text) for text in body["datetime"].split("/"))
    area = shapely.geometry.shape(body["intersects"]) if "intersects" in body else shapely.box(*body["bbox"])
    return (
        item["collection"] in body["collections"]
        and begin <= datetime.fromisoformat(item["properties"]["datetime"]) <= end
        and bool(shapely.geometry.shape(item["geometry"]).intersects(area))
    )
