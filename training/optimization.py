"""How the parameters move: AdamW, its learning-rate schedule, and the average of the weights along the way."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from model.priors import PseudoInputs
from training.config import OptimizationConfig


def build_optimizer(model: nn.Module, config: OptimizationConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019); without weight decay it is Adam. Biases, scales and norms never decay, nor
    do pseudo-inputs, which are images and would all turn grey."""
    images = {module.raw for module in model.modules() if isinstance(module, PseudoInputs)}
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1 and parameter not in images]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1 or parameter in images]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    # One fused kernel an update: on a small network the unfused optimizer costs as much as the gradients.
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.epsilon, fused=True)


def warmup(config: OptimizationConfig, total_steps: int) -> int:
    """Steps of warm-up: as configured, but at most a tenth of the run's, which a small data set makes few.

    >>> warmup(OptimizationConfig(epochs=1, warmup_steps=500), 900)
    90
    """
    return min(config.warmup_steps, total_steps // 10)


def learning_rate(config: OptimizationConfig, step: int, total_steps: int) -> float:
    """The rate of update ``step`` (from 0): linear warm-up, then a cosine to the final rate (Loshchilov and Hutter,
    2017).

    A function of the step alone, so that a resumed run needs no schedule state.

    >>> config = OptimizationConfig(epochs=1, learning_rate=1.0, warmup_steps=4)
    >>> [round(learning_rate(config, step, 44), 2) for step in (0, 3, 4, 24, 44)]
    [0.25, 1.0, 1.0, 0.5, 0.0]
    """
    steps = warmup(config, total_steps)
    if step < steps:
        return config.learning_rate * (step + 1) / steps
    progress = min((step - steps) / max(total_steps - steps, 1), 1.0)
    height = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + 0.5 * height * (1 + math.cos(math.pi * progress))


def decay_of_average(config: OptimizationConfig, updates: int) -> float:
    """How much of the average an update keeps, after so many others. A young average forgets faster, or it would
    remember the initialization for 1 / (1 - decay) steps.

    >>> config = OptimizationConfig(epochs=1, ema_decay=0.999)
    >>> [decay_of_average(config, updates) for updates in (0, 8, 100_000)]
    [0.1, 0.5, 0.999]
    """
    return min(config.ema_decay, (1 + updates) / (10 + updates))


def build_average(model: nn.Module, config: OptimizationConfig) -> AveragedModel:
    """The exponential moving average of the weights, which is what is validated and exported; 0: no average."""

    def average(averaged: Sequence[Tensor], current: Sequence[Tensor], _: Tensor | int) -> None:
        # What is passed is on the device of the weights, and reading it would wait for the device at every step.
        decay = decay_of_average(config, int(result.n_averaged))
        for old, new in zip(averaged, current, strict=True):
            old.lerp_(new, 1 - decay)

    result = AveragedModel(model, multi_avg_fn=average)
    return result
