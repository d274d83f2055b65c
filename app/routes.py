"""FastAPI's routes: they document the operations and adapt to them, and tell about the server."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from app import operations
from app.answers import Answer, answer
from app.bodies import IMAGE_BODIES, LATENT_BODIES
from app.documentation import Operation, describe, describe_plain
from app.engine import Engine, Model
from app.errors import Invalid
from app.exchange import perform
from app.metrics import CONTENT_TYPE
from app.negotiation import JSON, choose
from app.notes import note_of
from app.probes import PROBES
from app.replies import EncodeAnswer, HealthAnswer, ModelAnswer, ModelsAnswer, PicturesAnswer, ScoreAnswer
from app.schemas import (
    DecodeQuery,
    EncodeQuery,
    ImagesBody,
    InterpolateBody,
    InterpolateQuery,
    LatentsBody,
    ReconstructQuery,
    SampleQuery,
    ScoreQuery,
    TraverseBody,
    TraverseQuery,
)

Endpoint = Callable[[Request], Awaitable[Response]]

MARKDOWN = "text/markdown; charset=utf-8"

DOCUMENTED = (
    Operation(
        "POST", "/encode", "Encode images into latents",
        EncodeQuery, IMAGE_BODIES, ImagesBody, operations.ENCODE_ANSWERS, EncodeAnswer,
    ),
    Operation(
        "POST", "/score", "Score how well the model explains images",
        ScoreQuery, IMAGE_BODIES, ImagesBody, operations.SCORE_ANSWERS, ScoreAnswer, noisy=True,
    ),
    Operation(
        "POST", "/decode", "Decode latents into pictures",
        DecodeQuery, LATENT_BODIES, LatentsBody, operations.PICTURE_ANSWERS, PicturesAnswer,
    ),
    Operation(
        "POST", "/reconstruct", "Encode images and decode them again",
        ReconstructQuery, IMAGE_BODIES, ImagesBody, operations.PICTURE_ANSWERS, PicturesAnswer, noisy=True,
    ),
    Operation(
        "GET", "/sample", "Draw pictures from the prior",
        SampleQuery, (), None, operations.PICTURE_ANSWERS, PicturesAnswer, noisy=True,
    ),
    Operation(
        "POST", "/interpolate", "Walk from point to point in latent space",
        InterpolateQuery, operations.INTERPOLATE_BODIES, InterpolateBody, operations.FRAME_ANSWERS, PicturesAnswer,
    ),
    Operation(
        "POST", "/traverse", "Walk along one latent dimension",
        TraverseQuery, operations.TRAVERSE_BODIES, TraverseBody, operations.FRAME_ANSWERS, PicturesAnswer,
    ),
)  # fmt: skip


class Sent(Response):
    """An Answer as Starlette wants it: nothing is rendered or added."""

    def __init__(self, answer: Answer) -> None:
        self.status_code, self.raw_headers, self.body = answer.status, list(answer.headers), answer.body
        self.background = None


def make_router(engine: Engine) -> APIRouter:
    """All routes of one server."""
    router = APIRouter()
    for operation in DOCUMENTED:
        router.add_api_route(
            operation.path,
            _endpoint(engine, operation),
            methods=[operation.method],
            response_class=Response,
            **describe(operation),
        )
    _add_models(router, engine)
    _add_probes(router, engine)
    return router


def _endpoint(engine: Engine, operation: Operation) -> Endpoint:
    operate = operations.OPERATIONS[operation.method, operation.path]

    async def endpoint(request: Request) -> Response:
        return Sent(await perform(operate, engine, request.scope, request.receive))

    endpoint.__name__ = operation.path.strip("/")
    return endpoint


def _probe(engine: Engine, path: str) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return Sent(await PROBES[path](engine))

    endpoint.__name__ = path.strip("/")
    return endpoint


def _add_models(router: APIRouter, engine: Engine) -> None:
    async def models(request: Request) -> Response:
        _check_plain(request, JSON)
        listed = [_about(model) for model in engine.models.values()]
        return _json(ModelsAnswer(default=engine.default, models=listed))

    async def model(request: Request) -> Response:
        _check_plain(request, JSON)
        return _json(_about(_named(request, engine)))

    async def card(request: Request) -> Response:
        _check_plain(request, MARKDOWN.partition(";")[0])
        return Sent(answer(MARKDOWN, _named(request, engine).bundle.card().encode()))

    _add(router, "/models", models, describe_plain("List the loaded models", ModelsAnswer, problems=(401, 406, 422)))
    about = describe_plain("Describe one model", ModelAnswer, named=True, problems=(401, 404, 406, 422))
    _add(router, "/models/{name}", model, about)
    about = describe_plain("The model card", media=MARKDOWN, named=True, problems=(401, 404, 406, 422))
    _add(router, "/models/{name}/card", card, about)


def _add_probes(router: APIRouter, engine: Engine) -> None:
    async def home(request: Request) -> Response:
        return RedirectResponse(request.scope.get("root_path", "") + "/docs")

    ready = describe_plain("Are all models warm, and is work accepted?", HealthAnswer, unready=True)
    for path, about in (
        ("/livez", describe_plain("Is the process alive?", HealthAnswer)),
        ("/readyz", ready),
        ("/health", ready),
        ("/metrics", describe_plain("Prometheus metrics", media=CONTENT_TYPE, problems=(401,))),
    ):
        _add(router, path, _probe(engine, path), about)
    router.add_api_route("/", home, include_in_schema=False)


def _add(router: APIRouter, path: str, endpoint: Callable[..., object], about: dict[str, Any]) -> None:
    router.add_api_route(path, endpoint, response_class=Response, **about)


def _check_plain(request: Request, media: str) -> None:
    """A route without parameters and with one answer type."""
    if request.url.query:
        raise Invalid("This route takes no query parameters.")
    choose(", ".join(request.headers.getlist("accept")) or None, (media,))


def _named(request: Request, engine: Engine) -> Model:
    model = engine.model(request.path_params["name"])
    note_of(request.scope).model = model.label
    return model


def _about(model: Model) -> ModelAnswer:
    manifest = model.manifest
    return ModelAnswer(
        name=manifest.name,
        version=manifest.version,
        created=manifest.created,
        sha256=model.bundle.digest,
        provider=model.bundle.provider,
        precision="float32" if manifest.precision is None else manifest.precision.kind,
        image=manifest.image,
        latent=manifest.latent,
        posterior=manifest.posterior,
        prior=manifest.prior,
        scores=manifest.graphs.likelihood is not None,
        validation_scores=manifest.scores,
        likelihood=manifest.likelihood,
        metrics=manifest.metrics,
    )


def _json(document: ModelsAnswer | ModelAnswer) -> Response:
    return Sent(answer(JSON, document.model_dump_json().encode()))
