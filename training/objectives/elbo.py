r"""The evidence lower bound with weights on its halves.

.. math:: w\, \mathcal D + \beta \mathcal R, \qquad \mathcal D = -\mathbb{E}_{q(z|x)}[\log p(x|z)], \quad
          \mathcal R = \mathrm{KL}(q(z|x) \,\|\, p(z))

With w = beta = 1 it is -ELBO (Kingma and Welling, 2014); another beta is that of Higgins et al. (2017). At a minimum
one nat of rate saves beta / w nats of distortion: beta is a point on the rate-distortion curve (Alemi et al., 2018).
"""

from dataclasses import dataclass

from torch import Tensor

from model.vae import VAE
from training.noise import Source, standard_normal
from training.objectives.loss import Loss, elbo_parts
from training.objectives.one_latent import one_latent


@dataclass(frozen=True)
class Elbo:
    """``distortion_weight * distortion + beta * rate``, one latent an image."""

    beta: float = 1.0
    distortion_weight: float = 1.0

    @property
    def name(self) -> str:
        if self.beta == self.distortion_weight == 1:
            return "-ELBO"
        weighted = (("distortion", self.distortion_weight), ("rate", self.beta))
        return " + ".join(half if weight == 1 else f"{weight:g} {half}" for half, weight in weighted if weight != 0)

    def loss(self, model: VAE, images: Tensor, generator: Source, *, autocast: bool) -> Loss:
        noise = standard_normal((images.shape[0], model.latent_dim), generator, images.device)
        distortion, rate = (half.mean() for half in model.elbo(images, noise, autocast=autocast))
        return Loss(self.distortion_weight * distortion + self.beta * rate, elbo_parts(distortion, rate))


UNWEIGHTED = Elbo()
"""-ELBO."""


@dataclass(frozen=True)
class FreeBits:
    r"""The ELBO with ``nats`` of each latent dimension for nothing (Kingma et al., 2016, appendix C.8).

    .. math:: w\, \mathcal D + \beta \sum_{d=1}^{D} \max\left(\lambda,\ \mathbb{E}_{x \sim \text{batch}}
              \left[\mathrm{KL}(q(z_d|x) \,\|\, p(z_d))\right]\right)

    Each dimension is a group of its own, and what is compared with lambda is its KL averaged over the batch, as in the
    paper: an image may take less where another takes more. Below lambda a dimension's rate has no gradient.
    """

    nats: float
    beta: float = 1.0
    distortion_weight: float = 1.0

    @property
    def name(self) -> str:
        return f"{Elbo(self.beta, self.distortion_weight).name} with {self.nats:g} free nats a dimension"

    def loss(self, model: VAE, images: Tensor, generator: Source, *, autocast: bool) -> Loss:
        posterior, _, distortions = one_latent(model, images, generator, autocast=autocast)
        distortion, divergences = distortions.mean(), posterior.kl().mean(0)
        charged = divergences.clamp_min(self.nats).sum()
        return Loss(
            self.distortion_weight * distortion + self.beta * charged, elbo_parts(distortion, divergences.sum())
        )
