"""What people read: numbers of things, and lines on a terminal or in a log."""

from rich.console import Console


def count(n: int, one: str, many: str | None = None) -> str:
    """A number of things, in grammar; the plural has an s unless it is given.

    >>> count(1, "file"), count(1200, "picture"), count(0, "file is", "files are")
    ('1 file', '1,200 pictures', '0 files are')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def say(console: Console, text: str) -> None:
    """One line as it is: no colors guessed, nothing in brackets taken for a style, and no line broken to fit."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)
