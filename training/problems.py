"""What is wrong with a configuration: in words, with the place to mend it, and with the key that was meant."""

import re
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from model.bundle.manifest import NAME_PATTERN
from training.words import count

# How alike a key must be to one that was not found.
_ALIKE = 0.7

# Keys that tell one kind of a section from another.
_TAGS = ("kind", "family")

_WORDS = {
    "missing": "is missing",
    "finite_number": "must be a finite number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
    "multiple_of": "must be a multiple of {multiple_of}",
    "literal_error": "must be {expected}",
    "union_tag_invalid": "must be one of {expected_tags}",
    "union_tag_not_found": "is missing",
    "string_type": "must be text (in quotes, where it looks like a number)",
    "path_type": "must be text (in quotes, where it looks like a number)",
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "must be a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "must be true or false"),
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "must be a table of keys and values"),
}
_NAME = "must be of small letters, digits, '.', '_' and '-', 64 at most, the first a letter or a digit"


def in_words(
    error: ValidationError,
    document: Mapping[str, Any],
    kind: type[BaseModel],
    origin: str,
    overrides: Mapping[str, str],
) -> str:
    """What a person at a terminal reads of a document that is no ``kind``.

    Args:
        origin: the file, named unless the command line is to blame.
        overrides: what was changed on the command line: dotted key -> the whole of what was typed.
    """
    lines = []
    for item in error.errors():
        key = _key(item["loc"], document, stated=item["type"] == "value_error")
        if item["type"].startswith("union_tag_"):  # what is wrong is the key that tells one kind from another
            key = f"{key}.{item['ctx']['discriminator'].strip(chr(39))}"
        within = [text for each, text in overrides.items() if not key or each.startswith(f"{key}.")]
        at = [each for each in overrides if key and f"{key}.".startswith(f"{each}.")]
        place = f"--set {overrides[at[-1]]}" if at else origin
        if item["type"] == "extra_forbidden":
            if within and not at:  # the command line made this section, and says which key of it was meant
                key, place = next(each for each, text in overrides.items() if text == within[-1]), f"--set {within[-1]}"
            words = _unknown(key, item["loc"], kind)
            if words.startswith(f"{key} "):  # there is such a key, of another kind
                words += _of_another_kind(item["loc"], document, overrides if not at else {})
        elif item["type"] == "value_error":  # ours: of values that do not go together
            words = str(item["ctx"]["error"])
            theirs = {each: text for each, text in overrides.items() if each in at or text in within}
            place = origin + "".join(f", with --set {text}" for text in _spoken_of(words, theirs))
        elif item["type"] == "missing" and (tag := _tag(key.rpartition(".")[0], overrides)):
            words, place = f"{key} is missing", f"--set {overrides[tag]}"
        else:
            words = f"{key} {_wrong(dict(item))}"
        lines.append((place, words))
    if len(lines) == 1:
        return ": ".join(lines[0])
    problems = [words if place == origin else f"{place}: {words}" for place, words in lines]
    return "\n  ".join([f"{origin}: {count(len(lines), 'problem')}", *problems])


def _spoken_of(words: str, overrides: Mapping[str, str]) -> list[str]:
    """Those that a message has the key of, or all, where it has none."""
    keys = re.findall(r"[a-z_]+(?:\.[a-z_]+)+", words)
    found = [text for each, text in overrides.items() if any(_overlap(each, key) for key in keys)]
    return found or list(overrides.values())


def _tag(section: str, overrides: Mapping[str, str]) -> str | None:
    """The key that was changed, if one was, to make a section another kind of it."""
    return next((f"{section}.{tag}" for tag in _TAGS if f"{section}.{tag}" in overrides), None)


def _of_another_kind(location: tuple[int | str, ...], document: Mapping[str, Any], overrides: Mapping[str, str]) -> str:
    """What to do about a key that is of another kind of its section than this one."""
    section, kind = _key(location[:-2], document), location[-2]
    if tag := _tag(section, overrides):  # it is of the kind that the file has
        return (
            f": --set '{section}={{{tag.rpartition('.')[2]} = \"{kind}\"}}', with the keys that this kind needs, puts "
            "another table in the place of the file's"
        )
    here: Any = document
    for part in section.split("."):
        here = here[part]
    return "" if any(tag in here for tag in _TAGS) else f", which it is where {section}.kind is not given"


def _overlap(one: str, other: str) -> bool:
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _wrong(item: dict[str, Any]) -> str:
    """What is wrong with a value."""
    if item["type"] == "string_pattern_mismatch" and item["ctx"]["pattern"] == NAME_PATTERN:
        words = _NAME
    elif item["type"] in _WORDS:
        words = _WORDS[item["type"]].format_map(item.get("ctx", {}))
    else:
        words = f"is wrong: {item['msg'][0].lower()}{item['msg'][1:]}"
    shown = item["input"]
    if item["type"] == "union_tag_invalid":
        shown = item["ctx"]["tag"]
    return f"{words}, not {shown!r}" if isinstance(shown, str | int | float) else words


def _unknown(key: str, location: tuple[int | str, ...], kind: type[BaseModel]) -> str:
    """That there is no such key, and which was meant.

    >>> from training.config import RunConfig
    >>> _unknown("data.paht", ("data", "paht"), RunConfig)
    'there is no key data.paht; did you mean data.path?'
    >>> _unknown("epochs", ("epochs",), RunConfig)
    'there is no key epochs; did you mean optimization.epochs?'
    >>> _unknown("model.network.channels", ("model", "network", "mlp", "channels"), RunConfig)
    "model.network.channels does not go with 'mlp'"
    """
    known = list(dict.fromkeys(_keys(kind)))
    if key in known:
        return f"{key} does not go with {location[-2]!r}"
    leaf = key.rpartition(".")[2]
    # A key of that name in another section, or the one that is spelled most alike.
    found = [each for each in known if each.rpartition(".")[2] == leaf]
    if not found:
        alike = [(_likeness(each.rpartition(".")[2], leaf), _likeness(each, key), each) for each in known]
        found = [each for likeness, _, each in [max(alike)] if likeness >= _ALIKE]
    return f"there is no key {key}" + (f"; did you mean {' or '.join(found)}?" if found else "")


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()


def _keys(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key, sections included."""
    for name, field in kind.model_fields.items():
        yield prefix + name
        for section in _models(field.annotation):
            yield from _keys(section, f"{prefix}{name}.")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    else:
        for part in get_args(annotation):
            yield from _models(part)


def _key(location: tuple[int | str, ...], document: Mapping[str, Any], *, stated: bool = False) -> str:
    """The dotted key as it is written: pydantic's location without the kinds it has chosen. Its last part may be absent
    from the document, unless it is ``stated``.

    >>> _key(("model", "network", "mlp", "depth"), {"model": {"network": {"kind": "mlp", "depth": 1}}})
    'model.network.depth'
    >>> _key(("optimization", "betas", 1), {"optimization": {"betas": [0.9, 1.0]}})
    'optimization.betas'
    """
    parts: list[str] = []
    here: Any = document
    for place, part in enumerate(location):
        if isinstance(part, int):
            break
        if isinstance(here, Mapping) and part not in here and (stated or place < len(location) - 1):
            continue
        here = here.get(part) if isinstance(here, Mapping) else None
        parts.append(part)
    return ".".join(parts)
