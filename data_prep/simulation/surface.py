"""Objects of a landscape, the pixels they fill, and the reflectance of both on any day.

Reflectance is linear in the objects: a pixel is the sum over its objects of their share times their spectrum, plus their
share times within-field variation times the spectrum's derivative. So a coarse pixel is exactly the mean of the finer ones
inside it, and spectra are computed for objects, not for pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.simulation.covers import COVERS, INDEX
from data_prep.simulation.landscape import Kind, Landscape
from data_prep.simulation.phenology import State
from data_prep.simulation.randomness import SmoothNoise, normal, uniform
from data_prep.simulation.spectra import BACKGROUNDS, Spectra

STRIP = 192  # rows of fine cells that are looked at together


@dataclass(frozen=True, kw_only=True)
class Raster:
    """The landscape on square cells: key (uint64), kind (uint8), and the within-object variations (float32), all (H, W)."""

    kind: np.ndarray
    key: np.ndarray
    vigour: np.ndarray
    brightness: np.ndarray
    cell_m: float
    x: np.ndarray
    y: np.ndarray


def rasterise(
    landscape: Landscape, x0: float, y0: float, cell_m: float, cells: int, texture: tuple[SmoothNoise, SmoothNoise]
) -> Raster:
    """`cells` x `cells` square cells of `cell_m` metres, from (x0, y0) to the east and south."""
    x = x0 + cell_m * (np.arange(cells) + 0.5)
    y = y0 + cell_m * (np.arange(cells) + 0.5)
    kind, key = np.empty((cells, cells), np.uint8), np.empty((cells, cells), np.uint64)
    vigour, brightness = np.empty((cells, cells), np.float32), np.empty((cells, cells), np.float32)
    for top in range(0, cells, STRIP):
        rows = slice(top, min(top + STRIP, cells))
        xs, ys = (a.ravel() for a in np.meshgrid(x, y[rows]))
        shape = (-1, cells)
        kind[rows], key[rows] = (a.reshape(shape) for a in landscape.at(xs, ys))
        vigour[rows] = texture[0](xs, ys).reshape(shape)
        brightness[rows] = texture[1](xs, ys).reshape(shape)
    return Raster(kind=kind, key=key, vigour=vigour, brightness=brightness, cell_m=cell_m, x=x, y=y)


@dataclass(frozen=True, kw_only=True)
class Objects:
    """What fills the landscape, as arrays (N,) in the order of ascending key.

    cover: index into COVERS this year; next_cover: what follows next year (winter crops are sown before); x, y: centre in
    metres; elevation_m; parcel: 1, 2, ... for fields, 0 for all else.
    """

    key: np.ndarray
    kind: np.ndarray
    cover: np.ndarray
    next_cover: np.ndarray
    x: np.ndarray
    y: np.ndarray
    elevation_m: np.ndarray
    parcel: np.ndarray

    def __len__(self) -> int:
        return len(self.key)


def find_objects(landscape: Landscape, rasters: list[Raster], year: int, seed: int) -> Objects:
    """All objects that the rasters touch, with what grows on them."""
    keys, kinds, xs, ys = [], [], [], []
    for raster in rasters:
        found, first, inverse, counts = np.unique(raster.key, return_index=True, return_inverse=True, return_counts=True)
        inverse = inverse.ravel()
        columns = np.tile(raster.x, len(raster.y))
        rows = np.repeat(raster.y, len(raster.x))
        keys.append(found)
        kinds.append(raster.kind.ravel()[first])
        xs.append(np.bincount(inverse, weights=columns) / counts)
        ys.append(np.bincount(inverse, weights=rows) / counts)
    key, first = np.unique(np.concatenate(keys), return_index=True)
    kind, x, y = (np.concatenate(parts)[first] for parts in (kinds, xs, ys))
    cover = choose_covers(landscape, kind, key, x, y, year, seed)
    following = choose_covers(landscape, kind, key, x, y, year + 1, seed)
    parcel = np.where(kind == Kind.FIELD, np.cumsum(kind == Kind.FIELD), 0).astype(np.uint32)
    return Objects(
        key=key,
        kind=kind,
        cover=cover,
        next_cover=following,
        x=x,
        y=y,
        elevation_m=landscape.elevation_m(x, y),
        parcel=parcel,
    )


def choose_covers(
    landscape: Landscape, kind: np.ndarray, key: np.ndarray, x: np.ndarray, y: np.ndarray, year: int, seed: int
) -> np.ndarray:
    """Index into COVERS for each object: crops by the region's mix, clustered in space, annual ones changing with the year."""
    region = landscape.region
    fixed = {Kind.MARGIN: region.grassland, Kind.TRACK: "track", Kind.ROAD: "paved_road", Kind.RIVER: "river"}
    fixed |= {Kind.LAKE: "lake", Kind.BAR: "rock", Kind.MARSH: "marsh"}
    cover = np.zeros(key.shape, dtype=np.int64)
    for what, name in fixed.items():
        cover[kind == what] = INDEX[name]
    gardens = {"yard": 1.5, "grassland": 2.0, "deciduous_forest": 1.6}
    meadow = {region.grassland: 4.0, "shrubland": 1.0}
    mixes = {
        Kind.FIELD: region.crops,
        Kind.WOOD: region.forests,
        Kind.MEADOW: meadow,
        Kind.HOUSE: {**{name: 5 * w / sum(region.roofs.values()) for name, w in region.roofs.items()}, **gardens},
    }
    suits = landscape.suitability(x, y)
    for what, mix in mixes.items():
        chosen = np.flatnonzero(kind == what)
        if not chosen.size:
            continue
        # Annual crops take turns on their fields; rice and what is perennial stays where it is.
        stays = {name: w for name, w in mix.items() if w > 0 and (COVERS[INDEX[name]].perennial or "rice" in name)}
        turns = {name: w for name, w in mix.items() if w > 0 and name not in stays}
        first = _draw({**stays, "turns": sum(turns.values())} if turns else stays, key[chosen], suits[chosen], (seed, "stays"))
        second = _draw(turns, key[chosen], suits[chosen], (seed, "turns", year)) if turns else first
        cover[chosen] = [INDEX[b if a == "turns" else a] for a, b in zip(first, second, strict=True)]
    return cover


