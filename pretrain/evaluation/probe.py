"""A linear probe: ridge regression from an encoder's features to land-cover fractions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """Ridge regression on standardised features, in float64.

    Attributes:
        mean, scale: (F,), mean and standard deviation of the features of the fit; the scale of a constant feature is 1.
        weights: (F, classes).
        intercept: (classes,).
        penalty: weight of the squared weights in the fit.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray
    penalty: float

    @classmethod
    def fit(cls, features: np.ndarray, target: np.ndarray) -> LinearProbe:
        """Fit a probe from features (N, F) to target (N, classes), N at least 2.

        The penalty is the one of `penalties(N)` with the smallest squared leave-one-out error, which follows from one fit:
        residual / (1 - leverage) (PRESS: Allen, Technometrics 16, 1974; Golub, Heath & Wahba, Technometrics 21, 1979). So no
        samples are set apart. One eigendecomposition serves all penalties; the smallest is far above its rounding errors.
        """
        features, target = features.astype(np.float64), target.astype(np.float64)
        mean, std = features.mean(axis=0), features.std(axis=0)
        constant = np.ptp(features, axis=0) == 0
        scale = np.where(constant, 1.0, std)
        standard, intercept = (features - mean) / scale, target.mean(axis=0)
        squares, axes = np.linalg.eigh(standard.T @ standard)  # (F,), (F, F)
        turned = standard @ axes  # (N, F), columns orthogonal, of these squared lengths
        products = turned.T @ (target - intercept)  # (F, classes)

        def error(penalty: float) -> float:
            fitted = intercept + turned @ (products / (squares + penalty)[:, None])
            leverage = 1 / len(target) + turned**2 @ (1 / (squares + penalty))  # 1/N: the intercept
            return float((((target - fitted) / (1 - leverage)[:, None]) ** 2).mean())

        penalty = min(penalties(len(target)).tolist(), key=error)
        weights = axes @ (products / (squares + penalty)[:, None])
        return cls(mean=mean, scale=scale, weights=weights, intercept=intercept, penalty=penalty)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Features (N, F) -> fractions float64 (N, classes). They sum to 1 like those of the fit, but may lie outside 0 to 1."""
        return (features - self.mean) / self.scale @ self.weights + self.intercept


def penalties(samples: int) -> np.ndarray:
    """Penalties to choose from, (19,), in half decades and in proportion to `samples`: from almost none to almost the mean."""
    return samples * np.logspace(-6, 3, 19)
