"""YAML 1.2 text → plain data, with the place of every key and value.

Campaign files are data that may come from anywhere, so the reader takes little: one document of mappings, lists and
scalars of the core schema. Anchors and aliases (a few lines of which unfold to gigabytes), tags, merge keys, duplicate
keys, NaN and infinities are refused, each with its line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from orchestrator.errors import ConfigError

LARGEST_FILE = 1_000_000
"""Bytes. ruamel reads about 100 kB a second; a campaign file has a few hundred lines."""

DEEPEST = 32
"""Levels of nesting. Real files have about six; ruamel's time grows with the square of the depth."""

LONGEST_NUMBER = 400
"""Characters. Python refuses integers of more than 4,300 digits in its own words; no quantity has 400."""

Path_ = tuple[str | int, ...]
_NULL = re.compile(r"null|Null|NULL|~|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL_OR_HEX = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)|[-+]?(inf|nan|NaN|Infinity)")


class Place(NamedTuple):
    """Where something stands: 1-based line and column."""

    line: int
    column: int


@dataclass(frozen=True)
class Source:
    """The content of a file, and where each part of it stands.

    Args:
        file: the file, as the user named it.
        text: its text.
        data: its content as dict, list and scalars.
        keys: path → place of the key (of the item, in a list).
        values: path → place of the value.
    """

    file: str = ""
    text: str = ""
    data: Any = None
    keys: Mapping[Path_, Place] = field(default_factory=dict)
    values: Mapping[Path_, Place] = field(default_factory=dict)

    def line(self, path: Path_, *, of_key: bool = False) -> int | None:
        """Return the line of a key or value, or of the nearest part around it that stands in the file.

        A mapping or list stands where its key does, not where its first item happens to be.
        """
        holds_more = any(len(other) > len(path) and other[: len(path)] == path for other in self.keys)
        places = self.keys if of_key or holds_more else self.values
        for length in range(len(path), -1, -1):
            place = (places if length == len(path) else self.keys).get(path[:length])
            if place is not None:
                return place.line
        return 1 if self.text else None

    def find(self, under: Path_, name: str) -> Path_:
        """Return the path of the first key of some name below a path; the path itself where there is none."""
        below = (p for p in self.keys if p[: len(under)] == under and len(p) > len(under) and p[-1] == name)
        return min(below, key=self.keys.__getitem__, default=under)

    def error(self, message: str, path: Path_ = (), *, of_key: bool = False) -> ConfigError:
        """Make the error about one part of the file."""
        return ConfigError(message, file=self.file, line=self.line(path, of_key=of_key), key=dotted(path))


