"""The ready-made configurations of other objectives and data differ from Burda's network in nothing else."""

import re
import tomllib
from pathlib import Path
from typing import get_args

import numpy as np

import training.config
from model.priors import VampSettings
from training.config import check, load
from training.data.load import load_test, load_training, survey
from training.objectives.settings import AutoencoderSettings, BetaTCSettings, ElboSettings, IwaeSettings

FOLDER = Path(training.config.__file__).parent / "configs"


def test_the_importance_weighted_configurations_are_the_network_of_burda_under_another_objective() -> None:
    plain = load(FOLDER / "mnist-mlp.toml")
    for samples in (5, 50):
        config = load(FOLDER / f"mnist-iwae-{samples}.toml")
        assert config.objective == IwaeSettings(kind="iwae", samples=samples)
        assert config == plain.model_copy(update={"name": config.name, "objective": config.objective})


def test_the_vamp_configuration_is_the_network_of_burda_under_another_prior() -> None:
    plain, config = load(FOLDER / "mnist-mlp.toml"), load(FOLDER / "mnist-vamp.toml")
    assert config.model.prior == VampSettings(kind="vamp", components=500)
    model = plain.model.model_copy(update={"prior": config.model.prior})
    assert config == plain.model_copy(update={"name": config.name, "model": model})


def test_the_static_configuration_reads_binary_images_that_are_divided_already(tmp_path: Path) -> None:
    """Flat uint8 {0, 1}, as the file has them, but few."""
    config = load(FOLDER / "mnist-static-mlp.toml")
    dynamic = load(FOLDER / "mnist-mlp.toml")
    assert config == dynamic.model_copy(update={"name": config.name, "data": config.data})
    random = np.random.default_rng(0)
    splits = {
        name: random.integers(0, 2, (n, 784), dtype=np.uint8) for name, n in (("train", 9), ("valid", 3), ("test", 4))
    }
    (tmp_path / "mnist-static").mkdir()
    np.savez(tmp_path / "mnist-static" / "binarized_mnist.npz", allow_pickle=True, **splits)
    loaded = (
        *load_training(config.data, config.image, seed=0, data_dir=tmp_path),
        load_test(config.data, config.image, seed=0, data_dir=tmp_path),
    )
    for dataset, images in zip(loaded, splits.values(), strict=True):
        assert np.array_equal(dataset.images.reshape(-1, 784), 255 * images)
    assert survey(config.data, config.image, data_dir=tmp_path).own_splits == ("validation", "test")


def test_the_readme_names_every_objective() -> None:
    text = (FOLDER.parents[1] / "README.md").read_text(encoding="utf-8")
    for settings in (ElboSettings, IwaeSettings, BetaTCSettings, AutoencoderSettings):
        (name,) = get_args(settings.model_fields["kind"].annotation)
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
        for option in set(settings.model_fields) - {"kind"}:
            assert f"`{option}`" in row, row


def test_objectives_that_the_readme_shows_are_some() -> None:
    text = (FOLDER.parents[1] / "README.md").read_text(encoding="utf-8")
    shown = [block for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL) if "[objective]" in block]
    assert shown
    for block in shown:
        document = tomllib.loads((FOLDER / "mnist.toml").read_text(encoding="utf-8")) | tomllib.loads(block)
        assert check(document, "README.md").objective != ElboSettings(kind="elbo")
