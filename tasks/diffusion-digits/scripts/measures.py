"""What digits are measured by: numbers alone, no process and no file.

Digits are rows of 64 numbers from -1 to 1.
"""

import numpy as np

LEVELS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Levels of noise at which a denoiser is measured."""
BLOCKS = 30
"""Windows of the Frechet distance: each leaves so many-th of the held-out digits out."""


class Known:
    """What is known of the training digits: themselves, their spread, and a layer of features."""

    def __init__(self, train, weights, offsets):
        self.train, self.weights, self.offsets = train, weights, offsets
        self.spread = float(train.var(0).mean()) ** 0.5

    def features(self, digits):
        """(n, 64) -> (n, k)"""
        return np.maximum(digits.astype(np.float64) @ self.weights + self.offsets, 0.0)

    def distances(self, digits):
        """(n,) how far each of the digits is from the nearest training digit."""
        squares = (digits**2).sum(1)[:, None] + (self.train**2).sum(1) - 2 * digits @ self.train.T
        return np.sqrt(np.maximum(squares, 0.0).min(1))


def denoising_errors(known, digits, estimates):
    """(n,) the squared error of each digit's estimates (levels, n, 64), as a share of what one
    factor for each level would leave, averaged over LEVELS."""
    squares = ((estimates - digits) ** 2).mean(2)
    levels = np.array(LEVELS)[:, None]
    shrunk = (levels * known.spread) ** 2 / (levels**2 + known.spread**2)
    return (squares / shrunk).mean(0)


def moments(features):
    """Mean and covariance of (n, k) features."""
    return features.mean(0), np.cov(features, rowvar=False)


def frechet(one, other):
    """The Frechet distance, squared, between two Gaussians of these moments."""
    (mean, spread), (other_mean, other_spread) = one, other
    values, vectors = np.linalg.eigh(spread)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    both = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ other_spread @ root), 0.0)).sum()
    return float(((mean - other_mean) ** 2).sum() + np.trace(spread + other_spread) - 2 * both)


def frechet_windows(known, samples, digits):
    """(BLOCKS,) whose mean is the Frechet distance between samples and held-out digits, without
    most of what it is too large by because the digits are few: a jackknife over blocks of them."""
    made, real = moments(known.features(samples)), known.features(digits)
    whole = frechet(made, moments(real))
    blocks = np.arange(len(real)) % BLOCKS
    without = [frechet(made, moments(real[blocks != block])) for block in range(BLOCKS)]
    return [BLOCKS * whole - (BLOCKS - 1) * part for part in without]
