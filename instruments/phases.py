"""How far an order has come, and what an error therefore says about the physical world.

A transport knows that an answer did not come; only the driver's place in its sequence knows what that means. Before the
start was sent nothing has happened, whatever went wrong; between the start and its confirmation nobody knows; later the
sample is being worked on, and in the end the work is done. `Phases` holds that place and stamps it on every error.
"""

from __future__ import annotations

from types import TracebackType
from typing import Literal, Self

from orchestrator.errors import Aborted, Busy, Effect, Fault, InstrumentError, Interlocked, Rejected

Place = Literal["before", "sent", "working", "done"]
SAID_NO = (Rejected, Busy)
"""The device answered that it did not take the start."""
SAID_ITSELF = (Aborted, Fault, Interlocked, Rejected, Busy)
"""The device answered, so it is known that the work was begun and has ended; a lost link leaves that open."""


class Phases:
    """The place of one order in its sequence; use it as a context around the whole of it."""

    def __init__(self) -> None:
        self.place: Place = "before"

    def sent(self) -> None:
        """Note that the start goes out now."""
        self.place = "sent"

    def working(self) -> None:
        """Note that the device confirmed the start."""
        self.place = "working"

    def done(self) -> None:
        """Note that the device has finished."""
        self.place = "done"

    def effect(self, error: InstrumentError) -> Effect:
        """Say what physically happened when this error came up.

        Args:
            error: raised at the present place.

        Returns:
            Its effect.
        """
        if self.place == "before":
            return Effect.NONE
        if self.place == "done":
            return Effect.DONE
        if self.place == "sent":
            return Effect.NONE if isinstance(error, SAID_NO) else Effect.UNKNOWN
        return Effect.STARTED if isinstance(error, SAID_ITSELF) else Effect.UNKNOWN

    def __enter__(self) -> Self:
        """Begin with nothing sent."""
        self.place = "before"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stamp the effect on an error that leaves the sequence."""
        if isinstance(error, InstrumentError):
            error.effect = self.effect(error)
