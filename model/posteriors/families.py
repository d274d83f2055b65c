"""The families of posteriors: their settings, how many numbers of an encoder each needs, and what it makes of them.

A family is a module: most have no weights of their own, since the encoder gives all parameters of an image's posterior
(amortization); the inverse autoregressive flow has networks.
"""

from abc import ABC, abstractmethod
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from model.posteriors.autoregressive import InverseAutoregressive
from model.posteriors.flows import Flow, Map, orthonormal, planar, radial, reflect, sylvester, times
from model.posteriors.gaussian import DiagonalGaussian, FullGaussian, Posterior

# Of `flows.orthonormal`: singular values of a ten-millionth of the largest have grown to 1 by then.
_ITERATIONS_IN_A_GRAPH = 48

Steps = Annotated[int, Field(gt=0, le=64, description="maps one after the other")]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DiagonalSettings(_Settings):
    """Independent dimensions."""

    kind: Literal["diagonal"] = "diagonal"


class FullSettings(_Settings):
    """A Gaussian with any covariance."""

    kind: Literal["full"]


class PlanarSettings(_Settings):
    """Planar flow (Rezende and Mohamed, 2015)."""

    kind: Literal["planar"]
    steps: Steps = 8


class RadialSettings(_Settings):
    """Radial flow (Rezende and Mohamed, 2015)."""

    kind: Literal["radial"]
    steps: Steps = 8


class IAFSettings(_Settings):
    """Inverse autoregressive flow (Kingma et al., 2016)."""

    kind: Literal["iaf"]
    steps: Steps = 4
    hidden: int = Field(320, gt=0, description="units of each of the two hidden layers of a map's network")
    context: int = Field(64, gt=0, description="numbers that the encoder says to all maps of an image")


class OrthogonalSettings(_Settings):
    """Orthogonal Sylvester flow (van den Berg et al., 2018)."""

    kind: Literal["sylvester-orthogonal"]
    steps: Steps = 4
    bottleneck: int = Field(32, gt=0, description="M, the columns of Q; at most the latent dimensions")


class HouseholderSettings(_Settings):
    """Householder Sylvester flow (van den Berg et al., 2018)."""

    kind: Literal["sylvester-householder"]
    steps: Steps = 4
    reflections: int = Field(8, gt=0, description="Householder reflections that make up each Q")


class TriangularSettings(_Settings):
    """Triangular Sylvester flow (van den Berg et al., 2018): Q reverses the dimensions in every other map."""

    kind: Literal["sylvester-triangular"]
    steps: Steps = 4


PosteriorSettings = (
    DiagonalSettings
    | FullSettings
    | PlanarSettings
    | RadialSettings
    | IAFSettings
    | OrthogonalSettings
    | HouseholderSettings
    | TriangularSettings
)


