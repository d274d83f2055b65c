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
        location = item["loc"]
        key = _key(location, document, stated=item["type"] == "value_error")
        if item["type"].startswith("union_tag_"):  # what is wrong is the key that tells one kind from another
            key = f"{key}.{item['ctx']['discriminator'].strip(chr(39))}"
        section = key.rpartition(".")[0]
        within = [each for each in overrides if not key or each.startswith(f"{key}.")]
        at = [each for each in overrides if key and f"{key}.".startswith(f"{each}.")]
        place = f"--set {overrides[at[-1]]}" if at else origin
        if item["type"] == "extra_forbidden":
            if within and not at:  # the command line made this section, and says which key of it was meant
                key, place = within[-1], f"--set {overrides[within[-1]]}"
            words = _unknown(key, location, document, kind)
            if _kind_of(location, document) and key in _keys(kind):
                words += _of_another_kind(location, document, kind, {} if at or within else overrides)
        elif item["type"] == "value_error":  # ours: of values that do not go together
            words = str(item["ctx"]["error"])
            blamed = _spoken_of(words, {each: text for each, text in overrides.items() if each in {*within, *at}})
            place = origin + "".join(f", with --set {text}" for text in blamed)
        elif item["type"] == "missing" and (tag := _tag(section, overrides)):
            words, place = f"{key} is missing", f"--set {overrides[tag]}"
        else:
            words = f"{key} {_wrong(dict(item))}"
            if item["type"] == "union_tag_not_found" and not at and (makers := _makers(section, document, overrides)):
                place = f"--set {overrides[makers[-1]]}"
        lines.append((place, words))
    if len(lines) == 1:
        return ": ".join(lines[0])
    problems = [words if place == origin else f"{place}: {words}" for place, words in lines]
    return "\n  ".join([f"{origin}: {count(len(lines), 'problem')}", *problems])


def _spoken_of(words: str, overrides: Mapping[str, str]) -> list[str]:
    """Those that a message has the key of, or all, where it has no key."""
    keys = re.findall(r"[a-z_]+(?:\.[a-z_]+)+", words)
    return [text for each, text in overrides.items() if not keys or any(_overlap(each, key) for key in keys)]


def _makers(section: str, document: Mapping[str, Any], overrides: Mapping[str, str]) -> list[str]:
    """The keys that made a table, where the command line alone did."""
    within = [each for each in overrides if each.startswith(f"{section}.")]
    return (
        within if set(_table(section, document)) <= {each[len(section) + 1 :].split(".")[0] for each in within} else []
    )


def _table(section: str, document: Mapping[str, Any]) -> Mapping[str, Any]:
    table: Any = document
    for part in section.split("."):
        table = table[part]
    return dict(table)


def _tag(section: str, overrides: Mapping[str, str]) -> str | None:
    """The key that was changed, if one was, to make a section another kind of it."""
    return next((f"{section}.{tag}" for tag in _TAGS if f"{section}.{tag}" in overrides), None)


def _kind_of(location: tuple[int | str, ...], document: Mapping[str, Any]) -> str | None:
    """Of which kind the section of a key is, where pydantic has chosen one of several."""
    of_section, kind = location[:-2], str(location[-2]) if len(location) > 2 else None
    chosen = _key((*of_section, kind or ""), document, stated=True) == _key(of_section, document, stated=True)
    return kind if chosen else None


def _of_another_kind(
    location: tuple[int | str, ...], document: Mapping[str, Any], whole: type[BaseModel], overrides: Mapping[str, str]
) -> str:
    """What to do about a key that is of another kind of its section than this one."""
    section, chosen = _key(location[:-2], document), location[-2]
    if key := _tag(section, overrides):  # the file has what its own kind needs
        tag = key.rpartition(".")[2]
        needed = "".join(f", {each} = ..." for each in _needed(whole, section, tag, str(chosen)))
        return f": write --set '{section}={{{tag} = \"{chosen}\"{needed}}}' for a table in the place of the file's"
    return (
        ""
        if any(tag in _table(section, document) for tag in _TAGS)
        else f", which is the kind where {section}.kind is not given"
    )


def _needed(whole: type[BaseModel], section: str, tag: str, chosen: str) -> list[str]:
    """The keys beside its tag that a kind of a section cannot be without."""
    models = [whole]
    for part in section.split("."):
        models = [
            each
            for model in models
            if part in model.model_fields
            for each in _models(model.model_fields[part].annotation)
        ]
    of_kind = next(
        model
        for model in models
        if tag in model.model_fields and chosen in get_args(model.model_fields[tag].annotation)
    )
    return [name for name, field in of_kind.model_fields.items() if field.is_required() and name != tag]


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


def _unknown(key: str, location: tuple[int | str, ...], document: Mapping[str, Any], kind: type[BaseModel]) -> str:
    """That there is no such key, and which was meant.

    >>> from training.config import RunConfig
    >>> _unknown("data.paht", ("data", "paht"), {"data": {"paht": "x"}}, RunConfig)
    'there is no key data.paht; did you mean data.path?'
    >>> _unknown("epochs", ("epochs",), {"epochs": 1}, RunConfig)
    'there is no key epochs; did you mean optimization.epochs?'
    >>> document = {"model": {"network": {"kind": "mlp", "channels": 1}}}
    >>> _unknown("model.network.channels", ("model", "network", "mlp", "channels"), document, RunConfig)
    "model.network.channels does not go with 'mlp'"
    """
    known = list(dict.fromkeys(_keys(kind)))
    if key in known and (chosen := _kind_of(location, document)):
        return f"{key} does not go with {chosen!r}"
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
        parts.append(part if part.isidentifier() else f'"{part}"')
    return ".".join(parts)
