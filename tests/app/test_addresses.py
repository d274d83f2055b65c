"""Who can reach the server without a key: nobody but this machine, unless that was said."""

import logging
import socket
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


def test_a_container_is_opened_from_outside(
    bare: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("container", "docker")
    with caplog.at_level(logging.WARNING):
        check_exposure(Settings(host="0.0.0.0"))
    assert "whoever reaches a port" in caplog.text


def test_a_name_with_one_address_of_others_is_not_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(0, 0, 0, "", (address, 0)) for address in ("127.0.0.1", "192.0.2.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert not is_loopback("both")


@pytest.mark.usefixtures("bare")
def test_keys_in_a_file_are_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("one\n\n two \n")
    check_exposure(Settings(host="0.0.0.0", api_keys_file=file))
    keys = Settings.model_validate({"api_keys": ("zero",), "api_keys_file": file}).all_api_keys()
    assert [key.get_secret_value() for key in keys] == ["zero", "one", "two"]
    file.write_text("\n")
    with pytest.raises(OSError, match="holds no API key"):
        is_exposed(Settings(api_keys_file=file))
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(OSError, match="is not UTF-8"):
        is_exposed(Settings(api_keys_file=file))
    with pytest.raises(OSError, match="No such file"):
        is_exposed(Settings(api_keys_file=tmp_path / "none"))
