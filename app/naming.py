"""What an answer says of where it comes from: the model, its version, and the seed of what was drawn."""

import secrets

from app.engine import Model
from app.schemas import SEED_BOUND


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
