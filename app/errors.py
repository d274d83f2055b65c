"""Every error that a client can meet, and the one shape in which it meets them (RFC 9457 problem details).

    ServiceError                    500
    ├── BadRequest                  400   not what it claims to be
    │   ├── MalformedJSON                 not JSON, not UTF-8, or nested too deep
    │   └── MalformedMultipart
    ├── Unauthorized                401   API keys are configured and none of them was given
    ├── NotFound                    404   unknown route
    │   └── ModelNotFound                 unknown model
    ├── MethodNotAllowed            405
    ├── NotAcceptable               406   no answer type of the route is acceptable
    ├── BodyTimeout                 408   the body did not arrive in time
    ├── HeadTimeout                 408   the request's head did not arrive in time
    ├── TooLarge                    413   body or picture too large
    ├── UnsupportedMediaType        415   unknown body type, or a Content-Encoding
    ├── Invalid                     422   well-formed but wrong
    ├── HeadTooLarge                431   the request's head is too large
    ├── ModelFailure                500   the model produced non-finite values or failed
    ├── Overloaded                  503   the queue is full
    ├── NotReady                    503   warming up or draining
    └── QueueTimeout                504   waited too long

A message says what is wrong and what would be right. It never holds the input, a path or a library's own text.
``ClientGone`` is no answer: the client went away, and nobody is left to tell. ``ConfigurationError`` is for whoever
starts the server.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException

from model.bundle.errors import ModelFault, PictureError, PictureTooLarge

PROBLEM_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:problem-type:latentserve:"


class ClientGone(Exception):
    """The client closed its connection before it had its answer."""


class ConfigurationError(Exception):
    """The settings, each allowed by itself, cannot be served like this; one line says why and what would do."""


@dataclass(frozen=True, slots=True)
class Detail:
    """One thing wrong: where (a JSON pointer into the body, or ``?name`` for a query parameter) and what."""

    pointer: str
    detail: str


class ServiceError(Exception):
    """An error that is answered: ``status``, ``title`` and ``slug`` (the end of its type URI) belong to the class.

    ``rejection`` is how metrics call it, if it turns a request away for what it is or for what else there is to do.
    """

    status = 500
    title = "Internal server error"
    slug = "internal-error"
    rejection: str | None = None

    def __init__(self, detail: str, *, errors: Sequence[Detail] = (), headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


class BadRequest(ServiceError):
    status, title, slug = 400, "Bad request", "bad-request"


class MalformedJSON(BadRequest):
    title, slug = "Malformed JSON", "malformed-json"


class MalformedMultipart(BadRequest):
    title, slug = "Malformed multipart body", "malformed-multipart"


class Unauthorized(ServiceError):
    status, title, slug, rejection = 401, "API key required", "unauthorized", "unauthorized"

    def __init__(self) -> None:
        super().__init__(
            "Give a valid API key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.",
            headers={"WWW-Authenticate": "Bearer"},
        )


class NotFound(ServiceError):
    status, title, slug = 404, "Not found", "not-found"


class ModelNotFound(NotFound):
    title, slug = "Unknown model", "unknown-model"


class MethodNotAllowed(ServiceError):
    status, title, slug = 405, "Method not allowed", "method-not-allowed"


class NotAcceptable(ServiceError):
    status, title, slug = 406, "No acceptable answer type", "not-acceptable"


class BodyTimeout(ServiceError):
    status, title, slug, rejection = 408, "Body not received in time", "body-timeout", "slow body"


class HeadTimeout(ServiceError):
    status, title, slug, rejection = 408, "Head not received in time", "head-timeout", "slow head"


class TooLarge(ServiceError):
    status, title, slug, rejection = 413, "Content too large", "too-large", "too large"


class UnsupportedMediaType(ServiceError):
    status, title, slug = 415, "Unsupported body type", "unsupported-media-type"


class Invalid(ServiceError):
    status, title, slug = 422, "Invalid request", "invalid"

    @classmethod
    def at(cls, pointer: str, detail: str) -> "Invalid":
        """The error of one place: the sentence is both the summary and the single entry of ``errors``."""
        return cls(detail, errors=[Detail(pointer, detail)])


class HeadTooLarge(ServiceError):
    status, title, slug = 431, "Request header fields too large", "head-too-large"
    rejection = "head too large"


class ModelFailure(ServiceError):
    title, slug = "The model failed", "model-failure"


class Overloaded(ServiceError):
    status, title, slug, rejection = 503, "Overloaded", "overloaded", "overloaded"

    def __init__(self, detail: str = "Too many requests are waiting; try again shortly.") -> None:
        super().__init__(detail, headers={"Retry-After": "1"})


class NotReady(Overloaded):
    title, slug, rejection = "Not ready", "not-ready", "not ready"


class QueueTimeout(ServiceError):
    status, title, slug, rejection = 504, "Waited too long in the queue", "queue-timeout", "waited too long"


ERRORS: tuple[type[ServiceError], ...] = (
    BadRequest, MalformedJSON, MalformedMultipart, Unauthorized, NotFound, ModelNotFound, MethodNotAllowed,
    NotAcceptable, BodyTimeout, HeadTimeout, TooLarge, UnsupportedMediaType, Invalid, HeadTooLarge, ServiceError,
    ModelFailure, Overloaded, NotReady, QueueTimeout,
)  # fmt: skip


def of_status(status: int, headers: Mapping[str, str] | None = None) -> ServiceError:
    """The error for a bare HTTP status that the web framework raises by itself (404, 405, ...)."""
    for kind, detail in (
        (NotFound, "There is no such route; /docs lists them."),
        (MethodNotAllowed, "The route does not take this method; the Allow header lists those it takes."),
        (TooLarge, "The request body is too large."),
        (BadRequest, "The request could not be read."),
    ):
        if kind.status == status:
            return kind(detail, headers=headers)
    error = ServiceError("The request could not be served.", headers=headers)
    error.status, error.title = status, HTTPStatus(status).phrase
    error.slug = error.title.lower().replace(" ", "-")
    return error


def _with_head(headers: Mapping[str, str]) -> dict[str, str]:
    """HEAD is GET without the body on every route, and so is allowed wherever GET is."""
    if "Allow" not in headers:
        return dict(headers)
    allowed = [method.strip() for method in headers["Allow"].split(",")]
    if "GET" in allowed and "HEAD" not in allowed:
        allowed.append("HEAD")
    return {**headers, "Allow": ", ".join(allowed)}


def translate(error: Exception, pointer: str = "") -> ServiceError:
    """What a client is told about any exception; an unexpected one becomes a plain 500 that reveals nothing."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, HTTPException):  # what the web framework refuses by itself
        return of_status(error.status_code, _with_head(error.headers or {}))
    if isinstance(error, PictureError):  # the bundle's contract: its text is a sentence fit for clients
        sentence = str(error)[:1].upper() + str(error)[1:] + "."
        kind = TooLarge if isinstance(error, PictureTooLarge) else Invalid
        return kind(sentence, errors=[Detail(pointer, sentence)])
    if isinstance(error, ModelFault):
        return ModelFailure("The model produced no usable numbers for this input.")
    return ServiceError("An unexpected fault occurred; the server's log has it under this request id.")


