"""Answers hold what they are asked for, or say before the work that they cannot."""

import io
import zipfile
from collections.abc import Callable, Coroutine
from pathlib import Path

import numpy as np
import pytest

from app.answers import fits, picture_body
from app.negotiation import GIF, JPEG, PNG, WEBP, ZIP
from tests.app.client import assert_problem, engine_of, opened, running

Run = Callable[[Coroutine[object, object, None]], None]


@pytest.mark.parametrize(
    ("count", "media", "frames", "fitting"),
    [
        (63**2, WEBP, False, True),
        (63**2 + 1, WEBP, False, False),
        (4096, WEBP, True, True),
        (253**2, JPEG, False, True),
        (253**2 + 1, JPEG, False, False),
        (65536, JPEG, True, False),
        (253**2, JPEG, True, True),
        (65536, PNG, False, True),
        (65536, PNG, True, True),
        (65536, GIF, True, True),
        (65536, ZIP, False, True),
    ],
)
def test_what_fits(count: int, media: str, frames: bool, fitting: bool) -> None:
    assert fits(count, 256, 256, media, frames=frames) is fitting


@pytest.mark.parametrize("frames", [True, False])
@pytest.mark.parametrize("media", [WEBP, JPEG, PNG])
def test_the_largest_that_fits_is_written(media: str, frames: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.answers._LONGEST", dict.fromkeys((WEBP, JPEG, PNG), 58))
    most = max(count for count in range(1, 100) if fits(count, 8, 18, media, frames=frames) and count % 3 == 0)
    made = opened(picture_body(np.zeros((most, 8, 18, 1), np.uint8), media, frames=frames))
    assert max(made.size) <= 58


def test_what_does_not_fit_is_refused_before_the_work(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.answers._LONGEST", dict.fromkeys((WEBP, JPEG, PNG), 30))

    async def scenario() -> None:
        async with running(tiny) as client:
            engine_of(client).models["tiny"].batchers["decoder"].close()
            for kind in ("webp", "jpeg"):
                assert_problem(await client.get(f"/sample?n=10&format={kind}"), 422, "invalid")

    run(scenario())


def test_names_in_an_archive_sort_as_the_images_do() -> None:
    archive = zipfile.ZipFile(io.BytesIO(picture_body(np.zeros((1001, 8, 8, 1), np.uint8), ZIP, frames=False)))
    names = archive.namelist()
    assert names == sorted(names)
    assert (names[0], names[-1]) == ("0000.png", "1000.png")
