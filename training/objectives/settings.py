"""The `[objective]` section of a configuration: what a run minimizes. ``choice`` turns it into what computes it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from training.section import Section

Gradient = Literal["standard", "stl", "dreg"]


class Constant(Section):
    """beta from the first step on."""

    kind: Literal["constant"]


class Warmup(Section):
    """From 0 in a line to beta, where it stays (Bowman et al., 2016; Sønderby et al., 2016)."""

    kind: Literal["warmup"]
    over_epochs: float = Field(gt=0, description="epochs, or parts of one, until beta is reached")


class Cyclical(Section):
    """Again and again from 0 in a line to beta (Fu et al., 2019)."""

    kind: Literal["cyclical"]
    cycles: int = Field(4, gt=0, description="in the whole run, all of the same length")
    rising: float = Field(0.5, gt=0, le=1, description="share of a cycle in which beta rises; then it stays")


Schedule = Annotated[Constant | Warmup | Cyclical, Field(discriminator="kind")]


class ElboSettings(Section):
    """The evidence lower bound, its halves weighted: ``distortion_weight * distortion + beta * rate``."""

    kind: Literal["elbo"]
    beta: float = Field(1.0, ge=0, description="weight of the rate (Higgins et al., 2017); 0: reconstruction only")
    distortion_weight: float = Field(1.0, ge=0, description="weight of the distortion; 0: the rate only")
    free_bits: float = Field(
        0.0,
        ge=0,
        description="nats of each latent dimension that cost nothing, on the mean KL of a batch (Kingma et al., 2016)",
    )
    schedule: Schedule = Field(Constant(kind="constant"), description="how beta changes along the run")

    @model_validator(mode="after")
    def _has_something_to_minimize(self) -> "ElboSettings":
        if self.beta == 0 and self.distortion_weight == 0:
            raise ValueError("objective.beta and objective.distortion_weight are both 0: nothing is minimized")
        if self.beta == 0 and (self.free_bits > 0 or self.schedule.kind != "constant"):
            raise ValueError(
                "objective.beta = 0 drops the rate: objective.free_bits and objective.schedule are without effect; "
                "leave them out"
            )
        return self

    @property
    def posteriors(self) -> tuple[str, ...] | None:
        """The kinds of posterior that it is defined for; None: all."""
        return ("diagonal",) if self.free_bits > 0 else None

    @property
    def narrows(self) -> str:
        """What makes them so few."""
        return f"objective.free_bits = {self.free_bits:g}"

    @property
    def against_vamp(self) -> str | None:
        """Why it does not go with a VampPrior; None: it does."""
        if self.free_bits > 0:
            return "objective.free_bits are of each dimension's own KL, and this prior is no product over dimensions"
        return "objective.beta = 0 drops the rate, which is all that trains pseudo-inputs" if self.beta == 0 else None


class IwaeSettings(Section):
    """The importance-weighted bound of several latents an image (Burda et al., 2015)."""

    kind: Literal["iwae"]
    samples: int = Field(5, ge=1, le=5000, description="k, the latents of an image")
    gradient: Gradient = Field(
        "standard",
        description="standard: of the bound itself; stl: sticking the landing (Roeder et al., 2017), biased for "
        "k > 1; dreg: doubly reparameterized (Tucker et al., 2019), unbiased",
    )
    gradient_samples: int | None = Field(
        None,
        ge=1,
        description="of how many of these latents the gradient is taken, chosen by their weights so that its mean "
        "is that of all; absent: of all",
    )

    @model_validator(mode="after")
    def _chooses_among_more(self) -> "IwaeSettings":
        if self.gradient_samples is not None and self.gradient_samples >= self.samples:
            raise ValueError(
                f"objective.gradient_samples = {self.gradient_samples} is to be less than objective.samples = "
                f"{self.samples}, of which it chooses; leave it out for a gradient through all of them"
            )
        return self

    @property
    def posteriors(self) -> tuple[str, ...] | None:
        """As of `ElboSettings`: without the score of q, log q is taken at a given latent, as no flow does."""
        return None if self.gradient == "standard" else ("diagonal", "full")

    @property
    def narrows(self) -> str:
        """As of `ElboSettings`."""
        return f"objective.gradient = '{self.gradient}'"

    @property
    def against_vamp(self) -> None:
        """As of `ElboSettings`: the prior's parameters have the gradient of the decoder's, whichever q's is."""
        return


class BetaTCSettings(Section):
    """The rate in three parts, each with a weight (Chen et al., 2018)."""

    kind: Literal["beta-tc"]
    alpha: float = Field(1.0, ge=0, description="weight of the mutual information of image and latent")
    beta: float = Field(ge=0, description="weight of the total correlation of the latent dimensions")
    gamma: float = Field(1.0, ge=0, description="weight of the divergence of each dimension from its prior")

    @property
    def posteriors(self) -> tuple[str, ...]:
        """As of `ElboSettings`: q(z_d|x) has to be known."""
        return ("diagonal",)

    @property
    def narrows(self) -> str:
        """As of `ElboSettings`."""
        return "objective.kind = 'beta-tc'"

    @property
    def against_vamp(self) -> str:
        """As of `ElboSettings`."""
        return (
            "objective.kind = 'beta-tc' compares each dimension with its own prior, and this one is no product of such"
        )


class AutoencoderSettings(Section):
    """Reconstruction from the posterior's mean: no noise, no rate, and so no likelihood."""

    kind: Literal["autoencoder"]

    @property
    def posteriors(self) -> tuple[str, ...]:
        """As of `ElboSettings`: of a flow nothing but its image of the mean would be trained."""
        return ("diagonal",)

    @property
    def narrows(self) -> str:
        """As of `ElboSettings`."""
        return "objective.kind = 'autoencoder'"

    @property
    def against_vamp(self) -> str:
        """As of `ElboSettings`."""
        return "objective.kind = 'autoencoder' has no rate, which is all that trains pseudo-inputs"


def _elbo_where_no_kind_is_said(value: Any) -> Any:
    """Without a section it is -ELBO, and so it is with a section that only changes a weight of it."""
    return {"kind": "elbo", **value} if isinstance(value, Mapping) and "kind" not in value else value


ObjectiveSettings = Annotated[
    Annotated[ElboSettings | IwaeSettings | BetaTCSettings | AutoencoderSettings, Field(discriminator="kind")],
    BeforeValidator(_elbo_where_no_kind_is_said),
]
