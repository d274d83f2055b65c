"""The README's curl lines, sent to the server that `make serve` starts: each works, and gives what it says."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.server import serving

ROOT = Path(__file__).resolve().parents[1]


def curl_lines() -> list[str]:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("curl ")]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server of the bundle that ships. It ends with status 0 when it is told to."""
    with serving(drain_delay=0) as started:
        yield started.url
        started.signal()
        assert started.ended()[0] == 0, started.log


def curl(line: str, address: str, folder: Path) -> httpx.Response:
    """What curl would do with a line; an option that is not known here is an error, not ignored."""
    words = iter(shlex.split(line)[1:])
    headers: dict[str, str] = {}
    files: list[tuple[str, tuple[str, bytes, str]]] = []
    content: bytes | None = None
    url = output = ""
    for word in words:
        if word == "-o":
            output = next(words)
        elif word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word == "--data-binary":
            content = (folder / next(words).removeprefix("@")).read_bytes()
        elif word == "-d":
            content = next(words).encode()
        elif word == "-F":
            field, _, file = next(words).partition("=@")
            files.append((field, (file, (folder / file).read_bytes(), "image/png")))
        else:
            assert word.startswith("http://localhost:8000/"), word
            url = word.replace("http://localhost:8000", address)
    method = "POST" if content is not None or files else "GET"
    answer = httpx.request(method, url, headers=headers, content=content, files=files or None, timeout=60)
    if output:
        (folder / output).write_bytes(answer.content)
    return answer


def test_the_examples_of_the_readme(server: str, tmp_path: Path) -> None:
    lines = curl_lines()
    assert {"sample", "encode", "decode", "interpolate"} <= {
        word for line in lines for word in line.replace("?", "/").split("/")
    }
    for line in lines:
        answer = curl(line, server, tmp_path)
        assert answer.status_code == 200, (line, answer.text)
    assert np.load(tmp_path / "latents.npy").ndim == 2
    original, decoded = (np.asarray(Image.open(tmp_path / name), np.float64) / 255 for name in ("a.png", "decoded.png"))
    assert original.shape == decoded.shape
    # Encoding and decoding gives the digit back, roughly: far nearer than another digit is.
    other = np.asarray(Image.open(tmp_path / "b.png"), np.float64) / 255
    assert np.mean((original - decoded) ** 2) < 0.5 * np.mean((original - other) ** 2)
    with Image.open(tmp_path / "walk.gif") as walk:
        assert getattr(walk, "n_frames", 1) > 10
