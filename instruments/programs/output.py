"""Numbers out of what a program wrote: by regular expression, JSON path or CSV column, each with its unit."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, model_validator

from instruments.settings import Unit
from orchestrator.domain import Output
from orchestrator.errors import BadData

FILE_NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}$")


def _plain(name: str) -> str:
    if not FILE_NAME.match(name):
        message = f"{name!r} is no plain file name; letters, digits, . _ + - were expected, and no folder"
        raise ValueError(message)
    return name


FileName = Annotated[str, AfterValidator(_plain)]
"""A file in the folder where a program runs; never a path."""
Pick = Literal["first", "last", "only"]


class OutputOptions(BaseModel, frozen=True, extra="forbid"):
    """Where one number stands, and its unit."""

    unit: Unit = "dimensionless"
    file: FileName = Field(default="stdout", description="that the program wrote; or stdout, stderr")
    regex: str | None = Field(default=None, description="with one group: the number; many lines are searched")
    json_path: str | None = Field(default=None, description="keys and list positions with dots: results.0.energy")
    csv: str | None = Field(default=None, description="name of the column")
    pick: Pick = Field(default="last", description="which match or row counts")
    low: float | None = Field(default=None, description="smallest valid value")
    high: float | None = Field(default=None, description="largest valid value")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = [way for way in ("regex", "json_path", "csv") if getattr(self, way) is not None]
        if len(ways) != 1:
            message = f"give exactly one of 'regex', 'json_path' and 'csv'; seen: {', '.join(ways) or 'none'}"
            raise ValueError(message)
        if self.regex is not None:
            try:
                groups = re.compile(self.regex, re.MULTILINE).groups
            except re.error as error:
                message = f"the regular expression {self.regex!r} is wrong: {error}"
                raise ValueError(message) from error
            if groups != 1:
                message = (
                    f"the regular expression {self.regex!r} has {groups} groups; one, around the number, is wanted"
                )
                raise ValueError(message)
        return self

    def declared(self, name: str) -> Output:
        """Return the output as a capability declares it."""
        return Output(name, self.unit, self.low, self.high)


def number(name: str, where: OutputOptions, read: Callable[[str], bytes | None]) -> float:
    """Find one number.

    Args:
        name: of the output, for messages.
        where: it stands.
        read: gives the content of a file, None where there is none.

    Returns:
        The number, in the unit that the option names.

    Raises:
        BadData: the file is missing, the number is not in it, it is no number, or it is not finite.
    """
    content = read(where.file)
    if content is None:
        message = f"{name}: the program left no file {where.file!r}"
        raise BadData(message)
    text = content.decode("utf-8", errors="replace")
    if where.regex is not None:
        found = _picked(name, where, re.findall(where.regex, text, re.MULTILINE), repr(where.regex))
    elif where.json_path is not None:
        found = _at(name, text, where)
    else:
        rows = list(csv.DictReader(io.StringIO(text)))
        column = [row[where.csv] for row in rows if row.get(where.csv or "") not in {None, ""}]
        found = _picked(name, where, column, f"column {where.csv!r}")
    try:
        value = float(str(found).replace("D", "E").replace("d", "e"))  # Fortran writes 1.0D+03
    except (TypeError, ValueError) as error:
        message = f"{name}: {found!r} in {where.file} is no number"
        raise BadData(message) from error
    if not math.isfinite(value):
        message = f"{name} is {value} in {where.file}; a finite number was expected"
        raise BadData(message)
    return value


def _picked(name: str, where: OutputOptions, found: list[str], what: str) -> str:
    if not found or (where.pick == "only" and len(found) != 1):
        wanted = "exactly one was" if where.pick == "only" else "at least one was"
        message = f"{name}: {len(found)} values for {what} in {where.file}; {wanted} expected"
        raise BadData(message)
    return found[0 if where.pick == "first" else -1]


def _at(name: str, text: str, where: OutputOptions) -> Any:
    path = where.json_path or ""
    try:
        here = json.loads(text)
        for part in path.split("."):
            here = here[int(part)] if isinstance(here, list) else here[part]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        message = f"{name}: {where.file} has nothing at {path!r}: {type(error).__name__}: {error}"
        raise BadData(message) from error
    return here
