"""Random numbers as functions of names, keys and coordinates, so that they do not depend on the order of evaluation."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(*names: object) -> np.random.Generator:
    """A random generator of the simulation that the names seed; it is the same in every process."""
    digest = hashlib.sha256("\0".join(map(str, names)).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def hashed(keys: np.ndarray, *names: object) -> np.ndarray:
    """A pseudo-random uint64 for each key; other names give other numbers.

    Source: the finaliser of SplitMix64 (Steele, Lea, Flood 2014, OOPSLA).
    """
    salt = np.uint64(int.from_bytes(hashlib.sha256("\0".join(map(str, names)).encode()).digest()[:8], "little"))
    z = keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + salt
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(keys: np.ndarray, *names: object) -> np.ndarray:
    """A uniform random number in (0, 1) for each key, float64."""
    return (hashed(keys, *names) >> np.uint64(11)).astype(np.float64) / 2.0**53 + 2.0**-54


def normal(keys: np.ndarray, *names: object) -> np.ndarray:
    """A standard normal random number for each key, float64 (Box and Muller 1958)."""
    radius = np.sqrt(-2.0 * np.log(uniform(keys, *names, "radius")))
    return radius * np.cos(2.0 * np.pi * uniform(keys, *names, "angle"))


class SmoothNoise:
    """A smooth random function of (x, y) with about zero mean and unit variance: a sum of interpolated random lattices.

    Args:
        scale: distance between the nodes of the coarsest lattice, in metres.
        extent: period of the function in metres.
        octaves: number of lattices; each has half the spacing and `roughness` times the amplitude of the one before.
    """

    def __init__(self, *names: object, scale: float, extent: float, octaves: int = 3, roughness: float = 0.55) -> None:
        self._octaves: list[tuple[float, np.ndarray]] = []
        rng = generator(*names)
        power = 0.0
        for octave in range(octaves):
            spacing, amplitude = scale / 2**octave, roughness**octave
            nodes = max(2, int(np.ceil(extent / spacing)))
            self._octaves.append((spacing, (amplitude * rng.standard_normal((nodes, nodes))).astype(np.float32)))
            power += amplitude**2
        self._norm = np.float32(1.0 / np.sqrt(0.42 * power))  # interpolation keeps about 0.42 of the nodes' variance

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Values at the coordinates in metres: float32 of their (broadcast) shape."""
        total = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=np.float32)
        for spacing, nodes in self._octaves:
            column, u = _cell(x / spacing, nodes.shape[1])
            row, v = _cell(y / spacing, nodes.shape[0])
            right, below = (column + 1) % nodes.shape[1], (row + 1) % nodes.shape[0]
            top = nodes[row, column] * (1 - u) + nodes[row, right] * u
            total += top * (1 - v) + (nodes[below, column] * (1 - u) + nodes[below, right] * u) * v
        return total * self._norm


def _cell(position: np.ndarray, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Index of the lattice cell, and the position in it after easing (3 t^2 - 2 t^3)."""
    whole = np.floor(position)
    t = (position - whole).astype(np.float32)
    return whole.astype(np.int32) % nodes, t * t * (3 - 2 * t)


def power_law_field(rng: np.random.Generator, size: int, slope: float) -> np.ndarray:
    """Draw random numbers that vary smoothly over a periodic field, float32 (size, size).

    They have zero mean, unit variance, and the amplitude spectrum |k|^-slope.
    """
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((size, size), dtype=np.float32)) * frequency**-slope
    spectrum[0, 0] = 0.0
    field = np.fft.irfft2(spectrum, s=(size, size))
    return (field / field.std()).astype(np.float32)
