"""What OpenAPI says about the routes, and the page that shows it, which needs no network.

The document depends on this code alone, on no setting and no machine: ``python -m app.documentation`` prints it.
Swagger UI's files come with the package ``fastapi-offline``; its code is not used.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute

from app import replies, schemas
from app.bodies import FIELD
from app.errors import ERRORS, PROBLEM_TYPE
from app.negotiation import FORMATS, JSON, MULTIPART, NPY
from app.operations import OPERATIONS
from app.replies import Problem
from app.schemas import Query

Responses = dict[int, dict[str, Any]]
Schema = dict[str, Any]  # a JSON document, as FastAPI takes it

TITLE = "latentserve"
API_VERSION = "1.0.0"
SUMMARY = "A variational autoencoder behind HTTP: encode, decode, score, reconstruct, sample, interpolate, traverse."
DESCRIPTION = """
Arrays are channel-last: `[N,H,W]` or `[N,H,W,C]`, uint8 0..255 or floats in [0,1] (in JSON always [0,1]). Latents are
`[N,D]` float32. `Accept` chooses the answer's type, `?format=` overrides it. Pictures are fitted to the model's size.
Whatever draws noise takes a `seed` and tells it: the same seed and model give the same latents, anywhere.
Errors are `application/problem+json` (RFC 9457).
"""

_BODIES = (schemas.ImagesBody, schemas.LatentsBody, schemas.InterpolateBody, schemas.TraverseBody)
_ANSWERS = (
    replies.EncodeAnswer, replies.ScoreAnswer, replies.PicturesAnswer, replies.ModelAnswer, replies.ModelsAnswer,
    replies.HealthAnswer, Problem,
)  # fmt: skip
_RETRY_AFTER: Schema = {"description": "Seconds to wait.", "schema": {"type": "integer"}}
_BINARY: Schema = {"type": "string", "format": "binary"}


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation with all that its documentation needs."""

    method: str
    path: str
    summary: str
    query: type[Query]
    bodies: tuple[str, ...]
    body: type[BaseModel] | None
    answers: tuple[str, ...]
    answer: type[BaseModel]
    noisy: bool = False


def describe(operation: Operation) -> Schema:
    """The keyword arguments of add_api_route that document an operation."""
    statuses = [400, 401, 404, 406, 408, 413, 415, 422, 500, 503, 504]
    if not operation.bodies:
        statuses = [status for status in statuses if status not in (400,)]
    extra: Schema = {"parameters": _parameters(operation.query, operation.answers)}
    if operation.bodies:
        extra["requestBody"] = {
            "required": True,
            "content": {kind: {"schema": _body_schema(kind, operation.body)} for kind in operation.bodies},
        }
    content = {kind: {"schema": _ref(operation.answer) if kind == JSON else _BINARY} for kind in operation.answers}
    noisy = operation.noisy or "samples" in operation.query.model_fields
    success = {"description": "The answer, in the type that Accept chose.", "headers": _headers(model=True, seed=noisy)}
    return {
        "summary": operation.summary,
        "description": OPERATIONS[operation.method, operation.path].__doc__,
        "tags": ["operations"],
        "responses": {200: success | {"content": content}} | _problems(statuses),
        "openapi_extra": extra,
    }


def describe_plain(
    summary: str,
    answer: type[BaseModel] | None = None,
    *,
    media: str = JSON,
    named: bool = False,
    unready: bool = False,
    problems: tuple[int, ...] = (),
) -> Schema:
    """The keyword arguments of add_api_route that document a route without query parameters.

    ``named``: its path holds a model's name. ``unready``: it gives the same answer with 503.
    """
    content = {media.partition(";")[0]: {"schema": _ref(answer) if answer else {"type": "string"}}}
    told: Schema = {"headers": _headers(model=named), "content": content}
    success: Schema = {"description": "The answer."}
    responses: Responses = {200: success | told}
    if unready:
        responses[503] = told | {"description": "Not ready, with the reason."}
    extra: Schema = {}
    if named:
        name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
        extra["parameters"] = [name | {"description": "Name of the model."}]
    return {
        "summary": summary,
        "tags": ["server"],
        "responses": responses | _problems(problems),
        "openapi_extra": extra,
    }


