"""Every setting of the server: one frozen object, one help text a field, every field also a ``VAE_*`` variable."""

import errno
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

PREFIX = "VAE_"
_ORIGIN = re.compile(
    r"(?!http://[^/]*:80$|https://[^/]*:443$)[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:]+\])(:[1-9][0-9]{0,4})?"
)
PRETRAINED = Path(__file__).resolve().parent.parent / "model" / "pretrained" / "mnist"


def _split(value: object) -> object:
    """A comma-separated text as its parts: the form in which environment variables hold several values.

    A text without any part is an error: who wrote it meant something, and it must not pass for "no API keys".
    """
    if not isinstance(value, str):
        return value
    parts = [part.strip() for part in value.split(",") if part.strip()]
    if not parts:
        raise ValueError("holds no value")
    return parts


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _clean_root(value: str) -> str:
    stripped = value.strip("/")
    return f"/{stripped}" if stripped else ""


def _name(field: str) -> str:
    return PREFIX + field.upper()


class Settings(BaseSettings):
    """How the server behaves. Frozen; built from arguments first, then ``VAE_*`` variables, then these defaults.

    Raises ``pydantic.ValidationError`` for values out of range and ``pydantic_settings.SettingsError`` for a
    variable that looks like a misspelled setting.

    >>> Settings(port=9000).port
    9000
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    # Models
    models: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_split)] = Field(
        (), description="Bundle folders to serve (comma-separated in the environment); none: the bundle that ships."
    )
    models_folder: Path | None = Field(None, description="A folder whose every subfolder is a bundle to serve.")
    default_model: str | None = Field(None, description="Name of the model that answers without ?model= (the first).")
    provider: Literal["auto", "cpu", "cuda"] = Field("cpu", description="Where models run; auto takes CUDA if present.")
    require_provider: bool = Field(
        False, description="With cuda or auto: refuse to start where there is no CUDA, instead of using the CPU."
    )
    threads: int = Field(1, ge=1, le=256, description="Threads that one run of a graph uses.")
    parallel_runs: int = Field(
        0, ge=0, le=256, description="Runs of graphs at a time; 0 takes the cores, divided by workers and by threads."
    )

    # Work
    workers: int = Field(1, ge=1, le=256, description="Server processes behind the port; limits are of each.")
    max_batch: int = Field(64, ge=1, le=4096, description="Most images or latents in one run of a graph.")
    codec_threads: int = Field(2, ge=1, le=64, description="Threads that decode bodies and encode answers.")
    max_waiting: int = Field(128, ge=1, le=65536, description="Most requests in work at a time; more get 503.")
    max_receiving: int = Field(
        512, ge=1, le=65536, description="Most requests whose body is awaited at a time; more get 503."
    )
    queue_seconds: float = Field(5.0, gt=0, le=3600, description="Longest wait in a queue before 504, in seconds.")
    receive_seconds: float = Field(
        20.0, gt=0, le=3600, description="Longest wait for a request's head, its body, and a client to read on."
    )
    drain_delay: float = Field(
        1.0,
        ge=0,
        le=3600,
        description="Seconds from turning not ready to refusing work, for load balancers.",
    )
    drain_seconds: float = Field(30.0, ge=0, le=3600, description="Longest wait for running requests at shutdown.")

    # Limits of one request
    max_body_bytes: int = Field(16 * 2**20, ge=1, description="Largest request body in bytes; larger gets 413.")
    max_items: int = Field(256, ge=1, le=65536, description="Most images or latents in a request; more get 422.")
    max_count: int = Field(256, ge=1, le=65536, description="Largest n, samples, and steps x segments; more get 422.")
    max_score_samples: int = Field(1024, ge=1, le=65536, description="Largest k of /score; more get 422.")
    max_draws: int = Field(
        2**14,
        ge=1,
        le=2**24,
        description="Most latents a request draws where each takes work: /score, /encode with a flow; more get 422.",
    )
    max_pixels: int = Field(16_800_000, ge=1, description="Most pixels of one picture, by its header; more get 413.")
    max_total_pixels: int = Field(2**27, ge=1, description="Most pixels of a request's pictures in all; more get 413.")
    max_json_depth: int = Field(32, ge=3, le=512, description="Deepest nesting of a JSON body; deeper gets 400.")
    max_json_numbers: int = Field(2**22, ge=1, description="Most numbers in a JSON answer; more get 422.")
    max_npy_numbers: int = Field(2**26, ge=1, description="Most numbers in an .npy answer; more get 422.")

    # Network
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for every interface.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    root_path: Annotated[str, AfterValidator(_clean_root)] = Field(
        "", description="Path prefix that a proxy in front strips, for example /vae."
    )
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split)] = Field(
        (), description="Keys that clients must give (comma-separated in the environment); none: open to all."
    )
    api_keys_file: Path | None = Field(None, description="A file with more such keys, one a line.")
    allow_insecure: bool = Field(
        False, description="Outside of a container, listen to other machines even without API keys."
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = Field(
        (),
        description="Origins whose pages may call the server, as https://example.org, or * for all; none: no others.",
    )

    # Logs and traces
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = Field(
        "info", description="Least severe messages to log."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="One JSON object a line, or text; auto takes text on a terminal."
    )
    access_log: bool = Field(False, description="Log a line for every request; for probes, only those that fail.")
    telemetry: bool = Field(
        False, description="Send OpenTelemetry traces to OTEL_EXPORTER_OTLP_ENDPOINT; needs the extra telemetry."
    )

    @field_validator("api_keys")
    @classmethod
    def _keys_are_not_empty(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not all(key.get_secret_value().strip() for key in keys):
            raise ValueError("an API key must not be empty")
        return keys

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        # A browser sends scheme, host and port, in one form: anything else would never match, and never say so.
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin} is no origin as browsers send it: scheme://host or scheme://host:port, in lower case, "
                    "international names as xn--, without the scheme's own port"
                )
        return origins

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, CheckedEnvironment(settings_cls)

    def all_api_keys(self) -> tuple[SecretStr, ...]:
        """The keys that were given and those of the file; empty lines are none. Raises OSError if it cannot be read.

        A file without any key is an OSError too: who named it meant something, and it must not pass for "no API keys".
        """
        if self.api_keys_file is None:
            return self.api_keys
        try:
            lines = self.api_keys_file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise OSError(errno.EILSEQ, "is not UTF-8", str(self.api_keys_file)) from None
        keys = tuple(SecretStr(line.strip()) for line in lines if line.strip())
        if not keys:
            raise OSError(errno.ENODATA, "holds no API key", str(self.api_keys_file))
        return (*self.api_keys, *keys)

    def bundle_folders(self) -> tuple[Path, ...]:
        """The bundle folders to open, in order, each once: ``models``, then ``models_folder``'s, else what ships.

        Raises OSError where ``models_folder`` is none.
        """
        found = list(self.models)
        if self.models_folder is not None:
            found += sorted(path for path in self.models_folder.iterdir() if path.is_dir() and path.name[0] != ".")
        if self.models_folder is None and not found:
            found = [PRETRAINED]
        return tuple(dict.fromkeys(found))


class CheckedEnvironment(EnvSettingsSource):
    """The environment, refusing a ``VAE_*`` variable that is a setting's name misspelled."""

    def __call__(self) -> dict[str, object]:
        for name, nearest in unknown_variables({key.upper(): value or "" for key, value in self.env_vars.items()}):
            if nearest is not None:
                raise SettingsError(f"unknown environment variable {name}: did you mean {nearest}?")
        return super().__call__()


def unknown_variables(environment: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """``VAE_*`` variables that are no setting, each with the setting it nearly spells, or None if it resembles none.

    Those that resemble none may belong to someone else (a container platform sets ``VAE_SERVICE_HOST`` for a
    service named "vae"), so that they are worth a warning and no more.

    >>> unknown_variables({"VAE_MAX_BACTH": "8", "VAE_SERVICE_HOST": "10.0.0.1", "VAE_PORT": "80"})
    [('VAE_MAX_BACTH', 'VAE_MAX_BATCH'), ('VAE_SERVICE_HOST', None)]
    """
    known = [_name(field) for field in Settings.model_fields]
    unknown = sorted(name for name in environment if name.startswith(PREFIX) and name not in known)
    return [(name, next(iter(get_close_matches(name, known, n=1, cutoff=0.85)), None)) for name in unknown]
