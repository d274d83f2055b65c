r"""The gradient of an expectation whose distribution is what is learned, in two ways.

.. math:: \nabla_\phi\, \mathbb E_{q_\phi(z)}[f(z)]

The gradient may not simply go under the expectation, since the distribution depends on :math:`\phi`. Either z becomes a
function of noise that does not (reparameterization; Kingma and Welling, 2014, section 2.4; Rezende, Mohamed and
Wierstra, 2014), or the density is differentiated instead of f (the score function; Williams, 1992, REINFORCE). Both are
unbiased. The second needs no gradient of f, and pays with a variance that grows with the number of dimensions.

Gradients are given sample by sample, so that their variance can be measured; their mean over the first axis is the
estimate.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from model.divergences import LogDensity
from model.posteriors import DiagonalGaussian


class PosteriorGradient(NamedTuple):
    """With respect to the parameters of a diagonal Gaussian, ``(S, N, D)`` each, sample by sample."""

    mean: Tensor
    log_variance: Tensor


def reparameterization_gradient(function: LogDensity, posterior: DiagonalGaussian, noise: Tensor) -> PosteriorGradient:
    r"""Through the latent ``z = mean + sigma * noise``:

    .. math:: \nabla_\phi \mathbb E_{q_\phi}[f(z)] = \mathbb E_\epsilon[\nabla_\phi f(\mu + \sigma \epsilon)], \qquad
              \frac{\partial f}{\partial \mu} = f'(z), \quad
              \frac{\partial f}{\partial \log \sigma^2} = \tfrac12 f'(z)\, \sigma \epsilon

    Args:
        function: f, ``(S, N, D) -> (S, N)``, differentiable; each value depends on its own latent only.
        posterior: q, mean and log_variance ``(N, D)``.
        noise: standard normal, ``(S, N, D)``.
    """
    mean, log_variance = (parameter.detach() for parameter in posterior)
    latents = DiagonalGaussian(mean, log_variance).reparameterize(noise)
    with torch.enable_grad():
        variable = latents.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(variable).sum(), variable)
    return PosteriorGradient(slope, 0.5 * slope * (latents - mean))


@torch.no_grad()
def score_function_gradient(
    function: LogDensity, posterior: DiagonalGaussian, noise: Tensor, *, leave_one_out: bool = False
) -> PosteriorGradient:
    r"""By the derivative of the log density, the score:

    .. math:: \nabla_\phi \mathbb E_{q_\phi}[f(z)] = \mathbb E_{q_\phi}[(f(z) - b)\, \nabla_\phi \log q_\phi(z)], \qquad
              \frac{\partial \log q}{\partial \mu} = \frac{\epsilon}{\sigma}, \quad
              \frac{\partial \log q}{\partial \log \sigma^2} = \tfrac12 (\epsilon^2 - 1)

    The baseline b may be anything that does not depend on the sample, since the expected score is zero. With
    ``leave_one_out`` it is the mean of f over the other samples (Mnih and Rezende, 2016; Kool, van Hoof and Welling,
    2019), else zero.

    Args:
        function: f, ``(S, N, D) -> (S, N)``; it need not be differentiable.
        posterior: q, mean and log_variance ``(N, D)``.
        noise: standard normal, ``(S, N, D)``.
        leave_one_out: whether there is a baseline.

    Raises:
        ValueError: a single sample has no others.
    """
    values = function(posterior.reparameterize(noise))
    if leave_one_out:
        count = len(values)
        if count < 2:
            raise ValueError(f"leaving one out needs 2 samples or more, not {count}")
        # f less the mean of the others, (sum - f) / (S - 1), is this multiple of f less the mean of all.
        values = (values - values.mean(0)) * (count / (count - 1))
    sigma = (0.5 * posterior.log_variance).exp()
    return PosteriorGradient(values[..., None] * noise / sigma, 0.5 * values[..., None] * (noise.square() - 1))
