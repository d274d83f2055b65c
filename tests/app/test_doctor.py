"""`vae doctor`: what it finds is what `vae serve` would do."""

import os
import socket
from pathlib import Path

import pytest

from app import doctor
from app.doctor import examine
from app.settings import Settings
from model.bundle.onnx_runtime import onnx_runtime
from tests.support.tiny import write_tiny_bundle


def told(**settings: object) -> tuple[bool, str]:
    lines: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sound = examine(Settings.model_validate({"port": port} | settings), lines.append)
    return sound, "\n".join(lines)


def failures(text: str) -> list[str]:
    return [line.removeprefix("FAIL").strip() for line in text.splitlines() if line.startswith("FAIL")]


def test_all_is_well(tiny: Path) -> None:
    sound, text = told(models=(tiny,))
    assert sound
    assert not failures(text)
    for expected in ("latentserve ", "onnxruntime ", "tiny/1 in ", "2 latents", "is free", "--max-body-bytes 16777216"):
        assert expected in text, expected


def test_what_differs_from_the_defaults_is_said_and_keys_are_not_shown(tiny: Path) -> None:
    sound, text = told(models=(tiny,), api_keys=("opensesame",), max_items=7)
    assert sound
    assert "--max-items is 7; default: 256" in text
    assert "API keys: 1" in text
    assert "opensesame" not in text


def test_a_bundle_that_is_unfit(tmp_path: Path, tiny: Path) -> None:
    bad = write_tiny_bundle(tmp_path / "bad")
    (bad / "decoder.onnx").write_bytes(b"x")
    sound, text = told(models=(tiny, bad))
    assert not sound
    assert "tiny/1 in " in text
    assert len(failures(text)) == 1
    assert "decoder.onnx" in failures(text)[0]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"default_model": "other"}, "other is not among the bundles"),
        ({"models_folder": "missing"}, "no such folder"),
        ({"telemetry": True}, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ({"provider": "cuda", "require_provider": True}, "CUDA"),
        ({"provider": "cuda"}, "CUDA does not work here, and tiny runs on the CPU"),
        ({"api_keys_file": "missing"}, "missing: No such file"),
    ],
)
def test_what_the_server_would_not_start_with(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], reason: str
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.setattr(onnx_runtime(), "get_available_providers", lambda: ["CPUExecutionProvider"])
    sound, text = told(models=(tiny,), **settings)
    assert not sound
    assert reason in "\n".join(failures(text))


def test_an_address_that_is_taken(tiny: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        sound, text = told(models=(tiny,), port=taken.getsockname()[1])
    assert not sound
    assert "in use" in failures(text)[0]


def test_an_open_server(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "in_container", lambda: False)
    assert "set VAE_API_KEYS" in failures(told(models=(tiny,), host="0.0.0.0")[1])[0]
    sound, text = told(models=(tiny,), host="0.0.0.0", allow_insecure=True)
    assert sound
    assert "note  keys      0.0.0.0 is open to other machines" in text
    monkeypatch.setattr(doctor, "in_container", lambda: True)
    assert "note  keys      no API keys" in told(models=(tiny,), host="0.0.0.0")[1]


def test_a_foreign_variable_is_named(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_SERVICE_HOST", "10.0.0.1")
    assert "VAE_SERVICE_HOST is no setting" in told(models=(tiny,))[1]


@pytest.mark.parametrize(("limit", "mark"), [("67108864", "FAIL"), ("2147483648", "ok"), ("max", "ok")])
def test_a_memory_limit_that_no_server_fits_into(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, mark: str
) -> None:
    """The engine would end it, and the server could not say why."""
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    monkeypatch.setattr(doctor, "MEMORY_LIMITS", (tmp_path / "none", tmp_path / "memory.max"))
    (line,) = [line for line in told(models=(tiny,))[1].splitlines() if line[6:].startswith("memory")]
    assert line.startswith(mark)


def test_more_workers_than_cores_and_none_where_no_process_can_be_forked(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "usable_cores", lambda: 2)
    assert "  workers  " not in told(models=(tiny,), workers=2)[1]
    sound, text = told(models=(tiny,), workers=3)
    assert sound
    assert "note  workers   more than usable cores" in text
    monkeypatch.delattr(os, "fork")
    sound, text = told(models=(tiny,), workers=2)
    assert not sound
    assert "FAIL  workers " in text
