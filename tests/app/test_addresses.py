"""Who can reach the server without a key: nobody but this machine, unless that was said."""

import logging
from pathlib import Path

import pytest

from app import addresses
from app.addresses import check_exposure, in_container, is_exposed, is_loopback
from app.errors import ConfigurationError
from app.settings import Settings


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No container around, whatever runs the tests."""
    monkeypatch.setattr(addresses, "_MARKS", ())
    for name in addresses._VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.0.2.1", False),
        ("no such host", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_containers_are_recognized(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(addresses, "_MARKS", (tmp_path / "mark",))
    assert not in_container({})
    assert in_container({"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert in_container({"container": "podman"})
    (tmp_path / "mark").touch()
    assert in_container({})


@pytest.mark.usefixtures("bare")
def test_exposure_without_a_key_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="VAE_API_KEYS"):
        check_exposure(Settings(host="0.0.0.0"))


@pytest.mark.usefixtures("bare")
def test_exposure_that_was_asked_for_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_exposure(Settings(host="0.0.0.0", allow_insecure=True))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "INSECURE" in caplog.text


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("safe", [{"host": "127.0.0.1"}, {"host": "0.0.0.0", "api_keys": ("key",)}])
def test_what_is_not_exposed(safe: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    check_exposure(Settings.model_validate(safe))
    assert not caplog.records


def test_a_container_is_opened_from_outside(bare: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_exposed(Settings(host="0.0.0.0"))
    monkeypatch.setenv("container", "docker")
    assert not is_exposed(Settings(host="0.0.0.0"))
