"""Reader of STAC items with one asset per band, usually Cloud-Optimised GeoTIFFs of a cloud archive.

They are read as all rasters are, and not with odc-stac, which gives the same numbers. Of 110 COGs on a web server, one window of
512 x 512 pixels takes both the same time and the same requests; 16 windows of 64 x 64 pixels take odc-stac eleven times as long
and eleven times the requests, since it opens all files again for each window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from common.crs import crs_name, crs_text, same_crs
from common.grid import Grid
from common.notes import note
from data_prep.archive.sensor import Sensor
from data_prep.archive.stac_collections import NO_SIGNER, signer_of
from data_prep.archive.stac_items import load_items
from data_prep.readers.assets import Assets
from data_prep.readers.offsets import Offset
from data_prep.readers.raster_series import RasterSeries
from data_prep.readers.signing import signer_named
from data_prep.readers.stac_bands import stated_crs
from data_prep.readers.stac_images import item_images

if TYPE_CHECKING:
    from pystac import Item


class StacScenes(RasterSeries):
    """STAC items of one tile, with one raster per band, read where they are. Needs the extra `stac`.

    Bands of 20 m are resampled to the grid of bands of 10 m, as in `geotiff_scenes`. The grid is that of the files, which every
    file must nest in: items of known catalogues state wrong projections now and then, so theirs is only compared. Files at URLs
    are read by ranges and signed when they are read. `agrifm scenes` searches a catalogue and writes such sources.

    Options of scene.yaml:
        path: path or URL of the items: one item, an ItemCollection (such as a saved search), a stac-geoparquet table, a static
            catalogue or collection, or a folder of items. Items of other known sources are passed over.
        collection: collection of the items, `CATALOGUE/COLLECTION` as in `data_prep/archive/stac_collections.yaml`, where their
            own `collection` and assets leave that open. Of other collections, assets are found by their keys and by the names of
            their bands.
        assets: asset key of each band and of the quality layer where neither the collection nor names tell it: `{B05: rededge1,
            SCL: scl}`. The quality layer may have a list of keys; then the worst code counts.
        signer: what signs URLs: `planetary_computer` or `none`; by default that of the collection.
        incomplete: for items that lack an asset: `refuse` (default) raises an error, `leave_out` leaves them out with a warning.
        same_day: what is done where a day has several items: `mosaic` (default) takes at each pixel the first
            clear observation, newer baselines first, without those that a newer baseline of the same overpass replaces;
            `newest_baseline` keeps the one of the newest baseline; `error` raises an error. A note tells what was done.
        resampling: how coarser reflectance is resampled to the finest grid: `nearest` (default) or `bilinear`; see ImageSeries.
            Quality is always resampled with nearest neighbours.
        offset: number to add to the stored numbers, where items do not state it: one number, or numbers by the date or the
            processing baseline from which they apply. Items state it by `raster:bands`, `s2:processing_baseline` or
            `earthsearch:boa_offset_applied`; `offset` must not contradict them.
        storage_options: options of the file system of URLs, such as credentials.
    """

    def __init__(
        self,
        path: str,
        sensor: Sensor,
        *,
        collection: str | None = None,
        assets: Mapping[str, str | Sequence[str]] | None = None,
        signer: str | None = None,
        incomplete: str = "refuse",
        same_day: str = "mosaic",
        resampling: str = "nearest",
        offset: Offset = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        items = load_items(path, storage_options)
        found = item_images(items, sensor, collection, assets, incomplete, same_day, offset, path)
        signer = signer or (NO_SIGNER if found.collection is None else signer_of(found.collection))
        rasters = Assets(path, signer_named(signer, path), storage_options)
        super().__init__(rasters, sensor, found.images, found.offsets, resampling)
        _compare_projection(found.items[0], found.first_band, self.grid, path)


def _compare_projection(item: Item, key: str, grid: Grid, origin: str) -> None:
    """Show a note when an item states another coordinate reference system than its file, which decides."""
    stated = stated_crs(item, key)
    if stated is None:
        return
    try:
        agree = same_crs(crs_text(stated, origin), grid.crs)
    except ValueError:  # it is none
        agree = False
    if not agree:
        note(
            f"{origin}: item {item.id} states the projection {stated[:60]}, but its files {crs_name(grid.crs)}: the files decide"
        )
