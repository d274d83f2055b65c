"""p(z) where it is served, in NumPy: the standard normal, or a mixture of K diagonal Gaussians of the same weight.

The mixture is what a VampPrior (Tomczak and Welling, 2018) comes to once its model is trained: the posteriors of its
pseudo-inputs, kept as numbers in `prior.npz` (mean and log_variance, float32, (K, D) both).

Seeds mean the same as in `latents`. Noise is that of stream 0, whatever the prior is, so that the same seed means the
same noise; which component a row is of comes from the last stream, 2^64 - 1, which no image's posterior ever has.
"""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.bundle.errors import BundleError
from model.bundle.golden import read_arrays
from model.bundle.latents import MAX_SEED, prior_latents, standard_normal_log_density
from model.bundle.manifest import PRIOR, PriorSpec

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_COMPONENTS_STREAM = 2**64 - 1
# How many densities of components are held at a time: 8 MB.
_AT_A_TIME = 1 << 20


class Prior(Protocol):
    """p(z) over D dimensions. Immutable."""

    @property
    def dim(self) -> int:
        """D."""
        ...

    @property
    def mean(self) -> Doubles:
        """Of each dimension, (D,)."""
        ...

    @property
    def standard_deviation(self) -> Doubles:
        """Of each dimension, (D,): with the mean, where latents are to be looked for."""
        ...

    def draw(self, n: int, *, seed: int, temperature: float = 1.0) -> Floats:
        """n latents (N, D). The first m of n rows are what n = m gives.

        Raises ValueError where seed or temperature is out of range.
        """
        ...

    def log_density(self, latents: ArrayLike) -> Doubles:
        """log p(z) of latents (..., D): (...) nats."""
        ...


@dataclass(frozen=True)
class StandardNormal:
    """N(0, I)."""

    dim: int

    @property
    def mean(self) -> Doubles:
        return np.zeros(self.dim)

    @property
    def standard_deviation(self) -> Doubles:
        return np.ones(self.dim)

    def draw(self, n: int, *, seed: int, temperature: float = 1.0) -> Floats:
        """As `Prior.draw`, from N(0, temperature^2 I): `latents.prior_latents`."""
        return prior_latents(n, self.dim, seed=seed, temperature=temperature)

    def log_density(self, latents: ArrayLike) -> Doubles:
        """As `Prior.log_density`.

        >>> round(float(StandardNormal(2).log_density([0.0, 0.0])), 4)
        -1.8379
        """
        return standard_normal_log_density(_checked(latents, self.dim))


@dataclass(frozen=True, eq=False)
class Mixture:
    """K diagonal Gaussians of weight 1 / K; component_mean and component_log_variance are float32 (K, D).

    Raises ValueError where they are not, or not finite.
    """

    component_mean: Floats
    component_log_variance: Floats

    def __post_init__(self) -> None:
        for name in ("component_mean", "component_log_variance"):
            array = getattr(self, name)
            if array.dtype != np.float32 or array.ndim != 2 or not array.size:
                raise ValueError(f"{name} must be float32 of the shape (K, D)")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite")
        if self.component_mean.shape != self.component_log_variance.shape:
            raise ValueError("component_mean and component_log_variance must have one shape")

    @property
    def components(self) -> int:
        """K."""
        return len(self.component_mean)

    @property
    def dim(self) -> int:
        return int(self.component_mean.shape[1])

    @property
    def mean(self) -> Doubles:
        return np.asarray(self.component_mean.mean(axis=0, dtype=np.float64))

    @property
    def standard_deviation(self) -> Doubles:
        """Of each dimension: within the components, and between their means."""
        mean = self.component_mean.astype(np.float64)
        within = np.exp(self.component_log_variance.astype(np.float64)).mean(axis=0)
        return np.asarray(np.sqrt(within + mean.var(axis=0)))

    def draw(self, n: int, *, seed: int, temperature: float = 1.0) -> Floats:
        """As `Prior.draw`. The temperature scales the standard deviation of the component, not the distance between
        components: at 0 each draw is the mean of one."""
        noise = prior_latents(n, self.dim, seed=seed, temperature=temperature)  # what it refuses, this does
        chosen = _components(n, self.components, seed)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is infinite, and callers look for that
            scale = np.exp(0.5 * self.component_log_variance[chosen].astype(np.float64))
            return (self.component_mean[chosen] + scale * noise).astype(np.float32)

    def log_density(self, latents: ArrayLike) -> Doubles:
        """As `Prior.log_density`: the logarithm of a sum of densities, kept relative to the largest of them.

        With the square written out, the terms are products of matrices, taken so many latents at a time that memory
        does not grow with their number.
        """
        z = _checked(latents, self.dim)
        mean, log_variance = self.component_mean.astype(np.float64), self.component_log_variance.astype(np.float64)
        precision = np.exp(-log_variance)
        squares = (mean**2 * precision + log_variance).sum(axis=1) + self.dim * math.log(2 * math.pi)
        flat = z.reshape(-1, self.dim)
        density = np.empty(len(flat))
        rows = max(1, _AT_A_TIME // self.components)
        for start in range(0, len(flat), rows):
            piece = flat[start : start + rows]
            logs = piece @ (mean * precision).T - 0.5 * (squares + piece**2 @ precision.T)
            largest = logs.max(axis=1)
            density[start : start + rows] = largest + np.log(np.exp(logs - largest[:, None]).mean(axis=1))
        return density.reshape(z.shape[:-1])


def write_prior(prior: Mixture) -> bytes:
    """prior.npz of a mixture."""
    buffer = io.BytesIO()
    np.savez(buffer, mean=prior.component_mean, log_variance=prior.component_log_variance)
    return buffer.getvalue()


def read_prior(folder: Path, spec: PriorSpec, dim: int, data: bytes | None) -> Prior:
    """The prior that a manifest's spec says, over ``dim`` dimensions.

    `data` are the bytes of prior.npz, None where the bundle has none; `folder` is named in errors. Raises BundleError
    where the file is missing, is not wanted, or holds something else than the spec says.
    """
    where = f"{folder}/{PRIOR}"
    if spec.components is None:
        if data is not None:
            raise BundleError(f"{where}: a {spec.family} prior has no components")
        return StandardNormal(dim)
    if data is None:
        raise BundleError(f"{where}: missing")
    arrays = read_arrays(folder, PRIOR, data)
    if arrays.keys() != {"mean", "log_variance"}:
        raise BundleError(f"{where}: holds {sorted(arrays)} and not ['log_variance', 'mean']")
    for key, array in arrays.items():
        if array.shape != (spec.components, dim) or array.dtype != np.float32:
            raise BundleError(f"{where}: {key} has not the shape or type that the manifest asks for")
    try:
        return Mixture(arrays["mean"], arrays["log_variance"])
    except ValueError:
        raise BundleError(f"{where}: holds NaN or infinity") from None


def _components(n: int, count: int, seed: int) -> NDArray[np.int64]:
    """Which of ``count`` components each of n rows is of, (N,)."""
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must be between 0 and {MAX_SEED}")
    generator = np.random.Generator(np.random.Philox(key=int(seed) + (_COMPONENTS_STREAM << 64)))
    # Of 53 bits each: that some components get one value more than others is less than one in 10^12.
    return (generator.random(n) * count).astype(np.int64)


def _checked(latents: ArrayLike, dim: int) -> Doubles:
    z = np.asarray(latents, np.float64)
    if z.ndim < 1 or z.shape[-1] != dim:
        raise ValueError(f"latents must have the shape (..., {dim})")
    return z
