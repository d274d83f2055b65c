"""What machines ask every few seconds: is the process alive, is it ready, what has it counted?

They are answered without the web framework, so that a server that nobody looks at never loads it.
"""

import asyncio
from collections.abc import Awaitable, Callable

import orjson

from app.answers import Answer, answer
from app.engine import Engine
from app.metrics import CONTENT_TYPE
from app.negotiation import JSON

Probe = Callable[[Engine], Awaitable[Answer]]


async def livez(engine: Engine) -> Answer:
    """The process answers, whatever it is doing."""
    return _health("ok", "The process answers.")


async def readyz(engine: Engine) -> Answer:
    """503 until all models are warm, and again from the start of draining."""
    return _health(*engine.health())


async def metrics(engine: Engine) -> Answer:
    """Prometheus's text, written on a thread: it is long."""
    return answer(CONTENT_TYPE, await asyncio.to_thread(engine.metrics.exposition))


PROBES: dict[str, Probe] = {"/livez": livez, "/readyz": readyz, "/health": readyz, "/metrics": metrics}


def _health(status: str, reason: str) -> Answer:
    body = orjson.dumps({"status": status, "reason": reason})
    return answer(JSON, body, status=200 if status == "ok" else 503)
