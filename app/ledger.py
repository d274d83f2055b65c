"""Where every request is entered when it is over, whoever answered it: its counts, its time, its line in the log."""

import logging

from app.metrics import Metrics
from app.notes import PROBES, Note
from app.settings import Settings
from app.tracing import spans_module

access_logger = logging.getLogger("app.access")


class Ledger:
    """Counts, and with the setting ``access_log`` writes lines too."""

    def __init__(self, metrics: Metrics, settings: Settings) -> None:
        self._metrics, self._access_log = metrics, settings.access_log
        self._spans = spans_module(settings)

    def enter(self, note: Note, status: int, seconds: float | None) -> None:
        """A request is over. ``seconds`` is None where nothing was measured, for what is no request to the end."""
        self._metrics.request(note.route, note.method, status, seconds)
        if note.rejection is not None:
            self._metrics.rejected(note.rejection)
        if self._access_log:
            _log(note, status, seconds, None if self._spans is None else self._spans.trace_id())


def _log(note: Note, status: int, seconds: float | None, trace: str | None) -> None:
    # Probes come every few seconds, so that only what they have to complain of is told.
    level = logging.DEBUG if note.route in PROBES and status < 400 else logging.INFO
    if not access_logger.isEnabledFor(level):
        return
    fields: dict[str, object] = {
        "request_id": note.request_id,
        "method": note.method,
        "route": note.route,
        "status": status,
    }
    text = f"{note.method} {note.route} {status}"
    if seconds is not None:
        fields["ms"] = round(1000 * seconds, 3)
        text += f" in {1000 * seconds:.1f} ms"
    if note.model is not None:
        fields["model"] = note.model
    if note.batch:
        fields["batch"] = note.batch
        text += f", batch of {note.batch}"
    if note.rejection is not None:
        fields["rejection"] = note.rejection
    if trace is not None:
        fields["trace_id"] = trace
    access_logger.log(level, text, extra={"fields": fields})
