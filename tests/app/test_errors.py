"""Errors: every class complete, one shape, no input given back."""

import orjson
import pytest
from pydantic import ValidationError
from starlette.exceptions import HTTPException

import app.errors
from app.errors import ERRORS, Invalid, ServiceError, invalid_body, invalid_query, of_status, problem, translate
from app.schemas import InterpolateBody, SampleQuery
from model.bundle.errors import ModelFault, PictureCorrupt, PictureTooLarge


def test_all_errors_are_listed_and_complete() -> None:
    found = {kind for kind in vars(app.errors).values() if isinstance(kind, type) and issubclass(kind, ServiceError)}
    assert found == set(ERRORS)
    assert len({kind.slug for kind in ERRORS}) == len(ERRORS)
    assert app.errors.__doc__ is not None
    for kind in ERRORS:
        assert 400 <= kind.status < 600
        assert kind.title
        assert kind.__name__ in app.errors.__doc__


def test_shape() -> None:
    document = orjson.loads(problem(Invalid.at("/images/0", "Is not base64."), "id"))
    assert document == {
        "type": "urn:problem-type:latentserve:invalid",
        "title": "Invalid request",
        "status": 422,
        "detail": "Is not base64.",
        "request_id": "id",
        "errors": [{"pointer": "/images/0", "detail": "Is not base64."}],
    }


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (PictureTooLarge("the picture is too large"), 413),
        (PictureCorrupt("the picture is corrupt"), 422),
        (ModelFault("secret"), 500),
        (ZeroDivisionError("secret"), 500),
        (HTTPException(413, "secret"), 413),
    ],
)
def test_translation(error: Exception, status: int) -> None:
    translated = translate(error, "/images/1")
    assert translated.status == status
    assert "secret" not in translated.detail


def test_statuses_of_the_framework() -> None:
    assert [of_status(status).status for status in (404, 405, 413, 400, 418)] == [404, 405, 413, 400, 418]


def test_validation_never_echoes_the_input() -> None:
    private = "s3cret/value"
    with pytest.raises(ValidationError) as raised:
        InterpolateBody.model_validate({"points": private, "steps": private, "path": private, private: private})
    assert b"s3cret" not in problem(invalid_body(raised.value, InterpolateBody), "id")
    with pytest.raises(ValidationError) as raised:
        SampleQuery.model_validate({"n": private, "seed": "-1", "temperature": "nan", private: "1"})
    error = invalid_query(raised.value, SampleQuery)
    assert b"s3cret" not in problem(error, "id")
    assert {detail.pointer for detail in error.errors} == {"?n", "?seed", "?temperature", "?…"}


@pytest.mark.parametrize(("allow", "told"), [("GET", "GET, HEAD"), ("HEAD, GET", "HEAD, GET"), ("POST", "POST")])
def test_head_is_allowed_where_get_is(allow: str, told: str) -> None:
    assert translate(HTTPException(405, headers={"Allow": allow})).headers == {"Allow": told}
