"""pydantic's errors → one readable error with file, line, key, value seen, what is allowed, and the nearest word."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from orchestrator.config.source import Path_, Source, dotted
from orchestrator.errors import ConfigError

LONGEST_SEEN = 60
"""Characters of a wrong value that a message repeats."""

AS_NEAR = 0.08
"""Similarity by which a second word may be further away and is suggested too."""

EXPECTED = {
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text",
    "list_type": "a list ('- …' lines, or […])",
    "tuple_type": "a list ('- …' lines, or […])",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
    "path_type": "the path of a file",
}
"""pydantic's error type → what was expected, in words of the file."""


def nearest(word: object, allowed: Iterable[str]) -> str:
    """Suggest the allowed words that are nearest to a wrong one, or list them all.

    Args:
        word: as written.
        allowed: what could stand there.

    Returns:
        Half a sentence, such as ``did you mean 'minimize'? Allowed: 'maximize', 'minimize'``.
    """
    words = list(dict.fromkeys(allowed))
    by_lower = {w.lower(): w for w in words}
    wrong = str(word).lower()
    close = difflib.get_close_matches(wrong, list(by_lower), n=2, cutoff=0.6)
    best = difflib.SequenceMatcher(None, wrong, close[0]).ratio() if close else 0.0
    near = [by_lower[w] for w in close if difflib.SequenceMatcher(None, wrong, w).ratio() > best - AS_NEAR]
    listed = f"allowed: {', '.join(words)}" if words else "nothing is allowed here"
    if not near:
        return listed
    hint = f"did you mean {' or '.join(repr(w) for w in near)}?"
    return f"{hint} {listed[0].upper()}{listed[1:]}" if words else hint


def seen(value: object) -> str:
    """Repeat a wrong value, shortened."""
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= LONGEST_SEEN else f"{text[: LONGEST_SEEN - 1]}…"


def as_config_error(error: ValidationError, source: Source, model: type[BaseModel], at: Path_ = ()) -> ConfigError:
    """Turn pydantic's errors into one readable error.

    Args:
        error: what pydantic found.
        source: the file, for lines.
        model: the class that refused, for the words that are allowed.
        at: where in the file the model's content stands.

    Returns:
        The error about the first line in question; further ones are listed in its message.
    """
    inside = _inside(source.data, at)
    found: dict[tuple[int, str], str] = {}
    errors = error.errors()
    for one in errors:
        if _follows_from_another(one, errors, inside):
            continue
        path, of_key, message = _readable(one, inside, model)
        line = source.line((*at, *path), of_key=of_key) or 0
        found.setdefault((line, dotted((*at, *path))), message)
    ordered = sorted(found.items())
    (line, key), message = ordered[0]
    if len(ordered) > 1:
        others = [f"\n  {source.file}:{line}: {key}: {text}" for (line, key), text in ordered[1:]]
        message += f"\nand {len(others)} more:{''.join(others)}"
    return ConfigError(message, file=source.file, line=line or None, key=key)


def _follows_from_another(one: Any, errors: Sequence[Any], data: Any) -> bool:
    """Say whether an error only repeats another.

    A list "is too short" where its items are wrong; a key "is missing" where it is misspelt.
    """
    if one["type"] == "too_short":
        return bool(_inside(data, _path_in(data, one["loc"])))
    if one["type"] != "missing":
        return False
    around = _path_in(data, one["loc"])
    unknown = [
        e["loc"][-1] for e in errors if e["type"] == "extra_forbidden" and _path_in(data, e["loc"])[:-1] == around
    ]
    near = difflib.get_close_matches(str(one["loc"][-1]), [str(word) for word in unknown], n=1)
    return bool(near) or (bool(unknown) and len(one["loc"]) > len(around) + 1)


def _readable(one: Any, data: Any, model: type[BaseModel]) -> tuple[Path_, bool, str]:
    """Return path, whether the key (not its value) is in question, and the message of one error."""
    kind, path = one["type"], _path_in(data, one["loc"])
    if kind == "extra_forbidden":
        word, parent = str(one["loc"][-1]), path[:-1]
        return path, True, f"no such key; {nearest(word, keys_allowed(model, parent))}"
    if kind == "missing":
        missing = str(one["loc"][-1])
        return path, True, f"the key {missing!r} is missing; add it ({_describe(model, path, missing)})"
    if kind == "value_error" and isinstance(value := _inside(data, path), Mapping):
        named = re.match(r"'(\w+)'", str(one["ctx"]["error"]))  # a check of several keys names the one to look at
        if named and named[1] in value:
            return (*path, named[1]), True, _about_value(one)
    return path, False, _about_value(one)


def _about_value(one: Any) -> str:
    kind, value, text = one["type"], one.get("input"), str(one["msg"])
    context: Mapping[str, Any] = one.get("ctx") or {}
    if kind == "value_error":
        return str(context["error"])
    if kind in {"literal_error", "enum"}:
        words = [w.strip().strip("'") for w in str(context["expected"]).replace(" or ", ", ").split(",")]
        return f"seen {seen(value)}; {nearest(value, words)}"
    if kind == "string_pattern_mismatch":
        return f"seen {seen(value)}; {_pattern(str(context['pattern']))}"
    if kind in EXPECTED:
        return f"seen {seen(value)}; {EXPECTED[kind]} was expected"
    return f"seen {seen(value)}; it {text.removeprefix('Input ')}" if text.startswith("Input should") else text


def _pattern(pattern: str) -> str:
    if "\\." in pattern and "from" not in pattern and "w" not in pattern:
        return "write candidate.PARAMETER, candidate.structure or STEP.OUTPUT"
    return (
        "a name begins with a letter and goes on with letters, digits, '_' (and '-', in names of campaigns and steps)"
    )


def _path_in(data: Any, loc: Sequence[str | int]) -> Path_:
    """Keep what stands in the data: pydantic puts names of union members and validators between."""
    path: list[str | int] = []
    here = data
    for part in loc:
        try:
            here = here[part]
        except (KeyError, IndexError, TypeError):
            continue
        path.append(part)
    return tuple(path)


def _inside(data: Any, path: Path_) -> Any:
    """Return the part of the data at a path; nothing where it was left out."""
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return {}
    return data


def keys_allowed(model: type[BaseModel], path: Path_) -> list[str]:
    """List the keys that a mapping may have.

    Args:
        model: class of the whole.
        path: of the mapping in it.

    Returns:
        Names as written in the file; empty where the mapping takes no fixed keys.
    """
    return list(dict.fromkeys(name for m in models_at(model, path) for name in _fields(m)))


def models_at(annotation: Any, path: Path_) -> list[type[BaseModel]]:
    """List the model classes that a part of a file may be read into."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return models_at(get_args(annotation)[0], path)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if not path:
            return [annotation]
        field = _fields(annotation).get(str(path[0]))
        return models_at(field, path[1:]) if field is not None else []
    arguments = [a for a in get_args(annotation) if a not in {NoneType, ...}]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return models_at(arguments[1], path[1:]) if path else []
    if isinstance(origin, type) and issubclass(origin, (tuple, list, Sequence)):
        return models_at(arguments[0], path[1:]) if path else []
    return [m for argument in arguments for m in models_at(argument, path)]


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _describe(model: type[BaseModel], path: Path_, name: str) -> str:
    for m in models_at(model, path):
        for field_name, field in m.model_fields.items():
            if (field.alias or field_name) == name:
                return field.description or f"{name}: …"
    return f"{name}: …"
