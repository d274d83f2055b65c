"""The ready-made configurations load, and say what their comments promise."""

from pathlib import Path
from typing import get_args

import pytest

import training.config
from model.likelihoods import LikelihoodSettings
from model.networks.build import NetworkSettings
from model.vae import VAE
from training.config import load

FOLDER = Path(training.config.__file__).parent / "configs"
FILES = sorted(FOLDER.glob("*.toml"))


def test_there_are_configurations() -> None:
    assert {file.stem for file in FILES} >= {"mnist", "mnist-mlp", "folder", "smoke", "cifar10"}


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_every_configuration_loads_and_builds_its_model(file: Path) -> None:
    config = load(file)
    assert file.read_text().startswith("# "), "the first line says what it is for"
    VAE(config.model, config.image.shape)


def test_the_folder_configuration_is_for_color_pictures() -> None:
    config = load(FOLDER / "folder.toml", ["data.path=holiday/pictures"])
    assert config.data.source == "pictures"
    assert config.data.path == Path("holiday/pictures")
    assert config.image.shape == (3, 64, 64)
    assert config.model.likelihood.model_dump() == {"family": "gaussian", "scale": None}


def test_the_smoke_configuration_needs_no_download() -> None:
    assert load(FOLDER / "smoke.toml").data.source == "digits"


def test_the_cifar10_configuration_gives_bits() -> None:
    config = load(FOLDER / "cifar10.toml")
    assert config.image.shape == (3, 32, 32)
    assert config.model.likelihood.support == "levels"
    assert config.data.test_path is not None, "its test images are its own"


def test_the_readme_names_every_network_and_likelihood() -> None:
    text = (FOLDER.parents[1] / "README.md").read_text(encoding="utf-8")
    for union, key in ((NetworkSettings, "kind"), (LikelihoodSettings, "family")):
        for settings in get_args(union):
            (name,) = get_args(settings.model_fields[key].annotation)
            (row,) = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
            for option in set(settings.model_fields) - {key}:
                assert f"`{option}`" in row, row
