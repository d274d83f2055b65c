"""Ready-made configurations, by name."""

from pathlib import Path

from training.errors import ConfigError


def find(config: str) -> Path:
    """A path as it is; a bare name is one of the files here.

    Raises:
        ConfigError: there is no configuration of that name.
    """
    path, here = Path(config), Path(__file__).parent
    if path.suffix or path.is_file() or len(path.parts) > 1:
        return path
    ready_made = {file.stem: file for file in sorted(here.glob("*.toml"))}
    if config not in ready_made:
        raise ConfigError(f"{config}: give a TOML file, or one of {', '.join(ready_made)}")
    return ready_made[config]
