"""Reader of Sentinel-2 Level-2A products in the Zarr layout of ESA's Earth Observation Processing Framework (EOPF)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.crs import crs_text
from common.file_systems import is_url
from common.grid import Grid, stated_grid
from common.north_up import north_up
from common.storage import REQUESTS, AnyPath, any_path, listed
from common.threads import in_threads
from data_prep.archive.sensor import Sensor
from data_prep.readers.band_metadata import check_band
from data_prep.readers.encoding import cf_encoding, check_encoding
from data_prep.readers.file_metadata import crs_attribute, decode_days
from data_prep.readers.file_names import FoundFile, ImageFiles, Products, check_one_tile, group_into_images, parse_date
from data_prep.readers.image_series import AT_ONCE, ImageSeries, OpenLayer
from data_prep.readers.offsets import Offset, check_baseline, stated_offsets
from data_prep.readers.same_day import ImageName
from data_prep.readers.zarr_groups import StoredArray, ZarrGroup, check_dimensions

REFLECTANCE = "measurements/reflectance"
QUALITY = "conditions/mask/l2a_classification"
RESOLUTIONS = ("r10m", "r20m", "r60m")  # subgroups, the finest first
NAME = re.compile(
    r"S2[A-Z]_(?P<level>MSIL\d\w)_(?P<date>\d{8})T(?P<time>\d{6})_(?P<baseline>N\d{4})_R\d{3}_T(?P<tile>\d\d[A-Z]{3})_\d{8}T\d{6}(?:\.zarr)?"
)
GROUP_FILES = {".zgroup", ".zmetadata", "zarr.json"}  # each shows that a folder is a Zarr group
LEVELS = ("MSIL2A",)  # of a sensor that states no products
MISSING = (None, "null")  # values in the attributes of products


@dataclass(frozen=True, kw_only=True)
class _Array:
    """An array of a product: a band, or the scene classification.

    Attributes:
        layer: the band of the sensor, or its quality layer.
        stored: the array (y, x).
        x, y: coordinates of its pixel centres; None where the product has none.
        attributes: its attributes; those that the product nests in `_eopf_attrs` count, too.
        crs: coordinate reference system that the product states, `EPSG:n`.
        image: the product.
        tile: tile; None where the name of the product does not contain it.
    """

    layer: str
    stored: StoredArray
    x: StoredArray | None
    y: StoredArray | None
    attributes: dict[str, Any]
    crs: str
    image: ImageName
    tile: str | None


class Sentinel2Eopf(ImageSeries):
    """Sentinel-2 Level-2A products of one tile in ESA's EOPF layout, one Zarr store per product.

    Each band is read at the finest resolution that the product holds, from `measurements/reflectance/r10m/b02` or `r20m/b05`,
    and the scene classification from `conditions/mask/l2a_classification/r20m/scl`. Stores may be in Zarr version 2 or 3, with
    or without consolidated metadata. The date is that of the product's name, `S2B_MSIL2A_20250101T103329_N0511_R108_T31UFS_...`,
    or of its attributes `stac_discovery`, if it has another name. A note says how many products of other levels (L1C) were
    passed over.

    The additive offset of each band is its attribute add_offset, so a series may span baselines. It must not contradict the
    processing baseline in the product's name: ESA's converter of SAFE products states -0.1 for all of them, but there is no
    offset before 04.00. What an absent chunk holds was not observed.

    Options of scene.yaml:
        path: path or fsspec URL of a folder of products, which may lie in subfolders, or of one product.
        paths: list of products or folders instead of `path`, for https servers whose folders cannot be listed.
        incomplete: for products that lack a band: `refuse` (default) raises an error, `leave_out` leaves them out with a note.
        same_day: what is done where a day has several products: `mosaic` (default) takes at each pixel the first
            clear observation, newer baselines first, without those that a newer baseline of the same overpass replaces;
            `newest_baseline` keeps the one of the newest baseline; `error` raises an error. A note tells what was done.
        resampling: how reflectance of 20 m is resampled to 10 m: `nearest` (default) or `bilinear`; see ImageSeries. SCL is
            always resampled with nearest neighbours.
        offset: additive offset of products whose arrays do not state it: one number, or numbers by the date or the processing
            baseline from which they apply, `{2015-06-23: 0, 2022-01-25: -1000}` or `{00.00: 0, 04.00: -1000}`. It must not
            contradict the arrays, nor the baselines.
        storage_options: options of the file system of an fsspec URL, such as credentials.
    """

    # Sources of the layout: for version 2 that of ESA's converter (EOPF CPM), which writes groups, names, scale_factor,
    # add_offset, fill_value, proj:epsg and proj:transform; for version 3 the metadata of a product of baseline 05.12. That
    # attributes are nested in _eopf_attrs, too, and that names may begin with S02MSIL2A, is known from descriptions only.

    def __init__(
        self,
        paths: Sequence[str],
        sensor: Sensor,
        *,
        incomplete: str = "refuse",
        same_day: str = "mosaic",
        resampling: str = "nearest",
        offset: Offset = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        origin = ", ".join(paths)
        products = _products(paths, sensor, storage_options)
        # Each reads the metadata of a store, once.
        found = in_threads(lambda product: _arrays(str(product), sensor, storage_options), products, REQUESTS)
        self._arrays = {array.stored.where: array for arrays in found for array in arrays}
        self._grids: dict[str, Grid] = {}  # by group, so that coordinates are read once
        files = [FoundFile(path=path, layer=a.layer, image=a.image, tile=a.tile) for path, a in self._arrays.items()]
        check_one_tile((file.tile for file in files), origin)
        layers = {layer: [layer] for layer in (*sensor.bands, sensor.quality.name)}
        images = group_into_images(files, layers, sensor, incomplete, same_day, origin)
        stated = None if offset is None else self._stated_offsets(images, sensor, offset, origin)
        super().__init__(origin, sensor, images, stated, resampling, len(self._arrays), AT_ONCE if any(map(is_url, paths)) else 1)

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        for array in self._arrays.values():
            array.stored.store.close()

    def _where(self, path: str) -> str:
        return path

    def _stated_offsets(self, images: Sequence[ImageFiles], sensor: Sensor, offset: Offset, origin: str) -> np.ndarray | None:
        """The offset of each image by scene.yaml, (N,)."""
        dates = np.array([image.image.date for image in images])
        return stated_offsets(offset, sensor, dates, origin, [image.image.baseline for image in images])

    def _open_layer(self, path: str, band: str | None) -> OpenLayer:
        found, sensor = self._arrays[path], self.sensor
        offset = None
        if band is None:
            filled = found.stored.quality(sensor, found.attributes)
        else:
            check_band(band, found.attributes, sensor, path)
            offset = check_encoding(cf_encoding(found.stored.array.dtype, found.attributes, path), sensor, path)
            if offset is not None and self._offsets is None:
                check_baseline(round(offset), found.image.baseline, sensor, found.image.date, path, stated_by="the array")
            filled = found.stored.reflectance(sensor)
        grid, flips = north_up(self._grid(found))

        def stored(row: int, col: int, height: int, width: int) -> np.ndarray:
            return filled.read((slice(row, row + height), slice(col, col + width)))

        return OpenLayer(stored=stored, grid=grid, flips=flips, chunk=filled.chunk, offset=offset)

    def _grid(self, found: _Array) -> Grid:
        """The grid of an array as it is stored, from the coordinates of its group."""
        where, (height, width) = found.stored.where, found.stored.array.shape
        transform = found.attributes.get("proj:transform")
        key = f"{where.rpartition('/')[0]} {height} {width} {transform} {found.crs}"
        if key not in self._grids:
            x, y = (None if axis is None else axis.read((slice(None),)) for axis in (found.x, found.y))
            self._grids[key] = stated_grid(found.attributes, x, y, found.crs, (height, width), where, "proj:transform")
        return self._grids[key]


def _arrays(path: str, sensor: Sensor, storage_options: Mapping[str, Any] | None) -> list[_Array]:
    """The arrays of the bands and of the quality layer of a product.

    Raises ValueError for a product that has none of them, and when its metadata contradict each other.
    """
    product = ZarrGroup(path, storage_options)
    attributes, named = product.attributes, NAME.fullmatch(_name(path))
    image, tile = _image(named, attributes, path), named and named["tile"]
    arrays = []
    for layer in (*sensor.bands, sensor.quality.name):
        group = QUALITY if layer == sensor.quality.name else REFLECTANCE
        candidates = (product.find(f"{group}/{resolution}/{layer.lower()}") for resolution in RESOLUTIONS)
        stored = next((found for found in candidates if found is not None), None)
        if stored is None:
            continue
        check_dimensions(stored, ("y", "x"))
        beside = stored.array.path.rpartition("/")[0]
        merged = _merged(stored.attributes, stored.where)
        arrays.append(
            _Array(
                layer=layer,
                stored=stored,
                x=product.find(f"{beside}/x"),
                y=product.find(f"{beside}/y"),
                attributes=merged,
                crs=_crs(attributes, merged, tile, stored.where),
                image=image,
                tile=tile,
            )
        )
    if not arrays:
        raise ValueError(
            f"{path}: no Sentinel-2 Level-2A product in the EOPF layout: it has no arrays like {REFLECTANCE}/r10m/b02 and "
            f"{QUALITY}/r20m/scl"
        )
    return arrays


def _products(paths: Sequence[str], sensor: Sensor, storage_options: Mapping[str, Any] | None) -> list[AnyPath]:
    """The products at `paths`, which are products or folders. A note says how many products of other levels there are.

    Raises ValueError when there are none.
    """
    levels = Products(sensor, ", ".join(paths), LEVELS, "products")
    found = []
    for path in paths:
        place = any_path(path, storage_options)
        products = [place] if _is_product(place.name) else list(_products_in(place))
        if not products:
            raise ValueError(f"{path}: no product there: no folder like S2B_MSIL2A_20250101T103329_N0511_R108_T31UFS_*.zarr")
        for product in products:
            named = NAME.fullmatch(product.name)
            if levels.accept(named and named["level"]):
                found.append(product)
    if not found:
        raise ValueError(f"{', '.join(paths)}: no Level-2A product; {levels.passed_over()}")
    levels.report()
    return found


def _products_in(folder: AnyPath) -> Iterator[AnyPath]:
    """The products in a folder and its subfolders, in ascending order of names; the folder itself when it is a Zarr group."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    children = listed(folder, "*")
    if GROUP_FILES & {child.name for child in children}:
        yield folder
        return
    for child in children:
        if _is_product(child.name):
            yield child
        elif child.is_dir():
            yield from _products_in(child)


