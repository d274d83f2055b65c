"""What is learnt about a request while it is served: for its headers, its metrics and its line in the log."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.types import Scope

if TYPE_CHECKING:
    from app.plans import Plan

SCOPE_KEY = "latentserve.note"
PROBES = frozenset({"/livez", "/readyz", "/health", "/metrics"})
"""Asked for every few seconds, by machines: no one looks for their traces, or for their lines while all is well."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# Routes that are none: with them a label has few values, whatever clients ask for.
UNMATCHED = "unmatched"
MALFORMED = "malformed"  # what never became a request: no HTTP, or a head that is too large or too slow
PREFLIGHT = "preflight"  # what browsers ask before they let a page of another origin send a request


@dataclass(slots=True)
class Note:
    """One request's. ``batch`` is the largest run of a graph that it had a part in, in rows; 0 where none ran.

    ``headers`` are those of its head, each once; ``plan`` is what they were understood to ask for. ``rejection`` is why
    it was turned away or given up, in few words; ``error`` what the web framework's part could not answer. All three
    are None where there is none.
    """

    request_id: str
    route: str = UNMATCHED
    method: str = "OTHER"
    model: str | None = None
    batch: int = 0
    rejection: str | None = None
    error: Exception | None = None
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    plan: "Plan | None" = None

    def ran(self, rows: int) -> None:
        """A graph ran on a batch of ``rows``, and some of them were this request's."""
        self.batch = max(self.batch, rows)


def method_of(method: str) -> str:
    """The method as a label of few values."""
    return method if method in METHODS else "OTHER"


def note_of(scope: Scope) -> Note:
    """The note that the middleware pinned to this request."""
    note: Note = scope[SCOPE_KEY]
    return note
