"""Settings: documented, frozen, from the environment, and none silently ignored."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings.exceptions import SettingsError

from app.settings import PRETRAINED, Settings, unknown_variables


def test_every_setting_has_a_help_text() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_MODELS", "a, b/c")
    monkeypatch.setenv("VAE_API_KEYS", "one-key,two-key")
    monkeypatch.setenv("VAE_MAX_BATCH", "8")
    monkeypatch.setenv("VAE_ROOT_PATH", "vae/")
    monkeypatch.setenv("VAE_LOG_LEVEL", "WARNING")
    settings = Settings()
    assert settings.models == (Path("a"), Path("b/c"))
    assert [key.get_secret_value() for key in settings.api_keys] == ["one-key", "two-key"]
    assert (settings.max_batch, settings.root_path, settings.log_level) == (8, "/vae", "warning")
    assert "one-key" not in repr(settings)
    assert Settings(max_batch=9).max_batch == 9


def test_misspelled_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_MAX_BACTH", "8")
    with pytest.raises(SettingsError, match="VAE_MAX_BATCH"):
        Settings()


def test_foreign_variables_are_only_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_SERVICE_HOST", "10.0.0.1")
    assert Settings() == Settings()
    assert unknown_variables({"VAE_SERVICE_HOST": "", "HOME": ""}) == [("VAE_SERVICE_HOST", None)]


@pytest.mark.parametrize("wrong", [{"port": 70000}, {"max_batch": 0}, {"unknown": 1}, {"api_keys": ("",)}])
def test_wrong_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(wrong)


@pytest.mark.parametrize("blank", [" ", ",", " , ,"])
def test_blank_keys_do_not_open_the_server(monkeypatch: pytest.MonkeyPatch, blank: str) -> None:
    monkeypatch.setenv("VAE_API_KEYS", blank)
    with pytest.raises(ValidationError, match="holds no value"):
        Settings()


def test_bundle_folders(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "file").touch()
    assert Settings().bundle_folders() == (PRETRAINED,)
    assert Settings(models_folder=tmp_path).bundle_folders() == (tmp_path / "a", tmp_path / "b")
    both = Settings(models=(tmp_path / "b",), models_folder=tmp_path)
    assert both.bundle_folders() == (tmp_path / "b", tmp_path / "a")
