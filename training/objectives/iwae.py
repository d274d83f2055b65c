r"""The importance-weighted bound of k latents an image (Burda et al., 2015, equation 8), with three gradients.

.. math:: L_k(x) = \mathbb{E}_{z_1 \dots z_k \sim q(z|x)}\Big[\log \tfrac1k \sum_{i=1}^k w_i\Big], \qquad
          w_i = \frac{p(x|z_i)\,p(z_i)}{q(z_i|x)}, \quad \tilde w_i = w_i / \textstyle\sum_j w_j

With k = 1 it is the ELBO, its rate estimated and not in closed form. For the decoder, and all that p(x|z) has to learn,
the gradient is always ``sum_i w~_i grad log w_i``; what differs is that of the encoder's parameters phi:

- ``standard``: the whole derivative. Its signal falls behind its noise as k grows (Rainforth et al., 2018).
- ``stl`` (sticking the landing; Roeder et al., 2017): without the score of q, ``sum_i w~_i (d log w_i / d z_i)
  (d z_i / d phi)``. Where q is the true posterior it is 0 for every noise. Unbiased for k = 1, whose score has mean 0;
  for k > 1 the weights depend on the latents, and it is biased.
- ``dreg`` (doubly reparameterized; Tucker et al., 2019): ``sum_i w~_i^2 (d log w_i / d z_i)
  (d z_i / d phi)``. Unbiased for every k; 0 where q is the true posterior; with k = 1 it is ``stl``.

Often a few latents have most of the weight. A gradient through ``gradient_samples`` of them, m, chosen anew for each
image and weighed so that its mean is the gradient through all (``training.objectives.resampling``), spares the others
the backward pass. All are decoded for their weights and m once more, with about twice that for the backward pass:
``k + 3 m`` where it is ``3 k`` otherwise.
"""

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from model.vae import VAE
from training.noise import Source, standard_normal, uniform
from training.objectives.loss import Loss, elbo_parts
from training.objectives.resampling import resample
from training.objectives.settings import Gradient
from training.objectives.weights import LogWeights, log_weights


@dataclass(frozen=True)
class Iwae:
    """-L_k, ``samples`` is k. Distortion and rate that it reports are means over the same latents."""

    samples: int
    gradient: Gradient = "standard"
    gradient_samples: int | None = None
    """How many latents of an image its gradient goes through, below k; None: all."""

    @property
    def name(self) -> str:
        return f"-L_{self.samples}"

    def loss(self, model: VAE, images: Tensor, generator: Source, *, autocast: bool) -> Loss:
        shape = self.samples, images.shape[0], model.latent_dim
        noise = standard_normal(shape, generator, images.device)
        posterior, prior = model.posterior(images, autocast=autocast), model.prior(autocast=autocast)
        weigh = partial(log_weights, model, images, posterior=posterior, prior=prior, autocast=autocast)
        frozen = self.gradient != "standard"
        if self.gradient_samples is None or not torch.is_grad_enabled():
            every = weigh(noise, frozen=frozen)
            bound = self._bound(every)
            if self.gradient == "dreg" and every.latents.requires_grad:
                _weigh_again(every.latents, every.total.detach().softmax(0))
        else:
            with torch.no_grad():
                every = weigh(noise)
                normalized = every.total.softmax(0)
                offset = uniform((images.shape[0],), generator, images.device)
                chosen = resample(normalized, self.gradient_samples, offset)
            some = weigh(noise.gather(0, chosen.indices.unsqueeze(-1).expand(-1, -1, model.latent_dim)), frozen=frozen)
            steered = (chosen.weights * some.total).sum(0)
            bound = self._bound(every) + (steered - steered.detach())  # the value of all, the gradient through some
            if self.gradient == "dreg" and some.latents.requires_grad:
                _weigh_again(some.latents, normalized.gather(0, chosen.indices))
        return Loss(-bound.mean(), elbo_parts(-every.log_likelihood.mean(), -every.log_ratio.mean()))

    def _bound(self, weights: LogWeights) -> Tensor:
        """L_k of each image, ``(N,)``."""
        return weights.total.logsumexp(0) - math.log(self.samples)


def _weigh_again(latents: Tensor, normalized: Tensor) -> None:
    """Let what reaches phi through the latents ``(k, N, D)`` have the normalized weight ``(k, N)`` squared.

    The loss has multiplied it by the weight once; it is multiplied again on its way from the latents to the encoder,
    behind the point where the decoder has taken its share.
    """
    factor = normalized.unsqueeze(-1)
    latents.register_hook(lambda gradient: gradient * factor)  # type: ignore[no-untyped-call]  # PyTorch has no types
