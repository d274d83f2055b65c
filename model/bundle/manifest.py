"""manifest.json as frozen models: the one description of a bundle that training writes and serving believes.

Every unknown key is refused, so a misspelt or a newer field is never silently ignored.
"""

from typing import Annotated, Literal, NamedTuple, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
ENCODER = "encoder.onnx"
DECODER = "decoder.onnx"
GOLDEN = "golden.npz"
CARD = "MODEL_CARD.md"
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Level = Annotated[int, Field(ge=0, le=255)]
Count = Annotated[int, Field(ge=0)]
Scale = Annotated[float, Field(gt=0)]


class Frozen(BaseModel):
    """Immutable, no unknown keys, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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
    """q(z|x)."""

    family: Literal["diagonal-gaussian"] = "diagonal-gaussian"


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


def graph_signatures(image: ImageSpec, latent: LatentSpec) -> Graphs:
    """The only signatures that the graphs of a bundle may have.

    >>> graphs = graph_signatures(ImageSpec(height=28, width=20, channels=1), LatentSpec(dim=2))
    >>> [(tensor.name, tensor.shape) for tensor in graphs.encoder.outputs]
    [('mean', ('N', 2)), ('log_variance', ('N', 2))]
    """
    picture = TensorSpec(name="image", shape=("N", *image.shape))
    point = ("N", latent.dim)
    return Graphs(
        encoder=GraphSpec(
            file=ENCODER,
            inputs=(picture,),
            outputs=(TensorSpec(name="mean", shape=point), TensorSpec(name="log_variance", shape=point)),
        ),
        decoder=GraphSpec(file=DECODER, inputs=(TensorSpec(name="latent", shape=point),), outputs=(picture,)),
    )


class Estimate(Frozen):
    """A mean over images with its 95% confidence interval."""

    value: float
    low: float
    high: float


class EffectiveSampleSize(Frozen):
    """(sum w)^2 / sum w^2 of the k importance weights of an image, over the images."""

    mean: float
    minimum: float


class Protocol(Frozen):
    """Under which conditions the numbers were measured; without it they mean nothing."""

    dataset: str
    split: str
    images: Count
    binarization: Literal["dynamic", "static", "none"]
    importance_samples: int | None = Field(default=None, ge=1, description="k of the L_k bound")
    seed: Count
    step: Count | None = Field(default=None, description="training step of the weights that were measured")
    git_commit: str | None = None
    libraries: dict[str, str] = Field(default_factory=dict, description="name: version of what computed the numbers")


class Metrics(Frozen):
    """What a model measures on held-out images. Nats per image, summed over pixels and latent dimensions.

    `metrics.json`, the manifest and the model card all hold this one model.
    """

    rate: Estimate = Field(description="KL(q(z|x) || p(z)), nats per image")
    distortion: Estimate = Field(description="-E_q[log p(x|z)], nats per image")
    negative_elbo: Estimate = Field(description="rate + distortion, nats per image")
    negative_log_likelihood: Estimate | None = Field(
        default=None, description="-L_k, the importance-weighted bound (Burda et al. 2015), nats per image"
    )
    effective_sample_size: EffectiveSampleSize | None = Field(default=None, description="of the k importance weights")
    active_units: Count = Field(description="latent dimensions whose mean varies by more than 0.01 (Burda et al. 2015)")
    kl_per_dimension: tuple[float, ...] = Field(description="nats, mean over images, one per latent dimension")
    reconstruction_error: Estimate = Field(description="mean squared error per pixel of decode(mean), on [0, 1] pixels")
    bits_per_dim: Estimate | None = Field(default=None, description="only where pixels are discrete")
    protocol: Protocol


class Limit(NamedTuple):
    """The most that a deviation may be: of one number, and on average over one image or latent."""

    largest: float
    average: float


Lower = Literal["float16", "int8"]
Compared = Literal["mean", "log_variance", "pixel"]

# Half precision keeps 11 bits; what lies further off has overflowed or is another model. 8 bits keep a mean within a
# standard deviation of the prior, and most of them well within; a pixel at an edge may move far, a picture may not.
LIMITS: dict[Lower, dict[Compared, Limit]] = {
    "float16": {"mean": Limit(0.05, 0.01), "log_variance": Limit(0.05, 0.01), "pixel": Limit(0.05, 0.01)},
    "int8": {"mean": Limit(1.0, 0.25), "log_variance": Limit(1.0, 0.25), "pixel": Limit(0.6, 0.1)},
}


class Deviation(Frozen):
    """How far an output lies from what PyTorch gave in float32.

    Of mean and log_variance relative to max(1, |value|), of pixels on [0, 1] absolute.
    """

    largest: float = Field(ge=0)
    mean: float = Field(ge=0, description="over all numbers")
    worst_average: float = Field(ge=0, description="over the numbers of the image or latent where it is largest")


class Parity(Frozen):
    """What the reduced graphs give against PyTorch in float32, on real images.

    The pixels are those of decode(mean) and of as many draws from the prior, so that each graph answers for itself.
    """

    mean: Deviation
    log_variance: Deviation
    pixel: Deviation
    split: Literal["validation"] = "validation"
    images: int = Field(ge=1)


class Calibration(Frozen):
    """The images that the ranges of an int8 graph were taken from."""

    split: Literal["train"] = "train"
    images: int = Field(ge=1)
    seed: Count


class Timing(Frozen):
    """The time that a graph takes, over the time that the same graph takes in float32: below 1 is faster."""

    graph: Literal["encoder", "decoder"]
    batch: int = Field(ge=1)
    ratio: float = Field(gt=0)


class Speed(Frozen):
    """Timings on one machine, which say nothing of another kind."""

    processor: str
    library: str
    threads: int = Field(ge=1)
    timings: tuple[Timing, ...]


class Precision(Frozen):
    """Graphs that compute in less than float32, and what that costs. Their inputs and outputs are float32 still."""

    kind: Lower
    metrics_measured_in: Literal["float32"] = Field(
        default="float32", description="the manifest's metrics are of the float32 weights, not of these graphs"
    )
    parity: Parity
    negative_elbo_difference: Estimate = Field(
        description="-ELBO of these graphs minus that of the float32 graphs, same images and noise, nats per image"
    )
    protocol: Protocol = Field(description="of negative_elbo_difference; one latent an image")
    calibration: Calibration | None = Field(default=None, description="int8 only")
    speed: Speed

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.kind == "int8") != (self.calibration is not None):
            raise ValueError("int8 graphs are calibrated, and no others are")
        for output, limit in LIMITS[self.kind].items():
            deviation: Deviation = getattr(self.parity, output)
            if deviation.largest > limit.largest or deviation.worst_average > limit.average:
                raise ValueError(f"the deviation of {output} is more than {self.kind} graphs may have")
        return self


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
    files: dict[FileName, Sha256] = Field(default_factory=dict, description="sha256 of every file but this one")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.graphs != graph_signatures(self.image, self.latent):
            raise ValueError("the signatures of the graphs do not follow from the image and latent specs")
        if self.likelihood.scales is not None and len(self.likelihood.scales) != self.image.channels:
            raise ValueError("scales must have one number for each channel")
        if MANIFEST in self.files:
            raise ValueError("files must not list the manifest itself")
        parts = self.latent.dim if self.prior.family == "standard-normal" else 0  # a mixture is no product over them
        if self.metrics is not None and len(self.metrics.kl_per_dimension) != parts:
            raise ValueError(f"kl_per_dimension must have {parts} numbers under this prior and so many dimensions")
        return self
