r"""beta-TC-VAE (Chen et al., 2018): the rate, averaged over the data, in three parts that each have a weight.

.. math:: \mathbb{E}_{x}[\mathcal R(x)] = \underbrace{I(z; x)}_{\text{index-code information}}
          + \underbrace{\mathrm{KL}\Big(q(z) \,\Big\|\, \prod_d q(z_d)\Big)}_{\text{total correlation}}
          + \underbrace{\sum_d \mathrm{KL}(q(z_d) \,\|\, p(z_d))}_{\text{dimension-wise KL}},
          \qquad q(z) = \frac1N \sum_{n=1}^N q(z|x_n)

(Their equation 2.) q(z) is a mixture of all N posteriors; a batch estimates it by minibatch stratified sampling (their
appendix C.2, equation S6).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from model.posteriors import DiagonalGaussian, standard_normal_log_density
from model.vae import VAE
from training.noise import Source
from training.objectives.loss import Loss, elbo_parts
from training.objectives.one_latent import one_latent


class Decomposition(NamedTuple):
    """Estimates from one latent an image, scalars, in nats. Their sum is the mean of log q(z|x) - log p(z), which
    estimates the rate, whatever the weights of the batch."""

    index_code_information: Tensor
    total_correlation: Tensor
    dimension_wise_kl: Tensor


def stratified_weights(batch: int, population: int) -> Tensor:
    r"""Weights ``(B, B)`` in float64 with which q(z_i) is estimated from q(z_i|x_j) for a batch of B of N images.

    .. math:: q(z_i) \approx \frac1N q(z_i|x_i) + \frac1M \sum_{m=1}^{M-1} q(z_i|x_{n_m})
              + \frac{N - M}{N M} q(z_i|x_{n_M}), \qquad M = B - 1

    Chen et al. (2018), equation S6: the image that the latent is from counts as what it is, one of N, and M others
    stand for the rest. Row i has its own weight on the diagonal and the odd one, (N - M) / (N M), beside it (the
    authors' code has the own weight in the first column instead). Each row sums to 1, and the estimate is unbiased over
    batches drawn without replacement. A batch of all images needs no estimate: each counts 1 / N.

    >>> stratified_weights(3, 10)
    tensor([[0.1000, 0.4000, 0.5000],
            [0.5000, 0.1000, 0.4000],
            [0.4000, 0.5000, 0.1000]], dtype=torch.float64)

    Raises:
        ValueError: fewer than two images in the batch, or more than there are.
    """
    if not 2 <= batch <= population:
        raise ValueError(f"a batch of {batch} of {population} images: it takes 2 or more, and no more than there are")
    if batch == population:
        return torch.full((batch, batch), 1 / population, dtype=torch.float64)
    others = batch - 1
    weights = torch.full((batch, batch), 1 / others, dtype=torch.float64)
    rows = torch.arange(batch)
    weights[rows, rows] = 1 / population
    weights[rows, (rows + 1) % batch] = (population - others) / (population * others)
    return weights


def decompose(posterior: DiagonalGaussian, latent: Tensor, population: int) -> Decomposition:
    """The three parts of the rate of a batch.

    Args:
        posterior: of B of the ``population`` images.
        latent: ``(B, D)``, one drawn from each. Memory grows with B * B * D.

    Raises:
        ValueError: as ``stratified_weights`` does.
    """
    weights = stratified_weights(len(latent), population).to(latent).log()
    # log q(z_id | x_j), (B, B, D): the density of latent i in the posterior of image j, of each dimension.
    squared = (latent[:, None] - posterior.mean).square() * (-posterior.log_variance).exp()
    densities = -0.5 * (squared + posterior.log_variance + math.log(2 * math.pi))
    conditional = posterior.log_density(latent)
    aggregate = (weights + densities.sum(-1)).logsumexp(1)
    product = (weights[..., None] + densities).logsumexp(1).sum(-1)
    prior = standard_normal_log_density(latent)
    return Decomposition((conditional - aggregate).mean(), (aggregate - product).mean(), (product - prior).mean())


@dataclass(frozen=True)
class BetaTC:
    """``distortion + alpha * information + beta * total correlation + gamma * dimension-wise KL`` (Chen et al., 2018,
    equation 4), of batches of ``population`` training images; with weights of 1 it is -ELBO."""

    alpha: float
    beta: float
    gamma: float
    population: int

    @property
    def name(self) -> str:
        return f"distortion + {self.alpha:g} information + {self.beta:g} total correlation + {self.gamma:g} KL"

    def loss(self, model: VAE, images: Tensor, generator: Source, *, autocast: bool) -> Loss:
        posterior, latent, distortions = one_latent(model, images, generator, autocast=autocast)
        found = decompose(posterior, latent, self.population)
        distortion, rate = distortions.mean(), posterior.kl().sum(-1).mean()
        weighted = (
            self.alpha * found.index_code_information
            + self.beta * found.total_correlation
            + self.gamma * found.dimension_wise_kl
        )
        parts = {name: part.detach() for name, part in found._asdict().items()}
        return Loss(distortion + weighted, elbo_parts(distortion, rate) | parts)
