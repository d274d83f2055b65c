"""The training loop: steps, validations, checkpoints. What a step does depends on the checkpointed state and on nothing
else."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from model.vae import VAE
from training.checkpoint import Progress, Trainee, save_checkpoint
from training.config import RunConfig
from training.distributed import ALONE, World
from training.errors import CompilationFailed, DataError, NonFiniteLoss
from training.feed import Feed
from training.interruption import Interruption
from training.objective import validation_loss
from training.objectives.choice import judged, minimized
from training.optimization import build_average, build_optimizer, learning_rate
from training.run import RunFolder
from training.step import Step, Taken
from training.words import count

Values = dict[str, float]


class Observer(Protocol):
    """Who is told how training goes: the metrics log, a progress bar, TensorBoard."""

    def trained(self, step: int, values: Values) -> None:
        """A log interval ended at ``step``; the values are means over it."""

    def validated(self, step: int, values: Values) -> None:
        """A validation ended."""


@dataclass(frozen=True)
class Plan:
    """How long a run is, in steps."""

    steps_per_epoch: int
    total_steps: int

    @classmethod
    def of(cls, config: RunConfig, images: int) -> "Plan":
        """Whole batches only: what is left over of an epoch's permutation is seen in another epoch.

        Raises:
            DataError: fewer images than one batch.
        """
        steps = images // config.optimization.batch_size
        if steps == 0:
            raise DataError(
                f"{count(images, 'training image is', 'training images are')} fewer than a batch of "
                f"{config.optimization.batch_size}: "
                "add images, or set optimization.batch_size lower"
            )
        return cls(steps, steps * config.optimization.epochs)


def build_trainee(
    config: RunConfig,
    device: torch.device,
    *,
    mean_image: NDArray[np.float64] | None = None,
    pseudo_inputs: NDArray[np.float64] | None = None,
) -> Trainee:
    """A model with fresh weights and all that goes with it.

    The weights are a function of the seed, of the mean of the training images, ``(H, W, C)`` in [0, 1], and of the
    images that pseudo-inputs start at, ``(K or 1, H, W, C)``.
    """
    torch.manual_seed(config.seed)  # the layers initialize themselves from the global generator
    model = VAE(config.model, config.image.shape)
    if mean_image is not None:
        model.start_at(torch.from_numpy(mean_image).permute(2, 0, 1))
    if pseudo_inputs is not None and model.pseudo_inputs is not None:
        model.pseudo_inputs.start_at(torch.from_numpy(pseudo_inputs).permute(0, 3, 1, 2))
    model.to(device)
    optimizer = build_optimizer(model, config.optimization)
    generator = Generator(device).manual_seed(config.seed)
    return Trainee(model, build_average(model, config.optimization), optimizer, generator, Progress())


class Loop:
    """Trains until the plan is fulfilled, early stopping says so, or someone interrupts."""

    def __init__(
        self,
        config: RunConfig,
        run: RunFolder,
        trainee: Trainee,
        feeds: tuple[Feed, Feed],
        *,
        autocast: bool,
        observers: list[Observer],
        world: World = ALONE,
    ) -> None:
        self.config = config
        self.run = run
        self.trainee = trainee
        self.training, self.validation = feeds
        self.plan = Plan.of(config, len(self.training))
        self._autocast = autocast
        self._steps = Step(trainee, config.optimization, config.data.binarization, autocast=autocast, world=world)
        self._judged = judged(config.objective)
        self._observers = observers
        self._world = world
        self._recent = _Recent()

    def train(self, interruption: Interruption) -> None:
        """Go from the trainee's step to the end; all processes of the world do, and one that is interrupted stops all.

        Raises:
            NonFiniteLoss: the loss or its gradient became NaN or infinite; the last good checkpoint stays.
            CompilationFailed: a step was to be compiled, and could not be; the last checkpoint stays.
            ProcessLost: another process is gone.
        """
        progress, schedule = self.trainee.progress, self.config.schedule
        # A short run has a curve too.
        log_every = min(schedule.log_every, self.plan.steps_per_epoch)
        order = self._order(progress.step)
        stopping = self._world.any(interruption.requested)
        while not progress.finished and not stopping:
            before = self.trainee.generator.get_state()
            try:
                self._step(order)
            except CompilationFailed:
                # Ctrl-C goes to the C++ compiler too. A step that it broke off has drawn noise, and moved nothing yet.
                if not interruption.requested:
                    raise
                self.trainee.generator.set_state(before)
                if progress.step:
                    self._checkpoint()
                return
            if progress.step % log_every == 0:
                self._log()
            validated = False
            if progress.step % self.plan.steps_per_epoch == 0:
                order = self._order(progress.step)
                validated = self._end_epoch(progress.step // self.plan.steps_per_epoch)
            # Looked at once a step: a signal between two looks would end the run without a checkpoint of this step.
            stopping = self._world.any(interruption.requested)
            if validated or progress.step % schedule.checkpoint_every == 0 or stopping:
                self._checkpoint()

    def _checkpoint(self) -> None:
        self._recent.check(self.trainee.progress.step)
        self._save(self.run.last)

    def _save(self, path: Path) -> None:
        if self._world.leads:
            save_checkpoint(path, self.trainee)

    def _order(self, step: int) -> Tensor:
        """The permutation of the epoch that ``step`` is in: a function of the seed and the epoch, so resuming inside an
        epoch is exact."""
        epoch = step // self.plan.steps_per_epoch
        generator = Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
        return torch.randperm(len(self.training), generator=generator)

    def _step(self, order: Tensor) -> None:
        optimization, step = self.config.optimization, self.trainee.progress.step
        start = step % self.plan.steps_per_epoch * optimization.batch_size
        images = self.training.batch(order[start : start + optimization.batch_size])
        objective = minimized(
            self.config.objective,
            step,
            total_steps=self.plan.total_steps,
            steps_per_epoch=self.plan.steps_per_epoch,
            images=len(self.training),
        )
        rate = learning_rate(optimization, step, self.plan.total_steps)
        taken = self._steps.take(images, objective, rate)
        self._recent.add(taken, rate, len(images))

    def _log(self) -> None:
        self._recent.check(self.trainee.progress.step)
        values = self._recent.take()
        for observer in self._observers:
            observer.trained(self.trainee.progress.step, values)

    def _end_epoch(self, epoch: int) -> bool:
        """Validate where it is time to, and say whether it was."""
        progress = self.trainee.progress
        progress.finished = progress.step == self.plan.total_steps
        if epoch % self.config.schedule.validate_every and not progress.finished:
            return False
        self._recent.check(progress.step)
        began = time.perf_counter()
        values = self._validate()
        self._recent.leave_out(time.perf_counter() - began)
        self._judge(values["criterion"])
        for observer in self._observers:
            observer.validated(progress.step, values)
        return True

    def _validate(self) -> Values:
        config = self.config
        # The same noise and binarization at every validation: what differs between two of them is the weights.
        generator = Generator(self.trainee.generator.device).manual_seed(config.seed + 1)
        batches = self.validation.in_order(config.optimization.batch_size)
        average = cast(VAE, self.trainee.average.module)
        return validation_loss(
            average,
            batches,
            config.data.binarization,
            generator,
            autocast=self._autocast,
            objective=self._judged,
            world=self._world,
        )

    def _judge(self, criterion: float) -> None:
        """Keep the best weights, and stop when they have been the best for too long."""
        progress, patience = self.trainee.progress, self.config.optimization.early_stopping
        if not math.isfinite(criterion):
            raise NonFiniteLoss(_advice(f"the validation {self._judged.name}", progress.step))
        if progress.best_negative_elbo is None or criterion < progress.best_negative_elbo:
            progress.best_negative_elbo, progress.best_step = criterion, progress.step
            progress.validations_without_improvement = 0
            self._save(self.run.best)
            return
        progress.validations_without_improvement += 1
        if patience is not None and progress.validations_without_improvement >= patience:
            progress.finished = True


class _Recent:
    """The steps since the last log line. They are looked at together, so that an accelerator is not stopped at every
    step."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._losses: list[Tensor] = []
        self._images = 0
        self._learning_rate = 0.0
        self._since = time.perf_counter()

    def add(self, taken: Taken, learning_rate: float, images: int) -> None:
        named = {**taken.loss.parts, "objective": taken.loss.objective, "gradient_norm": taken.gradient_norm}
        self._names = tuple(named)
        self._losses.append(torch.stack([value.detach() for value in named.values()]))
        self._images += images
        self._learning_rate = learning_rate

    def leave_out(self, seconds: float) -> None:
        """Count these not as time of training."""
        self._since += seconds

    def check(self, step: int) -> None:
        """Raise NonFiniteLoss, naming the first step whose loss or gradient was NaN or infinite; ``step`` is the
        latest."""
        if not self._losses:
            return
        finite = torch.stack(self._losses).isfinite().all(dim=1).tolist()
        if not all(finite):
            raise NonFiniteLoss(_advice("the loss or its gradient", step - len(finite) + 1 + finite.index(False)))

    def take(self) -> Values:
        """Means since the last call, and the speed."""
        means = torch.stack(self._losses).double().mean(0).tolist()
        now = time.perf_counter()
        speed = self._images / (now - self._since)
        self._losses, self._images, self._since = [], 0, now
        return {
            **dict(zip(self._names, means, strict=True)),
            "learning_rate": self._learning_rate,
            "images_per_second": speed,
        }


def _advice(what: str, step: int) -> str:
    return (
        f"step {step}: {what} is NaN or infinite. The last good checkpoint was kept, but --resume would lead here "
        "again: start another run (--run FOLDER) with a lower optimization.learning_rate, a gradient_clip, more "
        "warmup_steps, or precision = 'float32'."
    )
