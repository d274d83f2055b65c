"""What graphs in less than float32 cost and gain, measured on validation images: the test split is for `evaluate` only.

- How far their outputs lie from PyTorch's.
- The difference of -ELBO to the float32 graphs. Both run in ONNX Runtime, on the same pictures, the same binarization
  and the same noise, so that what is left is what the precision does, and its interval is far narrower than that of
  -ELBO itself.
- How long each graph takes over the same graph in float32, in turns on this machine's CPU.
"""

import math
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from model.bundle.latents import gaussian_kl, posterior_noise, prior_latents
from model.bundle.manifest import LikelihoodSpec
from model.bundle.measurements import Estimate
from model.bundle.onnx_runtime import onnx_runtime
from model.bundle.pixels import to_network
from model.bundle.precision import LIMITS, Compared, Deviation, Lower, Parity, Speed, Timing
from model.bundle.runtime import Bundle, Posterior
from model.bundle.tolerances import deviations
from training.errors import ExportError
from training.estimators import mean_over_images

Floats = NDArray[np.float32]
Pictures = NDArray[np.uint8]

VALIDATION_IMAGES = 1000
"""Most of them that are measured."""
BATCH_SIZES = (1, 32)
"""What is timed: a request on its own, and the largest batch that the server makes unless told otherwise."""
ROUNDS = (15, 201)
"""Fewest and most turns of each of two graphs; the ratio is the median over them."""

_PIECE = 32
# How long a turn takes, or one call if that is longer: shorter than what a scheduler gives to another process, so that
# most turns meet none, and so the median.
_TURN_SECONDS = 0.002
_SECONDS = 2.0  # after which the fewest turns are enough
# float32 knows no number between this and 1 below it: what a pixel may cost is bounded by 16.6 nats.
_NEAREST_TO_ONE = 2.0**-24
_BINARIZATION_STREAM = 3


class Coder(Protocol):
    """A bundle, or the model in PyTorch."""

    def encode(self, images: Floats, /) -> Posterior: ...

    def decode(self, latents: Floats, /) -> Floats: ...


class _Tally:
    """Deviations of one output, as they come."""

    def __init__(self, output: Compared) -> None:
        self._output = output
        self._averages: list[NDArray[np.float64]] = []
        self._largest: list[float] = []

    def add(self, found: Floats, wanted: Floats) -> None:
        off = deviations(self._output, found, wanted)
        self._averages.append(off.mean(axis=1))
        self._largest.append(float(off.max()))

    def result(self) -> Deviation | None:
        """None where anything is not finite."""
        averages = np.concatenate(self._averages)
        if not np.isfinite(averages).all():
            return None
        worst = float(averages.max())
        return Deviation(largest=max(self._largest), mean=float(averages.mean()), worst_average=worst)


def parity(bundle: Coder, model: Coder, pictures: Pictures, *, kind: Lower, dim: int, seed: int) -> Parity:
    """How far a bundle's numbers lie from PyTorch's on pictures ``(N, H, W, C)``, and on as many draws from the prior.

    Raises:
        ExportError: further than graphs of this kind may; names graph, output and deviation.
        ModelFault: a graph fails.
    """
    tallies = {output: _Tally(output) for output in LIMITS[kind]}
    prior = prior_latents(len(pictures), dim, seed=seed)
    for rows in _pieces(len(pictures)):
        images = to_network(pictures[rows])
        wanted, found = model.encode(images), bundle.encode(images)
        tallies["mean"].add(found.mean, wanted.mean)
        tallies["log_variance"].add(found.log_variance, wanted.log_variance)
        for latents in (wanted.mean, prior[rows]):
            tallies["pixel"].add(bundle.decode(latents), model.decode(latents))
    results: dict[str, Deviation] = {}
    for output, tally in tallies.items():
        graph = "decoder.onnx: in {}, its output image" if output == "pixel" else f"encoder.onnx: in {{}}, its {output}"
        deviation, limit = tally.result(), LIMITS[kind][output]
        if deviation is None:
            raise ExportError(f"{graph.format(kind)} is NaN or infinite")
        if deviation.largest > limit.largest or deviation.worst_average > limit.average:
            raise ExportError(
                f"{graph.format(kind)} deviates from PyTorch by up to {deviation.largest:.3g}, and by "
                f"{deviation.worst_average:.3g} on average where it is worst; {limit.largest:g} and {limit.average:g} "
                "are allowed"
            )
        results[output] = deviation
    return Parity(**results, images=len(pictures))


