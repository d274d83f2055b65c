"""The settings as command-line options: each field of `Settings` is one, and nothing about it is written twice."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings.exceptions import SettingsError

from app.errors import ConfigurationError
from app.settings import PREFIX, Settings


def flag(name: str) -> str:
    """The option of a setting; one that holds several values is given several times, so its option is singular.

    >>> flag("max_batch"), flag("models")
    ('--max-batch', '--model')
    """
    return "--" + (name.removesuffix("s") if _several(Settings.model_fields[name]) else name).replace("_", "-")


def parameters() -> list[inspect.Parameter]:
    """What typer reads off a function's signature; an option that is not given is None, or an empty list."""
    return [_parameter(name, field) for name, field in Settings.model_fields.items()]


def takes_settings(function: Callable[[Settings], None]) -> Callable[..., None]:
    """The function of all options that builds the settings from them and calls ``function`` with these."""

    @wraps(function)
    def command(**given: Any) -> None:
        function(build(given))

    told: Any = command  # functions may have a __signature__, but their type does not say so
    told.__signature__ = inspect.Signature(parameters())
    return command


def build(given: dict[str, Any]) -> Settings:
    """Settings from the options that were given; then the environment and the defaults decide.

    Raises ConfigurationError, one line, that names the option and the variable of every value that is refused.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value not in (None, [])})
    except ValidationError as error:
        problems = [
            f"{_where(item['loc'])}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_input=False)
        ]
        raise ConfigurationError("; ".join(problems)) from None
    except SettingsError as error:
        raise ConfigurationError(str(error)) from None


def _several(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is tuple


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    kind: Any = field.annotation  # a type of any form
    declared, metavar = flag(name), None
    if _several(field):
        metavar = "PATH" if Path in get_args(kind) else "TEXT"
        kind = list[str]  # the settings turn texts into what they want
    elif bool in (kind, *get_args(kind)):
        declared += f"/--no-{declared[2:]}"
    default = "" if field.default in ((), None, "") else f"; default {str(field.default).lower()}"
    # The environment is read by the settings, not by typer: one place decides how a text becomes a value.
    text = f"{field.description} ({PREFIX}{name.upper()}{default})"
    option = typer.Option(declared, help=text, show_default=False, metavar=metavar, case_sensitive=False)
    if get_origin(kind) not in (Union, UnionType, list):
        kind |= None
    without: list[str] | None = [] if _several(field) else None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=without, annotation=Annotated[kind, option])


def _where(location: tuple[int | str, ...]) -> str:
    name = str(location[0]) if location else ""
    return f"{flag(name)} ({PREFIX}{name.upper()})" if name in Settings.model_fields else name
