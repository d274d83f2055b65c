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
"""

import math
from dataclasses import dataclass

from torch import Tensor

from model.vae import VAE
from training.noise import Source, standard_normal
from training.objectives.loss import Loss, elbo_parts
from training.objectives.settings import Gradient
from training.objectives.weights import log_weights


@dataclass(frozen=True)
class Iwae:
    """-L_k, ``samples`` is k. Distortion and rate that it reports are means over the same latents."""

    samples: int
    gradient: Gradient = "standard"

    @property
    def name(self) -> str:
        return f"-L_{self.samples}"

    def loss(self, model: VAE, images: Tensor, generator: Source, *, autocast: bool) -> Loss:
        shape = self.samples, images.shape[0], model.latent_dim
        noise = standard_normal(shape, generator, images.device)
        weights = log_weights(model, images, noise, frozen=self.gradient != "standard", autocast=autocast)
        if self.gradient == "dreg" and weights.latents.requires_grad:
            _weigh_again(weights.latents, weights.total.detach())
        bound = (weights.total.logsumexp(0) - math.log(self.samples)).mean()
        return Loss(-bound, elbo_parts(-weights.log_likelihood.mean(), -weights.log_ratio.mean()))


def _weigh_again(latents: Tensor, log_weight: Tensor) -> None:
    """Let what reaches phi through the latents ``(k, N, D)`` have the normalized weight of ``(k, N)`` squared.

    logsumexp has multiplied it by the weight once; it is multiplied again on its way from the latents to the encoder,
    behind the point where the decoder has taken its share.
    """
    normalized = log_weight.softmax(0).unsqueeze(-1)
    latents.register_hook(lambda gradient: gradient * normalized)  # type: ignore[no-untyped-call]  # PyTorch has no types