class Family(nn.Module, ABC):
    """A family of posteriors over D dimensions.

    ``shapes`` are those of the parameters that the encoder gives for each image besides mean and log_variance; how they
    lie in its output is the same for all: mean, raw log_variance, then these, one after the other.
    """

    def __init__(self, dimension: int, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.dimension = dimension
        self.shapes = shapes

    @property
    def extra(self) -> int:
        """Numbers of an image besides mean and log_variance."""
        return sum(torch.Size(shape).numel() for shape in self.shapes)

    @property
    def outputs(self) -> int:
        """Numbers that the encoder gives for an image."""
        return 2 * self.dimension + self.extra

    def forward(self, raw: Tensor) -> Posterior:
        """The posteriors of an encoder's output ``(N, outputs)``."""
        return self.of(*self.split(raw))

    def split(self, raw: Tensor) -> tuple[DiagonalGaussian, Tensor]:
        """The Gaussian that draws start from and the further parameters ``(N, E)`` in ``(N, outputs)``."""
        mean, raw_log_variance, extra = torch.split(raw, [self.dimension, self.dimension, self.extra], dim=-1)
        return DiagonalGaussian.bounded(mean, raw_log_variance), extra

    def parts(self, extra: Tensor) -> list[Tensor]:
        """The parameters ``(N, *shape)`` in ``extra`` ``(N, E)``."""
        sizes = [torch.Size(shape).numel() for shape in self.shapes]
        pieces = torch.split(extra, sizes, dim=-1)
        return [torch.unflatten(piece, -1, shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def settled(self, extra: Tensor, *, in_a_graph: bool = False) -> Tensor:
        """Further parameters ``(N, E)`` as bundles have them: what is the same for all draws of an image is made. In a
        graph what depends on the numbers on the way is done a fixed number of times."""
        return extra

    def of_settled(self, base: DiagonalGaussian, settled: Tensor) -> Posterior:
        """`of`, given what `settled` gave."""
        return self.of(base, settled)

    @abstractmethod
    def of(self, base: DiagonalGaussian, extra: Tensor) -> Posterior:
        """The posteriors with this base and these further parameters ``(N, E)``."""


class Diagonal(Family):
    """`DiagonalGaussian`."""

    def of(self, base: DiagonalGaussian, extra: Tensor) -> Posterior:
        return base


class Full(Family):
    """`FullGaussian`; the base's log_variance makes the diagonal of the factor."""

    def __init__(self, dimension: int) -> None:
        super().__init__(dimension, (dimension * (dimension - 1) // 2,))

    def of(self, base: DiagonalGaussian, extra: Tensor) -> Posterior:
        return FullGaussian.of(base, extra)


class Planar(Family):
    """`flows.planar`."""

    def __init__(self, dimension: int, steps: int) -> None:
        super().__init__(dimension, (steps, dimension), (steps, dimension), (steps,))

    def of(self, base: DiagonalGaussian, extra: Tensor) -> Posterior:
        u, w, b = (part.unbind(1) for part in self.parts(extra))
        return Flow(base, [partial(planar, u=u_, w=w_, b=b_) for u_, w_, b_ in zip(u, w, b, strict=True)])


class Radial(Family):
    """`flows.radial`."""

    def __init__(self, dimension: int, steps: int) -> None:
        super().__init__(dimension, (steps, dimension), (steps,), (steps,))

    def of(self, base: DiagonalGaussian, extra: Tensor) -> Posterior:
        center, alpha, beta = (part.unbind(1) for part in self.parts(extra))
        return Flow(
            base,
            [partial(radial, center=c, raw_alpha=a, raw_beta=b) for c, a, b in zip(center, alpha, beta, strict=True)],
        )


class IAF(Family):
    """`autoregressive.InverseAutoregressive`."""

    def __init__(self, dimension: int, settings: IAFSettings) -> None:
        super().__init__(dimension, (settings.context,))
        self.maps = nn.ModuleList(
            InverseAutoregressive(dimension, settings.hidden, settings.context, reverse=index % 2 == 1)
            for index in range(settings.steps)
        )

    def of(self, base: DiagonalGaussian, extra: Tensor) -> Posterior:
        return Flow(base, [partial(turn, context=extra) for turn in self.maps])


class Orthogonal(Family):
    """`flows.sylvester` with any orthonormal Q, made by `flows.orthonormal`."""

    def __init__(self, dimension: int, settings: OrthogonalSettings) -> None:
        m, steps = settings.bottleneck, settings.steps
        super().__init__(dimension, (steps, m, m + 1), (steps, m), (steps, dimension, m))

    def settled(self, extra: Tensor, *, in_a_graph: bool = False) -> Tensor:
        raw, b, turns = self.parts(extra)
        # The identity is added: the numbers of a fresh encoder are small, and small matrices hardly have a direction.
        start = torch.eye(self.dimension, turns.shape[-1], dtype=turns.dtype, device=turns.device)
        q = orthonormal(start + turns, iterations=_ITERATIONS_IN_A_GRAPH if in_a_graph else None)
        return torch.cat([part.flatten(1) for part in (raw, b, q)], -1)

    def of(self, base: DiagonalGaussian, extra: Tensor) -> Posterior:
        return self.of_settled(base, self.settled(extra))

    def of_settled(self, base: DiagonalGaussian, settled: Tensor) -> Posterior:
        raw, b, q = self.parts(settled)
        maps: list[Map] = []
        for index in range(raw.shape[1]):
            rotate = partial(times, q[:, index].mT)
            maps.append(
                partial(sylvester, rotate=rotate, back=partial(times, q[:, index]), raw=raw[:, index], b=b[:, index])
            )
        return Flow(base, maps)


class Householder(Family):
    """`flows.sylvester` with Q a product of reflections."""

    def __init__(self, dimension: int, settings: HouseholderSettings) -> None:
        d, steps = dimension, settings.steps
        super().__init__(d, (steps, d, d + 1), (steps, d), (steps, settings.reflections, d))
        # Reflections are for directions, and those of nearly nothing have none: what an encoder says turns fixed ones.
        normals = torch.randn(steps, settings.reflections, d, generator=torch.Generator().manual_seed(0))
        self.normals: Tensor
        self.register_buffer("normals", nn.functional.normalize(normals, dim=-1))

    def of(self, base: DiagonalGaussian, extra: Tensor) -> Posterior:
        raw, b, turns = self.parts(extra)
        normals = self.normals + turns
        maps: list[Map] = []
        for index in range(raw.shape[1]):
            those = normals[:, index]
            rotate = partial(reflect, normals=those.flip(-2))
            maps.append(
                partial(
                    sylvester, rotate=rotate, back=partial(reflect, normals=those), raw=raw[:, index], b=b[:, index]
                )
            )
        return Flow(base, maps)


class Triangular(Family):
    """`flows.sylvester` with Q the identity, and in every other map the reversal of the dimensions."""

    def __init__(self, dimension: int, steps: int) -> None:
        super().__init__(dimension, (steps, dimension, dimension + 1), (steps, dimension))

    def of(self, base: DiagonalGaussian, extra: Tensor) -> Posterior:
        raw, b = self.parts(extra)
        maps: list[Map] = []
        for index in range(raw.shape[1]):
            turn = _reversed if index % 2 else _same
            maps.append(partial(sylvester, rotate=turn, back=turn, raw=raw[:, index], b=b[:, index]))
        return Flow(base, maps)


def check_dimension(settings: PosteriorSettings, dimension: int) -> None:
    """Raises ValueError for a posterior that so few latent dimensions cannot have."""
    match settings:
        case FullSettings() if dimension < 2:
            raise ValueError("model.posterior.kind = 'full' needs a model.latent_dim of 2 or more")
        case OrthogonalSettings(bottleneck=bottleneck) if bottleneck > dimension:
            raise ValueError(
                f"model.posterior.bottleneck = {bottleneck} is more than model.latent_dim = {dimension}: "
                "set it to that or less"
            )


def build_family(settings: PosteriorSettings, dimension: int) -> Family:
    """The module that the settings describe, over so many dimensions; raises as `check_dimension` does."""
    check_dimension(settings, dimension)
    match settings:
        case DiagonalSettings():
            return Diagonal(dimension)
        case FullSettings():
            return Full(dimension)
        case PlanarSettings(steps=steps):
            return Planar(dimension, steps)
        case RadialSettings(steps=steps):
            return Radial(dimension, steps)
        case IAFSettings():
            return IAF(dimension, settings)
        case OrthogonalSettings():
            return Orthogonal(dimension, settings)
        case HouseholderSettings():
            return Householder(dimension, settings)
        case TriangularSettings(steps=steps):
            return Triangular(dimension, steps)


def _same(vector: Tensor) -> Tensor:
    return vector


def _reversed(vector: Tensor) -> Tensor:
    return vector.flip(-1)
