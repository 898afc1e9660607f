"""What the names of files say: products, bands, dates, tiles and baselines, by which files are grouped into images."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from common.notes import note
from data_prep.archive.sensor import Sensor, load_sensors
from data_prep.readers.same_day import ImageName, chosen_images

INCOMPLETE = ("refuse", "leave_out")


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """A file, with what its name says about it.

    Attributes:
        path: path relative to the folder.
        layer: name of a band or of a quality layer.
        image: the image that it belongs to.
        tile: tile; None where names do not contain it.
    """

    path: str
    layer: str
    image: ImageName
    tile: str | None = None


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """The files of one image.

    Attributes:
        image: its day and processing.
        bands: one path per band, in the order of the sensor, relative to the folder.
        quality: paths of the quality layers; the worst code of them counts.
    """

    image: ImageName
    bands: tuple[str, ...]
    quality: tuple[str, ...]


def parse_date(text: str, date_format: str, where: str) -> np.datetime64:
    """The date in the name of a file, in UTC if it has a time zone. Raises ValueError when it does not fit `date_format`."""
    try:
        moment = datetime.strptime(text, date_format)
        return np.datetime64((moment.astimezone(UTC) if moment.tzinfo else moment).date(), "D")
    except ValueError as error:
        raise ValueError(f"{where}: date {text!r} does not fit date_format {date_format!r}") from error


def named_pattern(pattern: str, groups: set[str], origin: str) -> re.Pattern[str]:
    """Compile a regular expression for file names. Raises ValueError unless it is valid and has the named groups."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{origin}: pattern {pattern!r} is not a regular expression: {error}") from error
    if not groups <= set(expression.groupindex):
        wanted = " and ".join(f"(?P<{group}>...)" for group in sorted(groups, reverse=True))
        raise ValueError(f"{origin}: pattern {pattern!r} must have the named groups {wanted}")
    return expression


class Products:
    """The products that a source accepts by the names of its files; counts the files that it passes over.

    Args:
        sensor: the sensor, which may state `products`.
        default: products that a container accepts for a sensor that states none. Without any, it accepts files of one product.
        origin: begins notes and error messages.
        what: what is counted.
    """

    def __init__(self, sensor: Sensor, origin: str, default: tuple[str, ...] = (), what: str = "files") -> None:
        self._sensor, self._origin, self._what = sensor, origin, what
        self._products = sensor.products or default
        self._accepted: Counter[str] = Counter()
        self._passed_over: Counter[str] = Counter()

    def accept(self, product: str | None) -> bool:
        """Return True for a file of an accepted product, and for a file whose name contains none (None)."""
        if product is None:
            return True
        accepted = not self._products or product in self._products
        (self._accepted if accepted else self._passed_over)[product] += 1
        return accepted

    def report(self) -> None:
        """Show a note of the files that were passed over. Raises ValueError when files are of several products by chance."""
        if not self._products and len(self._accepted) > 1:
            raise ValueError(
                f"{self._origin}: holds {self._listed(self._accepted)}, whose bands may differ though they share names; "
                f"say which of them source {self._sensor.name} is: `products: [...]` in its YAML"
            )
        if self._passed_over:
            note(self.passed_over())

    def passed_over(self) -> str:
        """A sentence about the files of other products; empty when there were none."""
        if not self._passed_over:
            return ""
        homes = [
            f"{product} is source {name}"
            for name, sensor in load_sensors().items()
            for product in sensor.products
            if product in self._passed_over and name != self._sensor.name
        ]
        reads = f"source {self._sensor.name} reads {' and '.join(self._products)}" if self._products else ""
        facts = "; ".join(fact for fact in (reads, *homes) if fact)
        return f"{self._origin}: passed over {self._listed(self._passed_over)}; {facts}"

    def _listed(self, counts: Counter[str]) -> str:
        return ", ".join(f"{count} {self._what} of {product}" for product, count in sorted(counts.items()))


