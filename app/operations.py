"""What the server does with a VAE, each operation written once and free of any web framework.

An operation takes a Call and plans it (`plans`) from the request's head alone, in the same order every time: the query,
the model and the answer's type are checked. Then the body is read and decoded, the graphs run, the answer is encoded.
What is not small is read and written on codec threads. Latents are NumPy's work (model.bundle.latents), so that a seed
means the same everywhere.
"""

from collections.abc import Mapping
from typing import Literal

from app.bodies import IMAGE_BODIES, LATENT_BODIES, media_type
from app.engine import Model
from app.errors import Invalid
from app.exchange import Call, Operate
from app.images import Reading
from app.limits import check_count
from app.negotiation import GIF, JPEG, JSON, MULTIPART, NPY, PNG, WEBP, ZIP, choose
from app.pictures import Decode, Drawing, Interpolate, Reconstruct, Sample, Traverse
from app.plans import Plan
from app.posteriors import Encode, EncodeByDraws
from app.schemas import (
    DecodeQuery,
    EncodeQuery,
    InterpolateQuery,
    ReconstructQuery,
    SampleQuery,
    ScoreQuery,
    TraverseQuery,
)
from app.scores import Score

ENCODE_ANSWERS = (JSON, NPY)
SCORE_ANSWERS = (JSON,)
PICTURE_ANSWERS = (PNG, JSON, NPY, WEBP, JPEG, ZIP)
FRAME_ANSWERS = (PNG, JSON, NPY, WEBP, JPEG, GIF, ZIP)
INTERPOLATE_BODIES = (JSON, MULTIPART, NPY)
TRAVERSE_BODIES = (JSON,)


def encode(call: Call) -> Plan:
    """Images to posteriors: mean, log_variance, KL and, if asked for, samples.

    With a posterior that is no diagonal Gaussian, mean and log_variance are of the one that its draws start from, and
    `latent` is what stands for an image. There, and under a mixture as prior, KL is the mean over `kl_samples` draws.
    """
    query = call.query(EncodeQuery)
    model = call.model(query.model)
    media = choose(call.accept, ENCODE_ANSWERS, query.format)
    check_count(call.engine.settings, query.samples, "?samples")
    if query.output is not None and media == JSON:
        raise Invalid.at("?output", "Chooses the array of an application/x-npy answer; JSON holds everything.")
    if query.output == "samples" and query.samples == 0:
        raise Invalid.at("?output", "Needs samples of at least 1.")
    product = model.manifest.is_product
    if query.seed is not None and query.samples == 0 and (product or media == NPY):
        raise Invalid.at("?seed", "Needs samples of at least 1: nothing else is drawn.")
    plan = Encode if product else EncodeByDraws
    return plan(_reading(call, model, query.fit, IMAGE_BODIES), query, media)


def decode(call: Call) -> Plan:
    """Latents to pictures."""
    query = call.query(DecodeQuery)
    drawing = Drawing(call, call.model(query.model), query, PICTURE_ANSWERS)
    return Decode(drawing, media_type(call.content_type, LATENT_BODIES))


def score(call: Call) -> Plan:
    """Images to how well the model explains them, in nats: ELBO, importance-weighted likelihood, percentile.

    `log_likelihood` is the bound L_k of Burda et al. (2015); `reliable` is false where its effective sample size is
    below 2: one draw has more than half of the weight there. Where the model's pixels are binary, grey ones are drawn
    by the seed (dynamic) or cut at a half (static), as in training; of a model with dynamic binarization send grey
    pictures, as the validation images were: the draw of pixels moves a score by several nats. `percentile` is the share
    of validation images with a lower `elbo`. A Bernoulli of grey pixels that training did not binarize has no
    likelihood: what needs one is null.
    """
    query = call.query(ScoreQuery)
    model = call.model(query.model)
    choose(call.accept, SCORE_ANSWERS, query.format)
    limits = call.engine.settings
    if query.k > limits.max_score_samples:
        raise Invalid.at("?k", f"Must be at most {limits.max_score_samples}.")
    if model.manifest.graphs.likelihood is None:
        raise Invalid.at("?model", "This model cannot score: its bundle has no likelihood graph. Export it again.")
    return Score(_reading(call, model, query.fit, IMAGE_BODIES), query)


def reconstruct(call: Call) -> Plan:
    """Images to their reconstructions: decode of what stands for an image (the posterior's mean, or
    what a flow makes of it), or of a draw from the posterior."""
    query = call.query(ReconstructQuery)
    model = call.model(query.model)
    drawing = Drawing(call, model, query, PICTURE_ANSWERS)
    if query.seed is not None and not query.sample:
        raise Invalid.at("?seed", "Needs sample=true: nothing else is drawn.")
    return Reconstruct(drawing, _reading(call, model, query.fit, IMAGE_BODIES), sample=query.sample, seed=query.seed)


def sample(call: Call) -> Plan:
    """Pictures of latents drawn from the prior."""
    query = call.query(SampleQuery)
    drawing = Drawing(call, call.model(query.model), query, PICTURE_ANSWERS, tell_latents=True)
    check_count(call.engine.settings, query.n, "?n")
    return Sample(drawing, query)


def interpolate_points(call: Call) -> Plan:
    """Frames on the way from point to point, a point being a latent, or a picture and what stands for it."""
    query = call.query(InterpolateQuery)
    model = call.model(query.model)
    drawing = Drawing(call, model, query, FRAME_ANSWERS, frames=True, tell_latents=True)
    reading = _reading(call, model, query.fit, INTERPOLATE_BODIES)
    if reading.kind == JSON:
        if query.steps is not None or query.path is not None:
            raise Invalid.at("?steps", "steps and path belong into the JSON body.")
    elif query.steps is not None:
        check_count(call.engine.settings, query.steps, "?steps")
    return Interpolate(drawing, reading, query)


def traverse_dimension(call: Call) -> Plan:
    """Frames along one latent dimension."""
    query = call.query(TraverseQuery)
    drawing = Drawing(call, call.model(query.model), query, FRAME_ANSWERS, frames=True, tell_latents=True)
    media_type(call.content_type, TRAVERSE_BODIES)
    return Traverse(drawing, "decoder")


OPERATIONS: Mapping[tuple[str, str], Operate] = {
    ("POST", "/encode"): encode,
    ("POST", "/decode"): decode,
    ("POST", "/score"): score,
    ("POST", "/reconstruct"): reconstruct,
    ("GET", "/sample"): sample,
    ("POST", "/interpolate"): interpolate_points,
    ("POST", "/traverse"): traverse_dimension,
}
"""By method and path."""


def _reading(call: Call, model: Model, fit: Literal["model", "error"], taken: tuple[str, ...]) -> Reading:
    kind = media_type(call.content_type, taken)
    return Reading(model, call.engine.settings, kind, call.content_type or "", refuse=fit == "error")
