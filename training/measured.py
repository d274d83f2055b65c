"""What all measurements have in common: the protocol that they are told with, and that they are numbers."""

from torch import Tensor

from model.bundle.measurements import Protocol
from training.config import RunConfig
from training.data.dataset import Dataset
from training.errors import NonFiniteMetric
from training.provenance import git_commit, library_versions


def protocol_of(test: Dataset, config: RunConfig, step: int, importance_samples: int | None) -> Protocol:
    """Under which conditions this process, now, measures these test images of the weights of a step."""
    return Protocol(
        dataset=test.name,
        split=test.split,
        images=len(test),
        binarization=config.data.binarization,
        importance_samples=importance_samples,
        seed=config.seed,
        step=step,
        git_commit=git_commit(),
        libraries=library_versions(),
    )


def require_finite(measured: dict[str, Tensor]) -> None:
    """Raise NonFiniteMetric, naming the first of these, by image in the first axis, that is not finite."""
    for name, values in measured.items():
        bad = int((~values.isfinite()).reshape(len(values), -1).any(1).sum())
        if bad:
            raise NonFiniteMetric(
                f"{name.replace('_', ' ')}: NaN or infinite for {bad} of {len(values)} test images: these weights are "
                "of no use; train another run with a lower optimization.learning_rate or a gradient_clip"
            )
