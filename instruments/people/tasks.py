"""Task cards and answers as files: what `operator` and its command line share.

An answer holds ``by``, ``at`` (ISO 8601 with zone) and one of: ``values`` (property → value, unit, std_error), or
``failed`` (why the work gave no result) or ``not_started`` (why it was not begun). ``applied`` holds set-points that
were other than asked, ``notes`` whatever is worth keeping.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import platformdirs

from orchestrator.domain import Attachment, Capability, Order, Quantity, Reading, Result
from orchestrator.errors import Effect, Fault, MatloopError, Rejected, UnitError
from orchestrator.units import convert

FOLDERS = ("outbox", "inbox", "withdrawn", "refused")
Content = dict[str, Any]
"""JSON of a card or an answer; people and other programs write answers, so nothing about it is taken for granted."""
AHEAD_US = 60 * 1_000_000
"""How far the clock of the person's computer may be ahead."""
KEY = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$")


class AnswerError(MatloopError):
    """An answer that cannot be taken; the message says what was expected."""


def default_folder() -> Path:
    """Return the folder for task cards where no option names one.

    Returns:
        `$MATLOOP_HOME/operator`, or `operator` in the user's data folder.
    """
    home = os.environ.get("MATLOOP_HOME") or platformdirs.user_data_dir("matloop")
    return Path(home) / "operator"


def prepare(folder: Path) -> None:
    """Make the folders.

    Args:
        folder: of the operator.

    Raises:
        OSError: they cannot be made or written to.
    """
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    if not os.access(folder / "outbox", os.W_OK):
        message = f"{folder / 'outbox'} cannot be written to"
        raise PermissionError(message)


