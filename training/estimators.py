"""Monte-Carlo estimates of what an image costs under a model, in memory that does not grow with the number of
samples."""

import math
from typing import NamedTuple

import torch
from scipy.special import stdtrit  # type: ignore[import-untyped]  # SciPy ships no types
from torch import Generator, Tensor

from model.bundle.manifest import Estimate
from model.posteriors import Posterior
from model.priors import Prior
from model.vae import VAE


class ImageEstimates(NamedTuple):
    """Per image ``(N,)``; nats but for the last."""

    log_likelihood: Tensor
    """The importance-weighted bound L_k <= log p(x) (in expectation)."""
    distortion: Tensor
    """-E_q[log p(x|z)], over the same k samples."""
    rate: Tensor
    """KL(q || p): in closed form where there is one, else log q - log p over the same k samples."""
    effective_sample_size: Tensor
    """Of the k importance weights, between 1 and k."""


class LogMeanExp:
    """Running ``log mean exp`` of log weights ``(S, N)`` that come in chunks, with their effective sample size.

    Keeps the largest log weight and sums relative to it, so nothing overflows; float64, so that thousands of terms add
    up.

    >>> total = LogMeanExp()
    >>> total.add(torch.tensor([[1000.0], [1000.0]])); total.add(torch.tensor([[-5000.0], [1000.0]]))
    >>> round(total.value().item(), 4), round(total.effective_sample_size().item(), 4)
    (999.7123, 3.0)
    """

    def __init__(self) -> None:
        self._count = 0
        self._largest: Tensor | None = None
        self._sum = torch.zeros(())
        self._sum_of_squares = torch.zeros(())

    def add(self, log_weights: Tensor) -> None:
        """Take in a chunk ``(S, N)``."""
        log_weights = log_weights.double()
        largest = log_weights.amax(0)
        if self._largest is not None:
            largest = torch.maximum(largest, self._largest)
            shrink = _relative(self._largest, largest)
            self._sum, self._sum_of_squares = self._sum * shrink, self._sum_of_squares * shrink.square()
        weights = _relative(log_weights, largest)
        self._sum = self._sum + weights.sum(0)
        self._sum_of_squares = self._sum_of_squares + weights.square().sum(0)
        self._largest = largest
        self._count += log_weights.shape[0]

    def value(self) -> Tensor:
        """``log(1/S sum_s exp(log_weight_s))``, ``(N,)``; raises ValueError before the first chunk."""
        if self._largest is None:
            raise ValueError("no log weights were added")
        return self._largest + self._sum.log() - math.log(self._count)

    def effective_sample_size(self) -> Tensor:
        """``(sum w)^2 / sum w^2``, ``(N,)`` (Kong, 1992); NaN without a positive weight."""
        return self._sum.square() / self._sum_of_squares


def _relative(log_weights: Tensor, largest: Tensor) -> Tensor:
    """``exp(log_weights - largest)``, where weights that are all zero, or infinite, stay what they are: as
    ``torch.logsumexp`` does, and without inf - inf."""
    return (log_weights - torch.where(largest.isinf(), 0.0, largest)).exp()


@torch.inference_mode()
def estimate_images(
    model: VAE,
    images: Tensor,
    k: int,
    generator: Generator,
    *,
    chunk: int,
    at_a_time: int | None = None,
    prior: Prior | None = None,
) -> ImageEstimates:
    r"""L_k and the two halves of the ELBO of images ``(N, C, H, W)``, from k samples an image.

    .. math:: L_k = \mathbb{E}\Big[\log \tfrac1k \sum_{i=1}^k \frac{p(x|z_i)\,p(z_i)}{q(z_i|x)}\Big] \le \log p(x)

    Burda, Grosse and Salakhutdinov (2015), equation 8. It grows with k towards log p(x). The noise of
    ``chunk`` samples of all N images is drawn at a time, and decoded so many images ``at_a_time`` (absent: all of
    them): the one decides which numbers come out, the other only how much memory that takes. ``prior`` is the model's,
    where it is at hand already.
    """
    at_a_time = at_a_time or chunk * len(images)
    prior = prior or model.prior(at_a_time=at_a_time)
    posterior = encode(model, images, at_a_time)
    weights = LogMeanExp()
    distortion, sampled_rate = torch.zeros(2, images.shape[0], dtype=torch.float64, device=images.device)
    for done in range(0, k, chunk):
        count = min(chunk, k - done)
        noise = torch.randn(count, *posterior.mean.shape, generator=generator, device=images.device)
        latents, log_density = posterior.draw(noise)
        log_likelihood = _log_likelihood(model, images, latents, at_a_time)
        log_ratio = log_density - prior.log_density(latents)
        weights.add(log_likelihood - log_ratio)
        distortion -= log_likelihood.double().sum(0)
        sampled_rate += log_ratio.double().sum(0)
    closed_rate = prior.rate(posterior)
    rate = sampled_rate / k if closed_rate is None else closed_rate.double()
    return ImageEstimates(weights.value(), distortion / k, rate, weights.effective_sample_size())


def encode(model: VAE, images: Tensor, at_a_time: int) -> Posterior:
    """The posteriors of images ``(N, C, H, W)``, which are encoded ``at_a_time`` at a time."""
    raw = torch.cat([model.encoder(piece).float() for piece in torch.split(images, at_a_time)])
    posterior: Posterior = model.family(raw)
    return posterior


def _log_likelihood(model: VAE, images: Tensor, latents: Tensor, at_a_time: int) -> Tensor:
    """log p(x|z) ``(S, N)`` of images ``(N, C, H, W)`` at latents ``(S, N, D)``."""
    samples, count = latents.shape[:2]
    flat, which = latents.flatten(0, 1), torch.arange(count, device=images.device).repeat(samples)
    pieces = [
        model.likelihood.log_prob(model.decode(some), images[of])
        for some, of in zip(torch.split(flat, at_a_time), torch.split(which, at_a_time), strict=True)
    ]
    return torch.unflatten(torch.cat(pieces), 0, (samples, count))


def mean_over_images(values: Tensor) -> Estimate:
    """Mean over N >= 2 images with the 95% interval of the mean, by Student's t with N - 1 degrees of freedom."""
    values = values.double()
    mean = values.mean().item()
    reach = float(stdtrit(len(values) - 1, 0.975)) * values.std().item() / math.sqrt(len(values))
    return Estimate(value=mean, low=mean - reach, high=mean + reach)
