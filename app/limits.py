"""What operations check of what they are about to make, and how they name what they made."""

import secrets

from app.engine import Model
from app.errors import Invalid
from app.negotiation import JSON, NPY
from app.schemas import SEED_BOUND
from app.settings import Settings


def check_count(limits: Settings, count: int, pointer: str) -> None:
    """Raises Invalid beyond ``max_count``."""
    if count > limits.max_count:
        raise Invalid.at(pointer, f"Must be at most {limits.max_count}.")


def check_numbers(limits: Settings, numbers: int, media: str) -> None:
    """Raises Invalid for more numbers than an answer of this type may hold."""
    if media == JSON and numbers > limits.max_json_numbers:
        most = limits.max_json_numbers
        raise Invalid(f"The answer would hold more than {most} numbers of JSON; ask for {NPY}, or for less.")
    if numbers > limits.max_npy_numbers:
        raise Invalid(f"The answer would hold more than {limits.max_npy_numbers} numbers; ask for less.")


def seed_of(given: int | None) -> int:
    """The seed given, or a new one."""
    return secrets.randbelow(SEED_BOUND) if given is None else given


def seed_header(seed: int | None) -> dict[str, str]:
    """The header that tells a seed, if anything was drawn."""
    return {} if seed is None else {"X-Seed": str(seed)}


def named(model: Model, seed: int | None) -> dict[str, object]:
    """The first fields of every JSON answer."""
    fields: dict[str, object] = {"model": model.bundle.name, "version": model.bundle.version}
    return fields if seed is None else fields | {"seed": seed}
