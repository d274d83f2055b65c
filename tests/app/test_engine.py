"""Opening models: names, defaults, and refusals in one line."""

import asyncio
import threading
from pathlib import Path

import pytest

from app.engine import Engine
from app.errors import ModelNotFound, QueueTimeout
from app.metrics import Metrics
from app.settings import Settings
from model.bundle.errors import BundleError
from tests.support.tiny import write_tiny_bundle


def engine(**settings: object) -> Engine:
    return Engine(Settings.model_validate(settings), Metrics())


def test_models_and_default(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tiny_bundle(tmp_path / name, name=name)
    opened = engine(models_folder=tmp_path, default_model="b")
    opened.open()
    opened.open()  # once is enough
    assert list(opened.models) == ["a", "b"]
    assert opened.model(None).bundle.name == "b"
    assert opened.model("a").label == "a/1"
    with pytest.raises(ModelNotFound):
        opened.model("c")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"models": ["one", "two"]}, "another bundle named tiny"),
        ({"models": ["one"], "default_model": "other"}, "default model"),
        ({"models_folder": "empty"}, "no bundle"),
        ({"models_folder": "absent"}, "no such folder"),
        ({"models": ["one"], "models_folder": "absent"}, "no such folder"),
        ({"models": ["absent"]}, "absent"),
    ],
)
def test_refusals_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name in ("one", "two"):
        write_tiny_bundle(tmp_path / name)
    with pytest.raises(BundleError, match=reason) as raised:
        engine(**settings).open()
    assert "\n" not in str(raised.value)


def test_work_that_waited_too_long_is_not_begun_but_an_answer_is_written() -> None:
    async def scenario() -> None:
        busy, free = threading.Event(), threading.Event()

        def hold() -> bool:
            busy.set()
            return free.wait(30)

        waiting = engine(codec_threads=1, queue_seconds=0.01)
        first = asyncio.create_task(waiting.codec("read", hold))
        assert await asyncio.to_thread(busy.wait, 30)
        begun: list[str] = []
        late = [
            asyncio.create_task(waiting.codec("read", lambda: begun.append("read"))),
            asyncio.create_task(waiting.codec("write", lambda: begun.append("write"))),
        ]
        await asyncio.sleep(0.05)
        free.set()
        assert await first
        refused, written = await asyncio.gather(*late, return_exceptions=True)
        assert isinstance(refused, QueueTimeout)
        assert written is None
        assert begun == ["write"]
        await waiting.stop()

    asyncio.run(scenario())
