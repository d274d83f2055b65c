"""Logs: one JSON object a line for machines, one readable line for people at a terminal. The same records in both.

A record may carry ``fields``, a mapping of what else is known (``extra={"fields": {...}}``). Its message alone tells a
person what happened. No record holds a body, a picture, a query string or a key.
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

import orjson

from app.notes import Note
from app.settings import Settings
from app.tracing import PROBES, trace_id

access_logger = logging.getLogger("app.access")


class JsonFormatter(logging.Formatter):
    """``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``, the record's fields, and ``exception`` if any."""

    def format(self, record: logging.LogRecord) -> str:
        document: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(document, default=str).decode()
        except orjson.JSONEncodeError:  # a lone surrogate, as in the name of a file that is not UTF-8
            return json.dumps(document, default=str)


class TextFormatter(logging.Formatter):
    """Time, level and message; at the end the request's id, with which a client's complaint is found."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        line = f"{moment} {record.levelname:<7} {record.getMessage()}"
        if request_id := getattr(record, "fields", {}).get("request_id"):
            line += f"  [{request_id}]"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def formatter(kind: str, stream: TextIO) -> logging.Formatter:
    """For ``json`` or ``text``; for ``auto``, what whoever reads the stream can read best."""
    text = stream.isatty() if kind == "auto" else kind == "text"
    return TextFormatter() if text else JsonFormatter()


def configure(settings: Settings, stream: TextIO | None = None) -> None:
    """Send all that this process logs to ``stream`` (standard error), in the settings' form and from their level."""
    stream = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(settings.log_format, stream))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    logging.captureWarnings(True)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every malformed form


def log_access(note: Note, method: str, status: int, seconds: float) -> None:
    """A line about one request. Probes come every few seconds, so that only what they have to complain of is told."""
    level = logging.DEBUG if note.route in PROBES and status < 400 else logging.INFO
    if not access_logger.isEnabledFor(level):
        return
    fields: dict[str, object] = {
        "request_id": note.request_id,
        "method": method,
        "route": note.route,
        "status": status,
        "ms": round(1000 * seconds, 3),
    }
    text = "%s %s %d in %.1f ms"
    if note.model is not None:
        fields["model"] = note.model
    if note.batch:
        fields["batch"] = note.batch
        text += f", batch of {note.batch}"
    if (trace := trace_id()) is not None:
        fields["trace_id"] = trace
    access_logger.log(level, text, method, note.route, status, 1000 * seconds, extra={"fields": fields})