def _parameters(query: type[Query], answers: tuple[str, ...]) -> list[Schema]:
    properties = query.model_json_schema()["properties"]
    found = []
    for name, schema in properties.items():
        kept = {key: value for key, value in schema.items() if key not in ("title", "description")}
        if name == "format":  # one class of queries serves routes with different answers
            kept = {"type": "string", "enum": [short for short, kind in FORMATS.items() if kind in answers]}
        about = schema.get("description", "")
        found.append({"name": name, "in": "query", "required": False, "description": about, "schema": _no_null(kept)})
    return found


def _no_null(schema: Schema) -> Schema:
    """A parameter that may be absent is not null on the wire."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    return choices[0] if len(choices) == 1 else schema


def _body_schema(kind: str, body: type[BaseModel] | None) -> Schema:
    if kind == JSON and body is not None:
        return _ref(body)
    if kind == MULTIPART:
        files = {"type": "array", "items": _BINARY, "minItems": 1}
        return {"type": "object", "properties": {FIELD: files}, "required": [FIELD], "additionalProperties": False}
    return _BINARY | ({"description": "What numpy.save writes, no pickles."} if kind == NPY else {})


def _ref(model: type[BaseModel]) -> Schema:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _headers(*, model: bool = False, seed: bool = False) -> Schema:
    headers = {"X-Request-ID": "The request's id, as given or made."}
    if model:
        headers["X-Model"] = "NAME/VERSION of the model that answered."
    if seed:
        headers["X-Seed"] = "The seed used, if noise was drawn."
    return {name: {"description": about, "schema": {"type": "string"}} for name, about in headers.items()}


def _problems(statuses: Iterable[int]) -> Responses:
    """One response a status, whose description lists the titles of the errors that have it."""
    responses: Responses = {}
    for status in sorted(statuses):
        titles = [error.title for error in ERRORS if error.status == status]
        headers = _headers() | ({"Retry-After": _RETRY_AFTER} if status == 503 else {})
        content = {PROBLEM_TYPE: {"schema": _ref(Problem)}}
        responses[status] = {"description": "; ".join(titles) + ".", "headers": headers, "content": content}
    return responses


def document(routes: Sequence[BaseRoute]) -> Schema:
    """The OpenAPI document of these routes."""
    made: Schema = get_openapi(
        title=TITLE, version=API_VERSION, summary=SUMMARY, description=DESCRIPTION.strip(), routes=routes,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )  # fmt: skip
    _, definitions = models_json_schema(
        [(model, "validation") for model in _BODIES] + [(model, "serialization") for model in _ANSWERS],
        ref_template="#/components/schemas/{model}",
    )
    components = made.setdefault("components", {})
    components["schemas"] = definitions["$defs"]
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, where the server asks for one."},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    made["security"] = [{}, {"bearer": []}, {"header": []}]
    return made


class Documented(FastAPI):
    """An application whose document is ours."""

    def openapi(self) -> Schema:
        if self.openapi_schema is None:
            self.openapi_schema = document(self.routes)
        return self.openapi_schema


def add_docs_page(app: FastAPI) -> None:
    """Serve ``/docs`` and the files that the page needs."""

    async def docs() -> HTMLResponse:
        # Relative addresses: the page works under any prefix, and behind any proxy.
        return get_swagger_ui_html(
            title=TITLE,
            openapi_url="openapi.json",
            swagger_js_url="docs/assets/swagger-ui-bundle.js",
            swagger_css_url="docs/assets/swagger-ui.css",
            swagger_favicon_url="docs/assets/favicon.png",
            swagger_ui_parameters={"validatorUrl": None, "persistAuthorization": True},  # the validator is online
        )

    app.add_api_route("/docs", docs, include_in_schema=False)
    app.mount("/docs/assets", StaticFiles(directory=str(files("fastapi_offline") / "static")), name="assets")


def main() -> None:
    """Print the document, the same on every machine: sorted keys, indented, a newline at the end."""
    from app.service import create_app
    from app.settings import Settings

    made = create_app(Settings.model_construct()).site().openapi()
    sys.stdout.write(orjson.dumps(made, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode() + "\n")


if __name__ == "__main__":
    main()
