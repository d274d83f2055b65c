"""What operations check of what they are about to make."""

from app.errors import Invalid
from app.negotiation import JSON, NPY
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


def check_drawn(limits: Settings, images: int, each: int, dim: int) -> None:
    """Raises Invalid where more latents are to be drawn on the way than ``max_draws``, or with more numbers than an
    answer could hold."""
    latents = images * each
    if latents > limits.max_draws:
        raise Invalid(
            f"{each} draws for each of {images} images are more than {limits.max_draws}; send fewer images, or ask for "
            "less."
        )
    if latents * dim > limits.max_npy_numbers:
        raise Invalid(
            f"The latents to be drawn would hold more than {limits.max_npy_numbers} numbers; send fewer images, or ask "
            "for less."
        )
