"""A curve through noisy points: ridge regression on features of x."""

import numpy as np

# how strongly the weights are drawn to zero
RIDGE = 1e-3


def features(x):
    """(n,) numbers from 0 to 1 -> (n, k) features of them."""
    found = [np.ones_like(x), x]
    return np.stack(found, axis=1)


def fit(x, y):
    """Weights (k,) of the features, from points (n,) and (n,)."""
    a = features(x)
    return np.linalg.solve(a.T @ a + RIDGE * np.eye(a.shape[1]), a.T @ y)


def predict(weights, x):
    """(n,) numbers -> (n,) values of the curve."""
    return features(x) @ weights
