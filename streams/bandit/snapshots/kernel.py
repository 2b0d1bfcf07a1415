"""From posteriors to an arm: P(best) by quadrature -> exploration floor -> caps -> weighted rendezvous hash. Pure.

The arm is drawn from the published vector, so the logged propensity is the probability with which it was drawn.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

NODES = 12
"""Gauss-Legendre nodes per panel."""
REACH = 14.0
"""Half-width of an arm's panels in standard deviations of its log-odds (whose tails are exponential, not Gaussian)."""
MAX_MOVE = 0.25
"""Largest total-variation step from one published vector to the next."""


class InvalidDistribution(ValueError):
    """A vector that must not be published: not finite, or no distribution."""


def _legendre() -> tuple[Vector, Vector, Vector]:
    """Return nodes and weights on [-1, 1], and the matrix that integrates the interpolating polynomial from -1 to each node."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    powers = np.arange(NODES)
    vandermonde = nodes[:, None] ** powers
    integrals = (nodes[:, None] ** (powers + 1) - (-1.0) ** (powers + 1)) / (powers + 1)
    return nodes, weights, integrals @ np.linalg.inv(vandermonde)


_X, _W, _UP_TO = _legendre()


def probability_best(posteriors: Sequence[tuple[float, float]]) -> Vector:
    """P(arm i has the highest rate) for independent Beta(alpha, beta) posteriors; shape (arms,), sums to 1.

    Integrates f_i * prod_{j != i} F_j over the log-odds, where a Beta density is smooth for every alpha, beta > 0, on panels
    that follow each arm's width. InvalidDistribution where a parameter is not a positive number.
    """
    a, b = np.array(posteriors, dtype=np.float64).T
    if not (np.isfinite(a).all() and np.isfinite(b).all() and (a > 0).all() and (b > 0).all()):
        raise InvalidDistribution("posterior parameters must be positive numbers")
    centre, width = np.log(a / b), np.sqrt(1 / a + 1 / b)
    edges = np.unique((centre[:, None] + width[:, None] * np.linspace(-REACH, REACH, 29)).ravel())
    half = np.diff(edges)[:, None] / 2
    t = edges[:-1, None] + half * (1 + _X)
    density = np.exp(_log_density(t[None], a[:, None, None], b[:, None, None]))
    panel = (density * _W).sum(2) * half[:, 0]
    before = np.cumsum(panel, axis=1) - panel
    below = before[:, :, None] + (density @ _UP_TO.T) * half
    total = panel.sum(1)
    below = np.clip(below / total[:, None, None], 0.0, 1.0)
    best = np.empty(len(a))
    for arm in range(len(a)):
        others = np.delete(below, arm, axis=0).prod(0)
        best[arm] = ((density[arm] * others * _W).sum(1) * half[:, 0]).sum() / total[arm]
    return check_distribution(best / best.sum())


def _log_density(t: Vector, a: Vector, b: Vector) -> Vector:
    """Return the log density of the log-odds, relative to its highest point (the constant cancels)."""
    peak = a * np.log(a / (a + b)) + b * np.log(b / (a + b))
    value: Vector = -a * np.logaddexp(0, -t) - b * np.logaddexp(0, t) - peak
    return value


def apply_floor(weights: Vector, floor: float) -> Vector:
    """Give every arm at least `floor`; the rest is shared in proportion."""
    return floor + (1 - floor * len(weights)) * weights


def apply_caps(weights: Vector, caps: Vector) -> Vector:
    """Cut each arm at its cap and share the rest among the others in proportion. The caps must sum to at least 1."""
    fixed = np.zeros(len(weights), dtype=bool)
    result = weights.copy()
    while (over := (result > caps + 1e-15) & ~fixed).any():
        fixed |= over
        result[fixed] = caps[fixed]
        free = weights[~fixed].sum()
        if not free:
            break
        result[~fixed] = weights[~fixed] * (1 - caps[fixed].sum()) / free
    return check_distribution(result / result.sum())


def limit_move(weights: Vector, previous: Vector, most: float = MAX_MOVE) -> tuple[Vector, bool]:
    """Return (weights, False), or the point at `most` total variation from `previous` towards them, and True."""
    move = 0.5 * float(np.abs(weights - previous).sum())
    if move <= most:
        return weights, False
    return previous + (weights - previous) * (most / move), True


def check_distribution(weights: Vector) -> Vector:
    """Return the vector. InvalidDistribution where it is no probability distribution."""
    if not np.isfinite(weights).all() or (weights < 0).any() or abs(float(weights.sum()) - 1) > 1e-9:
        raise InvalidDistribution("not a probability distribution")
    return weights


def uniform(*parts: str) -> float:
    """Return a number in (0, 1) that depends on the parts alone: 53 bits of BLAKE2b."""
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=8).digest()
    return ((int.from_bytes(digest, "big") >> 11) + 0.5) / 2**53


def in_control(salt: str, visitor: str, share: float) -> bool:
    """Return whether the visitor belongs to the control group, which depends on salt and visitor, never on the model."""
    return uniform(salt, "group", visitor) < share


def choose(weights: Mapping[str, float], salt: str, visitor: str) -> tuple[str, float]:
    """Return (arm, its probability among `weights`) by weighted rendezvous hash: the least -ln(u) / weight wins.

    Visitors keep their arm unless its weight falls or another's grows enough to win; removing an arm moves only the visitors
    who had it. Source: Thaler and Ravishankar 1998; weights after Schindelhauer and Schomaker 2005.
    """
    total = math.fsum(weights.values())
    arm = min(weights, key=lambda name: (-math.log(uniform(salt, "arm", name, visitor)) / weights[name], name))
    return arm, weights[arm] / total
