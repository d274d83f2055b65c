"""Logs: one JSON object a line for machines, one readable line for people at a terminal. The same records in both.

A record may carry ``fields``, a mapping of what else is known (``extra={"fields": {...}}``). Its message alone tells a
person what happened. No record holds a body, a picture, a query string or a key.
"""

import json
import logging
import sys
import warnings
from datetime import UTC, datetime
from typing import TextIO

import orjson

from app.settings import Settings

OURS = ("app", "model", "uvicorn", "fastapi")
"""Whose records are logged from the level that the settings say."""


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
        moment = datetime.fromtimestamp(record.created).astimezone().strftime("%Y-%m-%d %H:%M:%S")
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
    # Libraries below a warning tell of what they are given: Pillow of what a picture says about who took it, and where.
    root.setLevel(max(logging.WARNING, logging.getLevelName(settings.log_level.upper())))
    for name in OURS:
        logging.getLogger(name).setLevel(settings.log_level.upper())
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every malformed form
    logging.captureWarnings(True)
    # Pillow's are about clients' pictures; each text is another, and Python remembers every one that it has shown.
    warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
