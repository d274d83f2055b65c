"""Load from wrk: one request again and again over so many connections, from one thread, and what came of it."""

import json
import math
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.dialects import Request

ERRORS = {
    "connect": "connections refused",
    "read": "broken reads",
    "write": "broken writes",
    "status": "answers that are no success",
    "timeout": "timeouts",
}
TIMEOUT = 10
_MARK = "wrk-summary "

_SCRIPT = """
wrk.method = {method}
{headers}
local file = {body}
if file then
  wrk.body = file:read("*a")
  file:close()
end
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{mark}{{"requests":%d,"microseconds":%d,"bytes":%d,"p50":%.1f,"p99":%.1f,"errors":' ..
    '{{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}}}\\n',
    summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
"""


class LoadFailed(Exception):
    """Not every request was answered with success; the message counts those that were not."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What wrk counted in a row: requests that were answered, seconds, latencies in milliseconds."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def parse(output: str, *, idle: bool = False) -> Summary:
    """The line that the script writes. Raises LoadFailed where it is missing or counts an error, and unless ``idle``
    where it counts no answer.
    """
    found = [line.removeprefix(_MARK) for line in output.splitlines() if line.startswith(_MARK)]
    if len(found) != 1:
        raise LoadFailed(f"wrk gave no summary: {output.strip()[-200:]}")
    raw = json.loads(found[0])
    if errors := [f"{count} {ERRORS[kind]}" for kind, count in raw["errors"].items() if count]:
        raise LoadFailed(f"{', '.join(errors)}, of {raw['requests']} answers")
    if not raw["requests"] and not idle:
        raise LoadFailed("not one answer within the time of the row")
    return Summary(raw["requests"], raw["microseconds"] / 1e6, raw["p50"] / 1e3, raw["p99"] / 1e3)


def load(port: int, request: Request, *, connections: int, seconds: float, idle: bool = False) -> Summary:
    """Drive 127.0.0.1:port. Raises LoadFailed unless every answer was a success; without any, unless ``idle``."""
    program = shutil.which("wrk")
    if program is None:
        raise LoadFailed("wrk is not installed")
    with tempfile.TemporaryDirectory(prefix="wrk-") as name:
        script = write_script(Path(name), request)
        command = [program, "-t", "1", "-c", str(connections), "--timeout", f"{TIMEOUT}s", "-s", str(script)]
        # It counts whole seconds only, and ends at an interrupt as it does when the time is over: with its summary.
        command += ["-d", f"{math.ceil(seconds) + 60}s", f"http://127.0.0.1:{port}{request.path}"]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        try:
            try:
                output, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
                output, _ = process.communicate(timeout=30)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    return parse(output, idle=idle)


def write_script(folder: Path, request: Request) -> Path:
    """The script, and the body in a file beside it."""
    body = "nil"
    if request.body:
        file = folder / "body"
        file.write_bytes(request.body)
        body = f'io.open({_quoted(str(file))}, "rb")'
    headers = "\n".join(f"wrk.headers[{_quoted(name)}] = {_quoted(value)}" for name, value in request.headers.items())
    script = folder / "row.lua"
    text = _SCRIPT.format(method=_quoted(request.method), headers=headers, body=body, mark=_MARK)
    script.write_text(text, encoding="utf-8")
    return script


def _quoted(text: str) -> str:
    return json.dumps(text)  # plain words and paths: Lua and JSON quote them alike
