"""Opening models: names, defaults, and refusals in one line."""

from pathlib import Path

import pytest

from app.engine import Engine
from app.errors import ModelNotFound
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
