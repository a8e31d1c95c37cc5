"""Orders and results as files that another program reads and writes: what `file_drop` is made of.

::

    outbox/KEY.csv      an order: a row of names, a row of units, a row of values
    running/KEY.*       where the program moves an order that it has begun, if it does
    inbox/KEY.csv       the result, written in the same three rows
    taken/KEY.json      the result as it was taken: a later copy of it changes nothing
    refused/KEY.N.csv   results that could not be taken, each with KEY.N.txt that says why

A result that is still being written is left alone: its size must stand still, and it must be whole. Keys are checked
before they become file names, and links are never followed: what stands in the inbox was written by somebody else.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from instruments.people.tasks import KEY, AnswerError, Content, check, result_of, write_whole
from orchestrator.domain import Attachment, Result
from orchestrator.errors import Rejected

Format = Literal["csv", "json"]
FOLDERS = ("outbox", "running", "completed", "inbox", "taken", "refused", "withdrawn", "cards")
LARGEST = 16 * 2**20
"""Bytes of a result file; spectra belong beside it, as attachments."""
ROWS = 3
"""Names, units, values."""
ERROR = "_std_error"
PLAIN = ("key", "by", "at", "notes", "failed", "not_started", "sample")
"""Columns without a unit."""


class Incomplete(Exception):
    """A file that is not whole (yet)."""


@dataclass(frozen=True)
class Habits:
    """What the other program does.

    Args:
        form: of orders; results may have either.
        settle_s: a file whose size stands still so long is taken for written.
        patience_s: one that is not whole after so long is refused.
        done: ending of a marker file that says that a result is whole; empty where there is none.
        attach: endings of files that come with each result.
        moves: it takes an order by moving it out of the outbox.
    """

    form: Format = "csv"
    settle_s: float = 1.0
    patience_s: float = 30.0
    done: str = ""
    attach: tuple[str, ...] = ()
    moves: bool = True


class DropFolder:
    """A folder that is shared with another program.

    Args:
        folder: shared.
        habits: of the other program.
        who: name that results carry where they name nobody.
    """

    def __init__(self, folder: Path, habits: Habits, who: str) -> None:
        self.folder = folder
        self._habits = habits
        self._who = who
        self._seen: dict[Path, tuple[tuple[int, int], float]] = {}

    def prepare(self) -> None:
        """Make the folders, and prove that orders can be written."""
        for name in FOLDERS:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        if not os.access(self.folder / "outbox", os.W_OK):
            message = f"{self.folder / 'outbox'} cannot be written to"
            raise PermissionError(message)

    def issue(self, card: Content) -> None:
        """Write an order into the outbox, unless its key is known."""
        key = str(card["key"])
        if self.card(key) is not None:
            return
        self.prepare()
        content = _rows(card) if self._habits.form == "csv" else json.dumps(card, indent=2).encode()
        # The card first: an order without one would be sent again; with neither order nor mark a person is asked.
        write_whole(self._path("cards", key, "json"), json.dumps(card).encode())
        write_whole(self._path("outbox", key, self._habits.form), content)
        write_whole(self._path("cards", key, "issued"), b"")

    def card(self, key: str) -> Content | None:
        """Return the order of a key."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            card = json.loads(self._path("cards", key, "json").read_bytes())
            return card if isinstance(card, dict) else None
        return None

    def on_its_way(self, key: str) -> bool:
        """Say whether an order was certainly laid down."""
        places = ("outbox", "running", "completed", "inbox")
        return self._path("cards", key, "issued").exists() or any(self._find(place, key) for place in places)

    def waiting(self) -> int:
        """Return how many orders lie in the outbox."""
        return sum(1 for path in (self.folder / "outbox").iterdir() if KEY.match(path.stem))

    def is_withdrawn(self, key: str) -> bool:
        """Say whether an order was taken back."""
        return bool(self._find("withdrawn", key))

    def withdraw(self, key: str, reason: str) -> bool:
        """Take an order back; say whether the other program certainly had not begun."""
        path = self._path("outbox", key, self._habits.form)
        note = self._path("withdrawn", key, "txt")
        write_whole(note, reason.encode())
        try:
            path.rename(self._path("withdrawn", key, self._habits.form))
        except FileNotFoundError:
            return False  # it is at work on it
        return self._habits.moves

    def take(self, card: Content) -> Result | None:
        """Return the result of an order, where a whole and right one is there; the first one counts."""
        key = str(card["key"])
        taken = self._path("taken", key, "json")
        with contextlib.suppress(FileNotFoundError, ValueError):
            return self._result(card, json.loads(taken.read_bytes()))
        for form in ("csv", "json"):
            path = self._path("inbox", key, form)
            if not self._settled(path):
                continue
            try:
                content = self._content(path, form, card)
                check(card, content)
                result = self._checked(card, content)
            except Incomplete as error:
                if time.time() - path.lstat().st_mtime > self._habits.patience_s:
                    self._refuse(path, f"it is not whole: {error}")
                continue
            except AnswerError as error:
                self._refuse(path, str(error))
                continue
            if result is not None:
                with contextlib.suppress(FileExistsError):
                    write_whole(taken, json.dumps(content).encode(), replace=False)
                return result
        return None

    def _checked(self, card: Content, content: Content) -> Result | None:
        waits = not (content.get("failed") or content.get("not_started")) and not all(
            self._settled(path) for path in self._beside(str(card["key"]))
        )
        return None if waits else self._result(card, content)

    def _result(self, card: Content, content: Content) -> Result:
        result = result_of(card, content)
        beside = tuple(
            Attachment(path.name, "application/octet-stream", _read(path)) for path in self._beside(str(card["key"]))
        )
        return Result(
            result.key,
            result.readings,
            result.structures,
            result.applied,
            result.applied_choices,
            (*result.attachments, *beside),
            result.notes,
        )

    def _beside(self, key: str) -> list[Path]:
        return [self._path("inbox", key, ending.lstrip(".")) for ending in self._habits.attach]

    def _settled(self, path: Path) -> bool:
        try:
            found = path.lstat()
        except FileNotFoundError:
            self._seen.pop(path, None)
            return False
        if self._habits.done:
            return path.with_name(path.stem + self._habits.done).exists()
        size, now = (found.st_size, found.st_mtime_ns), time.monotonic()
        before = self._seen.get(path)
        if before is None or before[0] != size:
            self._seen[path] = (size, now)
            # A file that was finished before we first looked need not be watched: its own time says so.
            return time.time() - found.st_mtime > self._habits.settle_s + 1.0
        return now - before[1] >= self._habits.settle_s

    def _content(self, path: Path, form: str, card: Mapping[str, Any]) -> Content:
        raw = _read(path)
        try:
            content = _from_rows(raw, card) if form == "csv" else json.loads(raw)
        except UnicodeDecodeError as error:
            message = f"it is no UTF-8: {error}"
            raise AnswerError(message) from error
        except ValueError as error:
            raise Incomplete(str(error)) from error
        if not isinstance(content, dict):
            message = f"it holds {type(content).__name__}; an object with 'values' was expected"
            raise AnswerError(message)
        if str(content.get("key", card["key"])) != card["key"]:
            message = f"it speaks of the key {content['key']!r}; its name says {card['key']!r}"
            raise AnswerError(message)
        written = datetime.fromtimestamp(path.lstat().st_mtime, UTC).isoformat()
        return {"by": self._who, "at": written, **{k: v for k, v in content.items() if v is not None and v != ""}}

    def _refuse(self, path: Path, reason: str) -> None:
        number = len(list((self.folder / "refused").glob(f"{path.stem}.*.txt"))) + 1
        aside = self.folder / "refused" / f"{path.stem}.{number}{path.suffix}"
        with contextlib.suppress(FileNotFoundError):
            path.rename(aside)  # a link is moved as a link
            write_whole(aside.with_suffix(".txt"), f"{reason}\n".encode())
        if self._habits.done:
            path.with_name(path.stem + self._habits.done).unlink(missing_ok=True)
        self._seen.pop(path, None)

    def _find(self, name: str, key: str) -> list[Path]:
        return [path for path in (self.folder / name).glob(f"{key}.*") if KEY.match(key)]

    def _path(self, name: str, key: str, ending: str) -> Path:
        if not KEY.match(key):
            message = f"the key {key!r} is no file name; letters, digits, - and _ were expected"
            raise Rejected(message)
        return self.folder / name / f"{key}.{ending}"


