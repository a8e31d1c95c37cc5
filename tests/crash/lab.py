"""The crash harness's device as a plug-in of a whole campaign, over temperatures, with a learner that takes its time.

Campaign files of `tests/benchmarks/crash_flow.py` name these by dotted path.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel

from orchestrator.domain import Candidate, Dataset, FitReport, Problem
from orchestrator.protocols import Options
from tests.crash.driver import KILNS, Network
from tests.fakes import BestMean, InOrder, ListSpace, Nearest

FIT_S = 0.8
"""Long enough that a kill can come in the middle of it."""


class KilnOptions(Options):
    """Where the device's process listens, which device it is, and what can be found out after a crash."""

    folder: str
    device: str
    recovery: Literal["idempotent", "queryable"]


class Kiln:
    """The device of another process."""

    Options: ClassVar[type[BaseModel]] = KilnOptions

    def __new__(cls, options: KilnOptions) -> Kiln:  # noqa: PYI034  another class by intention
        """Return the driver of the recovery class."""
        return KILNS[options.recovery](Path(options.folder), options.device, 1, Network())  # type: ignore[return-value]

    async def describe(self) -> None:
        """The driver has the six methods; these are for the check of the class."""

    open = close = health = run = abort = describe


class Temperatures(ListSpace):
    """Thirty firing temperatures."""

    def __init__(self, options: Options) -> None:
        super().__init__(
            [Candidate.make(label=f"{x} degC", parameters={"temperature": float(x)}) for x in range(100, 1600, 50)]
        )


class Slow(Nearest):
    """A learner whose training takes its time, and says when it begins."""

    coordinate = "temperature"

    def __init__(self, options: Options) -> None:
        super().__init__()

    def fit(self, dataset: Dataset, problem: Problem, seed: int) -> FitReport:
        """Train slowly."""
        with Path(os.environ["CRASH_FIT_LOG"]).open("a") as log:
            log.write("fit\n")
        time.sleep(FIT_S)
        return super().fit(dataset, problem, seed)


class Best(BestMean):
    """The best predicted mean."""

    def __init__(self, options: Options) -> None:
        super().__init__()


class First(InOrder):
    """The order of the list."""

    def __init__(self, options: Options) -> None:
        super().__init__()