def card(
    order: Order, capability: Capability, numbers: Mapping[str, float], choices: Mapping[str, str], instructions: str
) -> Content:
    """Write an order as a task card.

    Args:
        order: what is asked.
        capability: with the units that answers are expected in.
        numbers: checked set-points in the declared units.
        choices: checked categorical set-points.
        instructions: for the person.

    Returns:
        The card's content.
    """
    units = {parameter.name: parameter.unit for parameter in capability.parameters}
    return {
        "key": order.key,
        "task": capability.name,
        "label": order.label,
        "sample": order.sample,
        "instructions": instructions,
        "settings": {name: {"value": value, "unit": units[name]} for name, value in numbers.items()},
        "choices": dict(choices),
        "crystal": order.crystal.to_json() if order.crystal else None,
        "answer_with": {o.name: o.unit for o in capability.outputs if o.kind == "number"},
        "issued_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def issue(folder: Path, content: Content) -> None:
    """Put a card into the outbox, unless it lies there already.

    Args:
        folder: of the operator.
        content: of the card.
    """
    prepare(folder)
    if read_card(folder, str(content["key"])) is None:
        _write(_path(folder, "outbox", str(content["key"])), content)


def read_card(folder: Path, key: str) -> Content | None:
    """Return a card by key, withdrawn or not, or None.

    Args:
        folder: of the operator.
        key: dispatch key.
    """
    return _read(_path(folder, "outbox", key)) or _read(_path(folder, "withdrawn", key))


def waiting(folder: Path) -> list[Content]:
    """Return the cards that nobody has answered, oldest first.

    Args:
        folder: of the operator.
    """
    cards = [_read(path) for path in sorted((folder / "outbox").glob("*.json"))]
    open_ones = [c for c in cards if c is not None and _read(_path(folder, "inbox", str(c["key"]))) is None]
    return sorted(open_ones, key=lambda c: str(c["issued_at"]))


def is_withdrawn(folder: Path, key: str) -> bool:
    """Say whether the campaign took a card back."""
    return _path(folder, "withdrawn", key).exists()


def withdraw(folder: Path, key: str, reason: str) -> None:
    """Take a card back, so that nobody begins work on it.

    Args:
        folder: of the operator.
        key: dispatch key.
        reason: why.
    """
    content = _read(_path(folder, "outbox", key))
    if content is not None:
        _write(_path(folder, "withdrawn", key), {**content, "withdrawn_because": reason})
        _path(folder, "outbox", key).unlink(missing_ok=True)


def find(folder: Path, start: str) -> Content:
    """Return the one waiting card whose key begins with some characters.

    Args:
        folder: of the operator.
        start: first characters of the key.

    Raises:
        AnswerError: there is none, or several.
    """
    cards = [c for c in waiting(folder) if str(c["key"]).startswith(start)]
    if len(cards) == 1:
        return cards[0]
    answered = [p.stem for p in (folder / "inbox").glob(f"{start}*.json")] if start.isalnum() else []
    if answered and not cards:
        given = _read(_path(folder, "inbox", answered[0])) or {}
        message = f"card {answered[0]} was answered already, by {given.get('by')} at {given.get('at')}"
        raise AnswerError(message)
    message = (
        f"{len(cards)} waiting cards in {folder} have a key that begins with {start!r}; exactly one was expected"
        " ('matloop instrument tasks' lists them)"
    )
    raise AnswerError(message)


def answer(folder: Path, content: Content) -> Path:
    """Check an answer and put it into the inbox; the first answer to a card stands.

    Args:
        folder: of the operator.
        content: of the answer.

    Returns:
        The file.

    Raises:
        AnswerError: there is no such card, it is answered already, or values or units are not what the card expects.
    """
    key = str(content.get("key", ""))
    task = _read(_path(folder, "outbox", key))
    if task is None:
        message = f"there is no card {key!r} in {folder / 'outbox'}"
        raise AnswerError(message)
    check(task, content)
    path = _path(folder, "inbox", key)
    try:
        _write(path, content, replace=False)
    except FileExistsError as error:
        message = f"card {key} was answered already; see {path}"
        raise AnswerError(message) from error
    return path


def check(task: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """Check an answer against its card.

    Args:
        task: the card.
        content: the answer.

    Raises:
        AnswerError: says what was seen and what the card expects.
    """
    if not str(content.get("by", "")).strip():
        message = "an answer needs 'by': the name of the person who measured"
        raise AnswerError(message)
    measured, issued = _time(content), int(datetime.fromisoformat(task["issued_at"]).timestamp() * 1e6)
    if not issued <= measured <= time.time_ns() // 1000 + AHEAD_US:
        message = f"'at' is {content['at']}; a time after {task['issued_at']}, when the card was made, was expected"
        raise AnswerError(message)
    if content.get("failed") or content.get("not_started"):
        return
    values = content.get("values")
    expected = task["answer_with"]
    wish = ", ".join(f"{name} in {unit}" for name, unit in expected.items())
    if not isinstance(values, Mapping) or set(values) != set(expected):
        seen = ", ".join(values) if isinstance(values, Mapping) else repr(values)
        message = f"the answer holds {seen or 'nothing'}; the card expects {wish}"
        raise AnswerError(message)
    for name, given in values.items():
        _quantity(name, given, expected[name])
    asked = task["settings"]
    for name, given in (content.get("applied") or {}).items():
        if name not in asked:
            message = f"'applied' names {name!r}; the card's settings are: {', '.join(asked) or 'none'}"
            raise AnswerError(message)
        _quantity(name, given, asked[name]["unit"])


def take(folder: Path, task: Mapping[str, Any]) -> Result | None:
    """Read the answer to a card, if a complete one is there.

    An answer that is wrong is moved aside with its reason, so that the person can answer again.

    Args:
        folder: of the operator.
        task: the card.

    Returns:
        The result, or None where there is no (complete, right) answer yet.

    Raises:
        Rejected: the person did not begin.
        Fault: the person did the work and it gave no result.
    """
    key = str(task["key"])
    path = _path(folder, "inbox", key)
    content = _read(path)
    if content is None:
        return None
    try:
        check(task, content)
    except AnswerError as error:
        _refuse(folder, path, content, str(error))
        return None
    return result_of(task, content)


def result_of(task: Mapping[str, Any], content: Mapping[str, Any]) -> Result:
    """Turn a checked answer into a result.

    Args:
        task: the card.
        content: the answer.

    Returns:
        The result.

    Raises:
        Rejected: the work was not begun.
        Fault: the work was done and gave no result.
    """
    key = str(task["key"])
    by = str(content["by"])
    if reason := content.get("not_started"):
        message = f"{by} did not begin: {reason}"
        raise Rejected(message)
    if reason := content.get("failed"):
        message = f"{by} reports: {reason}"
        raise Fault(message, effect=Effect.DONE)
    at = _time(content)
    readings = tuple(
        Reading(name, float(given["value"]), str(given["unit"]), given.get("std_error"), measured_at=at)
        for name, given in content["values"].items()
    )
    settings = {**task["settings"], **(content.get("applied") or {})}
    return Result(
        key=key,
        readings=readings,
        applied={name: Quantity(float(q["value"]), str(q["unit"])) for name, q in settings.items()},
        applied_choices={str(k): str(v) for k, v in task["choices"].items()},
        attachments=(Attachment("answer.json", "application/json", _dump(content)),),
        notes=f"measured by {by}" + (f": {content['notes']}" if content.get("notes") else ""),
    )


def _refuse(folder: Path, path: Path, content: Content, reason: str) -> None:
    aside = path.with_name(f".{path.name}.refused")
    path.replace(aside)
    if _read(aside) != content:  # a better answer came in between: it goes back, to be read next
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
    aside.unlink(missing_ok=True)
    number = len(list((folder / "refused").glob(f"{path.stem}.*.json"))) + 1
    _write(folder / "refused" / f"{path.stem}.{number}.json", {"refused_because": reason, "answer": content})


def _quantity(name: str, given: Any, unit: str) -> None:
    try:
        value, seen = float(given["value"]), str(given["unit"])
        convert(value, seen or "dimensionless", unit)
        errors = [] if given.get("std_error") is None else [float(given["std_error"])]
    except UnitError as error:
        message = f"{name}: {error}; the card expects {unit}"
        raise AnswerError(message) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"{name} is {given!r}; a value with its unit was expected, in {unit}"
        raise AnswerError(message) from error
    if not math.isfinite(value) or any(not math.isfinite(e) or e < 0 for e in errors):
        message = f"{name} is {given!r}; finite numbers were expected, in {unit}"
        raise AnswerError(message)


def _time(content: Mapping[str, Any]) -> int:
    text = content.get("at")
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError as error:
        message = f"'at' is {text!r}; the time of the measurement was expected, such as 2026-05-01T14:30:00+02:00"
        raise AnswerError(message) from error
    if at.tzinfo is None:
        message = f"'at' is {text!r}, without a time zone; write it such as 2026-05-01T14:30:00+02:00"
        raise AnswerError(message)
    return int(at.timestamp() * 1e6)


def _path(folder: Path, name: str, key: str) -> Path:
    if not KEY.match(key):
        message = f"the key {key!r} is no file name; letters, digits, - and _ were expected"
        raise Rejected(message)
    return folder / name / f"{key}.json"


def _read(path: Path) -> Content | None:
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):  # ValueError: not complete yet; the writer has not finished
        return None
    return content if isinstance(content, dict) else None


def _dump(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, indent=2, ensure_ascii=False).encode()


def _write(path: Path, content: Content, *, replace: bool = True) -> None:
    write_whole(path, _dump(content), replace=replace)


def write_whole(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Write a file so that it appears complete, and lasts.

    Args:
        path: of the file.
        content: of the file.
        replace: whether it may be there already.

    Raises:
        FileExistsError: it is, and may not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    try:
        if replace:
            beside.replace(path)
        else:
            os.link(beside, path)  # fails where the file exists: the first answer stands
    finally:
        beside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