def _read(path: Path) -> bytes:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        message = f"it cannot be read: {error}; a plain file was expected, and no link"
        raise AnswerError(message) from error
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST:
            message = f"it has {found.st_size} bytes; a plain file of at most {LARGEST} was expected"
            raise AnswerError(message)
        return b"".join(iter(lambda: os.read(file, 2**20), b""))
    finally:
        os.close(file)


def _rows(card: Mapping[str, Any]) -> bytes:
    names: list[Any] = ["key", "task", "sample"]
    units, values = ["", "", ""], [card["key"], card["task"], card["sample"] or ""]
    for name, quantity in card["settings"].items():
        names.append(name)
        units.append(quantity["unit"])
        values.append(repr(quantity["value"]))
    for name, choice in card["choices"].items():
        names.append(name)
        units.append("")
        values.append(choice)
    text = io.StringIO()
    csv.writer(text).writerows([names, units, values])
    return text.getvalue().encode()


def _from_rows(raw: bytes, card: Mapping[str, Any]) -> Content:
    rows = list(csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline="")))
    while rows and not any(rows[-1]):
        rows.pop()
    if not raw.endswith((b"\n", b"\r")) or len(rows) < ROWS or len(rows[2]) < len(rows[0]):
        message = (
            f"{len(rows)} rows; a row of names, one of units and one of values were expected, each with a line end"
        )
        raise Incomplete(message)
    if len(rows) > ROWS or len(set(rows[0])) != len(rows[0]):
        message = f"it has {len(rows)} rows and the names {rows[0]}; three rows and different names were expected"
        raise AnswerError(message)
    units = [*rows[1], *[""] * len(rows[0])]
    columns = zip(rows[0], units, rows[2], strict=False)
    cells = {name.strip(): (unit.strip(), value.strip()) for name, unit, value in columns}
    content: Content = {name: cells[name][1] for name in PLAIN if name in cells}
    given = {name: cell for name, cell in cells.items() if name not in PLAIN and name not in card["choices"]}
    quantities: dict[str, dict[str, Any]] = {}
    for name, (unit, value) in given.items():
        if name.endswith(ERROR):
            continue
        if not unit:
            message = f"{name} has no unit in the second row; write 'dimensionless' where it has none"
            raise AnswerError(message)
        quantities[name] = {"value": value, "unit": unit}
        if (error := given.get(f"{name}{ERROR}")) and error[1]:
            if error[0] not in {"", unit}:
                message = f"{name}{ERROR} is in {error[0]}; the unit of {name}, {unit}, was expected"
                raise AnswerError(message)
            quantities[name]["std_error"] = _number(f"{name}{ERROR}", error[1])
    applied = {name: q for name, q in quantities.items() if name in card["settings"]}
    values = {name: q for name, q in quantities.items() if name not in applied}
    return {**content, "values": values, "applied": applied}


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        message = f"{name} is {text!r}; a number was expected"
        raise AnswerError(message) from error
