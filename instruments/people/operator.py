"""A person as instrument: the order becomes a task card, the answer comes with value, unit, name and time.

The folder is the protocol, so that any program can take part::

    outbox/KEY.json      the task card: what to do, with which settings, which units are expected
    inbox/KEY.json       the answer
    withdrawn/KEY.json   cards that the campaign took back
    refused/KEY.N.json   answers that could not be taken, each with its reason

Files appear complete (written beside, synced, renamed). An answer that is not complete JSON yet is left alone until it
is. `KEY` is the dispatch key, so after a crash the card and the answer are found again: recovery class *queryable*.
``matloop instrument tasks`` lists the cards, ``matloop instrument answer`` answers one.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar, Literal, Self

from pydantic import BaseModel, Field, model_validator

from instruments.people import tasks
from instruments.people.desk import Desk, TaskCards
from instruments.settings import Unit, capability_of, checked
from orchestrator.domain import (
    Absent,
    Capability,
    Description,
    Finished,
    Health,
    Identity,
    JsonObject,
    Order,
    Output,
    Parameter,
    Recovery,
    Result,
    Running,
    Unsure,
    Whereabouts,
)
from orchestrator.errors import Aborted, Effect, InstrumentError, NotConnected, TimedOut
from orchestrator.protocols import Events, InputPath, Options

WEEK_S = 7 * 24 * 3600.0
"""People go home; a card that nobody answers for a week deserves a question."""


class ParameterOptions(BaseModel, frozen=True, extra="forbid"):
    """One set-point that the task card shows: a number with bounds, or a choice."""

    unit: Unit = "dimensionless"
    min: float | None = None
    max: float | None = None
    choices: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if bool(self.choices) == (self.min is not None and self.max is not None and self.min < self.max):
            message = "give 'min' and 'max' (min below max), or 'choices'"
            raise ValueError(message)
        return self


class OperatorOptions(Options):
    """What the person is asked to do."""

    capability: str = Field(default="measure", pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")
    outputs: dict[str, Unit] = Field(min_length=1, description="property → unit of the answer")
    parameters: dict[str, ParameterOptions] = Field(default_factory=dict, description="set-points shown on the card")
    takes_structure: bool = False
    instructions: str = Field(default="", description="shown on the card")
    folder: InputPath | None = Field(default=None, description="of the task cards; default: in the user's data folder")
    slots: int = Field(default=1, ge=1, description="how many cards may be open at once")
    poll_s: float = Field(default=1.0, gt=0, description="how often the inbox is read")
    longest_s: float = Field(default=WEEK_S, gt=0)
    cost: float = Field(default=0.0, ge=0)


class DeskInstrument:
    """Lay an order down at a desk, and wait for the answer: what people and other programs have in common.

    Args:
        options: outputs, parameters and the folder.
    """

    who: ClassVar[str] = "desk"

    def __init__(self, options: OperatorOptions) -> None:
        self.options = options
        self.folder = options.folder or tasks.default_folder()
        self.desk: Desk = TaskCards(self.folder)
        self._stops: dict[str, str] = {}
        self._waiting: dict[str, Events] = {}

    def description(self) -> Description:
        """Return the declared capability."""
        o = self.options
        return Description(
            capabilities=(
                Capability(
                    name=o.capability,
                    outputs=tuple(Output(name, unit) for name, unit in o.outputs.items()),
                    parameters=tuple(
                        Parameter(name, p.unit, p.min, p.max, choices=p.choices) for name, p in o.parameters.items()
                    ),
                    takes_structure=o.takes_structure,
                    typical_s=min(3600.0, o.longest_s),
                    longest_s=o.longest_s,
                    cost=o.cost,
                ),
            ),
            recovery=Recovery.QUERYABLE,
            slots=o.slots,
        )

    async def describe(self) -> Description:
        """Declare what the person is asked to measure."""
        return self.description()

    async def open(self) -> Identity:
        """Make the folders and prove that cards can be written."""
        try:
            await asyncio.to_thread(self.desk.prepare)
        except OSError as error:
            message = f"the operator's folder {self.folder} cannot be used: {error}; set the option 'folder'"
            raise NotConnected(message) from error
        return Identity(name=self.who, serial=str(self.folder))

    async def close(self) -> None:
        """Leave the cards where they are: people may go on with them."""

    async def health(self) -> Health:
        """Say whether the folder is there and how many cards wait."""
        try:
            waiting = await asyncio.wait_for(asyncio.to_thread(self.desk.waiting), 0.8)
        except (OSError, TimeoutError) as error:
            return Health("offline", f"the folder {self.folder} cannot be read: {error or 'no answer'}")
        state: Literal["busy", "ready"] = "busy" if len(self._waiting) >= self.options.slots else "ready"
        return Health(state, f"{waiting} orders wait in {self.folder}" if waiting else "")

    async def run(self, order: Order, events: Events) -> Result:
        """Put a card into the outbox and wait for its answer."""
        capability = capability_of(self.description(), order)
        numbers, choices = checked(capability, order)
        card = tasks.card(order, capability, numbers, choices, self.options.instructions)
        self._waiting[order.key] = events  # before the card is out, so that no abort can miss it
        try:
            await asyncio.to_thread(self.desk.issue, card)
            await events.accepted({"key": order.key})
            return await self._answer(order.key, events, min(order.deadline_s, self.options.longest_s))
        except OSError as error:
            message = f"the operator's folder {self.folder} cannot be used: {error}"
            raise NotConnected(message, effect=TimedOut.default_effect) from error
        finally:
            self._forget(order.key)

    async def lookup(self, key: str, handle: JsonObject | None) -> Whereabouts:
        """Find the card or the answer of a key."""
        del handle  # it holds the key
        try:
            return await asyncio.to_thread(self._whereabouts, key)
        except OSError as error:
            return Unsure(f"the folder {self.folder} cannot be read: {error}")

    async def attach(self, handle: JsonObject, events: Events) -> Result:
        """Wait for the answer to a card that is out already."""
        key = str(handle["key"])
        self._waiting[key] = events
        try:
            return await self._answer(key, events, self.options.longest_s)
        finally:
            self._forget(key)

    async def abort(self, reason: str) -> None:
        """Withdraw the cards whose campaign wants them back; where none does, all that this driver waits for."""
        wanted = [key for key, events in self._waiting.items() if events.abort_requested()]
        self._stops.update(dict.fromkeys(wanted or self._waiting, reason))

    def _whereabouts(self, key: str) -> Whereabouts:
        card = self.desk.card(key)
        if card is None:
            return Absent()
        try:
            answer = self.desk.take(card)
        except InstrumentError:
            return Running({"key": key})  # `attach` raises what the person reported
        if answer is not None:
            return Finished(answer)
        if self.desk.is_withdrawn(key):
            return Unsure(f"the card {key} was withdrawn; ask whether the work on it was begun")
        return Running({"key": key})

    async def _answer(self, key: str, events: Events, limit_s: float) -> Result:
        loop = asyncio.get_running_loop()
        until = loop.time() + limit_s
        card = await asyncio.to_thread(self.desk.card, key)
        if card is None:
            message = f"the task card {key} is gone from {self.folder}; restore the folder or answer for the campaign"
            raise NotConnected(message, effect=TimedOut.default_effect)
        while True:
            answer = await asyncio.to_thread(self.desk.take, card)
            if answer is not None:
                return answer
            if key in self._stops or events.abort_requested():
                reason = self._stops.get(key, "the campaign asked for it")
                untouched = await asyncio.to_thread(self.desk.withdraw, key, reason)
                message = f"the card {key} was withdrawn: {reason}"
                raise Aborted(message, effect=Effect.NONE if untouched else None)
            if loop.time() > until:
                message = f"nobody answered the card {key} within {limit_s:g} s; it still lies in {self.folder}"
                raise TimedOut(message)
            # The wall clock, not the campaign's: a person lives by it even where a test runs time faster.
            await asyncio.sleep(self.options.poll_s)

    def _forget(self, key: str) -> None:
        self._waiting.pop(key, None)
        self._stops.pop(key, None)


class Operator(DeskInstrument):
    """Ask a person, and wait for the answer in the inbox.

    Args:
        options: outputs, parameters and the folder.
    """

    Options: ClassVar[type[BaseModel]] = OperatorOptions
    who: ClassVar[str] = "operator"

    def cards(self) -> list[JsonObject]:
        """Read the cards that wait for an answer, oldest first."""
        return list(tasks.waiting(self.folder))

    def reply(self, answer: JsonObject) -> None:
        """Take an answer, as `matloop instrument answer` does.

        Raises:
            AnswerError: it is not what the card expects, or the card was answered already.
        """
        tasks.answer(self.folder, answer)