# What a validation says, in our words: pydantic's own text can repeat the input.
_SENTENCES = {
    "missing": "Is required.",
    "extra_forbidden": "Is not known here.",
    "model_type": "Must be an object.",
    "dict_type": "Must be an object.",
    "list_type": "Must be a list.",
    "string_type": "Must be text.",
    "int_type": "Must be a whole number.",
    "int_parsing": "Must be a whole number.",
    "int_parsing_size": "Must be a whole number of reasonable size.",
    "int_from_float": "Must be a whole number.",
    "float_type": "Must be a number.",
    "float_parsing": "Must be a number.",
    "finite_number": "Must be finite.",
    "bool_parsing": "Must be true or false.",
    "bool_type": "Must be true or false.",
    "greater_than_equal": "Must be at least {ge}.",
    "greater_than": "Must be more than {gt}.",
    "less_than_equal": "Must be at most {le}.",
    "less_than": "Must be less than {lt}.",
    "literal_error": "Must be one of {expected}.",
    "too_short": "Needs at least {min_length}.",
    "too_long": "Takes at most {max_length}.",
    "string_pattern_mismatch": "Does not have the right form.",
}


def _sentence(error: ErrorDetails, shape: type[BaseModel]) -> str:
    if error["type"] == "value_error":  # raised by our own validators, so that the text is ours
        return str(error.get("ctx", {}).get("error", "Is not valid."))
    if error["type"] == "extra_forbidden" and len(error["loc"]) == 1:
        return f"Is not known here; known are {', '.join(shape.model_fields)}."
    return _SENTENCES.get(error["type"], "Is not valid.").format_map(error.get("ctx", {}))


def invalid_body(error: ValidationError, shape: type[BaseModel]) -> Invalid:
    """A pydantic refusal of a JSON body of a ``shape`` as pointers (RFC 6901) and sentences of our own."""
    details = [
        Detail(_pointer(item["loc"]), _sentence(item, shape))
        for item in error.errors(include_url=False, include_input=False)[:32]
    ]
    return Invalid("The body is not what the route takes.", errors=details)


def invalid_query(error: ValidationError, shape: type[BaseModel]) -> Invalid:
    """A pydantic refusal of a query string of a ``shape``; a pointer is ``?name``."""
    details = [
        Detail("?" + (_safe(item["loc"][0]) if item["loc"] else ""), _sentence(item, shape))
        for item in error.errors(include_url=False, include_input=False)[:32]
    ]
    return Invalid("The query is not what the route takes.", errors=details)


def _pointer(location: tuple[int | str, ...]) -> str:
    return "".join("/" + _safe(part) for part in location)


def _safe(part: int | str) -> str:
    """A name from the input only if it is short and plain: a pointer must not become a way to echo the input."""
    text = str(part)
    return text if len(text) <= 64 and text.replace("_", "").isalnum() and text.isascii() else "…"


def problem(error: ServiceError, request_id: str) -> bytes:
    """The body of an error's answer, the same shape for all."""
    document: dict[str, object] = {
        "type": TYPE_PREFIX + error.slug,
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "request_id": request_id,
    }
    if error.errors:
        document["errors"] = error.errors
    return orjson.dumps(document)
