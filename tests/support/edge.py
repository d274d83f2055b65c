"""A real nginx with docker/edge/nginx.conf, of which only addresses and paths are changed."""

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.programs import needs

FOLDER = Path(__file__).resolve().parents[2] / "docker" / "edge"
USER = 101
"""As whom nginx runs in its image and in compose.yaml."""


class Edge:
    """Where it listens, what it wrote, and how to start it; ``tls`` lays the example and a certificate beside it.

    With a ``user`` it never was root, in a folder that belongs to that user and lies where the user may go.
    """

    def __init__(self, folder: Path, *servers: int, tls: bool = False, user: int | None = None) -> None:
        self.folder = folder
        self.log, self.errors = folder / "access.log", folder / "error.log"
        self.port, self.tls_port = free_port(), free_port()
        self.url, self.tls_url = f"http://127.0.0.1:{self.port}", f"https://127.0.0.1:{self.tls_port}"
        self._config = folder / "nginx.conf"
        self._process: subprocess.Popen[str] | None = None
        self.identity: dict[str, Any] = {} if user is None else {"user": user, "group": user, "extra_groups": []}
        changes = {
            "/tmp/": f"{folder}/",  # noqa: S108  # first, for the folder may be below it itself
            "server vae:8000 max_fails=3 fail_timeout=5s;": "".join(f"server 127.0.0.1:{port};" for port in servers),
            "listen 8080 default_server;": f"listen 127.0.0.1:{self.port} default_server;",
            "/etc/nginx/tls/": f"{folder}/tls/",
            "error_log stderr": f"error_log {self.errors}",
            "/dev/stdout": str(self.log),
        }
        self._config.write_text(
            _changed((FOLDER / "nginx.conf").read_text(encoding="utf-8"), changes), encoding="utf-8"
        )
        (folder / "tls").mkdir()
        if tls:
            self._encrypt()

    def _encrypt(self) -> None:
        text = (FOLDER / "tls" / "tls.conf.example").read_text(encoding="utf-8")
        changes = {"listen 8443 ": f"listen 127.0.0.1:{self.tls_port} ", "/etc/nginx/tls/": f"{self.folder}/tls/"}
        (self.folder / "tls" / "tls.conf").write_text(_changed(text, changes), encoding="utf-8")
        # The commands of the example's comment. Where nginx runs as whoever tests, the key has its owner already.
        shown = text.partition("#\n")[2].partition("\n\n")[0].replace("\\\n#", "")
        for line in shown.splitlines():
            program, *arguments = line.removeprefix("#").replace("sudo ", "").split()
            if program != "chown" or self.identity:
                command = [needs(program), *arguments]
                subprocess.run(command, cwd=self.folder / "tls", check=True, capture_output=True, timeout=60)

    @property
    def certificate(self) -> Path:
        return self.folder / "tls" / "tls.crt"

    def command(self, *options: str) -> list[str]:
        """nginx in the foreground. As root it would give itself another user, who may not enter a test's folder."""
        user = " user root;" if os.geteuid() == 0 and not self.identity else ""
        base = [needs("nginx"), "-p", str(self.folder), "-c", str(self._config), "-e", str(self.errors)]
        return [*base, "-g", f"daemon off;{user}", *options]

    @contextmanager
    def running(self) -> Iterator[None]:
        """It listens; and is gone afterwards."""
        process = self._process = subprocess.Popen(
            self.command(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **self.identity
        )
        try:
            assert process.stderr is not None
            deadline = time.monotonic() + 30
            while not _listens(self.port):
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < deadline, "nginx does not listen"
                time.sleep(0.02)
            yield
        finally:
            process.terminate()
            process.communicate(timeout=30)

    def bodies(self) -> list[str]:
        """The files in which bodies lie while they come in. They have no names any more: open is all they are."""
        assert self._process is not None
        own = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        workers = own.read_text(encoding="ascii").split()
        opened = [str(file.readlink()) for worker in workers for file in Path(f"/proc/{worker}/fd").iterdir()]
        return [file for file in opened if file.startswith(f"{self.folder}/client_body/")]

    def logged(self, *ids: str) -> dict[str, dict[str, Any]]:
        """The lines of the access log by request id, once those of ``ids`` are there: they come after the answers."""
        deadline = time.monotonic() + 30
        while True:
            lines = self.log.read_text(encoding="utf-8").splitlines()
            found = {entry["request_id"]: entry for entry in map(json.loads, lines)}
            if found.keys() >= set(ids):
                return found
            assert time.monotonic() < deadline, lines
            time.sleep(0.02)


class Echo:
    """A server behind nginx: ``heads`` has the headers of every request, names in lower case, as they come.

    With ``drops`` it closes each connection instead of answering, as a server does that ends.
    """

    def __init__(self, *, drops: bool = False) -> None:
        heads = self.heads = list[list[tuple[str, str]]]()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                heads.append([(name.lower(), value) for name, value in self.headers.items()])
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if drops:
                    self.close_connection = True
                    return
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> "Echo":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()


def free_port() -> int:
    """A port at which nothing listens; nor does anything, unless someone is told of it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def exchange(port: int, data: bytes) -> bytes:
    """What comes back for raw bytes, until the other side closes or is silent for long."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection, suppress(ConnectionError):
        connection.sendall(data)
        while piece := connection.recv(65536):
            answer += piece
    return answer


def _changed(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, f"{old} is no longer in the configuration"
        text = text.replace(old, new)
    return text


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
