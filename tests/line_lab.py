"""A lab of one line: a finite space, a surrogate, a policy and an instrument, for tests of the loop.

Campaign files name these by dotted path; the lab file of the tests allows this module.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from instruments.function import instrument
from orchestrator.protocols import Options
from tests.fakes import BestMean, InOrder, ListSpace, Nearest, point


class LineOptions(Options):
    """How many points there are."""

    points: int = 40


class Line(ListSpace):
    """Points at whole numbers from 0."""

    Options = LineOptions

    def __init__(self, options: LineOptions) -> None:
        super().__init__([point(float(x)) for x in range(options.points)])


class Learner(Nearest):
    """The nearest measured value."""

    def __init__(self, options: Options) -> None:
        super().__init__()


class Best(BestMean):
    """The best predicted mean."""

    def __init__(self, options: Options) -> None:
        super().__init__()


class First(InOrder):
    """The order of the list."""

    def __init__(self, options: Options) -> None:
        super().__init__()


@instrument(outputs={"y": "dimensionless"}, parameters={"x": ("dimensionless", 0, 1000)})
def bench(x: float) -> float:
    """Measure one point; write into the log of the world, if there is one, that it was physically done."""
    log = os.environ.get("LINE_LAB_LOG")
    if log:
        time.sleep(0.15)  # long enough that a kill can come in the middle
        with Path(log).open("a") as lines:
            lines.write(f"{x:g}\n")
    return -abs(x - 23.0)
