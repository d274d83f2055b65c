"""A probability for each of the 256 levels of each value (van den Oord et al., 2016, "Pixel recurrent neural
networks"), as in the VAE of van den Berg et al. (2018, "Sylvester normalizing flows") for grey pictures."""

from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor, nn

from model.likelihoods.base import LEVELS, FamilySettings, Support, from_levels, to_levels
from model.likelihoods.continuous_bernoulli import ContinuousBernoulli


class CategoricalSettings(FamilySettings):
    """Independent 8-bit pixels whose levels have any probabilities."""

    support: ClassVar[Support] = "levels"
    family: Literal["categorical"]

    def channels(self, image_channels: int) -> int:
        """256 logits for each channel."""
        return LEVELS * image_channels


class Categorical(nn.Module):
    """Levels with probabilities ``softmax(logits)``.

    The parameters are logits ``(..., 256 C, H, W)``: the 256 of the first channel, then those of the second. So that
    any network can give them, the levels have no axis of their own.
    """

    def mean(self, parameters: Tensor) -> Tensor:
        """E[x|z], the sum over all levels of level times probability, over 255."""
        probabilities = _by_level(parameters).softmax(-3)
        levels = torch.arange(LEVELS, dtype=parameters.dtype, device=parameters.device) / (LEVELS - 1)
        # Rounded, probabilities may sum to slightly more than one.
        return (probabilities * levels.view(-1, 1, 1)).sum(-3).clamp(max=1.0)

    def log_prob(self, parameters: Tensor, images: Tensor) -> Tensor:
        """Log probability in nats of the 8-bit levels ``round(255 x)``, summed over pixels and channels."""
        logits = _by_level(parameters)
        levels = to_levels(images).long().unsqueeze(-3)
        # Less memory than log_softmax: only what is chosen is normalized.
        chosen = _chosen(logits, levels).squeeze(-3)
        return (chosen - logits.logsumexp(-3)).sum((-3, -2, -1))

    def sample(self, parameters: Tensor, generator: Generator) -> Tensor:
        """Levels."""
        logits = _by_level(parameters).movedim(-3, -1)
        level = torch.multinomial(logits.softmax(-1).flatten(0, -2), 1, generator=generator)
        return from_levels(level.reshape(logits.shape[:-1]).to(parameters.dtype))

    def parameters_for(self, mean_image: Tensor) -> Tensor:
        """Logits that rise in a straight line from black to white: of all distributions with the wanted mean (to within
        a thousandth, and kept within [0.01, 0.99]) that of the largest entropy."""
        steps = torch.arange(LEVELS, dtype=mean_image.dtype) / LEVELS
        # The levels are the middles of 256 bins of [0, 1], but for half a bin.
        middle = (mean_image * (LEVELS - 1) + 0.5) / LEVELS
        slope = ContinuousBernoulli().parameters_for(middle)
        return (slope.unsqueeze(1) * (steps - steps.mean()).view(-1, 1, 1)).flatten(0, 1)


def _by_level(parameters: Tensor) -> Tensor:
    """``(..., 256 C, H, W)`` -> ``(..., C, 256, H, W)``."""
    return torch.unflatten(parameters, -3, (-1, LEVELS))


def _chosen(logits: Tensor, levels: Tensor) -> Tensor:
    """The logits of the levels ``(..., C, 1, H, W)``; what is in front of C broadcasts."""
    axes = max(logits.ndim, levels.ndim)
    logits, levels = logits[(None,) * (axes - logits.ndim)], levels[(None,) * (axes - levels.ndim)]
    if logits.shape[:-4] == levels.shape[:-4]:
        # In an exported graph take_along_dim would fix the number of images.
        return logits.gather(-3, levels)
    return torch.take_along_dim(logits, levels, dim=-3)
