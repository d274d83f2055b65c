"""What a run is, in one frozen object: TOML file -> ``RunConfig`` -> ``config.json`` in the run folder, which is read
as the file is.

Nothing in a run is decided anywhere else. A key that no field knows is an error, so that a misspelled option can never
be accepted and ignored.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from model.bundle.files import expand_home
from model.bundle.manifest import ImageSpec, Name
from model.networks.build import check_size
from model.vae import Architecture
from training.errors import ConfigError
from training.objectives.settings import ElboSettings, ObjectiveSettings
from training.problems import in_words
from training.section import Section

Decay = Annotated[float, Field(ge=0, lt=1)]


CONFIG_FILE = "config.json"
"""In a run folder: the whole of its configuration."""

HomePath = Annotated[Path, AfterValidator(expand_home)]


class DataConfig(Section):
    """Where the images come from and how they are divided."""

    source: Literal["mnist", "pictures", "arrays", "digits"] = Field(
        description="mnist: IDX files; pictures: a folder or zip; arrays: a .npy or .npz file, rounded to 8 bits a "
        "value; digits: scikit-learn's"
    )
    path: HomePath | None = Field(
        None, description="the folder, zip or array file; for mnist the folder of the IDX files"
    )
    test_path: HomePath | None = Field(
        None, description="pictures and arrays: a test set of its own, instead of test_fraction"
    )
    validation_fraction: float = Field(
        0.05,
        gt=0,
        lt=0.5,
        description="share of the training images held out by the seed; not to be given where the source has its own",
    )
    test_fraction: float = Field(
        0.1,
        gt=0,
        lt=0.5,
        description="share held out by the seed for testing; not to be given where the source has its own",
    )
    binarization: Literal["dynamic", "static", "none"] = Field(
        "none",
        description="dynamic: each pixel is drawn anew from Bernoulli(grey value) at every use; "
        "static: the data are {0, 255} already; none: grey or colour values as they are",
    )

    @model_validator(mode="after")
    def _paths_fit_the_source(self) -> "DataConfig":
        if self.source == "digits" and (self.path or self.test_path):
            raise ValueError(
                "data.source = 'digits' ships with scikit-learn: it takes no data.path and no data.test_path"
            )
        if self.source == "mnist" and self.test_path:
            raise ValueError("data.source = 'mnist' brings its own test split: data.test_path does not apply")
        return self


class OptimizationConfig(Section):
    """How the parameters move."""

    epochs: int = Field(gt=0, description="passes over the training images")
    batch_size: int = Field(128, gt=0)
    learning_rate: float = Field(1e-3, gt=0, description="the peak, reached after the warm-up")
    final_learning_rate: float = Field(0.0, ge=0, description="where the cosine schedule ends")
    warmup_steps: int = Field(500, ge=0, description="steps of linear warm-up, at most a tenth of the run's")
    betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="Adam's decay rates of the two moments")
    epsilon: float = Field(1e-8, gt=0, description="Adam's epsilon")
    weight_decay: float = Field(0.0, ge=0, description="decoupled (AdamW), on matrices and filters only")
    gradient_clip: float | None = Field(None, gt=0, description="largest global gradient norm; absent: no clipping")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="exponential moving average of the weights; 0: none")
    early_stopping: int | None = Field(
        None, gt=0, description="validations without improvement before stopping; absent: never"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="bfloat16: autocast of the networks, the loss stays float32; auto: where it is faster"
    )
    compile: bool = Field(
        False, description="let PyTorch's compiler fuse the steps; takes a minute or two at first, and a C++ compiler"
    )

    @model_validator(mode="after")
    def _the_learning_rate_falls(self) -> "OptimizationConfig":
        if self.final_learning_rate > self.learning_rate:
            raise ValueError(
                f"optimization.final_learning_rate = {self.final_learning_rate:g} is above "
                f"optimization.learning_rate = {self.learning_rate:g}, from which it is to fall: set it to that or less"
            )
        return self


class ScheduleConfig(Section):
    """When the run looks up from its work."""

    validate_every: int = Field(1, gt=0, description="epochs between validations")
    checkpoint_every: int = Field(
        500, gt=0, description="steps between checkpoints; one is also written at every validation"
    )
    log_every: int = Field(50, gt=0, description="steps between lines of metrics.jsonl; at most an epoch")
    tensorboard: bool = Field(False, description="also write TensorBoard events (needs the extra `tensorboard`)")


class EvaluationConfig(Section):
    """What is measured after training, always on the test split."""

    importance_samples: int = Field(1000, ge=1, le=5000, description="k of the importance-weighted bound L_k")
    images: int | None = Field(None, ge=2, description="only so many test images, drawn by the seed; absent: all")
    batch_size: int = Field(100, gt=0, description="images at a time")
    sample_chunk: int = Field(
        100, gt=0, description="importance samples drawn at a time; decoded in pieces that fit into memory"
    )


class RunConfig(Section):
    """A whole run. Everything that a result depends on is here, the seed included."""

    name: Name = Field(description="names the run folder and the bundle")
    seed: int = Field(0, ge=0, lt=2**31)
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int | None = Field(None, gt=0, description="PyTorch's CPU threads; absent: PyTorch decides")
    image: ImageSpec
    model: Architecture
    data: DataConfig
    objective: ObjectiveSettings = ElboSettings(kind="elbo")
    optimization: OptimizationConfig
    schedule: ScheduleConfig = ScheduleConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _network_fits_the_image(self) -> "RunConfig":
        check_size(self.model.network, self.image.height, self.image.width)
        return self

    @model_validator(mode="after")
    def _binarization_fits_the_likelihood(self) -> "RunConfig":
        if self.model.likelihood.support != "binary" and self.data.binarization != "none":
            raise ValueError(
                f"data.binarization = '{self.data.binarization}' makes binary pixels, which model.likelihood.family "
                f"= '{self.model.likelihood.family}' does not describe: use 'none', or a bernoulli likelihood"
            )
        return self

    @model_validator(mode="after")
    def _objective_fits_the_run(self) -> "RunConfig":
        objective, posterior = self.objective, self.model.posterior.kind
        if objective.posteriors is not None and posterior not in objective.posteriors:
            kinds = " or ".join(objective.posteriors)
            raise ValueError(
                f"{objective.narrows} is defined for a posterior of kind {kinds}: model.posterior.kind is '{posterior}'"
            )
        if self.model.prior.kind == "vamp" and objective.against_vamp is not None:
            raise ValueError(f"model.prior.kind = 'vamp' does not go with this objective: {objective.against_vamp}")
        if objective.kind == "beta-tc" and self.optimization.batch_size < 2:
            raise ValueError(
                "objective.kind = 'beta-tc' compares the images of a batch: set optimization.batch_size to 2 or more"
            )
        return self


def load(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a file, apply ``section.key=value`` overrides (values in TOML syntax; bare words are strings), check.

    Relative paths in ``[data]`` are relative to the working directory.

    Args:
        path: a TOML file, or the config.json of a run.
        overrides: as ``--set`` takes them.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or holds a key or value that is not allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = _stated(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: not a config.json of this version") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    changed: dict[str, str] = {}
    for override in overrides:
        key = _apply(document, override)
        # What it has replaced is not there any more to be blamed.
        changed = {each: text for each, text in changed.items() if not f"{each}.".startswith(f"{key}.")}
        changed[key] = override
    return check(document, str(path), changed)


def check(document: dict[str, Any], origin: str, overrides: Mapping[str, str] = MappingProxyType({})) -> RunConfig:
    """A document as a configuration; where it is wrong, ``origin`` is named, or one of the overrides in it.

    Args:
        overrides: dotted key -> what was typed to change it.

    Raises:
        ConfigError: a key or a value is not allowed.
    """
    try:
        return RunConfig.model_validate(document)
    except ValidationError as error:
        raise ConfigError(in_words(error, document, RunConfig, origin, overrides)) from error


def _stated(text: str) -> dict[str, Any]:
    """A config.json without what it says by default: a run that starts from it did not ask for that."""
    return RunConfig.model_validate_json(text).model_dump(mode="json", exclude_defaults=True)


def _apply(document: dict[str, Any], override: str) -> str:
    """Set one dotted key, and return it.

    >>> document = {"model": {"latent_dim": 8}}
    >>> _apply(document, "model.latent_dim=16"), _apply(document, "data.path=my/pictures")
    ('model.latent_dim', 'data.path')
    >>> document
    {'model': {'latent_dim': 16}, 'data': {'path': 'my/pictures'}}
    """
    key, equals, text = override.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", key):
        raise ConfigError(f"--set {override}: write section.key=value, as in --set optimization.epochs=10")
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        parsed = {}
    # A bare word, such as a path or a name, stands for itself; so does what TOML would read as more than one value.
    value: Any = parsed["value"] if list(parsed) == ["value"] else text
    *sections, leaf = key.split(".")
    table = document
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override}: '{section}' is not a table")
    table[leaf] = value
    return key
