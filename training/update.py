"""The update of a step: the norm of the gradient and its clipping, AdamW, and the average of the weights.

Each of the three goes over all weights and does little with any: on a CPU they take as long as memory does. Compiled,
they are one pass over it, after that of the norm where gradients are clipped.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from training.checkpoint import Trainee
from training.compiled import compiled
from training.config import OptimizationConfig
from training.optimization import decay_of_average


class Update:
    """Moves a trainee by the gradients that its parameters have, as PyTorch's own functions do."""

    def __init__(self, trainee: Trainee, optimization: OptimizationConfig) -> None:
        self._trainee = trainee
        self._clip = optimization.gradient_clip

    def move(self, rate: float) -> Tensor:
        """At a learning rate; returns the norm of the gradient before it was clipped, a scalar."""
        model, optimizer = self._trainee.model, self._trainee.optimizer
        for group in optimizer.param_groups:
            group["lr"] = rate
        norm = get_total_norm([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
        if self._clip is not None:
            clip_grads_with_norm_(model.parameters(), self._clip, norm)
        optimizer.step()
        self._trainee.average.update_parameters(model)
        return norm


class _Weight(NamedTuple):
    """A tensor of weights with its gradient, its moments and its average, all of one shape, and its weight decay."""

    value: Tensor
    gradient: Tensor
    mean: Tensor
    square: Tensor
    average: Tensor
    decay: float


class _Scalars(NamedTuple):
    """What an update has of its own, scalars: the learning rate, the bias corrections of both moments, and the share
    that the new weights have in their average."""

    rate: Tensor
    correction_1: Tensor
    correction_2: Tensor
    share: Tensor


class CompiledUpdate:
    """The same but for rounding, to be called inside of `compiling`. Moments, counts and averages stay where AdamW and
    AveragedModel have them, and so a checkpoint is the same too."""

    def __init__(self, trainee: Trainee, optimization: OptimizationConfig) -> None:
        self._trainee = trainee
        self._optimization = optimization
        self._first = Update(trainee, optimization)
        self._moved = compiled(_moved, whole=True)

    @torch.no_grad()
    def move(self, rate: float) -> Tensor:
        """As of `Update`.

        Raises:
            CompilationFailed: nothing moved.
        """
        trainee, updates = self._trainee, self._trainee.progress.step
        if updates == 0:
            # Makes the moments, and the average a copy of the weights.
            return self._first.move(rate)
        beta_1, beta_2 = self._optimization.betas
        # Numbers that change from step to step are tensors, or each would be compiled.
        scalars = _Scalars(
            rate=torch.tensor(rate),
            correction_1=torch.tensor(1 - beta_1 ** (updates + 1)),
            correction_2=torch.tensor(1 - beta_2 ** (updates + 1)),
            share=torch.tensor(1 - decay_of_average(self._optimization, updates)),
        )
        averages = dict(zip(trainee.model.parameters(), trainee.average.module.parameters(), strict=True))
        states = trainee.optimizer.state
        weights = [
            _Weight(
                parameter,
                # All have one: a checkpoint of a run in which one had none is refused.
                cast(Tensor, parameter.grad),
                states[parameter]["exp_avg"],
                states[parameter]["exp_avg_sq"],
                averages[parameter],
                group["weight_decay"],
            )
            for group in trainee.optimizer.param_groups
            for parameter in group["params"]
        ]
        norm = self._moved(
            weights, scalars, self._optimization.betas, self._optimization.epsilon, self._optimization.gradient_clip
        )
        for group in trainee.optimizer.param_groups:
            group["lr"] = rate
        for state in states.values():
            state["step"] += 1
        trainee.average.n_averaged += 1
        for old, new in zip(trainee.average.module.buffers(), trainee.model.buffers(), strict=True):
            old.copy_(new)
        return norm


def _moved(
    weights: Sequence[_Weight], scalars: _Scalars, betas: tuple[float, float], epsilon: float, clip: float | None
) -> Tensor:
    """The update written out, in place (Loshchilov and Hutter, 2019, algorithm 2); returns the norm of the gradient."""
    norms = torch.stack([torch.linalg.vector_norm(weight.gradient) for weight in weights])
    norm: Tensor = torch.linalg.vector_norm(norms)
    for value, gradient, mean, square, average, decay in weights:
        if clip is not None:
            gradient = gradient * (clip / (norm + 1e-6)).clamp(max=1.0)
        mean.lerp_(gradient, 1 - betas[0])
        square.mul_(betas[1]).add_((1 - betas[1]) * gradient * gradient)
        value.sub_(scalars.rate * decay * value)
        value.sub_(scalars.rate / scalars.correction_1 * mean / ((square / scalars.correction_2).sqrt() + epsilon))
        average.lerp_(value, scalars.share)
    return norm
