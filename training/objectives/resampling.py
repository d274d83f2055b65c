r"""Which of many weighted latents a gradient goes through, so that its mean stays that of all.

A sum over k latents with normalized weights is estimated by m of them: latent i is among them with probability
``pi_i``, and then weighs ``w~_i / pi_i``. These are the probabilities of optimal resampling (Fearnhead and Clifford,
2003): ``pi_i = min(1, w~_i / c)``, with c such that they add up to m. What is heavy is always there, nothing is there
twice, and no other unbiased choice of m changes the weights by less, squared and summed, on average.
"""

from typing import NamedTuple

import torch
from torch import Tensor

# What weighs less has the probability of this weight: nothing is divided by 0.
_LEAST = 1e-12


class Resampled(NamedTuple):
    """m of the k latents of each of N images."""

    indices: Tensor
    """Which, ``(m, N)``: rising, and so distinct, for each image."""
    weights: Tensor
    """What each weighs now, ``(m, N)``. With 0 for the absent, all have their old weights on average."""


def resample(weights: Tensor, m: int, offset: Tensor) -> Resampled:
    """Choose m latents an image by one uniform number: systematic sampling along the sums of the probabilities.

    Args:
        weights: of k latents, ``(k, N)``, none negative; they add up to 1 for each image.
        m: below k.
        offset: uniform on [0, 1), ``(N,)``.
    """
    probability = inclusion(weights, m)
    # The terms of these sums are 1 at most, and so no two of the steps, which are 1 apart, meet the same latent.
    sums = probability.transpose(0, 1).contiguous().cumsum(1)
    steps = offset.double().unsqueeze(1) + torch.arange(m, device=weights.device)
    # Rounding may let the sums end before the last step.
    indices = torch.searchsorted(sums, steps, right=True).clamp(max=len(weights) - 1).transpose(0, 1)
    return Resampled(indices, (weights.gather(0, indices) / probability.gather(0, indices)).to(weights.dtype))


def inclusion(weights: Tensor, m: int) -> Tensor:
    """The probability of each latent ``(k, N)`` to be one of m, for weights ``(k, N)``, in float64; they add up to m
    for each image."""
    weights = weights.double().clamp(min=_LEAST)
    descending = weights.sort(0, descending=True).values
    # The sums of all but the r heaviest, r = 0 ... m - 1; begun with the light, which would be lost beside the heavy.
    rest = descending.flip(0).cumsum(0).flip(0)[:m]
    places = torch.arange(m, 0, -1, device=weights.device).unsqueeze(1)
    # The first r that leaves no other a probability above 1 when the rest share m - r places; r = m - 1 always does.
    heavy = (places * descending[:m] <= rest).int().argmax(0, keepdim=True)
    threshold = rest.gather(0, heavy) / (m - heavy)
    return (weights / threshold).clamp(max=1)
