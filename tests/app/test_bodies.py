"""Bodies: what is taken is taken exactly, what is hostile is refused before it costs anything."""

import contextlib
import io
import tracemalloc

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import DTypeLike
from pydantic import BaseModel, ValidationError

from app.bodies import media_type, number_array, read_json, read_multipart, read_npy
from app.errors import Invalid, MalformedJSON, MalformedMultipart, ServiceError, UnsupportedMediaType
from app.negotiation import JSON, NPY
from app.schemas import InterpolateBody
from tests.app.client import npy


class Anything(BaseModel):
    x: object = None


def nested(depth: int) -> bytes:
    return b'{"x":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_nesting_limit_is_exact() -> None:
    assert read_json(nested(32), Anything, max_depth=32).x is not None
    with pytest.raises(MalformedJSON, match="nested deeper than 32"):
        read_json(nested(33), Anything, max_depth=32)


def test_brackets_in_texts_do_not_nest() -> None:
    text = "[{" * 100 + '\\"' + "\\\\"
    assert read_json(b'{"x":"' + text.encode() + b'"}', Anything, max_depth=32).x is not None


def test_wide_is_not_deep() -> None:
    assert read_json(b'{"x":[' + b",".join([b"[[1]]"] * 1000) + b"]}", Anything, max_depth=4).x is not None


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b'{"x": NaN}', b'{"x": 1e999}', b'"' + b'\\"' * 500, b"[" * 200_000, b'{"a":[' * 500, b"]]["],
)
def test_what_is_not_json(body: bytes) -> None:
    with pytest.raises(MalformedJSON):
        read_json(body, Anything, max_depth=32)


def calls_of(monkeypatch: pytest.MonkeyPatch, target: str) -> list[object]:
    """What ``target`` is called with from now on; it does nothing any more."""
    called: list[object] = []
    monkeypatch.setattr(target, called.append)
    return called


def test_more_texts_than_any_body_has_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    called = calls_of(monkeypatch, "app.bodies._check_depth")
    for body in (b'["' + b'","' * 2000 + b'"]', b'{"x":[' + b'{"":0},' * 2000 + b"0]}"):
        with pytest.raises(Invalid, match="more keys and texts"):
            read_json(body, Anything, max_depth=32)
    assert called == []


def test_every_legal_text_fits() -> None:
    points = b",".join([b'{"image":"aGk="}'] * 4)
    read_json(b'{"points":[%b],"steps":2,"path":"linear"}' % points, InterpolateBody, max_depth=32, max_items=4)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b'{"points":[' + b"{}," * 200 + b"{}]}", "/points"),
        (b'{"points":[' + b"1," * 200 + b"1]}", "/points"),
        (b"{" + b",".join(b'"%d":0' % i for i in range(17)) + b"}", ""),
    ],
)
def test_what_is_too_many_is_not_validated(monkeypatch: pytest.MonkeyPatch, body: bytes, pointer: str) -> None:
    called = calls_of(monkeypatch, "app.schemas.InterpolateBody.model_validate")
    with pytest.raises(Invalid) as raised:
        read_json(body, InterpolateBody, max_depth=32, max_items=200, items="points")
    assert [detail.pointer for detail in raised.value.errors] == [pointer]
    assert called == []


@pytest.mark.parametrize("point", [b"1", b"{}", b"{" + b",".join(b'"%d":0' % i for i in range(90)) + b"}"])
def test_one_wrong_point_is_told_and_no_others(point: bytes) -> None:
    body = b'{"points":[{"latent":[0]},' + b",".join([point] * 2) + b"]}"
    with pytest.raises(ValidationError) as raised:
        InterpolateBody.model_validate(orjson.loads(body))
    assert raised.value.error_count() == 1
    with pytest.raises(Invalid) as refused:
        read_json(body, InterpolateBody, max_depth=32, items="points")
    assert [detail.pointer for detail in refused.value.errors] == ["/points/1"]


@given(st.binary(max_size=300))
def test_any_bytes_are_survived(body: bytes) -> None:
    for read in (
        lambda: read_json(body, Anything, max_depth=8),
        lambda: read_npy(body),
        lambda: read_npy(npy(np.zeros(2))[:10] + body),
        lambda: read_multipart("multipart/form-data; boundary=x", body, max_files=3),
        lambda: read_multipart("multipart/form-data; boundary=x", b"--x\r\n" + body, max_files=3),
    ):
        with contextlib.suppress(ServiceError):
            read()


@pytest.mark.parametrize("value", [True, None, "1", [], [[]], [1, "2"], [1, None], [True], [[1], [2, 3]], [1, [2]], {}])
def test_number_arrays_hold_numbers_only(value: object) -> None:
    with pytest.raises(Invalid):
        number_array(value, "/x")


