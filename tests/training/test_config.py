"""TOML -> RunConfig -> JSON -> RunConfig, with nothing ignored on the way."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.support.digits import digits_config, digits_document
from training.config import RunConfig, check, load
from training.errors import ConfigError

READY_MADE = sorted((Path(__file__).parents[2] / "training" / "configs").glob("*.toml"))
TOML = """
name = "small"
[image]
height = 8
width = 8
channels = 1
[model]
latent_dim = 2
[model.network]
kind = "mlp"
hidden = [8, 4]
[model.likelihood]
family = "bernoulli"
[data]
source = "digits"
binarization = "dynamic"
[optimization]
epochs = 1
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(TOML, encoding="utf-8")
    return path


class TestLoad:
    @pytest.mark.parametrize("path", READY_MADE, ids=lambda path: path.stem)
    def test_ready_made_configurations_are_valid_and_survive_json(self, path: Path) -> None:
        config = load(path)
        assert RunConfig.model_validate_json(config.model_dump_json()) == config
        assert RunConfig.model_validate(config.model_dump()) == config

    def test_reads_what_the_file_says(self, file: Path) -> None:
        config = load(file)
        assert config.model.network.hidden == (8, 4)
        assert config.seed == 0
        assert config.optimization.betas == (0.9, 0.999)

    @pytest.mark.parametrize(
        ("override", "path", "value"),
        [
            ("seed=7", "seed", 7),
            ("optimization.learning_rate=1e-4", "optimization.learning_rate", 1e-4),
            ("optimization.gradient_clip=5", "optimization.gradient_clip", 5.0),
            ("optimization.betas=[0.5, 0.9]", "optimization.betas", (0.5, 0.9)),
            ("schedule.tensorboard=true", "schedule.tensorboard", True),
            ("schedule.log_every=3", "schedule.log_every", 3),
            ("model.network.hidden=[3]", "model.network.hidden", (3,)),
            ("model.network.activation=relu", "model.network.activation", "relu"),
            ('data.binarization="none"', "data.binarization", "none"),
            ("name=other.name", "name", "other.name"),
        ],
    )
    def test_set_changes_one_value_of_any_type(self, file: Path, override: str, path: str, value: object) -> None:
        config: object = load(file, [override])
        for part in path.split("."):
            config = getattr(config, part)
        assert config == value

    @pytest.mark.parametrize("path", ["my pictures/2024", "a = b", "C:\\pictures", "#1", "x\ny = 1", ""])
    def test_bare_words_are_strings_whatever_is_in_them(self, file: Path, path: str) -> None:
        changes = ["data.source=arrays", "data.binarization=none"]
        assert load(file, [*changes, f"data.path={path}x"]).data.path == Path(f"{path}x")

    def test_the_last_of_two_settings_wins(self, file: Path) -> None:
        assert load(file, ["seed=1", "seed=2"]).seed == 2

    @pytest.mark.parametrize("override", ["seed", "=3", "a..b=1", "optimization epochs=1", ".seed=1", "seed.=1"])
    def test_set_says_how_it_is_written(self, file: Path, override: str) -> None:
        with pytest.raises(ConfigError, match=r"write section\.key=value"):
            load(file, [override])

    def test_set_cannot_go_below_a_value(self, file: Path) -> None:
        with pytest.raises(ConfigError, match=r"--set name\.first=1: 'name' is not a table"):
            load(file, ["name.first=1"])

    @pytest.mark.parametrize(
        ("override", "named"),
        [
            ("sed=1", "sed"),
            ("optimization.lerning_rate=1", "optimization.lerning_rate"),
            ("model.network.depth=1", "model.network.mlp.depth"),
            ("model.likelihood.scale=1", "model.likelihood.bernoulli.scale"),
            ("image.size=8", "image.size"),
            ("scheduel.log_every=1", "scheduel"),
            ("optimization.epochs=ten", "optimization.epochs"),
            ("optimization.learning_rate=nan", "optimization.learning_rate"),
            ("optimization.betas=[0.9, 1.0]", "optimization.betas"),
            ("optimization.ema_decay=1", "optimization.ema_decay"),
            ("model.network.kind=resnet", "model.network"),
            ("evaluation.importance_samples=5001", "evaluation.importance_samples"),
            ("name=Not_A_Name", "name"),
            ("seed=-1", "seed"),
        ],
    )
    def test_what_is_wrong_is_named(self, file: Path, override: str, named: str) -> None:
        with pytest.raises(ConfigError) as caught:
            load(file, [override])
        headline, *problems = str(caught.value).splitlines()
        assert headline == f"{file}: {len(problems)} problem(s)"
        assert any(problem.startswith(f"  {named}") for problem in problems)

    def test_says_what_is_wrong_with_the_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read: No such file"):
            load(tmp_path / "absent.toml")
        (tmp_path / "broken.toml").write_text("name = ", encoding="utf-8")
        with pytest.raises(ConfigError, match=r"broken\.toml: not TOML"):
            load(tmp_path / "broken.toml")
        (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
        with pytest.raises(ConfigError, match=r"latin\.toml: not TOML"):
            load(tmp_path / "latin.toml")


class TestRunConfig:
    def test_is_frozen(self) -> None:
        with pytest.raises(ValidationError):
            digits_config().seed = 1  # type: ignore[misc]  # that is what must fail

    @pytest.mark.parametrize("binarization", ["dynamic", "static"])
    def test_binary_pixels_are_refused_a_gaussian(self, binarization: str) -> None:
        document = digits_document()
        document["model"]["likelihood"] = {"family": "gaussian"}
        document["data"]["binarization"] = binarization
        with pytest.raises(ConfigError, match="makes binary pixels, which a gaussian likelihood does not describe"):
            check(document, "test")

    @pytest.mark.parametrize(
        "data",
        [
            {"source": "digits", "path": "x"},
            {"source": "digits", "test_path": "x"},
            {"source": "mnist", "test_path": "x"},
        ],
    )
    def test_paths_that_a_source_does_not_have_are_refused(self, data: dict[str, str]) -> None:
        with pytest.raises(ConfigError, match=data["source"]):
            check(digits_document() | {"data": data}, "test")

    @pytest.mark.parametrize("size", [7, 257])
    def test_sizes_are_bounded(self, size: int) -> None:
        with pytest.raises(ConfigError, match=r"image\.height"):
            digits_config(image={"height": size})
