"""What is done with latents, in NumPy: draw, measure, walk between, walk along.

Noise comes from Philox (Salmon et al. 2011), a counter-based generator: its bits are fixed by the key alone, so a seed
gives the same latents on every machine, provider, batch and worker. The 128-bit key is the seed in the low word and
the stream in the high word: stream 0 draws from the prior, stream i + 1 from the posterior of image i, and stream
2^32 + i the pixels of image i where these are to be binary.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]
PathKind = Literal["slerp", "linear"]

MAX_SEED = 2**31 - 1

# Below this sine two directions count as parallel: their plane is lost in the rounding of float32 latents.
_PARALLEL = 1e-9

_PIXELS = 1 << 32
"""The first stream of pixels."""


def prior_latents(n: int, dim: int, *, seed: int, temperature: float = 1.0) -> Floats:
    """n draws from N(0, temperature^2 I), shape (N, D).

    Stable: the first m of n rows are what n = m gives, and a test pins the values of a seed.

    >>> bool((prior_latents(5, 3, seed=7)[:2] == prior_latents(2, 3, seed=7)).all())
    True
    """
    if not (np.isfinite(temperature) and temperature >= 0):
        raise ValueError("temperature must be a finite number of at least 0")
    return (temperature * _noise(seed, 0, (n, dim))).astype(np.float32)


def posterior_noise(n: int, k: int, dim: int, *, seed: int, first: int = 0) -> Floats:
    """Standard normal noise (N, K, D); that of image i depends on seed and i alone, not on n.

    Row 0 belongs to image `first`, so that images worked off in chunks get the noise they would get at once.
    """
    noise = np.empty((n, k, dim), np.float32)
    for row in range(n):
        noise[row] = _noise(seed, first + row + 1, (k, dim))
    return noise


def posterior_samples(mean: ArrayLike, log_variance: ArrayLike, k: int, *, seed: int, first: int = 0) -> Floats:
    """k draws from each N(mean, diag(exp(log_variance))): (N, D), (N, D) -> (N, K, D).

    z = mean + exp(log_variance / 2) * noise (Kingma & Welling 2014, eq. 10), with `posterior_noise`.
    """
    mean, log_variance = _pair(mean, log_variance)
    noise = posterior_noise(len(mean), k, mean.shape[1], seed=seed, first=first)
    return _reparameterized(mean[:, None, :], log_variance[:, None, :], noise)


def binary_draws(grey: Floats, *, seed: int, first: int = 0) -> Floats:
    """Pixels 0 or 1, drawn from Bernoulli(grey value): (N, ...) in [0, 1] -> (N, ...) float32.

    Those of image i depend on seed and i alone; row 0 belongs to image `first`. 0 stays 0, and 1 stays 1.

    >>> binary_draws(np.array([[0.0, 1.0]], np.float32), seed=3).tolist()
    [[0.0, 1.0]]
    """
    drawn = np.empty(grey.shape, np.float32)
    for row in range(len(grey)):
        drawn[row] = _generator(seed, _PIXELS + first + row).random(grey.shape[1:], np.float32) < grey[row]
    return drawn


def standard_normal_log_density(latents: ArrayLike) -> NDArray[np.float64]:
    """log N(z; 0, I) in nats: (..., D) -> (...).

    >>> standard_normal_log_density([[0.0, 0.0]]).round(4).tolist()
    [-1.8379]
    """
    z = np.asarray(latents, np.float64)
    return np.asarray(-0.5 * (z**2 + np.log(2 * np.pi)).sum(axis=-1), np.float64)


def gaussian_draws(mean: Floats, log_variance: Floats, noise: Floats) -> tuple[Floats, Floats]:
    """Latents mean + exp(log_variance / 2) * noise (..., D), and log N(latent; mean, diag(exp(log_variance))) (...) in
    nats; all float32, what overflows is infinite. The latents are those of `posterior_samples`, to the last bit."""
    latents = _reparameterized(mean.astype(np.float64), log_variance.astype(np.float64), noise)
    with np.errstate(over="ignore", invalid="ignore"):
        density = standard_normal_log_density(noise) - 0.5 * log_variance.sum(axis=-1, dtype=np.float64)
        return latents, density.astype(np.float32)


def gaussian_kl(mean: ArrayLike, log_variance: ArrayLike) -> NDArray[np.float64]:
    """KL(N(mean, diag(exp(log_variance))) || N(0, I)) in nats: (N, D), (N, D) -> (N,).

    0.5 * sum(mean^2 + exp(log_variance) - 1 - log_variance) (Kingma & Welling 2014, appendix B).

    >>> gaussian_kl([[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]).tolist()
    [0.0, 0.5]
    """
    mean, log_variance = _pair(mean, log_variance)
    with np.errstate(over="ignore", invalid="ignore"):
        # expm1 keeps the digits that exp(x) - 1 loses near zero, where collapsed dimensions lie.
        terms: NDArray[np.float64] = mean**2 + (np.expm1(log_variance) - log_variance)
    return np.asarray(0.5 * terms.sum(axis=1), np.float64)


def interpolate(points: ArrayLike, steps: int, path: PathKind = "slerp") -> Floats:
    """`steps` latents from each point to the next, ends included exactly and shared ones once.

    (P, D) -> ((P - 1) * (steps - 1) + 1, D), for P >= 2 and steps >= 2. Where an arc leaves the range of float32, as it
    can between finite points near its end, it is infinite.

    - linear: (1 - t) a + t b.
    - slerp (Shoemake 1985): the direction turns at constant speed along the great circle, the length changes linearly,
      |z(t)| = (1 - t) |a| + t |b|; so a path between two typical latents stays where the prior has its mass.
      From or to zero there is no direction to turn, and the path is the straight line. Between opposite vectors every
      half circle is shortest: the one through the axis most orthogonal to the first is taken; in one dimension there is
      none, and the path is the straight line.

    >>> interpolate([[1, 0], [0, 1]], 3).round(3).tolist()
    [[1.0, 0.0], [0.7070000171661377, 0.7070000171661377], [0.0, 1.0]]
    """
    ends = np.asarray(points, np.float32)
    if ends.ndim != 2 or len(ends) < 2:
        raise ValueError("points must have the shape (P, D) with at least two points")
    if steps < 2:
        raise ValueError("steps must be at least 2")
    if path not in ("slerp", "linear"):
        raise ValueError("path must be slerp or linear")
    t = np.linspace(0.0, 1.0, steps)[:, None]
    frames = np.empty(((len(ends) - 1) * (steps - 1) + 1, ends.shape[1]), np.float32)
    for i in range(len(ends) - 1):
        a, b = ends[i].astype(np.float64), ends[i + 1].astype(np.float64)
        between = _slerp(a, b, t) if path == "slerp" else (1 - t) * a + t * b
        with np.errstate(over="ignore"):
            frames[i * (steps - 1) : (i + 1) * (steps - 1) + 1] = between
    frames[:: steps - 1] = ends
    return frames


def traverse(latent: ArrayLike, dimension: int, low: float, high: float, steps: int) -> Floats:
    """The latent (D,) with one coordinate at `steps` even values from low to high: (S, D).

    >>> traverse([5, 6], 1, -1, 1, 3).tolist()
    [[5.0, -1.0], [5.0, 0.0], [5.0, 1.0]]
    """
    start = np.asarray(latent, np.float32)
    if start.ndim != 1:
        raise ValueError("latent must have the shape (D,)")
    if not 0 <= dimension < len(start):
        raise ValueError(f"dimension must be between 0 and {len(start) - 1}")
    if steps < 1:
        raise ValueError("steps must be at least 1")
    frames = np.repeat(start[None], steps, axis=0)
    frames[:, dimension] = np.linspace(low, high, steps)
    return frames


def _reparameterized(mean: NDArray[np.float64], log_variance: NDArray[np.float64], noise: Floats) -> Floats:
    """In float64: NumPy's exp of float32 rounds differently on different machines."""
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is infinite, and callers look for that
        return (mean + np.exp(0.5 * log_variance) * noise).astype(np.float32)


def _noise(seed: int, stream: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return _generator(seed, stream).standard_normal(shape)


def _generator(seed: int, stream: int) -> np.random.Generator:
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must be between 0 and {MAX_SEED}")
    return np.random.Generator(np.random.Philox(key=int(seed) + (stream << 64)))


def _pair(mean: ArrayLike, log_variance: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    m, v = np.asarray(mean, np.float64), np.asarray(log_variance, np.float64)
    if m.ndim != 2 or m.shape != v.shape:
        raise ValueError("mean and log_variance must have one shape (N, D)")
    return m, v


def _slerp(a: NDArray[np.float64], b: NDArray[np.float64], t: NDArray[np.float64]) -> NDArray[np.float64]:
    length_a, length_b = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if length_a == 0 or length_b == 0 or len(a) == 1:
        return np.asarray((1 - t) * a + t * b)
    u, w = a / length_a, b / length_b
    cosine = float(u @ w)
    across = w - cosine * u
    sine = float(np.linalg.norm(across))
    if sine < _PARALLEL:
        axis = np.zeros_like(u)
        axis[np.argmin(np.abs(u))] = 1.0
        across = axis - (axis @ u) * u
    across /= np.linalg.norm(across)
    angle = t * np.arctan2(sine, cosine)
    return np.asarray(((1 - t) * length_a + t * length_b) * (np.cos(angle) * u + np.sin(angle) * across))
