"""Ready-made configurations, by name."""

from pathlib import Path

from model.bundle.files import expand_home
from training.config import CONFIG_FILE
from training.errors import ConfigError


def find(config: str) -> Path:
    """The file of a configuration: one of those here by its bare name, the config.json of a run folder, or a path as it
    is.

    Raises:
        ConfigError: there is no configuration of that name.
    """
    path, ready_made = expand_home(Path(config)), names()
    if config in ready_made:
        return Path(__file__).with_name(f"{config}.toml")
    if path.is_dir():
        if (path / CONFIG_FILE).exists():
            return path / CONFIG_FILE
        raise ConfigError(
            f"{config}: a folder, and not one of a run; for pictures: vae train folder --set data.path={config}"
        )
    if path.suffix or path.is_file() or len(path.parts) > 1:
        return path
    raise ConfigError(f"{config}: give a TOML file, a run folder, or one of {', '.join(ready_made)}")


def names() -> list[str]:
    """What is ready-made."""
    return sorted(file.stem for file in Path(__file__).parent.glob("*.toml"))