def negative_elbo(coder: Coder, pictures: Pictures, likelihood: LikelihoodSpec, *, seed: int) -> NDArray[np.float64]:
    """-ELBO ``(N,)`` of pictures ``(N, H, W, C)``, in nats: KL in closed form, and the distortion of one draw an image.

    Binarization and noise depend on the seed alone: coders that are given the same are given the same numbers. The
    density is that of the manifest, from the mean image as a client gets it.
    """
    uniform = np.random.Generator(np.random.Philox(key=np.array([seed, _BINARIZATION_STREAM], np.uint64)))
    result = np.empty(len(pictures))
    for rows in _pieces(len(pictures)):
        images = to_network(pictures[rows])
        if likelihood.binarization == "dynamic":
            images = (uniform.random(images.shape) < images).astype(np.float32)
        posterior = coder.encode(images)
        noise = posterior_noise(len(images), 1, posterior.mean.shape[1], seed=seed, first=rows.start)[:, 0]
        latents = posterior.mean + np.exp(posterior.log_variance / 2) * noise
        distortion = _distortion(coder.decode(latents.astype(np.float32)), images, likelihood)
        result[rows] = gaussian_kl(posterior.mean, posterior.log_variance) + distortion
    return result


def _distortion(mean_image: Floats, images: Floats, likelihood: LikelihoodSpec) -> NDArray[np.float64]:
    """-log p(x|z) ``(N,)`` in nats, of images around mean images, both ``(N, C, H, W)``."""
    mean, x = mean_image.astype(np.float64), images.astype(np.float64)
    if likelihood.scale is not None:
        standardized = (x - mean) / likelihood.scale
        pixels = 0.5 * (standardized**2 + math.log(2 * math.pi)) + math.log(likelihood.scale)
    else:
        on = np.clip(mean, _NEAREST_TO_ONE, 1 - _NEAREST_TO_ONE)
        pixels = -(x * np.log(on) + (1 - x) * np.log1p(-on))
    return np.asarray(pixels.sum(axis=(1, 2, 3)))


def difference(
    reduced: Coder, float32: Coder, pictures: Pictures, likelihood: LikelihoodSpec, *, seed: int
) -> Estimate:
    """-ELBO of one minus that of the other in nats, image by image, averaged over pictures ``(N, H, W, C)``.

    Raises:
        ExportError: one picture says nothing of others.
        ModelFault: a graph fails.
    """
    if len(pictures) < 2:
        raise ExportError("one validation image says nothing of others: two or more are needed to measure a precision")
    lost = negative_elbo(reduced, pictures, likelihood, seed=seed) - negative_elbo(
        float32, pictures, likelihood, seed=seed
    )
    return mean_over_images(torch.from_numpy(lost))


def speed(reduced: Bundle, float32: Bundle, pictures: Pictures, *, seed: int, threads: int) -> Speed:
    """How long each graph takes over the same in float32, both called as the server calls them, in turns.

    Args:
        threads: what the bundles were opened with.
    """
    timings = []
    for size in BATCH_SIZES:
        images = np.ascontiguousarray(np.resize(to_network(pictures[:size]), (size, *reduced.manifest.image.shape)))
        latents = prior_latents(size, reduced.manifest.latent.dim, seed=seed)
        calls: tuple[tuple[Literal["encoder", "decoder"], Callable[[Bundle], object]], ...] = (
            ("encoder", lambda bundle, images=images: bundle.encode(images)),  # type: ignore[misc]  # a bound default
            ("decoder", lambda bundle, latents=latents: bundle.decode(latents)),  # type: ignore[misc]
        )
        for graph, call in calls:
            ratio = _ratio(lambda call=call: call(reduced), lambda call=call: call(float32))  # type: ignore[misc]
            timings.append(Timing(graph=graph, batch=size, ratio=round(ratio, 3)))
    library = f"ONNX Runtime {onnx_runtime().__version__}"
    return Speed(processor=_processor(), library=library, threads=threads, timings=tuple(timings))


def _ratio(one: Callable[[], object], other: Callable[[], object]) -> float:
    """The time of one over that of the other: the median over rounds, in each of which both have a turn."""
    one(), other()
    repeats = max(1, math.ceil(_TURN_SECONDS / _time(other, 1)))
    ratios: list[float] = []
    fewest, most = ROUNDS
    end = time.perf_counter() + _SECONDS
    while len(ratios) < fewest or (len(ratios) < most and time.perf_counter() < end):
        # Whoever comes first finds the caches as the other left them.
        if len(ratios) % 2:
            below = _time(other, repeats)
            ratios.append(_time(one, repeats) / below)
        else:
            above = _time(one, repeats)
            ratios.append(above / _time(other, repeats))
    return float(np.median(ratios))


def _time(work: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    return max(time.perf_counter() - start, 1e-9)


def _processor() -> str:
    """The CPU by its name, or its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (named or [platform.processor() or platform.machine() or "a CPU"])[0]


def _pieces(count: int) -> Iterator[slice]:
    return (slice(start, min(start + _PIECE, count)) for start in range(0, count, _PIECE))
