"""A real HTTP server on this machine: mirrors in order, whole and right files only, nothing left behind."""

import gzip
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from tests.training.data.conftest import MadeUp
from training.data.download import download
from training.data.mnist import load_idx
from training.errors import DataError


class Mirror:
    """Serves ``files``; a path ending in ``!short`` announces more than it sends; ``!silent`` sends no byte."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.short: set[str] = set()
        self.silent: set[str] = set()
        self.redirect: dict[str, str] = {}
        self.asked: list[str] = []
        self.release = threading.Event()
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.asked.append(self.path)
                if self.path in mirror.redirect:
                    self.send_response(302)
                    self.send_header("Location", mirror.redirect[self.path])
                    self.end_headers()
                    return
                data = mirror.files.get(self.path)
                if data is None:
                    self.send_error(404)
                    return
                if self.path in mirror.silent:
                    mirror.release.wait(10)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if self.path in mirror.short else data)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    served = Mirror()
    yield served
    served.close()


def anything(data: bytes, url: str) -> None:
    """No check."""


def test_missing_files_are_downloaded_once_from_the_mirror_that_has_them(
    made_up: MadeUp, mirror: Mirror, tmp_path: Path
) -> None:
    for name in ("train-images", "train-labels"):
        mirror.files[f"/second/{name}.gz"] = gzip.compress(made_up.contents[name])
    source = replace(made_up.source, mirrors=(f"{mirror.url}/first/", f"{mirror.url}/second/"))
    calls: list[tuple[str, int, int]] = []
    home = tmp_path / "new" / "mnist"
    for _ in range(2):
        data = load_idx(source, "train", [home], download_to=home, progress=lambda *call: calls.append(call))
        assert np.array_equal(data.images[..., 0], made_up.images["train"])
    assert mirror.asked == [f"/{m}/train-{kind}.gz" for kind in ("images", "labels") for m in ("first", "second")]
    assert sorted(path.name for path in home.iterdir()) == ["train-images.gz", "train-labels.gz"]
    size = len(mirror.files["/second/train-images.gz"])
    assert calls[0] == ("downloading train-images.gz", size, size)


def test_a_wrong_file_is_refused_and_the_next_mirror_asked(made_up: MadeUp, mirror: Mirror, tmp_path: Path) -> None:
    wrong = gzip.compress(made_up.contents["train-labels"])
    mirror.files["/bad/train-images.gz"] = wrong
    mirror.files["/good/train-images.gz"] = gzip.compress(made_up.contents["train-images"])
    mirror.files["/bad/train-labels.gz"] = wrong
    source = replace(made_up.source, mirrors=(f"{mirror.url}/bad/", f"{mirror.url}/good/"))
    assert len(load_idx(source, "train", [tmp_path], download_to=tmp_path)) == 20


def test_a_wrong_file_leaves_nothing_behind(made_up: MadeUp, mirror: Mirror, tmp_path: Path) -> None:
    mirror.files["/train-images.gz"] = gzip.compress(b"something else")
    source = replace(made_up.source, mirrors=(f"{mirror.url}/",))
    with pytest.raises(DataError, match="not the original Made-up file"):
        load_idx(source, "train", [tmp_path], download_to=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_transfer_that_breaks_off_leaves_nothing_behind(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files["/file"] = bytes(1 << 20)
    mirror.short.add("/file")
    with pytest.raises(DataError, match="broke off after 524288 of 1048576 bytes"):
        download([f"{mirror.url}/file"], tmp_path / "file", check=anything)
    assert list(tmp_path.iterdir()) == []


def test_a_mirror_that_falls_silent_is_given_up(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files |= {"/silent": b"late", "/other": b"here"}
    mirror.silent.add("/silent")
    path = download([f"{mirror.url}/silent", f"{mirror.url}/other"], tmp_path / "file", check=anything, timeout=0.2)
    assert path.read_bytes() == b"here"


def test_every_mirror_s_reason_is_told(mirror: Mirror, tmp_path: Path) -> None:
    closed = "http://127.0.0.1:1/file"
    with pytest.raises(DataError) as caught:
        download([closed, f"{mirror.url}/file"], tmp_path / "file", check=anything)
    assert "127.0.0.1:1: " in str(caught.value)
    assert "404" in str(caught.value)


def test_an_address_cannot_lead_to_a_local_file(mirror: Mirror, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    mirror.redirect["/file"] = secret.as_uri()
    for url in (secret.as_uri(), f"{mirror.url}/file"):
        with pytest.raises(DataError):
            download([url], tmp_path / "new" / "file", check=anything)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made_is_named(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files["/file"] = b"data"
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be written"):
        download([f"{mirror.url}/file"], tmp_path / "taken" / "file", check=anything)