def _draw(weights: dict[str, float], key: np.ndarray, suits: np.ndarray, names: tuple[object, ...]) -> list[str]:
    """A name for each key, by weight; rice and ponds lie together where `suits` is high, orchards where it is low.

    Gumbel's trick: the largest of log(weight) + noise falls on each name with its share.
    """
    options = list(weights)
    scores = np.empty((len(options), len(key)))
    for i, name in enumerate(options):
        together = 1.8 if "rice" in name else {"pond": 0.5, "orchard": -0.5}.get(name, 0.0)
        scores[i] = np.log(weights[name]) - np.log(-np.log(uniform(key, "cover", *names, name))) + together * suits
    return [options[i] for i in scores.argmax(axis=0)]


class Pixels:
    """Square pixels made of whole cells of a raster: which objects fill each, and by how much (a sparse matrix, by rows).

    Attributes:
        shape: (H, W) in pixels.
    """

    def __init__(self, raster: Raster, objects: Objects, cells_per_pixel: int) -> None:
        n = cells_per_pixel
        height, width = raster.key.shape[0] // n, raster.key.shape[1] // n
        self.shape = height, width

        def grouped(a: np.ndarray) -> np.ndarray:
            cut = a[: height * n, : width * n]
            return cut.reshape(height, n, width, n).swapaxes(1, 2).reshape(height * width, n * n)

        index = np.searchsorted(objects.key, raster.key.ravel()).reshape(raster.key.shape)
        pair = grouped(index).astype(np.int64) + np.arange(height * width)[:, None] * len(objects)
        pairs, inverse, counts = np.unique(pair, return_inverse=True, return_counts=True)
        inverse = inverse.ravel()
        cells = n * n
        self._object = (pairs % len(objects)).astype(np.intp)
        pixel = pairs // len(objects)
        self._start = np.searchsorted(pixel, np.arange(height * width))
        self._weights = np.stack(
            [
                counts / cells,
                np.bincount(inverse, weights=grouped(raster.vigour).ravel()) / cells,
                np.bincount(inverse, weights=grouped(raster.brightness).ravel()) / cells,
            ],
            axis=1,
        ).astype(np.float32)

    def render(self, spectra: np.ndarray) -> np.ndarray:
        """Object spectra with derivatives float32 (3, N, bands) -> reflectance of the pixels float32 (H, W, bands)."""
        parts = self._weights[:, :1] * spectra[0][self._object]
        parts += self._weights[:, 1:2] * spectra[1][self._object]
        parts += self._weights[:, 2:3] * spectra[2][self._object]
        return np.add.reduceat(parts, self._start, axis=0).reshape(*self.shape, -1)

    def majority(self, values: np.ndarray) -> np.ndarray:
        """The value, among those of the objects (N,), that fills most of each pixel: (H, W), dtype of `values`."""
        codes, of_object = np.unique(values, return_inverse=True)
        area = np.zeros((self.shape[0] * self.shape[1], len(codes)), dtype=np.float32)
        pixel = np.repeat(np.arange(len(self._start)), np.diff(self._start, append=len(self._object)))
        np.add.at(area, (pixel, of_object[self._object]), self._weights[:, 0])
        return codes[area.argmax(axis=1)].reshape(self.shape)

    def share(self, chosen: np.ndarray) -> np.ndarray:
        """Share of each pixel's area that the chosen objects, bool (N,), fill: float32 (H, W)."""
        return np.add.reduceat(self._weights[:, 0] * chosen[self._object], self._start).reshape(self.shape)

    def largest(self) -> np.ndarray:
        """Index of the object that fills most of each pixel: int64 (H, W)."""
        order = np.lexsort((-self._weights[:, 0], np.repeat(np.arange(len(self._start)), self._lengths())))
        return self._object[order[self._start]].reshape(self.shape)

    def _lengths(self) -> np.ndarray:
        return np.diff(self._start, append=len(self._object))


