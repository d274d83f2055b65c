"""TOML -> RunConfig -> JSON -> RunConfig, with nothing ignored on the way."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from model.networks.mlp import MLPSettings
from tests.support.digits import digits_config, digits_document
from training.config import RunConfig, check, load
from training.errors import ConfigError
from training.objectives.settings import ElboSettings, IwaeSettings

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
        assert config.model.network == MLPSettings(kind="mlp", hidden=(8, 4))
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
            ("model.network.depth=1", "model.network.depth"),
            ("model.likelihood.scale=1", "model.likelihood.scale"),
            ("image.size=8", "image.size"),
            ("scheduel.log_every=1", "scheduel"),
            ("optimization.epochs=ten", "optimization.epochs"),
            ("optimization.learning_rate=nan", "optimization.learning_rate"),
            ("optimization.betas=[0.9, 1.0]", "optimization.betas"),
            ("optimization.ema_decay=1", "optimization.ema_decay"),
            ("model.network.kind=transformer", "model.network.kind"),
            ("evaluation.importance_samples=5001", "evaluation.importance_samples"),
            ("name=Not_A_Name", "name"),
            ("seed=-1", "seed"),
        ],
    )
    def test_what_is_wrong_is_named(self, file: Path, override: str, named: str) -> None:
        with pytest.raises(ConfigError) as caught:
            load(file, [override])
        assert str(caught.value).startswith(f"--set {override}: ")
        assert named in str(caught.value).removeprefix(f"--set {override}: ")
        assert "Input should" not in str(caught.value)

    @pytest.mark.parametrize(
        ("override", "words"),
        [
            ("data.paht=pictures", "there is no key data.paht; did you mean data.path?"),
            ("epochs=3", "there is no key epochs; did you mean optimization.epochs?"),
            ("epoch=3", "there is no key epoch; did you mean optimization.epochs?"),
            ("optimisation.epochs=3", "there is no key optimisation.epochs; did you mean optimization.epochs?"),
            (
                "training.batch_size=3",
                "there is no key training.batch_size; did you mean optimization.batch_size or evaluation.batch_size?",
            ),
            ("zebra=3", "there is no key zebra"),
            ("model.network.blocks=1", "model.network.blocks does not go with 'mlp'"),
            (
                "name=My_Faces",
                "name must be of small letters, digits, '.', '_' and '-', 64 at most, the first a letter or a digit, "
                "not 'My_Faces'",
            ),
            ("name=2024", "name must be text (in quotes, where it looks like a number), not 2024"),
            ("data.path=2024", "data.path must be text (in quotes, where it looks like a number), not 2024"),
            ("optimization.epochs=ten", "optimization.epochs must be a whole number, not 'ten'"),
            ("optimization.epochs=0", "optimization.epochs must be greater than 0, not 0"),
            ("optimization.learning_rate=nan", "optimization.learning_rate must be a finite number, not nan"),
            ("evaluation.importance_samples=5001", "evaluation.importance_samples must be 5000 or less, not 5001"),
            ("image.channels=4", "image.channels must be 1 or 3, not 4"),
            ("schedule.tensorboard=perhaps", "schedule.tensorboard must be true or false, not 'perhaps'"),
            (
                "model.network.kind=transformer",
                "model.network.kind must be one of 'mlp', 'conv', 'gated-conv', 'resnet', not 'transformer'",
            ),
            ("model.likelihood.scale_per=pixel", "model.likelihood.scale_per does not go with 'bernoulli'"),
            ("model.network=conv", "model.network must be a table of keys and values, not 'conv'"),
            ("objective.kind=vae", "objective.kind must be one of 'elbo', 'iwae', 'beta-tc', 'autoencoder', not 'vae'"),
        ],
    )
    def test_what_is_wrong_is_said_in_words(self, file: Path, override: str, words: str) -> None:
        with pytest.raises(ConfigError) as caught:
            load(file, [override])
        assert str(caught.value) == f"--set {override}: {words}"

    def test_the_file_is_blamed_for_what_is_in_it(self, file: Path) -> None:
        text = file.read_text(encoding="utf-8").replace("epochs = 1", "epoch = 1\nlr = 1")
        file.write_text(text.replace("latent_dim", "latent_dims"), encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            load(file, ["image.height=7"])
        headline, *problems = str(caught.value).splitlines()
        assert headline == f"{file}: 6 problems"
        assert sorted(problems) == [
            "  --set image.height=7: image.height must be 8 or more, not 7",
            "  model.latent_dim is missing",
            "  optimization.epochs is missing",
            "  there is no key model.latent_dims; did you mean model.latent_dim?",
            "  there is no key optimization.epoch; did you mean optimization.epochs?",
            "  there is no key optimization.lr",
        ]

    def test_values_that_do_not_go_together_are_blamed_on_both(self, file: Path) -> None:
        with pytest.raises(ConfigError, match=rf"^{file}, with --set data\.path=x: data.source = 'digits' ships with"):
            load(file, ["seed=1", "data.path=x"])

    def test_a_learning_rate_that_would_rise_is_refused(self, file: Path) -> None:
        words = r"final_learning_rate = 0\.1 is above optimization\.learning_rate = 0\.001, from which it is to fall"
        with pytest.raises(ConfigError, match=words):
            load(file, ["optimization.final_learning_rate=0.1"])
        assert load(file, ["optimization.final_learning_rate=1e-3"]).optimization.final_learning_rate == 1e-3

    def test_a_section_that_changes_a_weight_is_of_the_default_objective(self, file: Path) -> None:
        assert load(file, ["objective.beta=4"]).objective == ElboSettings(kind="elbo", beta=4)

    def test_a_gradient_through_no_fewer_latents_than_there_are_is_refused(self, file: Path) -> None:
        words = (
            "objective.gradient_samples = 5 is to be less than objective.samples = 5, of which it chooses; leave it out"
        )
        for blamed in (
            ["objective.samples=5", "objective.gradient_samples=5"],
            ["objective={kind='iwae', samples=5, gradient_samples=5}"],
        ):
            with pytest.raises(ConfigError) as caught:
                load(file, ["seed=1", "objective.kind=iwae", *blamed])
            place = f"{file}, " + ", ".join(f"with --set {text}" for text in blamed)
            assert str(caught.value).startswith(f"{place}: {words}")
        chosen = load(file, ["objective.kind=iwae", "objective.gradient_samples=4"]).objective
        assert chosen == IwaeSettings(kind="iwae", samples=5, gradient_samples=4)

    def test_of_many_overrides_those_that_are_meant_are_blamed(self, file: Path) -> None:
        posterior, gradient = "model.posterior={kind='planar'}", "objective={kind='iwae', gradient='dreg'}"
        with pytest.raises(ConfigError) as caught:
            load(file, ["seed=1", posterior, "optimization.epochs=2", gradient])
        assert str(caught.value) == (
            f"{file}, with --set {posterior}, with --set {gradient}: objective.gradient = 'dreg' is defined for a "
            "posterior of kind diagonal or full: model.posterior.kind is 'planar'"
        )

    def test_another_kind_leaves_keys_of_the_one_before(self, file: Path) -> None:
        words = r"""hidden does not go with 'resnet': write --set 'model\.network={kind = "resnet"}' for a table"""
        with pytest.raises(ConfigError, match=words):
            load(file, ["model.network.kind=resnet"])
        text = file.read_text(encoding="utf-8").replace('family = "bernoulli"', 'family = "gaussian"\nscale = 1.0')
        file.with_name("gaussian.toml").write_text(text, encoding="utf-8")
        words = r"""scale does not go with 'bernoulli': write --set 'model\.likelihood={family = "bernoulli"}' for"""
        with pytest.raises(ConfigError, match=words):
            load(file.with_name("gaussian.toml"), ["model.likelihood.family=bernoulli"])

    def test_a_typo_is_no_key_of_another_kind(self, file: Path) -> None:
        text = file.read_text(encoding="utf-8") + "\n[objective]\nsmaples = 9\n"
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            load(file, ["objective.kind=iwae"])
        assert str(caught.value) == f"{file}: there is no key objective.smaples; did you mean objective.samples?"

    def test_a_key_of_a_kind_that_was_forgotten(self, file: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            load(file, ["objective.samples=9"])
        assert str(caught.value) == (
            "--set objective.samples=9: objective.samples does not go with 'elbo', which is the kind where "
            "objective.kind is not given"
        )

    def test_both_sides_of_what_does_not_go_together_are_blamed(self, file: Path) -> None:
        blamed = ["data.binarization=dynamic", "model.likelihood={family='gaussian'}"]
        with pytest.raises(ConfigError) as caught:
            load(file, ["seed=1", *blamed])
        assert str(caught.value).startswith(
            f"{file}, " + ", ".join(f"with --set {text}" for text in blamed) + ": data.b"
        )

    def test_what_is_right_with_the_command_line_is_not_blamed(self, file: Path) -> None:
        text = file.read_text(encoding="utf-8").replace('family = "bernoulli"', 'family = "gaussian"')
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=f"^{file}: data.binarization = '[a-z]+' makes"):
            load(file, ["seed=1"])

    def test_what_was_replaced_is_not_blamed(self, file: Path) -> None:
        last = "objective={kind='beta-tc'}"
        with pytest.raises(ConfigError, match=f"^--set {last}: objective.beta is missing$"):
            load(file, ["objective.kind=iwae", last])

    @pytest.mark.parametrize("key", ["model.posterior.flows", "model.prior.components", "objective.schedule.cycles"])
    def test_a_table_of_no_kind_is_blamed_on_who_made_it(self, file: Path, key: str) -> None:
        with pytest.raises(ConfigError, match=f"^--set {key}=3: {key.rpartition('.')[0]}.kind is missing$"):
            load(file, [f"{key}=3"])

    def test_a_key_that_another_kind_cannot_be_without_is_told(self, file: Path) -> None:
        text = file.read_text(encoding="utf-8") + '\n[objective]\nkind = "iwae"\nsamples = 9\n'
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            load(file, ["objective.kind=beta-tc"])
        assert str(caught.value).splitlines()[1:] == [
            "  --set objective.kind=beta-tc: objective.beta is missing",
            "  objective.samples does not go with 'beta-tc': write --set 'objective={kind = \"beta-tc\", beta = ...}' "
            "for a table in the place of the file's",
        ]

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("there = 1", "there is no key there"),
            ('"optimization.epochs" = 3', 'there is no key "optimization.epochs"; did you mean optimization.epochs?'),
        ],
    )
    def test_odd_keys_of_a_file(self, file: Path, line: str, words: str) -> None:
        file.write_text(f"{line}\n{file.read_text(encoding='utf-8')}", encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            load(file)
        assert str(caught.value) == f"{file}: {words}"

    def test_another_kind_replaces_the_table_at_once(self, file: Path) -> None:
        assert load(file, ['model.network={kind = "resnet"}', "image.height=32"]).model.network.kind == "resnet"

    def test_what_a_kind_lacks_is_blamed_on_who_asked_for_it(self, file: Path) -> None:
        with pytest.raises(ConfigError, match=r"^--set objective\.kind=beta-tc: objective\.beta is missing$"):
            load(file, ["objective.kind=beta-tc"])

    def test_the_configuration_of_a_run_is_one(self, file: Path) -> None:
        """And what it spells out, because it is whole, was not asked for."""
        config = load(file, ["optimization.epochs=7"])
        stored = file.with_name("config.json")
        stored.write_text(config.model_dump_json(), encoding="utf-8")
        assert load(stored) == config
        assert load(stored, ["seed=5"]).seed == 5
        assert "test_fraction" not in load(stored).data.model_fields_set
        stored.write_text("{}", encoding="utf-8")
        with pytest.raises(ConfigError, match=r"config\.json: not a config\.json of this version"):
            load(stored)

    def test_a_tilde_is_the_home_folder(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/ada")
        text = file.read_text(encoding="utf-8").replace('"digits"', '"arrays"\npath = "~/a.npy"')
        file.write_text(text, encoding="utf-8")
        assert load(file).data.path == Path("/home/ada/a.npy")
        changed = load(file, ["data.path=~/b.npy", "data.test_path=~"]).data
        assert (changed.path, changed.test_path) == (Path("/home/ada/b.npy"), Path("/home/ada"))
        assert load(file, ["data.path=~nobody-of-that-name/b.npy"]).data.path == Path("~nobody-of-that-name/b.npy")

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

    @pytest.mark.parametrize("family", ["gaussian", "continuous-bernoulli", "discretized-logistic", "categorical"])
    @pytest.mark.parametrize("binarization", ["dynamic", "static"])
    def test_binary_pixels_are_refused_all_but_a_bernoulli(self, family: str, binarization: str) -> None:
        document = digits_document()
        document["model"]["likelihood"] = {"family": family}
        document["data"]["binarization"] = binarization
        with pytest.raises(
            ConfigError, match=f"makes binary pixels, which model.likelihood.family = '{family}' does not describe"
        ):
            check(document, "test")

    @pytest.mark.parametrize(
        ("network", "height", "words"),
        [
            ({"kind": "gated-conv"}, 10, "image.height and image.width must be multiples of 4, not 10x8"),
            (
                {"kind": "resnet", "multipliers": [1, 1, 1, 1]},
                10,
                "10x8 can be halved 2 times: use 3 multipliers at most",
            ),
        ],
    )
    def test_sizes_that_a_network_cannot_have_are_refused(
        self, network: dict[str, object], height: int, words: str
    ) -> None:
        document = digits_document()
        document["model"]["network"] = network
        check(document | {"model": document["model"] | {"network": {"kind": network["kind"]}}}, "test")
        document["image"]["height"] = height
        with pytest.raises(ConfigError, match=words):
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
