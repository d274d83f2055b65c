"""Graphs that compute in less than float32: what is recorded of them, and how far off they may be."""

from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator

from model.bundle.frozen import Count, Frozen
from model.bundle.measurements import Estimate, Protocol


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