def dotted(path: Path_) -> str:
    """Write a path as people read it, such as ``procedure[0].inputs.time``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_file(path: Path | str) -> Source:
    """Read a YAML file.

    Args:
        path: the file.

    Returns:
        Its content, with places.

    Raises:
        ConfigError: it cannot be read, is too large, or is no YAML of the kind described above.
    """
    file = str(path)
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(LARGEST_FILE + 1)
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}; give the path of a YAML file"
        raise ConfigError(message, file=file) from error
    if len(content) > LARGEST_FILE:
        message = f"is larger than {LARGEST_FILE:,} bytes; a campaign file names its data files, it does not hold them"
        raise ConfigError(message, file=file)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        message = f"is not UTF-8 text (byte {content[error.start]:#04x}); save it as UTF-8"
        raise ConfigError(message, file=file, line=line) from error
    return read_text(text, file)


def read_text(text: str, file: str = "") -> Source:
    """Read YAML text.

    Args:
        text: one YAML document.
        file: what to call it in errors.

    Returns:
        Its content, with places.

    Raises:
        ConfigError: it is no YAML of the kind described above.
    """
    builder = _Builder(file)
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            builder.take(event)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = f"is no YAML: {_advice(error, text)}"
        raise ConfigError(message, file=file, line=mark.line + 1 if mark else None) from error
    except YAMLError as error:
        message = f"is no YAML: {' '.join(str(error).split())}"
        raise ConfigError(message, file=file, line=1) from error
    return Source(file=file, text=text, data=builder.data, keys=builder.keys, values=builder.values)


_NO_KEY = object()


@dataclass
class _Open:
    """A mapping or list that is being filled."""

    content: dict[str, Any] | list[Any]
    path: Path_
    key: Any = _NO_KEY


class _Builder:
    """Fills plain data from parser events, without recursion."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.data: Any = None
        self.keys: dict[Path_, Place] = {}
        self.values: dict[Path_, Place] = {}
        self._open: list[_Open] = []
        self._documents = 0

    def take(self, event: Event) -> None:
        """Take in the next event."""
        if isinstance(event, DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._refuse("a second document ('---') begins; a file holds one", event)
            if event.tags or event.version:
                self._refuse("'%' directives are not taken; remove the line", event)
        elif isinstance(event, NodeEvent):
            self._node(event)
        elif isinstance(event, (MappingEndEvent, SequenceEndEvent)):
            self._open.pop()

    def _node(self, event: NodeEvent) -> None:
        if isinstance(event, AliasEvent) or event.anchor is not None:
            kind = "alias '*" if isinstance(event, AliasEvent) else "anchor '&"
            self._refuse(f"{kind}{event.anchor}' is not taken; write the value out", event)
        tag = getattr(event, "tag", None)
        if tag is not None:
            self._refuse(f"tag '{tag}' is not taken; a campaign file holds plain data", event)
        if len(self._open) >= DEEPEST:
            self._refuse(f"is nested more than {DEEPEST} levels deep", event)
        if self._is_key():
            self._key(event)
        elif isinstance(event, ScalarEvent):
            self._put(self._scalar(event), event)
        else:
            content: dict[str, Any] | list[Any] = {} if isinstance(event, MappingStartEvent) else []
            path = self._put(content, event)
            self._open.append(_Open(content, path))

    def _is_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].content, dict) and self._open[-1].key is _NO_KEY

    def _key(self, event: NodeEvent) -> None:
        parent = self._open[-1]
        if isinstance(event, (MappingStartEvent, SequenceStartEvent)):
            self._refuse("a key must be a word, not a mapping or list", event)
        key = self._scalar(event)
        if key == "<<":
            self._refuse("the merge key '<<' is not taken; write the keys out", event)
        if not isinstance(key, str):
            self._refuse(f"the key {key!r} is no text; write it in quotes", event)
        if key in parent.content:
            first = self.keys[(*parent.path, key)].line
            self._refuse(f"the key {key!r} stands twice; it was given in line {first} already", event)
        self.keys[(*parent.path, key)] = self._place(event)
        parent.key = key

    def _put(self, value: Any, event: NodeEvent) -> Path_:
        if not self._open:
            self.data = value
            self.keys[()] = self.values[()] = self._place(event)
            return ()
        parent = self._open[-1]
        if isinstance(parent.content, dict):
            path = (*parent.path, parent.key)
            parent.content[parent.key] = value
            parent.key = _NO_KEY
        else:
            path = (*parent.path, len(parent.content))
            parent.content.append(value)
            self.keys[path] = self._place(event)
        self.values[path] = self._place(event)
        return path

    def _scalar(self, event: NodeEvent) -> Any:
        if not isinstance(event, ScalarEvent):
            self._refuse("a word or number was expected here", event)
        text: str = event.value
        if not event.implicit[0]:  # quoted, or a block of text
            return text
        if _NOT_FINITE.fullmatch(text):
            self._refuse(f"{text} is no finite number; give a number", event)
        value = _plain_scalar(text)
        if value in (math.inf, -math.inf):
            self._refuse(f"{text} is too large a number", event)
        return value

    def _place(self, event: Event) -> Place:
        return Place(event.start_mark.line + 1, event.start_mark.column + 1)

    def _refuse(self, message: str, event: Event) -> NoReturn:
        key = ""
        if self._open:
            parent = self._open[-1]
            path = parent.path if parent.key is _NO_KEY else (*parent.path, parent.key)
            key = dotted(path) if len(path) < DEEPEST - 1 else dotted(path[:1])
        raise ConfigError(message, file=self.file, line=self._place(event).line, key=key)


def _plain_scalar(text: str) -> Any:
    """Read an unquoted scalar by the core schema of YAML 1.2, in which ``no`` and ``1_000`` are texts."""
    value: Any = text
    if _NULL.fullmatch(text):
        value = None
    elif _BOOL.fullmatch(text):
        value = text.lower() == "true"
    elif len(text) <= LONGEST_NUMBER:
        if _INT.fullmatch(text):
            value = int(text)
        elif _OCTAL_OR_HEX.fullmatch(text):
            value = int(text, 0)
        elif _FLOAT.fullmatch(text):
            value = float(text)
    return value


def _advice(error: MarkedYAMLError, text: str) -> str:
    problem = error.problem or "cannot be read"
    mark = error.problem_mark
    lines = text.splitlines()
    line = lines[mark.line] if mark and mark.line < len(lines) else ""
    if "\\t" in problem or line[: len(line) - len(line.lstrip())].count("\t"):
        return "a tab stands where spaces are expected; indent with spaces"
    if "mapping values are not allowed" in problem:
        return f"a second ':' in {line.strip()!r}; put text that holds ': ' in quotes, or check the indentation"
    if "end of stream" in problem or "expected ',' or" in problem:
        return f"{problem}; a bracket or quote is not closed"
    if "cannot start any token" in problem:
        return f"{problem}; put the text in quotes"
    return f"{problem}; check indentation, brackets and quotes here"
