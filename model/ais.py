r"""Annealed importance sampling: log p(x) between a lower bound and an upper one.

.. math:: \log f_\beta(z) = (1 - \beta) \log q_0(z) + \beta \log p(x, z), \qquad 0 = \beta_0 < \dots < \beta_T = 1

Chains go from :math:`q_0`, the prior or an approximate posterior, to the true posterior, and collect a weight (Neal,
2001; for decoders: Wu, Burda, Salakhutdinov and Grosse, 2017, "On the quantitative analysis of decoder-based
generative models"):

.. math:: \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \log \frac{p(x, z_{t-1})}{q_0(z_{t-1})}, \qquad
          \mathbb E[w] = p(x)

A latent is all that moves: decoders are constants here, and gradients are with respect to z only.
"""

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from model.divergences import LogDensity
from model.hmc import TARGET_ACCEPTANCE, adapt, evaluate, transition

_START_STEP = 0.5
# While tuning the density changes, and the step size has to follow: the gain does not decay, and few temperatures get
# several moves each. The first has to find a step size; the others only to follow.
_GAIN = 0.25
_TUNING_MOVES = 300
_FIRST_MOVES = 30


class AnnealingPath(NamedTuple):
    """The geometric path: ``log f_beta = log_initial + beta * log_ratio``, both ``(S, N, D) -> (S, N)`` nats."""

    log_initial: LogDensity
    """The normalized density that the path starts from."""
    log_ratio: LogDensity
    """log p(x, z) - log_initial(z)."""


class Annealing(NamedTuple):
    """How chains are moved; what is frozen before the weights are collected."""

    schedule: Tensor
    """The T + 1 inverse temperatures, from 0 to 1."""
    step_sizes: Tensor
    """``(T - 1, N)``: of the moves at each temperature between the ends."""
    leapfrog_steps: int


class Annealed(NamedTuple):
    """What S chains an image gave."""

    log_weights: Tensor
    """``(S, N)``, nats, float64."""
    last: Tensor
    """``(S, N, D)``: near the posterior, after going forward."""
    acceptance_rate: Tensor
    """``(N,)``: mean over chains and moves; NaN where nothing moved."""


def geometric_path(
    log_prior: LogDensity, log_likelihood: LogDensity, log_initial: LogDensity | None = None
) -> AnnealingPath:
    """From the prior to the posterior of ``log_prior + log_likelihood``, or from ``log_initial``, as q(z|x).

    Args:
        log_prior: log p(z), ``(S, N, D) -> (S, N)``.
        log_likelihood: log p(x|z) of N images, ``(S, N, D) -> (S, N)``.
        log_initial: a normalized log density of the same shapes; absent: the prior.
    """
    if log_initial is None:
        return AnnealingPath(log_prior, log_likelihood)
    initial = log_initial
    return AnnealingPath(initial, lambda latents: log_prior(latents) + log_likelihood(latents) - initial(latents))


def sigmoid_schedule(temperatures: int, sharpness: float = 4.0) -> Tensor:
    r"""Inverse temperatures, dense near both ends, where the density changes most.

    .. math:: \beta_t = \frac{\tilde\beta_t - \tilde\beta_0}{\tilde\beta_T - \tilde\beta_0}, \qquad
              \tilde\beta_t = \operatorname{sigmoid}\left(\delta \left(\tfrac{2t}{T} - 1\right)\right)

    Grosse, Ghahramani and Adams (2015), with :math:`\delta` of 4.

    Returns:
        ``(temperatures + 1,)``, float64, from 0 to 1.

    Raises:
        ValueError: no temperature.

    >>> sigmoid_schedule(1).tolist()
    [0.0, 1.0]
    >>> [round(beta, 3) for beta in sigmoid_schedule(4).tolist()]
    [0.0, 0.105, 0.5, 0.895, 1.0]
    """
    if temperatures < 1:
        raise ValueError("annealing needs at least one temperature")
    raw = torch.sigmoid(sharpness * torch.linspace(-1, 1, temperatures + 1, dtype=torch.float64))
    return (raw - raw[0]) / (raw[-1] - raw[0])