def test_number_array() -> None:
    array = number_array([[0, 0.25], [1, 2**70]], "/x")
    assert array.dtype == np.float32
    assert array.tolist() == [[0, 0.25], [1, 2.0**70]]


@pytest.mark.parametrize("dtype", ["u1", "<f2", "<f4", "<f8", ">f4", "<i8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_round_trip(dtype: DTypeLike, order: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    read = read_npy(npy(np.asarray(array, order="F" if order == "F" else "C")))
    np.testing.assert_array_equal(read, array)
    assert read.dtype.isnative


def test_npy_is_not_copied() -> None:
    assert not read_npy(npy(np.zeros((2, 2), np.float32))).flags.owndata


@pytest.mark.parametrize(
    "body",
    [
        b"",
        npy(np.zeros(3))[:-1],
        npy(np.zeros(3)) + b"x",
        npy(np.zeros(3)).replace(b"(3,)", b"(9,)"),
        npy(np.zeros(3)).replace(b"(3,),", b"(-3,),"),
        npy(np.array(["text"])),
        npy(np.zeros(2, bool)),
        npy(np.zeros(2, complex)),
        npy(np.zeros(2, [("a", "f4")])),
        npy(np.zeros(3, np.uint8)).replace(b"|u1", b"|f1"),
        npy(np.zeros((0, 8, 8))),
        npy(np.zeros((0, 8))).replace(b"(0, 8), }" + b" " * 19, b"(0, 99999999999999999999), }"),
    ],
)
def test_npy_that_is_refused(body: bytes) -> None:
    with pytest.raises(Invalid):
        read_npy(body)


def test_pickles_are_refused() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], object), allow_pickle=True)
    with pytest.raises(Invalid):
        read_npy(buffer.getvalue())


def test_a_lying_header_allocates_nothing() -> None:
    body = npy(np.zeros(3)).replace(b"(3,), }          ", b"(999999999999,), }")
    tracemalloc.start()
    with pytest.raises(Invalid):
        read_npy(body)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def form(*parts: tuple[str, bytes], end: bytes = b"--x--\r\n") -> bytes:
    return b"".join(b"--x\r\n" + header.encode() + b"\r\n\r\n" + data + b"\r\n" for header, data in parts) + end


FILE = 'Content-Disposition: form-data; name="images"; filename="a.png"\r\nContent-Type: image/png'


def test_multipart() -> None:
    content = bytes(range(256)) * 10
    files = read_multipart('multipart/form-data; boundary="x"', form((FILE, content), (FILE, b"")), max_files=2)
    assert files == [content, b""]


def test_a_file_may_have_its_name_in_any_alphabet() -> None:
    header = "Content-Disposition: form-data; name=\"images\"; filename*=UTF-8''%E6%95%B0.png"
    assert read_multipart("multipart/form-data; boundary=x", form((header, b"a")), max_files=1) == [b"a"]


@pytest.mark.parametrize(
    ("content_type", "body", "error"),
    [
        ("multipart/form-data", form((FILE, b"")), MalformedMultipart),
        ("multipart/form-data; boundary=y", form((FILE, b"")), MalformedMultipart),
        ("multipart/form-data; boundary=x", form((FILE, b""), end=b""), MalformedMultipart),
        ("multipart/form-data; boundary=x", b"", MalformedMultipart),
        ("multipart/form-data; boundary=x", form(("Content-Type: text/plain", b"")), MalformedMultipart),
        ("multipart/form-data; boundary=x", form((FILE, b""), (FILE, b""), (FILE, b"")), Invalid),
        ("multipart/form-data; boundary=x", form((FILE.replace("images", "image"), b"")), Invalid),
        ("multipart/form-data; boundary=x", form(('Content-Disposition: form-data; name="images"', b"")), Invalid),
    ],
)
def test_multipart_that_is_refused(content_type: str, body: bytes, error: type[ServiceError]) -> None:
    with pytest.raises(error):
        read_multipart(content_type, body, max_files=2)


def test_media_types() -> None:
    assert media_type("application/json; charset=utf-8", (JSON,)) == JSON
    for refused in (None, "", "text/plain", "application/json; charset=latin-1", "application/json2"):
        with pytest.raises(UnsupportedMediaType):
            media_type(refused, (JSON, NPY))


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (None, "The Content-Type is missing. This route takes application/json, application/x-npy."),
        # What curl says of --data where nobody says another.
        (
            "application/x-www-form-urlencoded",
            "of a form, as curl has it where none is given: say that of the body with -H 'Content-Type: ...'. This",
        ),
        ("text/plain", "^This route takes application/json, application/x-npy.$"),
        ("application/json; charset=latin-1", "JSON is taken in UTF-8 only."),
    ],
)
def test_a_type_that_is_refused_comes_with_what_would_be_right(sent: str | None, words: str) -> None:
    with pytest.raises(UnsupportedMediaType, match=words):
        media_type(sent, (JSON, NPY))
