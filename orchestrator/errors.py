"""Every error that Matloop raises on purpose.

::

    MatloopError
    ├── ConfigError               a campaign or lab file: file:line, key, value seen, what is allowed
    ├── PluginError               a plug-in that is not found, or does not keep its contract
    ├── IncompatibleError         two parts that cannot work together
    ├── UnitError                 a unit that is unknown, ambiguous or of another dimension
    ├── MaterialError             a structure or formula that cannot be read or used
    ├── InstrumentError           carries `effect`: what happened physically
    │   ├── NotConnected          (none)     the link could not be made; nothing was sent
    │   ├── Busy                  (none)     the instrument does something else
    │   ├── Rejected              (none)     the order is outside what the instrument takes
    │   ├── Interlocked           (none)     a safety condition is not met; a person is needed
    │   ├── TimedOut              (unknown)  no answer in time; the work may go on
    │   ├── ProtocolDesync        (unknown)  answers no longer belong to questions
    │   ├── Aborted               (started)  stopped on request
    │   ├── BadData               (done)     the work was done, the data cannot be used
    │   └── Fault                 (unknown)  the instrument reports a failure of its own
    ├── Unanswered                a person must first say what became of an attempt; nothing else can go on
    ├── SurrogateError
    │   ├── NotEnoughData         fewer labels than the surrogate needs
    │   └── Diverged              training did not give finite numbers
    ├── SpaceError                a search space that cannot be built or has no candidates
    │   └── SpaceExhausted        every candidate is measured, pending or closed
    │       └── Unaffordable      the budget pays for none of those that are open
    └── StoreError
        ├── IllegalTransition     a state change that the state machines forbid
        ├── Drift                 schema or version is not the one that this program writes
        ├── Damaged               stored content does not match its hash
        ├── Held                  another process holds the campaign
        ├── BudgetSpent           the intent would pass a cap of the budget
        ├── OutOfStock            a step needs more of a resource than is there: somebody must refill it
        └── Stopped               the campaign is stopped or paused

Each message says what is wrong, what was seen, what was expected and what to do next.
"""

from __future__ import annotations

from enum import StrEnum


class Effect(StrEnum):
    """What physically happened when an instrument failed; retry and recovery follow from it."""

    NONE = "none"
    STARTED = "started"
    UNKNOWN = "unknown"
    DONE = "done"


class MatloopError(Exception):
    """Base of every error that Matloop raises on purpose."""


class ConfigError(MatloopError):
    """A campaign or lab file is wrong.

    Args:
        message: what is wrong, what was expected, what to do next.
        file: the file, as the user named it.
        line: 1-based line, where known.
        key: dotted path of the key, where known.
    """

    def __init__(self, message: str, *, file: str = "", line: int | None = None, key: str = "") -> None:
        self.message = message
        self.file = file
        self.line = line
        self.key = key
        where = f"{file}:{line}" if file and line is not None else file
        super().__init__(": ".join(part for part in (where, key, message) if part))


class PluginError(MatloopError):
    """A plug-in is not found, not allowed, or does not keep its contract."""


class IncompatibleError(MatloopError):
    """Two parts of a campaign cannot work together."""


class UnitError(MatloopError, ValueError):
    """A unit is unknown, ambiguous, or of another dimension than expected.

    It is a ValueError too, so that pydantic keeps the place of a wrong unit in a file.
    """


class MaterialError(MatloopError):
    """A structure, formula or file of them cannot be read or used."""


class InstrumentError(MatloopError):
    """An instrument did not give a usable result.

    Args:
        message: what happened, in the words of the driver.
        effect: what happened physically; the class's default where not given.
    """

    default_effect = Effect.UNKNOWN

    def __init__(self, message: str, *, effect: Effect | None = None) -> None:
        self.effect = self.default_effect if effect is None else effect
        super().__init__(message)


class NotConnected(InstrumentError):
    """The link could not be made; nothing was sent."""

    default_effect = Effect.NONE


class Busy(InstrumentError):
    """The instrument is at work for somebody else."""

    default_effect = Effect.NONE


class Rejected(InstrumentError):
    """The order is outside what the instrument takes; nothing moved."""

    default_effect = Effect.NONE


class Interlocked(InstrumentError):
    """A safety condition is not met; a person is needed."""

    default_effect = Effect.NONE


class TimedOut(InstrumentError):
    """No answer in time. The work may still go on: the effect is unknown."""


class ProtocolDesync(InstrumentError):
    """Answers no longer belong to the questions; the session must be reopened."""


class Aborted(InstrumentError):
    """Stopped on request."""

    default_effect = Effect.STARTED


class BadData(InstrumentError):
    """The work was done, but what came back cannot be used."""

    default_effect = Effect.DONE


class Fault(InstrumentError):
    """The instrument reports a failure of its own."""


class Unanswered(MatloopError):
    """A person must first say what became of an attempt; until then its instrument is held."""


class SurrogateError(MatloopError):
    """A surrogate cannot be trained or asked."""


class NotEnoughData(SurrogateError):
    """Fewer usable labels than the surrogate needs."""


class Diverged(SurrogateError):
    """Training did not give finite numbers."""


class SpaceError(MatloopError):
    """A search space cannot be built, or has no candidates."""


class SpaceExhausted(SpaceError):
    """Every candidate is measured, pending or closed."""

    what = "space exhausted"


class Unaffordable(SpaceExhausted):
    """The budget pays for none of the candidates that are open."""

    what = "budget"


class StoreError(MatloopError):
    """The campaign database refuses."""


class IllegalTransition(StoreError):
    """A state change that the state machines forbid, or that somebody else made first."""


class Drift(StoreError):
    """The database was written by another version of the schema."""


class Damaged(StoreError):
    """Stored content does not match its hash."""


class Held(StoreError):
    """Another process holds this campaign; the message says which."""


class BudgetSpent(StoreError):
    """The intent would pass a cap of the budget."""


class OutOfStock(StoreError):
    """A step needs more of a resource than is there; somebody must refill it."""


class Stopped(StoreError):
    """The campaign is stopped or paused; no new step may start."""