@torch.no_grad()
def tune(
    path: AnnealingPath, start: Tensor, generator: Generator, *, schedule: Tensor, leapfrog_steps: int
) -> Annealing:
    """Find step sizes for each temperature and image, by annealing chains whose weights nobody uses.

    Chains that adapt to their own past have weights with E[w] != p(x), if only a little: so these do, and those that
    count do not.

    Args:
        path: from where to where.
        start: ``(S, N, D)``, drawn from the initial density.
        generator: on the device of ``start``.
        schedule: the T + 1 inverse temperatures.
        leapfrog_steps: gradients a move.

    Raises:
        ValueError: the schedule does not rise from 0 to 1.
    """
    _check(schedule)
    between = len(schedule) - 2
    weights = _weights(schedule, start)
    step = start.new_full(start.shape[1:2], _START_STEP)
    steps = start.new_empty(between, start.shape[1])
    state = evaluate(path, start)
    for index in range(between):
        moves = math.ceil(_TUNING_MOVES / between)
        for _ in range(moves if index else max(moves, _FIRST_MOVES)):
            state, acceptance = transition(path, weights[index + 1], state, generator, step, leapfrog_steps)
            step = adapt(step, acceptance, _GAIN, TARGET_ACCEPTANCE)
        steps[index] = step
    return Annealing(schedule, steps, leapfrog_steps)


def forward_ais(path: AnnealingPath, start: Tensor, generator: Generator, annealing: Annealing) -> Annealed:
    """From the initial density to the posterior.

    With a single temperature nothing moves, and this is importance sampling from the initial density.

    Args:
        path: from where to where.
        start: ``(S, N, D)``, drawn from the initial density.
        generator: on the device of ``start``.
        annealing: schedule and step sizes, which may not depend on these chains.

    Returns:
        Log weights whose :func:`lower_bound` is one.

    Raises:
        ValueError: the schedule does not rise from 0 to 1.
    """
    return _anneal(path, start, generator, annealing, backwards=False)


def reverse_ais(path: AnnealingPath, start: Tensor, generator: Generator, annealing: Annealing) -> Annealed:
    """From exact samples of the posterior back to the initial density: the same moves in the opposite order.

    Simulated data have an exact sample of their posterior: the latent that made the image (Grosse, Ghahramani and
    Adams, 2015, "Sandwiching the marginal likelihood using bidirectional Monte Carlo"). Several chains may start at
    the same one: the mean of their 1/w remains unbiased for 1/p(x).

    Args:
        path, generator, annealing: as for :func:`forward_ais`.
        start: ``(S, N, D)``, drawn from the posterior.

    Returns:
        Log weights whose :func:`upper_bound` is one.

    Raises:
        ValueError: the schedule does not rise from 0 to 1.
    """
    return _anneal(path, start, generator, annealing, backwards=True)


def lower_bound(log_weights: Tensor) -> Tensor:
    r"""``log mean exp`` over the chains of log weights ``(S, N)`` from going forward: ``(N,)`` nats.

    Its expectation is at most log p(x), by Jensen's inequality, and the probability that it exceeds log p(x) by b nats
    is at most :math:`e^{-b}`, by Markov's.

    >>> lower_bound(torch.tensor([[0.0], [torch.inf]]).neg()).item()
    -0.6931471824645996
    """
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))


def upper_bound(log_weights: Tensor) -> Tensor:
    """``-log mean exp(-log w)`` of log weights ``(S, N)`` from going back: ``(N,)`` nats, in expectation at least
    log p(x)."""
    return -lower_bound(-log_weights)


@torch.no_grad()
def _anneal(
    path: AnnealingPath, start: Tensor, generator: Generator, annealing: Annealing, *, backwards: bool
) -> Annealed:
    _check(annealing.schedule)
    beta = annealing.schedule.tolist()
    count = len(beta) - 1
    weights = _weights(annealing.schedule, start)
    state = evaluate(path, start)
    log_weights = start.new_zeros(start.shape[:2], dtype=torch.float64)
    accepted = start.new_zeros(start.shape[1])
    for index in reversed(range(1, count + 1)) if backwards else range(1, count + 1):
        log_weights += (beta[index] - beta[index - 1]) * state.values[1].double()
        here = index - 1 if backwards else index
        if 0 < here < count:
            state, acceptance = transition(
                path, weights[here], state, generator, annealing.step_sizes[here - 1], annealing.leapfrog_steps
            )
            accepted += acceptance.mean(0)
    rate = accepted / (count - 1) if count > 1 else torch.full_like(accepted, torch.nan)
    return Annealed(log_weights, state.position, rate)


def _weights(schedule: Tensor, start: Tensor) -> Tensor:
    """``(T + 1, 2)``: what the two terms of the path weigh at each temperature."""
    return torch.stack([torch.ones_like(schedule), schedule], 1).to(start)


def _check(schedule: Tensor) -> None:
    if len(schedule) < 2 or schedule[0] != 0 or schedule[-1] != 1 or (schedule.diff() <= 0).any():
        raise ValueError("a schedule rises from 0 to 1")