def _is_product(name: str) -> bool:
    return name.endswith(".zarr") or NAME.fullmatch(name) is not None


def _name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _mapping(attributes: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A nested attribute without values that are missing; empty when there is none."""
    found = attributes.get(name)
    return {key: value for key, value in found.items() if value not in MISSING} if isinstance(found, Mapping) else {}


def _image(named: re.Match[str] | None, attributes: Mapping[str, Any], where: str) -> ImageName:
    """What the name of a product says of it, else what its attributes say: then without its processing baseline.

    Raises ValueError when neither contains the date, or they contradict each other.
    """
    properties = _mapping(_mapping(attributes, "stac_discovery"), "properties")
    moment = properties.get("datetime", properties.get("start_datetime"))
    stated = None if moment is None else decode_days(np.array([str(moment)]), {}, f"{where}, stac_discovery")[0]
    if named is None:
        if stated is None:
            raise ValueError(f"{where}: neither its name nor its attributes stac_discovery contain the date of the image")
        return ImageName(date=stated, acquisition=str(moment), name=where)
    date = parse_date(named["date"], "%Y%m%d", where)
    if stated is not None and abs(stated - date) > np.timedelta64(1, "D"):  # the image may begin and end on different days
        raise ValueError(f"{where}: its name is of {date}, but its attributes stac_discovery of {stated}; correct one of them")
    return ImageName(date=date, acquisition=named["time"], baseline=named["baseline"], name=where)


def _crs(attributes: Mapping[str, Any], of_array: Mapping[str, Any], tile: str | None, where: str) -> str:
    """The coordinate reference system that the attributes of a product and of an array, and the name of its tile state.

    Tiles of zone 31 in the latitude bands N to X are in EPSG:32631, in C to M in EPSG:32731 (Military Grid Reference System).
    Raises ValueError when these contradict each other, or none states it.
    """
    properties, other = _mapping(_mapping(attributes, "stac_discovery"), "properties"), _mapping(attributes, "other_metadata")
    stated = {
        "stac_discovery": properties.get("proj:code", properties.get("proj:epsg")),
        "other_metadata": other.get("horizontal_CRS_code", other.get("horizontal_crs_code")),
        "the array": of_array.get("proj:code", of_array.get("proj:epsg")),
        "the tile in its name": None if tile is None else (32600 if tile[2] >= "N" else 32700) + int(tile[:2]),
    }
    texts = {by: crs_text(crs_attribute(code), f"{where}, {by}") for by, code in stated.items() if code not in MISSING}
    if not texts:
        raise ValueError(f"{where}: no coordinate reference system: the product states none (stac_discovery, proj:code)")
    if len(set(texts.values())) > 1:
        raise ValueError(f"{where}: contradicting coordinate reference systems: {texts}; correct the attributes")
    return next(iter(texts.values()))


def _merged(attributes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Attributes of an array with those that it nests in `_eopf_attrs`, and `fill_value` under its CF name `_FillValue`.

    Raises ValueError when the two contradict each other.
    """
    nested = _mapping(attributes, "_eopf_attrs")
    for name in ("scale_factor", "add_offset", "fill_value"):
        if name in attributes and name in nested and attributes[name] != nested[name]:
            raise ValueError(f"{where}: {name} is {attributes[name]}, but {nested[name]} in _eopf_attrs; correct one of them")
    merged = {**nested, **attributes}
    return {"_FillValue": merged["fill_value"], **merged} if "fill_value" in merged else merged
