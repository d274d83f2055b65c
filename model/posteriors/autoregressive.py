r"""Inverse autoregressive flow (Kingma et al., 2016): each dimension is scaled and shifted by what those before it say.

.. math:: z'_i = \sigma_i z_i + (1 - \sigma_i)\, m_i, \qquad (m_i, s_i) = \mathrm{MADE}_i(z_{<i}, h(x)), \quad
          \sigma_i = \operatorname{sigmoid}(s_i), \qquad \log|\det| = \sum_i \log \sigma_i

The triangular Jacobian makes the determinant a product, and sigma > 0 makes it invertible.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# The gates start nearly open (Kingma et al., 2016, appendix B): a fresh flow hardly moves what it is given.
_OPEN = 2.0


class MaskedLinear(nn.Linear):
    """A linear layer in which ``mask`` ``(outputs, inputs)``, of zeros and ones, says what may depend on what."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.mask: Tensor
        self.register_buffer("mask", mask, persistent=False)
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs, self.weight * self.mask, self.bias)


class MADE(nn.Module):
    """Germain et al. (2015): a network whose output i sees inputs before i only, and all of a context.

    Latents ``(..., N, D)`` and contexts ``(N, C)`` -> shift m and gate s, ``(..., N, D)`` each.
    """

    def __init__(self, dimension: int, hidden: int, context: int) -> None:
        super().__init__()
        order = torch.arange(dimension)
        # Hidden unit j sees the inputs up to the one it is numbered after; of one dimension there is nothing to see.
        seen = torch.arange(hidden) % max(1, dimension - 1)
        into, within, out = (
            (seen[:, None] >= order[None, :]) & (dimension > 1),
            seen[:, None] >= seen[None, :],
            order[:, None] > seen[None, :],
        )
        self.first = MaskedLinear(into.float())
        self.context = nn.Linear(context, hidden, bias=False)
        self.second = MaskedLinear(within.float())
        self.last = MaskedLinear(out.float().repeat(2, 1))
        self.from_context = nn.Linear(context, 2 * dimension, bias=False)
        for layer in (self.context, self.from_context):
            nn.init.xavier_uniform_(layer.weight)
        with torch.no_grad():
            self.last.weight.mul_(0.1)
            self.from_context.weight.mul_(0.1)

    def forward(self, latent: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        features = F.elu(self.first(latent) + self.context(context))
        features = F.elu(self.second(features))
        shift, gate = (self.last(features) + self.from_context(context)).chunk(2, dim=-1)
        return shift, gate


class InverseAutoregressive(nn.Module):
    """One step; every other one sees the dimensions in reverse (``reverse``)."""

    def __init__(self, dimension: int, hidden: int, context: int, *, reverse: bool) -> None:
        super().__init__()
        self.made = MADE(dimension, hidden, context)
        self.reverse = reverse

    def forward(self, latent: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Latents ``(..., N, D)``, contexts ``(N, C)`` -> latents, log |det| ``(..., N)``."""
        latent = latent.flip(-1) if self.reverse else latent
        shift, gate = self.made(latent, context)
        opened = torch.sigmoid(gate + _OPEN)
        turned = opened * latent + (1 - opened) * shift
        turned = turned.flip(-1) if self.reverse else turned
        return turned, -F.softplus(-(gate + _OPEN)).sum(-1)
