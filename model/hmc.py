r"""Hamiltonian Monte Carlo, for all chains of all images at once.

.. math:: H(z, v) = -\log f(z) + \tfrac12 |v|^2

A latent z gets a random velocity v, moves along the Hamiltonian flow, and where it arrives is accepted with probability
:math:`\min(1, e^{H - H'})`, which leaves the density f as it is, whatever error the integrator makes (Duane et al.,
1987; Neal, 2011, "MCMC using Hamiltonian dynamics", sections 2 and 3).

The log density is a weighted sum of terms that are kept apart, since annealing changes the weights between two moves:
the values and gradients of where a chain stands then hold for the new density too, and nothing is computed twice.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from model.divergences import LogDensity

# Where the acceptance costs the fewest gradients in many dimensions (Beskos et al., 2013).
TARGET_ACCEPTANCE = 0.65
# Every move of every chain draws its step from within this share of the step size: a fixed one times a fixed number of
# steps may be a period of the flow, and the chain would return to where it was (Neal, 2011, section 3.2). On annealed
# Gaussians of 20 scales, this share leaves a smaller gap than a tenth, and than the whole.
JITTER = 0.4


class State(NamedTuple):
    """Where the chains stand, and what is known there of the K terms of the log density."""

    position: Tensor
    """``(S, N, D)``."""
    values: Tensor
    """``(K, S, N)``, nats."""
    gradients: Tensor
    """``(K, S, N, D)``, nats per unit of position."""

    def log_density(self, weights: Tensor) -> Tensor:
        """Of the terms under these weights ``(K,)``: ``(S, N)`` nats."""
        return (weights[:, None, None] * self.values).sum(0)

    def gradient(self, weights: Tensor) -> Tensor:
        """Of the log density under these weights ``(K,)``: ``(S, N, D)``."""
        return (weights[:, None, None, None] * self.gradients).sum(0)


class Samples(NamedTuple):
    """What the iterations after the warm-up gave."""

    samples: Tensor
    """``(iterations // thin, S, N, D)``."""
    last: Tensor
    """``(S, N, D)``: where the chains stand."""
    acceptance_rate: Tensor
    """``(S, N)``: the mean acceptance probability of the moves."""
    step_size: Tensor
    """``(N,)``: what the warm-up found, or what it was told."""


def hmc(
    log_density: LogDensity,
    start: Tensor,
    generator: Generator,
    *,
    step_size: float,
    leapfrog_steps: int,
    iterations: int,
    warmup: int = 0,
    target_acceptance: float = TARGET_ACCEPTANCE,
    thin: int = 1,
    advance: Callable[[], object] | None = None,
) -> Samples:
    """Chains of a density that need not be normalized.

    Args:
        log_density: ``(S, N, D) -> (S, N)`` nats; each value depends on its own latent only.
        start: ``(S, N, D)``: S chains for each of N images.
        generator: on the device of ``start``.
        step_size: where the warm-up begins, or, without one, what is used.
        leapfrog_steps: gradients a move.
        iterations: moves whose states are samples.
        warmup: moves before these, in which the step size of each image is adapted to ``target_acceptance``. It is
            frozen afterwards: a chain that goes on adapting to its own past does not keep its density.
        thin: keep the state after every ``thin`` moves.
        advance: is called after every move, those of the warm-up too.

    Raises:
        ValueError: start has not three axes, or a step or count is not positive.
    """
    if start.ndim != 3:
        raise ValueError(f"start is (chains, images, dimensions), not {tuple(start.shape)}")
    if step_size <= 0 or min(leapfrog_steps, iterations, thin) < 1 or warmup < 0:
        raise ValueError("the step size and the numbers of steps, iterations and thinning must be positive")
    terms, weights = (log_density,), start.new_ones(1)
    state = evaluate(terms, start)
    advance = advance or _unheard
    steps, state = _warm_up(
        terms, weights, state, generator, step_size, leapfrog_steps, warmup, target_acceptance, advance
    )
    samples = start.new_empty(iterations // thin, *start.shape)
    accepted = start.new_zeros(start.shape[:2])
    for iteration in range(1, iterations + 1):
        state, acceptance = transition(terms, weights, state, generator, steps, leapfrog_steps)
        accepted += acceptance
        if iteration % thin == 0:
            samples[iteration // thin - 1] = state.position
        advance()
    return Samples(samples, state.position, accepted / iterations, steps)


def evaluate(terms: Sequence[LogDensity], position: Tensor) -> State:
    """The terms ``(S, N, D) -> (S, N)`` and their gradients at ``(S, N, D)``; no graph is kept."""
    with torch.enable_grad():
        variable = position.detach().requires_grad_()
        values = [term(variable) for term in terms]
        gradients = [torch.autograd.grad(value.sum(), variable)[0] for value in values]
    return State(position.detach(), torch.stack(values).detach(), torch.stack(gradients))


def leapfrog(
    terms: Sequence[LogDensity], weights: Tensor, state: State, velocity: Tensor, step_size: Tensor, steps: int
) -> tuple[State, Tensor]:
    r"""Follow the flow for so many steps of size :math:`\epsilon`:

    .. math:: v \leftarrow v + \tfrac\epsilon2 \nabla \log f(z), \quad z \leftarrow z + \epsilon v, \quad
              v \leftarrow v + \tfrac\epsilon2 \nabla \log f(z)

    Neal (2011), equations 2.28 to 2.30. Each of the three is a shear, so volume is kept; going back with ``-velocity``
    leads to the start. The energy is off by O(step_size^2).

    Args:
        terms: K log densities ``(S, N, D) -> (S, N)``.
        weights: ``(K,)``.
        state: the start.
        velocity: ``(S, N, D)``.
        step_size: broadcasts to ``(S, N)``.
        steps: at least 1.

    Returns:
        State and velocity at the end.
    """
    step = step_size.unsqueeze(-1)
    velocity = velocity + 0.5 * step * state.gradient(weights)
    for remaining in reversed(range(steps)):
        state = evaluate(terms, state.position + step * velocity)
        # Two halves in a row are one.
        velocity = velocity + (step if remaining else 0.5 * step) * state.gradient(weights)
    return state, velocity


@torch.no_grad()
def transition(
    terms: Sequence[LogDensity],
    weights: Tensor,
    state: State,
    generator: Generator,
    step_size: Tensor,
    leapfrog_steps: int,
) -> tuple[State, Tensor]:
    """One move of every chain: a fresh velocity, the flow, and Metropolis' decision.

    It is reversible: in equilibrium a move and its reverse are equally frequent, which reverse annealing relies on.

    Args:
        terms, weights, state: as for :func:`leapfrog`.
        generator: on the device of the state.
        step_size: ``(N,)``.
        leapfrog_steps: at least 1.

    Returns:
        The new state, and the probability of acceptance ``(S, N)``: zero where the flow led to NaN or infinity.
    """
    position = state.position
    velocity = torch.randn(position.shape, generator=generator, device=position.device, dtype=position.dtype)
    spread, level = torch.rand(
        2, *position.shape[:2], generator=generator, device=position.device, dtype=position.dtype
    )
    step = step_size * (1 + JITTER * (2 * spread - 1))
    proposal, final = leapfrog(terms, weights, state, velocity, step, leapfrog_steps)
    gain = proposal.log_density(weights) - 0.5 * final.square().sum(-1)
    gain -= state.log_density(weights) - 0.5 * velocity.square().sum(-1)
    acceptance = torch.where(gain.isnan(), -torch.inf, gain).clamp(max=0).exp()
    accepted = level < acceptance
    return (
        State(
            torch.where(accepted[..., None], proposal.position, position),
            torch.where(accepted, proposal.values, state.values),
            torch.where(accepted[..., None], proposal.gradients, state.gradients),
        ),
        acceptance,
    )


def adapt(step_size: Tensor, acceptance: Tensor, gain: float, target: float = TARGET_ACCEPTANCE) -> Tensor:
    """A longer step where more than ``target`` was accepted, else a shorter one (Robbins and Monro, 1951).

    Args:
        step_size: ``(N,)``.
        acceptance: probabilities ``(S, N)``.
        gain: how far the logarithm of the step goes.

    >>> [round(step, 2) for step in adapt(torch.ones(2), torch.tensor([[1.0, 0.0]]), gain=1.0).log().tolist()]
    [0.35, -0.65]
    """
    return step_size * (gain * (acceptance.mean(0) - target)).exp()


def _warm_up(
    terms: Sequence[LogDensity],
    weights: Tensor,
    state: State,
    generator: Generator,
    step_size: float,
    leapfrog_steps: int,
    moves: int,
    target: float,
    advance: Callable[[], object],
) -> tuple[Tensor, State]:
    """The step sizes ``(N,)`` after so many moves, and where the chains then stand."""
    steps = state.position.new_full(state.position.shape[1:2], step_size)
    settled: list[Tensor] = []
    for move in range(1, moves + 1):
        state, acceptance = transition(terms, weights, state, generator, steps, leapfrog_steps)
        steps = adapt(steps, acceptance, move**-0.5, target)
        if 2 * move > moves:
            settled.append(steps.log())
        advance()
    # The mean of what wanders about the goal is nearer to it than where it happens to end (Polyak and Juditsky, 1992).
    return (torch.stack(settled).mean(0).exp() if settled else steps), state


def _unheard() -> None:
    """Nobody wants to know."""
