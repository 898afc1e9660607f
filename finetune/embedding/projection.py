"""From features to the numbers of an embedding: principal components, and their scale in one byte. One file holds both.

Features are standardised before the components are computed, so that each level of the encoder counts equally, whatever the size
of its numbers. Components keep their variances: distances between embeddings are nearly those between standardised features.

Stored in one byte, a number is `code * scale + offset`, with one scale and offset for each dimension. They are such that the
range of the sample, wider by half, and six standard deviations become the codes -127 to 127; -128 is no data. Numbers beyond are
stored as the nearest code, and counted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from common.atomic_files import whole_file
from common.json_files import json_bytes
from common.notes import note

FORMAT = "agrifm embedding components 1"
_ABOUT = "components"  # the entry of the file's metadata
LARGEST_CODE, NO_DATA_CODE = 127, -128
# Other scenes and years have other numbers than the sample, all the more if that is small.
_RANGES, _DEVIATIONS = 1.5, 6.0
# Features that are constant in a small sample, such as those of a coarse source, differ by rounding alone; to divide by that
# would make them larger than all others in the next scene. Nor is anything known of components without a variance.
_SMALLEST_STD = 1e-3  # of the mean over features
_SMALLEST_SHARE = 1e-9  # of the variance


@dataclass(frozen=True, kw_only=True, eq=False)
class Projection:
    """From features (F,) to an embedding (D,).

    Attributes:
        mean, std: of the features in the sample, float32 (F,).
        components: principal components of the standardised features, float32 (D, F); None where an embedding is the features
            themselves.
        variance: share of the variance of each dimension in the sample, float32 (D,).
        scale, offset: of each dimension in one byte, float32 (D,).
        features: what the features are: see `EncoderFeatures.describe`, with the digest of the encoder's weights.
        sample: what the components were computed from.
    """

    mean: np.ndarray
    std: np.ndarray
    components: np.ndarray | None
    variance: np.ndarray
    scale: np.ndarray
    offset: np.ndarray
    features: Mapping[str, Any]
    sample: Mapping[str, Any]

    @property
    def dimensions(self) -> int:
        """Number of dimensions (D)."""
        return len(self.scale)

    @property
    def names(self) -> list[str]:
        """Names of the dimensions: e00, e01, ..."""
        digits = max(2, len(str(self.dimensions - 1)))
        return [f"e{number:0{digits}}" for number in range(self.dimensions)]

    @cached_property
    def digest(self) -> str:
        """sha256 of the numbers: embeddings are comparable when theirs are equal."""
        arrays = [self.mean, self.std, self.scale, self.offset, *([] if self.components is None else [self.components])]
        return hashlib.sha256(b"".join(np.ascontiguousarray(array, np.float32).tobytes() for array in arrays)).hexdigest()

    def affine(self) -> tuple[np.ndarray, np.ndarray]:
        """The projection as a matrix float32 (D, F) and a vector float32 (D,): embedding = matrix @ features + vector."""
        if self.components is None:
            return np.eye(len(self.mean), dtype=np.float32), np.zeros(len(self.mean), dtype=np.float32)
        matrix = self.components.astype(np.float64) / self.std
        return matrix.astype(np.float32), (-matrix @ self.mean.astype(np.float64)).astype(np.float32)

    def quantized(self, values: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, int]:
        """Embeddings (D, H, W) as codes int8 (D, H, W), no data where not `seen` (H, W); and the number of clipped cells."""
        codes = np.rint((values - self.offset[:, None, None]) / self.scale[:, None, None])
        beyond = (np.abs(codes) > LARGEST_CODE).any(axis=0) & seen
        stored = np.clip(codes, -LARGEST_CODE, LARGEST_CODE)
        return np.where(seen, stored, NO_DATA_CODE).astype(np.int8), int(beyond.sum())

    def save(self, path: Path) -> None:
        """Write the projection as safetensors; the file appears whole or not at all."""
        names = ("mean", "std", "components", "variance", "scale", "offset")
        arrays = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        # One entry: safetensors writes several in any order, and equal components shall give equal bytes.
        about = json_bytes({"format": FORMAT, "features": self.features, "sample": self.sample}).decode()
        with whole_file(path) as temporary:
            temporary.write_bytes(save({n: np.ascontiguousarray(a, np.float32) for n, a in arrays.items()}, {_ABOUT: about}))


def load_projection(path: Path) -> Projection:
    """Read a file that `Projection.save` wrote. Raises ValueError when it is missing, damaged or of another kind."""
    if not path.is_file():
        raise ValueError(f"no components at {path}: give the pca.safetensors that an `agrifm embed` before wrote")
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get(_ABOUT, "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error
    if about.get("format") != FORMAT:
        raise ValueError(f"{path} holds no components of embeddings (format {about.get('format')!r}, expected {FORMAT!r})")
    components = arrays.pop("components", None)
    return Projection(components=components, features=about["features"], sample=about["sample"], **arrays)


def fit_projection(
    sample: np.ndarray, dimensions: int, about_features: Mapping[str, Any], about_sample: Mapping[str, Any]
) -> Projection:
    """The projection to the first `dimensions` principal components of a sample of features, float32 (N, F); 0 keeps all.

    Raises ValueError for more components than features, or than cells in the sample.
    """
    mean, std = sample.mean(axis=0, dtype=np.float64), sample.std(axis=0, dtype=np.float64)
    std = np.maximum(std, _SMALLEST_STD * std.mean()) if std.any() else np.ones_like(std)
    components, scores = None, sample
    if dimensions:
        if not 0 < dimensions <= min(sample.shape):
            raise ValueError(
                f"--dimensions is {dimensions}; there are {sample.shape[1]} features and {sample.shape[0]} cells in the sample: "
                "expected at most so many, or 0 for the features themselves"
            )
        from sklearn.decomposition import PCA  # imported here because it takes a second

        found = PCA(dimensions, svd_solver="covariance_eigh").fit((sample - mean) / std)
        variance = found.explained_variance_ratio_
        known = variance > _SMALLEST_SHARE
        components = np.where(known[:, None], found.components_, 0.0).astype(np.float32)
        scores = found.transform((sample - mean) / std) * known
        if not known.all():
            note(
                f"only {known.sum()} of {dimensions} dimensions have a variance in the sample of {len(sample)} cells; the others "
                "are 0: give more scenes, or fewer --dimensions"
            )
    else:
        variance = sample.var(axis=0, dtype=np.float64)
        variance = variance / max(variance.sum(), np.finfo(np.float64).tiny)
    low, high = scores.min(axis=0).astype(np.float64), scores.max(axis=0).astype(np.float64)
    half = np.maximum(_RANGES * (high - low) / 2, _DEVIATIONS * scores.std(axis=0, dtype=np.float64))
    half = np.where(high > low, half, 1.0)
    return Projection(
        mean=mean.astype(np.float32),
        std=std.astype(np.float32),
        components=components,
        variance=np.asarray(variance, dtype=np.float32),
        scale=(half / LARGEST_CODE).astype(np.float32),
        offset=((low + high) / 2).astype(np.float32),
        features=about_features,
        sample=about_sample,
    )