class Surface:
    """Spectra of the objects of one region in the bands of one source, on any day."""

    VIGOUR = 0.13  # standard deviation of relative leaf area within an object
    BRIGHTNESS = 0.16  # standard deviation of the share of dark soil within an object

    def __init__(self, objects: Objects, spectra: Spectra, seed: int) -> None:
        self._spectra = spectra
        bare = np.array(
            [sum((share * spectra.surface(name) for name, share in c.surface), np.zeros(len(spectra.bands))) for c in COVERS]
        )[objects.cover]
        tone = np.exp(0.14 * normal(objects.key, "tone", seed))[:, None]
        self._bare = (bare * tone).astype(np.float32)
        self._hides_snow = np.array([c.hides_snow for c in COVERS], dtype=np.float32)[objects.cover]
        # Slow rivers and lakes are even; roofs and gravel are not.
        self._roughness = np.where(np.isin(objects.kind, (Kind.RIVER, Kind.LAKE)), 0.05, 0.12).astype(np.float32)[:, None]

    def spectra(self, state: State) -> np.ndarray:
        """Reflectance of the objects and its derivatives by vigour and by brightness: float32 (3, N, bands)."""
        out = np.empty((3, *self._bare.shape), dtype=np.float32)
        out[0] = self._bare
        out[1] = 0.0
        out[2] = self._bare * self._roughness
        at = np.flatnonzero(state.plant >= 0)
        plant, lai, senescence, ground = state.plant[at], state.lai[at], state.senescence[at], state.ground[at]
        canopy = self._spectra.canopy(plant, lai, senescence, ground)
        out[0][at] = canopy
        more = self._spectra.canopy(plant, lai * 1.15, senescence, ground)
        out[1][at] = (more - canopy) * (self.VIGOUR / 0.15)
        darker = ground.copy()
        moved = 0.3 * (ground[:, 0] + ground[:, 2])
        darker[:, 0] *= 0.7
        darker[:, 2] *= 0.7
        darker[:, BACKGROUNDS.index("dark")] += moved
        out[2][at] = (self._spectra.canopy(plant, lai, senescence, darker) - canopy) * (self.BRIGHTNESS / 0.3)
        white = (state.snow * (1 - self._hides_snow))[:, None].astype(np.float32)
        if white.any():
            out *= 1 - white
            out[0] += white * self._spectra.surface("snow")
        return out
