"""The real server in a process of its own: `vae serve` on a free port of 127.0.0.1."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# The command line itself, and at its end a word about what it imported; in one piece, since all workers write there.
_SERVE = """
import os, sys, vae
sys.argv = ["vae", "serve", *sys.argv[1:]]
try:
    vae.main()
finally:
    os.write(1, b"%d %d\\n" % ("torch" in sys.modules, "training" in sys.modules))
"""


def serve_command(*options: str) -> list[str]:
    """How `vae serve` is started here."""
    return [sys.executable, "-c", _SERVE, *options]


def environment(**settings: object) -> dict[str, str]:
    """Ours without the settings that someone may have in it, and with those given."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("VAE_")}
    return clean | {f"VAE_{name.upper()}": str(value) for name, value in settings.items()}


class Server:
    """A server process, its address once it listens, and all that it logs. Without a bundle it serves what ships."""

    def __init__(self, bundle: Path | None = None, **settings: object) -> None:
        options = ["--port", "0", *([] if bundle is None else ["--model", str(bundle)])]
        self.process = subprocess.Popen(
            serve_command(*options),
            cwd=ROOT,
            env=environment(threads=1, **settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self.warm = threading.Event()
        self._listening = threading.Event()
        self.port = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._listening.wait(60), self.log
        assert self.port, self.log
        self.url = f"http://127.0.0.1:{self.port}"

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"running on http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                self._listening.set()
            if "ready: " in line:
                self.warm.set()
        self._listening.set()

    def signal(self) -> None:
        """Tell it to end, as `docker stop` does."""
        self.process.send_signal(signal.SIGTERM)

    def ended(self) -> tuple[int, str]:
        """Wait for the end: exit status and standard output."""
        assert self.process.stdout is not None
        output = self.process.stdout.read()
        status = self.process.wait(60)
        self._reader.join(10)
        return status, output


@contextmanager
def serving(bundle: Path | None = None, **settings: object) -> Iterator[Server]:
    """A server that has warmed up; it is gone afterwards."""
    server = Server(bundle, **settings)
    try:
        assert server.warm.wait(60), server.log
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait(30)
        for stream in (server.process.stdout, server.process.stderr):
            if stream is not None:
                stream.close()