def named_layers(
    names: Mapping[str, str | Sequence[str]], sensor: Sensor, origin: str, option: str
) -> dict[str, tuple[str, ...]]:
    """Names of the files of each band and of the quality layer: those that an option of scene.yaml gives, else the sensor's.

    Raises ValueError for layers that the sensor does not have, and for a band with several names.
    """
    layers = (*sensor.bands, sensor.quality.name)
    unknown = sorted(set(names) - set(layers))
    if unknown:
        raise ValueError(f"{origin}: {option} speaks of {unknown}; source {sensor.name} has {list(layers)}")
    several = [band for band in sensor.bands if not isinstance(names.get(band, band), str)]
    if several:
        raise ValueError(f"{origin}: {option} gives {several} several names; only the quality layer may have a list")
    given = {layer: names.get(layer, layer) for layer in layers}
    return {layer: (found,) if isinstance(found, str) else tuple(found) for layer, found in given.items()}


def check_one_tile(tiles: Iterable[str | None], origin: str) -> None:
    """Raises ValueError when file names contain more than one tile: a series lies on one grid."""
    counts = Counter(tile for tile in tiles if tile is not None)
    if len(counts) > 1:
        found = ", ".join(f"{tile} ({count} files)" for tile, count in sorted(counts.items()))
        raise ValueError(f"{origin}: holds the tiles {found}; a series lies on one grid, so keep one tile a folder")


def group_into_images(
    files: Iterable[FoundFile],
    layers: Mapping[str, Sequence[str]],
    sensor: Sensor,
    incomplete: str,
    same_day: str,
    origin: str,
) -> list[ImageFiles]:
    """Group files into images by what their names say; return the images in the order of `chosen_images`.

    Args:
        files: files of all dates.
        layers: names in files of each band and of the quality layer of the sensor.
        sensor: sensor of the images.
        incomplete: "leave_out" leaves out images that lack a layer, with a warning; "refuse" raises ValueError for them.
        same_day: what is done where a day has several images; see `chosen_images`.
        origin: begins error messages.

    Raises ValueError when two files are one layer of an image, when there are several tiles, and when an image lacks a layer.
    """
    if incomplete not in INCOMPLETE:
        raise ValueError(f"{origin}: incomplete is {incomplete!r}; expected one of {', '.join(INCOMPLETE)}")
    found: dict[ImageName, dict[str, FoundFile]] = {}
    for file in files:
        of_image = found.setdefault(file.image, {})
        if file.layer in of_image:
            raise ValueError(
                f"{origin}: two files for {file.layer} of {file.image.date}, {of_image[file.layer].path} and {file.path}; "
                "keep one, or tell images of one day apart: by the groups `time` and `baseline` of `pattern`"
            )
        of_image[file.layer] = file
    check_one_tile((file.tile for of_image in found.values() for file in of_image.values()), origin)
    images, lacking = [], []
    for image in sorted(found, key=lambda image: (image.date, image.name)):
        of_image = found[image]
        missing = [name for names in layers.values() for name in names if name not in of_image]
        if missing:
            lacking.append(f"{', '.join(missing)} of {image}")
            continue
        *bands, quality = [tuple(of_image[name].path for name in layers[layer]) for layer in (*sensor.bands, sensor.quality.name)]
        images.append(ImageFiles(image=image, bands=tuple(path for paths in bands for path in paths), quality=quality))
    if lacking and (incomplete == "refuse" or not images):
        raise ValueError(
            f"{origin}: {len(lacking)} of {len(found)} images are incomplete, missing: {'; '.join(lacking[:5])}"
            f"{' ...' if len(lacking) > 5 else ''}; fetch the files again, or leave such images out with `incomplete: leave_out`"
        )
    if lacking:
        note(
            f"{origin}: {len(lacking)} of {len(found)} images left out, as `incomplete: leave_out` says, missing: "
            + "; ".join(lacking)
        )
    return chosen_images(images, same_day, origin)
