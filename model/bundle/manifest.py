"""manifest.json as frozen models: the one description of a bundle that training writes and serving believes.

What was measured is in `measurements`, since metrics.json holds it too.
"""

from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from model.bundle.frozen import Count, Frozen
from model.bundle.measurements import Metrics
from model.bundle.precision import Precision

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
ENCODER = "encoder.onnx"
DECODER = "decoder.onnx"
POSTERIOR = "posterior.onnx"
LIKELIHOOD = "likelihood.onnx"
SCORES = "scores.npz"
PRIOR = "prior.npz"
GOLDEN = "golden.npz"
CARD = "MODEL_CARD.md"
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Role = Literal["encoder", "decoder", "posterior", "likelihood"]
PosteriorFamily = Literal[
    "diagonal-gaussian",
    "full-gaussian",
    "planar",
    "radial",
    "iaf",
    "sylvester-orthogonal",
    "sylvester-householder",
    "sylvester-triangular",
]
Level = Annotated[int, Field(ge=0, le=255)]
Scale = Annotated[float, Field(gt=0)]


class ImageSpec(Frozen):
    """The pictures a model takes, and the rule that fits any picture to them.

    >>> ImageSpec(height=28, width=20, channels=1).shape
    (1, 28, 20)
    """

    height: int = Field(ge=8, le=256)
    width: int = Field(ge=8, le=256)
    channels: Literal[1, 3]
    fit: Literal["contain", "cover", "stretch"] = Field(
        default="contain", description="contain: whole picture, padded; cover: center crop; stretch: distorted"
    )
    resample: Literal["box", "bilinear", "bicubic", "lanczos"] = "bicubic"
    background: tuple[Level, Level, Level] = Field(default=(0, 0, 0), description="under alpha and in the padding, RGB")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W), as the networks have it."""
        return (self.channels, self.height, self.width)


class LatentSpec(Frozen):
    """z in R^D."""

    dim: int = Field(ge=1, le=4096)


class PosteriorSpec(Frozen):
    """q(z|x).

    A diagonal Gaussian is its mean and log_variance. Draws from any other start at that Gaussian, and are what
    posterior.onnx makes of them with the `parameters` that the encoder gives besides.
    """

    family: PosteriorFamily = "diagonal-gaussian"
    parameters: Count = Field(default=0, description="numbers of an image besides mean and log_variance")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.is_diagonal != (self.parameters == 0):
            raise ValueError("a diagonal gaussian posterior has no further parameters, and every other has some")
        return self

    @property
    def is_diagonal(self) -> bool:
        """Is there nothing to it but mean and log_variance?"""
        return self.family == "diagonal-gaussian"


class PriorSpec(Frozen):
    """p(z): N(0, I), or the mixture of K Gaussians in prior.npz that a VampPrior (Tomczak and Welling, 2018) gives."""

    family: Literal["standard-normal", "vamp"] = "standard-normal"
    components: int | None = Field(default=None, ge=1, description="K")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.family == "vamp") != (self.components is not None):
            raise ValueError("a vamp prior has a number of components, and a standard-normal one has none")
        return self


class LikelihoodSpec(Frozen):
    """p(x|z); the decoder graph gives its mean.

    `scale` is the Gaussian's standard deviation on [0, 1] pixels. `binarization` is how the pixels of a Bernoulli
    became binary: with "none" they were grey, and its numbers are no likelihood of them. Gaussian and continuous
    Bernoulli are densities on [0, 1], discretized logistic and categorical give probabilities of 8-bit levels.
    """

    family: Literal["bernoulli", "continuous-bernoulli", "gaussian", "discretized-logistic", "categorical"]
    scale: float | None = Field(default=None, gt=0)
    scales: tuple[Scale, ...] | None = Field(
        default=None,
        description="of the discretized logistic, for each channel; null where the decoder gives one for each value",
    )
    binarization: Literal["dynamic", "static", "none"] = "none"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.family == "gaussian" and self.scale is None:
            raise ValueError("a gaussian likelihood needs its scale")
        for name, family in (("scale", "gaussian"), ("scales", "discretized-logistic")):
            if self.family != family and getattr(self, name) is not None:
                raise ValueError(f"a {self.family} likelihood has no {name}")
        if self.family != "bernoulli" and self.binarization != "none":
            raise ValueError(f"a {self.family} likelihood has no binarization")
        return self


class TensorSpec(Frozen):
    """An input or output of a graph; a string in the shape is a dynamic axis."""

    name: str
    dtype: Literal["float32"] = "float32"
    shape: tuple[int | str, ...]


class GraphSpec(Frozen):
    """One ONNX file and its signature."""

    file: FileName
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Graphs(Frozen):
    """The graphs of a bundle by their role."""

    encoder: GraphSpec
    decoder: GraphSpec
    posterior: GraphSpec | None = Field(default=None, description="null for a diagonal Gaussian")
    likelihood: GraphSpec | None = Field(default=None, description="null in a bundle that cannot score images")

    def present(self) -> dict[Role, GraphSpec]:
        """Those that the bundle has."""
        every: dict[Role, GraphSpec | None] = {
            "encoder": self.encoder,
            "decoder": self.decoder,
            "posterior": self.posterior,
            "likelihood": self.likelihood,
        }
        return {role: spec for role, spec in every.items() if spec is not None}


def graph_signatures(
    image: ImageSpec, latent: LatentSpec, posterior: PosteriorSpec | None = None, *, scores: bool = False
) -> Graphs:
    """The only signatures that the graphs of a bundle may have; a bundle `scores` if it has the graph of log p(x|z).

    >>> graphs = graph_signatures(ImageSpec(height=28, width=20, channels=1), LatentSpec(dim=2))
    >>> [(tensor.name, tensor.shape) for tensor in graphs.encoder.outputs]
    [('mean', ('N', 2)), ('log_variance', ('N', 2))]
    """
    picture = TensorSpec(name="image", shape=("N", *image.shape))
    point = ("N", latent.dim)
    z = TensorSpec(name="latent", shape=point)
    encoded: tuple[TensorSpec, ...] = (
        TensorSpec(name="mean", shape=point),
        TensorSpec(name="log_variance", shape=point),
    )
    draws = likelihood = None
    if posterior is not None and not posterior.is_diagonal:
        encoded = (*encoded, TensorSpec(name="parameters", shape=("N", posterior.parameters)))
        draws = GraphSpec(
            file=POSTERIOR,
            inputs=(*encoded, TensorSpec(name="noise", shape=point)),
            outputs=(z, TensorSpec(name="log_density", shape=("N",))),
        )
    if scores:
        likelihood = GraphSpec(
            file=LIKELIHOOD, inputs=(z, picture), outputs=(TensorSpec(name="log_likelihood", shape=("N",)),)
        )
    return Graphs(
        encoder=GraphSpec(file=ENCODER, inputs=(picture,), outputs=encoded),
        decoder=GraphSpec(file=DECODER, inputs=(z,), outputs=(picture,)),
        posterior=draws,
        likelihood=likelihood,
    )


class ScoredImages(Frozen):
    """The images whose scores lie in scores.npz, for others to be held against."""

    split: Literal["validation"] = "validation"
    images: int = Field(ge=1)
    samples: int = Field(ge=1, description="draws from the posterior of each image")
    seed: Count


class Manifest(Frozen):
    """The whole of manifest.json."""

    schema_version: Literal[1] = 1
    name: Name
    version: Name
    created: AwareDatetime
    git_commit: str | None = None
    image: ImageSpec
    latent: LatentSpec
    prior: PriorSpec = PriorSpec()
    posterior: PosteriorSpec = PosteriorSpec()
    likelihood: LikelihoodSpec
    graphs: Graphs
    metrics: Metrics | None = Field(default=None, description="null where nothing was measured")
    precision: Precision | None = Field(default=None, description="null where the graphs compute in float32")
    scores: ScoredImages | None = Field(default=None, description="null where there is nothing to hold a score against")
    files: dict[FileName, Sha256] = Field(default_factory=dict, description="sha256 of every file but this one")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        scores = self.graphs.likelihood is not None
        if self.graphs != graph_signatures(self.image, self.latent, self.posterior, scores=scores):
            raise ValueError("the signatures of the graphs do not follow from the image, latent and posterior specs")
        if self.scores is not None and not scores:
            raise ValueError("a bundle without a likelihood graph has no scores of validation images")
        if self.likelihood.scales is not None and len(self.likelihood.scales) != self.image.channels:
            raise ValueError("scales must have one number for each channel")
        if MANIFEST in self.files:
            raise ValueError("files must not list the manifest itself")
        parts = self.latent.dim if self.is_product else 0
        if self.metrics is not None and len(self.metrics.kl_per_dimension) != parts:
            raise ValueError(f"kl_per_dimension must have {parts} numbers under this posterior and prior")
        return self

    @property
    def is_product(self) -> bool:
        """Are posterior and prior both products over the latent dimensions? Then KL has a closed form, a sum of theirs;
        a flow has none, nor has a mixture."""
        return self.posterior.is_diagonal and self.prior.family == "standard-normal"

    def required(self) -> set[str]:
        """The files that a bundle needs beside this one."""
        files = {graph.file for graph in self.graphs.present().values()} | {GOLDEN, CARD}
        if self.scores is not None:
            files.add(SCORES)
        if self.prior.components is not None:
            files.add(PRIOR)
        return files
