"""A training step: the loss of a batch, its gradient, and the update."""

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from training.checkpoint import Trainee
from training.compiled import compiled, compiling
from training.config import OptimizationConfig
from training.distributed import ALONE, World
from training.objective import Binarization, training_loss
from training.objectives.loss import Loss, Objective
from training.update import CompiledUpdate, Update


class Taken(NamedTuple):
    """What a step tells: the loss of the whole batch, and the norm of its gradient before it was clipped, a scalar."""

    loss: Loss
    gradient_norm: Tensor


class Step:
    """Takes steps of a trainee, which all processes of a world take together: each computes its share of the batch,
    and they move by the mean of the gradients. Compiled, where the configuration says so."""

    def __init__(
        self,
        trainee: Trainee,
        optimization: OptimizationConfig,
        binarization: Binarization,
        *,
        autocast: bool,
        world: World = ALONE,
    ) -> None:
        self._trainee = trainee
        self._binarization = binarization
        self._autocast = autocast
        self._world = world
        self._compiled = optimization.compile
        self._loss = compiled(training_loss) if optimization.compile else training_loss
        # A GPU has its own fused kernels for all tensors together; compiled, there would be one or more for each.
        fused = optimization.compile and trainee.generator.device.type == "cpu"
        self._update = (CompiledUpdate if fused else Update)(trainee, optimization)

    def take(self, images: Tensor, objective: Objective, rate: float) -> Taken:
        """One step on the batch ``(B, C, H, W)`` in [0, 1] at a learning rate; the trainee's progress counts it.

        Raises:
            CompilationFailed: it was to be compiled, and could not be; nothing moved, but noise was drawn.
            ProcessLost: another process is gone.
        """
        trainee = self._trainee
        with compiling() if self._compiled else nullcontext():
            loss = self._loss(
                trainee.model,
                images,
                self._binarization,
                trainee.generator,
                autocast=self._autocast,
                objective=objective,
                rows=self._world.rows(len(images)),
            )
            # Not before the forward pass: the allocator would give their memory back to the system, and fetch it anew.
            trainee.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss.objective)
            loss = self._in_all(loss)
            norm = self._update.move(rate)
        trainee.progress.step += 1
        return Taken(loss, norm)

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self._trainee.model.parameters() if parameter.grad is not None]

    def _in_all(self, loss: Loss) -> Loss:
        """The loss of the whole batch, of which this process had its share; its gradients become those of that, too."""
        if self._world.size == 1:
            return loss
        told = torch.stack([value.detach() for value in (loss.objective, *loss.parts.values())])
        self._world.average([told, *self._gradients()])
        return Loss(told[0], dict(zip(loss.parts, told[1:], strict=True)))
