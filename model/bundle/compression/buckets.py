"""A latent's coordinate as one of K buckets of equal mass under the prior, and q(z|x) as integers over them.

    edges   -inf = t_0 < t_1 < ... < t_K = inf,   Phi(t_k) = k / K      so that the prior is uniform over the buckets
    C_k     = round(2^P Phi((t_k - mean) / sigma))                      so that C_0 = 0 and C_K = 2^P

The frequency of a bucket is C_{k+1} - C_k, in units of 2^-P. It may be 0: latents are drawn from these frequencies, and
a bucket without any is never drawn. Giving each one unit, as coders that have to code any symbol do, would draw a
coordinate from the prior once in 2^P / K times, and the picture would pay with its distortion.

Sender and receiver get the same integers from the same float32 mean and log variance: besides a table there is nothing
but sums, products, a quotient and one exponential in what follows.
"""

import math
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

BUCKET_BITS = 12
BUCKETS = 1 << BUCKET_BITS  # K
PRECISION = 20  # P
TOTAL = 1 << PRECISION

_STEPS_PER_UNIT = 64
_FARTHEST = 9  # Phi(-9) = 1e-19 is nothing in 2^-P
# exp of half of it stays a finite number, and its inverse too; bundles of `training` stay within 14.
_LARGEST_LOG_VARIANCE = 200.0


def centers(buckets: Integers) -> Floats:
    """The latent that stands for each bucket, the median of its mass: z_k = Phi^-1((k + 1/2) / K), of the same shape.

    >>> [f"{latent:.4f}" for latent in centers(np.array([0, BUCKETS // 2, BUCKETS - 1]))]
    ['-3.6683', '0.0003', '3.6683']
    """
    return _grid()[1][buckets]


def cumulative(buckets: Integers, mean: Floats, log_variance: Floats) -> Integers:
    """C_k of buckets in 0..K under N(mean, exp(log_variance)), all of one shape; mean and log_variance are finite."""
    bounded = np.clip(log_variance.astype(np.float64), -_LARGEST_LOG_VARIANCE, _LARGEST_LOG_VARIANCE)
    with np.errstate(over="ignore"):  # infinitely many sigma away is far away
        scaled = (_grid()[0][buckets] - mean) / np.exp(0.5 * bounded)
    return np.rint(TOTAL * normal_cdf(scaled)).astype(np.int64)


def find(points: Integers, mean: Floats, log_variance: Floats) -> Integers:
    """The bucket k with C_k <= point < C_{k+1}, for points in 0..2^P - 1; all of one shape, as `cumulative`.

    By bisection, whose result has a frequency of at least 1 whatever the rounding of C does.
    """
    low = np.zeros(points.shape, np.int64)
    for bit in reversed(range(BUCKET_BITS)):
        middle = low + (1 << bit)
        low = np.where(cumulative(middle, mean, log_variance) <= points, middle, low)
    return low


def intervals(buckets: Integers, mean: Floats, log_variance: Floats) -> tuple[Integers, Integers]:
    """C_k, and the frequency C_{k+1} - C_k, of buckets in 0..K - 1; as `cumulative`."""
    start = cumulative(buckets, mean, log_variance)
    return start, cumulative(buckets + 1, mean, log_variance) - start


def normal_cdf(x: Doubles) -> Doubles:
    """Phi(x) to within 1e-11, of any shape; 0 and 1 at the infinities.

    From a table at steps of 1/64, by the Taylor series to the fourth order around the nearest step: NumPy has no error
    function, and SciPy is not what a server has.
    """
    values, densities = _table()
    near = np.clip(x, -_FARTHEST, _FARTHEST)
    step = np.rint(near * _STEPS_PER_UNIT)
    at = step / _STEPS_PER_UNIT
    d = near - at
    index = step.astype(np.int64) + _FARTHEST * _STEPS_PER_UNIT
    # The derivatives of the density are Hermite polynomials times the density.
    series = 1 - d * (at / 2 - d * ((at * at - 1) / 6 - d * (at * at * at - 3 * at) / 24))
    found = values[index] + densities[index] * d * series
    return np.where(x <= -_FARTHEST, 0.0, np.where(x >= _FARTHEST, 1.0, found))


@cache
def _grid() -> tuple[Doubles, Floats]:
    """The K + 1 edges and the K centers."""
    quantile = NormalDist().inv_cdf
    inner = [quantile(k / BUCKETS) for k in range(1, BUCKETS)]
    middle = [quantile((k + 0.5) / BUCKETS) for k in range(BUCKETS)]
    return np.array([-math.inf, *inner, math.inf]), np.array(middle, np.float32)


@cache
def _table() -> tuple[Doubles, Doubles]:
    """Phi and its density at every step from -9 to 9."""
    reach = _FARTHEST * _STEPS_PER_UNIT
    steps = [step / _STEPS_PER_UNIT for step in range(-reach, reach + 1)]
    values = [0.5 * math.erfc(-x / math.sqrt(2)) for x in steps]
    densities = [math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi) for x in steps]
    return np.array(values), np.array(densities)
