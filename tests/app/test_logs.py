"""Logs: the same records for machines and for people, and nothing in them that came in a body."""

import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from app.ledger import Ledger
from app.logs import OURS, JsonFormatter, TextFormatter, configure, formatter
from app.metrics import Metrics
from app.notes import Note
from app.settings import Settings
from model.bundle.pixels import read_picture
from tests.app.client import grey, picture
from tests.support.server import serving
from tests.support.tiny import write_tiny_bundle


def record(message: str = "hello %s", *arguments: object, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("app.engine", logging.INFO, __file__, 1, message, arguments or ("you",), None)
    vars(made).update(more)
    return made


def failure() -> logging.LogRecord:
    try:
        raise ValueError("broken")
    except ValueError:
        return record("a request failed: %s", "why", exc_info=sys.exc_info(), fields={"request_id": "abc"})


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, as it was afterwards."""
    logger = logging.getLogger()
    handlers = logger.handlers[:]
    levels = {name: logging.getLogger(name).level for name in ("", "python_multipart", *OURS)}
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as in a server, and not as in tests
        yield logger
    logging.captureWarnings(False)
    logger.handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_json_is_one_line_with_everything() -> None:
    line = JsonFormatter().format(failure())
    assert "\n" not in line
    document = json.loads(line)
    assert document["message"] == "a request failed: why"
    assert (document["level"], document["logger"], document["request_id"]) == ("info", "app.engine", "abc")
    assert document["time"].endswith("+00:00")
    assert "ValueError: broken" in document["exception"]


def test_json_takes_any_text() -> None:
    document = json.loads(JsonFormatter().format(record("file \udcff %s", "x")))
    assert document["message"] == "file \udcff x"


def test_text_is_for_reading() -> None:
    assert TextFormatter().format(record()).endswith("INFO    hello you")
    shown = TextFormatter().format(failure())
    assert shown.splitlines()[0].endswith("a request failed: why  [abc]")
    assert "ValueError: broken" in shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("kind", "stream", "expected"),
    [
        ("auto", io.StringIO(), JsonFormatter),
        ("auto", Terminal(), TextFormatter),
        ("json", Terminal(), JsonFormatter),
        ("text", io.StringIO(), TextFormatter),
    ],
)
def test_the_form_fits_the_reader(kind: str, stream: io.StringIO, expected: type[logging.Formatter]) -> None:
    assert type(formatter(kind, stream)) is expected


def test_configure_replaces_what_was_there(root: logging.Logger) -> None:
    stream = io.StringIO()
    configure(Settings(log_level="warning"))
    configure(Settings(log_level="warning"), stream)
    logging.getLogger("anything").info("quiet")
    logging.getLogger("anything").warning("loud")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["loud"]


def test_what_libraries_tell_of_pictures_is_not_logged(root: logging.Logger) -> None:
    """At the level of debugging Pillow tells every tag of a picture; its warnings differ with what a client sends."""
    stream = io.StringIO()
    configure(Settings(log_level="debug"), stream)
    image = Image.new("L", (8, 8))
    exif = image.getexif()
    exif[270] = "a secret description"
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif)
    with read_picture(file.getvalue(), max_pixels=64) as picture:
        assert picture.getexif()[270] == "a secret description"
    logging.getLogger("app.anything").debug("seen")
    warnings.warn_explicit("of a picture", UserWarning, "TiffImagePlugin.py", 1, module="PIL.TiffImagePlugin")
    warnings.warn_explicit("of ours", UserWarning, "engine.py", 1, module="app.engine")
    assert "secret" not in stream.getvalue()
    assert "of a picture" not in stream.getvalue()
    messages = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert messages[0] == "seen"
    assert "of ours" in messages[1]


def test_an_access_line(caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger(Metrics(), Settings(access_log=True))
    with caplog.at_level(logging.INFO, "app.access"):
        ledger.enter(Note("id", "/encode", "POST", "tiny/1", 3), 200, 0.00123)
        ledger.enter(Note("id", "/readyz", "GET"), 200, 0.001)
        ledger.enter(Note("id", "/readyz", "GET", rejection="not ready"), 503, 0.001)
        ledger.enter(Note("id"), 400, None)
        Ledger(Metrics(), Settings()).enter(Note("id"), 400, None)
    assert [each.getMessage() for each in caplog.records] == [
        "POST /encode 200 in 1.2 ms, batch of 3",
        "GET /readyz 503 in 1.0 ms",
        "OTHER unmatched 400",
    ]
    assert vars(caplog.records[1])["fields"]["rejection"] == "not ready"
    assert json.loads(JsonFormatter().format(caplog.records[0])).items() >= {
        "request_id": "id",
        "method": "POST",
        "route": "/encode",
        "status": 200,
        "ms": 1.23,
        "model": "tiny/1",
        "batch": 3,
    }.items()  # fmt: skip


def test_a_server_logs_json_and_no_content(tmp_path: Path) -> None:
    """Every line is a JSON object; a request's has what it should, and nothing of what was sent."""
    bundle = write_tiny_bundle(tmp_path / "tiny")
    with serving(bundle, access_log="true") as server:
        with httpx.Client(base_url=server.url, timeout=30) as client:
            png = {"content-type": "image/png", "x-request-id": "of-the-client"}
            assert client.post("/encode?samples=2&seed=77", content=picture(grey(1)[0]), headers=png).status_code == 200
            assert client.post("/decode", json={"latents": "secret"}).status_code == 422
            assert client.get("/secret/path").status_code == 404
            assert client.get("/sample?n=3&seed=77").status_code == 200
            assert client.get("/readyz").status_code == 200
        server.signal()
        assert server.ended()[0] == 0
    lines = [json.loads(line) for line in server.log]
    assert all(line.keys() >= {"time", "level", "logger", "message"} for line in lines)
    told = {line["route"]: line for line in lines if line["logger"] == "app.access"}
    assert told.keys() == {"/encode", "/decode", "/sample", "unmatched"}
    assert told["/sample"]["batch"] == 3
    encoded = told["/encode"]
    assert (encoded["request_id"], encoded["status"], encoded["batch"]) == ("of-the-client", 200, 1)
    assert (encoded["method"], encoded["model"]) == ("POST", "tiny/1")
    assert encoded["ms"] > 0
    assert told["unmatched"]["status"] == 404
    assert "batch" not in told["/decode"]
    assert not [line for line in server.log if "secret" in line or "seed" in line]


def test_a_fault_is_logged_with_the_id_of_its_request(tmp_path: Path) -> None:
    with serving(write_tiny_bundle(tmp_path / "bad", decoder="overflowing")) as server:
        response = httpx.post(f"{server.url}/decode", json={"latents": [[1000.0, 1000.0]]}, timeout=30)
        assert response.status_code == 500
        server.signal()
        assert server.ended()[0] == 0
    (fault,) = [document for line in server.log if (document := json.loads(line))["level"] == "error"]
    assert fault["request_id"] == response.headers["x-request-id"]
    assert fault["route"] == "/decode"
    assert "ModelFault" in fault["exception"]
