"""The limit of the web server: read the body, answer bytes that lie ready. Nothing is parsed, nothing computed."""

import argparse
import os
from pathlib import Path
from typing import Any

import uvicorn


def load_answers(folder: Path) -> dict[str, bytes]:
    """A file an answer, by its path."""
    return {f"/{file.name}": file.read_bytes() for file in folder.iterdir()}


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """ASGI, as bare as it can be."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    body = ANSWERS[scope["path"]]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


ANSWERS = load_answers(Path(os.environ["ANSWERS"]))


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    uvicorn.run(
        "benchmarks.contenders.bare_asgi:app",
        port=options.port,
        workers=options.workers,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        server_header=False,
        date_header=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
