"""Catalogues that are searched: STAC APIs, and items in files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from common.errors import InfrastructureError
from common.storage import is_url
from data_prep.archive.stac_collections import stac_catalogues
from data_prep.archive.stac_items import NOT_INSTALLED, TABLE_SUFFIX, load_items, read_json_at, with_absolute_hrefs

if TYPE_CHECKING:
    from pystac import Item

PAGE_ITEMS = 250  # items of one answer: what all known catalogues give at once
RETRIES = 5
RETRIED_STATUS = (429, 500, 502, 503, 504)
TIMEOUT_S = (10.0, 120.0)  # to connect, and between bytes
DAY = timedelta(days=1)


class Catalogue(Protocol):
    """A catalogue that can be searched."""

    def search(self, collection: str, first: date, last: date, query: Mapping[str, Any]) -> Iterator[Item]:
        """The items of a collection that may be of the days `first` to `last` and lie in `query` (`bbox` or `intersects`).

        Others may come, too: only the day and the footprint of an item tell.
        """
        ...


def open_catalogue(name: str) -> Catalogue:
    """The catalogue with a name, URL or path; see SearchSettings. Raises ValueError when there is none."""
    known = stac_catalogues().get(name)
    if known is not None:
        return ApiCatalogue(known.url)
    if not is_url(name) and not Path(name).exists():
        raise ValueError(f"catalogue {name} is neither a file nor a URL nor one of {', '.join(stac_catalogues())}")
    if is_url(name) and not name.lower().endswith(TABLE_SUFFIX):
        links = read_json_at(name).get("links") or []
        if any(link.get("rel") == "search" for link in links):
            return ApiCatalogue(name)
    return FileCatalogue(name)


class FileCatalogue:
    """Items in files: a static catalogue, an ItemCollection, a table. They are read once."""

    def __init__(self, path: str) -> None:
        self._items = load_items(path)

    def search(self, collection: str, first: date, last: date, query: Mapping[str, Any]) -> Iterator[Item]:  # noqa: ARG002
        """All items of a collection."""
        return (item for item in self._items if item.collection_id == collection)


class ApiCatalogue:
    """A STAC API, searched page by page."""

    def __init__(self, url: str) -> None:
        try:
            from pystac_client import Client
            from pystac_client.stac_api_io import StacApiIO
            from urllib3 import Retry
        except ImportError as error:
            raise ValueError(NOT_INSTALLED) from error
        self._url = url
        # All methods: a search by POST changes nothing, so it may be sent again.
        retry = Retry(RETRIES, backoff_factor=1, status_forcelist=RETRIED_STATUS, allowed_methods=None, raise_on_status=False)
        self._client = self._asked(lambda: Client.open(url, stac_io=StacApiIO(timeout=TIMEOUT_S, max_retries=retry)))

    def search(self, collection: str, first: date, last: date, query: Mapping[str, Any]) -> Iterator[Item]:
        """The items of a collection from a day before `first` to a day after `last`, since days are solar. Raises as `_asked`."""
        from pystac import Item

        period = f"{first - DAY:%Y-%m-%d}T00:00:00Z/{last + DAY:%Y-%m-%d}T23:59:59Z"
        found = self._asked(lambda: self._client.search(collections=[collection], datetime=period, limit=PAGE_ITEMS, **query))
        pages = found.pages_as_dicts()
        while (page := self._asked(lambda: next(pages, None))) is not None:
            yield from (with_absolute_hrefs(Item.from_dict(values), self._url) for values in page["features"])

    def _asked(self, ask: Callable[[], Any]) -> Any:
        """The result of `ask`. Raises ValueError when the API refuses a search or is none, InfrastructureError when away."""
        from pystac import STACTypeError
        from pystac_client.errors import ClientTypeError
        from pystac_client.exceptions import APIError

        try:
            return ask()
        except APIError as error:
            status = getattr(error, "status_code", None)
            said = " ".join(str(error).split())[:300]
            if status is None or status in RETRIED_STATUS:
                raise InfrastructureError(f"{self._url}: cannot be searched: {said or f'HTTP {status}'}") from error
            raise ValueError(f"{self._url}: refuses the search with HTTP {status}: {said}") from error
        except (ClientTypeError, STACTypeError, NotImplementedError, ValueError, KeyError) as error:
            raise ValueError(f"{self._url}: is not a STAC API that can be searched: {type(error).__name__} {error}") from error
