"""Images (T, C, H, W) in a dataset of an HDF5 file, as scenes and the samples of fine-tuning hold them, and their dates."""

from __future__ import annotations

from collections.abc import Sequence

import h5py
import numpy as np

from data_prep.archive.sensor import Sensor
from data_prep.readers.band_metadata import band_positions, check_stacked_bands
from data_prep.readers.encoding import Encoding, cf_encoding
from data_prep.readers.file_metadata import decode_days, texts
from data_prep.readers.hdf5_files import WrittenParts, attribute
from data_prep.readers.radiometry import unobserved_number


class Hdf5Images:
    """The bands of a sensor, in its order, of a dataset (T, C, H, W). What was never written was not observed.

    Raises ValueError unless the bands are known and the sensor's are among them, and its type can hold the no-data number.

    Args:
        dataset: the dataset. Its attribute `bands`, or that of its file, or texts in the dataset `bands` of its file, name its
            channels.
        sensor: meaning of the numbers.
        where: path of the file and name of the dataset, for messages.
        bands: names of the channels; None for those of the attribute, or without it those of the sensor in their order.

    Attributes:
        shape: (T, bands of the sensor, H, W).
        dtype: type of the stored numbers.
        encoding: what the attributes of the dataset state of the numbers.
    """

    def __init__(self, dataset: h5py.Dataset, sensor: Sensor, where: str, bands: Sequence[str] | None = None) -> None:
        frames, channels, height, width = dataset.shape
        self.shape, self.dtype = (frames, len(sensor.bands), height, width), dataset.dtype
        self.encoding: Encoding = cf_encoding(dataset.dtype, dataset.attrs, where)
        self._parts = WrittenParts(dataset, unobserved_number(dataset.dtype, sensor, where))
        named = bands if bands is not None else _stored_bands(dataset)
        names = list(sensor.bands) if named is None else texts(named)
        if len(names) != channels:
            raise ValueError(f"{where}: has {channels} channels, but {len(names)} band names {names}; name them with `bands`")
        self._channels = band_positions(names, sensor, where)
        check_stacked_bands(self._channels, dataset.attrs, channels, sensor, where)

    def read(self, rows: slice, cols: slice) -> np.ndarray:
        """The stored numbers of all images in a window: (T, C, rows, columns). Raises ValueError when the file is damaged.

        All images are read: a sample is small, and h5py reads single images slowly.
        """
        channels = slice(0, self._parts.dataset.shape[1])
        return self._parts.read((slice(0, self.shape[0]), channels, rows, cols))[:, self._channels]


def _stored_bands(dataset: h5py.Dataset) -> object | None:
    """The names of bands that a file states; None where it has none."""
    named, beside = attribute(dataset, "bands"), dataset.file.get("bands")
    if named is None and isinstance(beside, h5py.Dataset) and beside.dtype.kind in "OSU":
        named = beside[()]
    return named


def stored_dates(images: h5py.Dataset, origin: str, name: str = "dates", names: Sequence[str] = ()) -> np.ndarray | None:
    """The dates of images (T, C, H, W) in their file, datetime64[D]; None where it has none.

    They are the dataset `name`; or in a group `name` the dataset that is called as the images are, or has one of the other
    `names` of their source; or the attribute `name` of the images or of their file. Raises ValueError for values that are no
    dates, and for a group that holds those of other images alone.
    """
    found = images.file.get(name)
    if isinstance(found, h5py.Group):
        called = (images.name.rsplit("/", 1)[-1], *names)
        group, found = found, next((found[one] for one in called if isinstance(found.get(one), h5py.Dataset)), None)
        if found is None and len(group):
            raise ValueError(
                f"{origin}: its {name} are those of {', '.join(group)}; none is called as the images are, {' or '.join(called)}"
            )
    if isinstance(found, h5py.Dataset):
        return decode_days(np.atleast_1d(found[()]), found.attrs, f"{origin}{found.name}")
    values = attribute(images, name)
    return None if values is None else decode_days(np.atleast_1d(values), {}, f"{origin}, {name}")
