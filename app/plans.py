"""What the head of a request asks for, checked and ready: how its body is read, which graphs run, how it is answered.

    body --at_once, read--> rows --the graphs--> outputs --write--> answer

Nothing in a plan belongs to one request: it may serve any number of requests with the same head, side by side
(`express`). How it is followed is the same for all of them, here on the event loop's tasks, with threads for what is
not small.
"""

from abc import ABC, abstractmethod
from functools import partial
from typing import ClassVar, NamedTuple

from app.answers import Answer
from app.engine import Model, Stage
from app.exchange import Call
from app.outputs import Outputs, Rows
from model.bundle.manifest import Role


class Given(NamedTuple):
    """What one request brings: rows (N, ...) for the first graph, and the seed of what was drawn for it."""

    rows: Rows
    seed: int | None = None


class Plan(ABC):
    """One operation on one model."""

    express = False
    """Is it `Stages` with nothing between them that takes a thread?"""

    @abstractmethod
    async def run(self, call: Call) -> Answer:
        """Serve one request."""


class Stages(Plan):
    """Rows, then ``graphs`` one after the other, each on the first output of the one before, then the answer."""

    first: ClassVar[Stage] = "read"
    """What the first stage is counted as."""

    def __init__(self, model: Model, *graphs: Role, express: bool = True) -> None:
        self.model, self.graphs, self.express = model, graphs, express

    @abstractmethod
    def at_once(self, body: bytes) -> Given | None:
        """What `read` gives, where that is had faster than a thread could take it up; else None. Raises as it does."""

    @abstractmethod
    def read(self, body: bytes) -> Given:
        """The rows of a body. Raises the 4xx errors of `app.errors`."""

    @abstractmethod
    def is_light(self, count: int) -> bool:
        """Is the answer for so many rows written faster than a thread could take it up?"""

    @abstractmethod
    def write(self, given: Given, outputs: Outputs) -> Answer:
        """The answer to what the last graph gave."""

    async def run(self, call: Call) -> Answer:
        body = await call.read()
        given = call.do(self.first, partial(self.at_once, body))
        if given is None:
            given = await call.codec(self.first, partial(self.read, body), light=False)
        outputs = await self.compute(call, given)
        return await call.codec("write", partial(self.write, given, outputs), light=self.is_light(len(given.rows)))

    async def compute(self, call: Call, given: Given) -> Outputs:
        """What the last graph gives for these rows."""
        first, *others = self.graphs
        outputs = await self.model.run(first, given.rows, call)
        for graph in others:
            outputs = await self.model.run(graph, outputs[0], call)
        return outputs
