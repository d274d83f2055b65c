"""What is learnt about a request while it is served: for its headers, its metrics and its line in the log."""

from dataclasses import dataclass

from starlette.types import Scope

SCOPE_KEY = "latentserve.note"


@dataclass(slots=True)
class Note:
    """One request's. ``batch`` is the largest run of a graph that it had a part in, in rows; 0 where none ran."""

    request_id: str
    route: str | None = None
    model: str | None = None
    batch: int = 0

    def ran(self, rows: int) -> None:
        """A graph ran on a batch of ``rows``, and some of them were this request's."""
        self.batch = max(self.batch, rows)


def note_of(scope: Scope) -> Note:
    """The note that the middleware pinned to this request."""
    note: Note = scope[SCOPE_KEY]
    return note
