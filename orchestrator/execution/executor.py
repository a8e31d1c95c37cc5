"""Carries out the trials of a campaign: the room's one door.

It knows instruments only as a protocol and keeps nothing that the store does not know: a new executor on the same store
goes on where the last one, or its crash, left off.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, TypeVar

from orchestrator.config.lab import ParameterEnvelope
from orchestrator.config.resources import ResourceConfig
from orchestrator.config.steps import StepConfig, expanded
from orchestrator.domain import TARGET, Capability, Description, Identity, Order
from orchestrator.errors import (
    Busy,
    ConfigError,
    IllegalTransition,
    OutOfStock,
    Rejected,
    Stopped,
    StoreError,
    Unanswered,
)
from orchestrator.execution.answers import Question, questions
from orchestrator.execution.attempts import Attempts, Progress, Work
from orchestrator.execution.checks import check_order
from orchestrator.execution.clock import Clock
from orchestrator.execution.events import Wish
from orchestrator.execution.inputs import Context, build_order
from orchestrator.execution.lanes import Lane
from orchestrator.execution.readiness import Readiness, Ready, sample_name
from orchestrator.protocols import Instrument
from orchestrator.record.crash_points import reached
from orchestrator.record.states import STEP_DONE, AttemptState, CampaignState, StepState
from orchestrator.record.store import CampaignStore
from orchestrator.record.views import AttemptInfo, StepInfo, TrialInfo

T = TypeVar("T")
WIND_UP_S = 12.0  # the guard's abort and cancel, and a commit: then a cancelled trial has its legal state
OPENED = "instrument opened"
"""Kind of the event that keeps an instrument's identity."""


class Executor:
    """Carries out trials on instruments, and records what comes back.

    Hold the campaign (`store.hold`) while using it. One executor serves one event loop.

    Args:
        store: of the campaign.
        name: of the campaign.
        instruments: by the name that the procedure uses.
        procedure: steps in their order.
        envelopes: the lab's tighter bounds, by instrument and parameter, in the declared units.
        clock: the wall's unless given.
        on_progress: gets news of running steps; called on the event loop.
        units: units of the candidates' parameters, where they are not those that the instruments declare.
        below: procedures of the fidelities below the target, by name.
        priced: whether steps cost what was planned, and not what their capabilities cost.
        resources: places and stocks of the lab, by name.
    """

    attempts_type: ClassVar[type[Attempts]] = Attempts

    def __init__(
        self,
        store: CampaignStore,
        name: str,
        instruments: Mapping[str, Instrument],
        procedure: Sequence[StepConfig],
        *,
        envelopes: Mapping[str, Mapping[str, ParameterEnvelope]] | None = None,
        clock: Clock | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        units: Mapping[str, str] | None = None,
        below: Mapping[str, Sequence[StepConfig]] | None = None,
        priced: bool = False,
        resources: Mapping[str, ResourceConfig] | None = None,
    ) -> None:
        self.store = store
        self.name = name
        self.clock = clock or Clock()
        self.attempts = self.attempts_type(store, name, self.clock, on_progress or (lambda _: None))
        self._instruments = dict(instruments)
        procedures = {**(below or {}), TARGET: procedure}
        self._procedures = {name: expanded(steps) for name, steps in procedures.items()}
        self._resources = dict(resources or {})
        self._readiness = Readiness(store, name, self.attempts)
        self._priced = priced
        self._envelopes = {key: dict(value) for key, value in (envelopes or {}).items()}
        self._units = dict(units or {})
        self._descriptions: dict[str, Description] = {}
        self._lanes: dict[str, Lane] = {}
        self._exchanged: set[str] = set()
        self._wishes: dict[int, Wish] = {}
        self._watcher: asyncio.Task[None] | None = None

    # --- opening and closing --------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the instruments that the procedure uses, and record what they say they are.

        Raises:
            ConfigError: the procedure or an envelope names what an instrument does not have.
            InstrumentError: an instrument cannot be reached.
        """
        self.store.declare_resources(self._resources)
        known = self._known_identities()
        for name in dict.fromkeys(step.instrument for step in self._steps()):
            if name not in self._instruments:
                message = f"the procedure uses instrument {name!r}; there are: {', '.join(self._instruments) or 'none'}"
                raise ConfigError(message)
            description = await self._instruments[name].describe()
            self._check_names(name, description)
            identity = await self._instruments[name].open()
            said = {"instrument": name, "name": identity.name, "serial": identity.serial, "firmware": identity.firmware}
            if known.get(name) != identity:
                note = json.dumps(said, sort_keys=True)
                self.store.add_event(self.name, kind=OPENED, actor="matloop", note=note)
            if name in known and known[name].serial != identity.serial:
                self._exchanged.add(name)
            self._descriptions[name] = description
            self._lanes[name] = Lane(description.slots)

    async def close(self) -> None:
        """End what runs, leaving every step in a legal state, and close the instruments."""
        await self.abort_all("the campaign is closed")
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None
        for name in self._descriptions:
            with suppress(Exception):  # a link that cannot be given back must not hide how the campaign ended
                await self._instruments[name].close()

    async def abort_all(self, reason: str) -> None:
        """Abort what runs, and wait until each step has its legal state.

        Args:
            reason: for the instruments' logs and the record.
        """
        for wish in self._wishes.values():
            wish.make(reason)
        for _ in range(round(WIND_UP_S * 10)):
            if not self._wishes:
                return
            await asyncio.sleep(0.1)

    # --- trials ---------------------------------------------------------------------------------------------------

    async def recover(self) -> list[Question]:
        """Settle what a dead process left behind; call it once after `open`, before any `carry_out`.

        What can be found out is: an idempotent instrument gets its order again under the same key, a queryable one is
        asked, a result whose raw bytes are stored is recorded without asking anybody. Jobs that still run are waited
        for, all at once.

        Returns:
            What people must answer; empty where everything could be found out.
        """
        self.store.release_stale_claims(self.name)
        await asyncio.gather(
            *(self._protected(attempt.trial, partial(self._resume, attempt)) for attempt in self._left())
        )
        return self.questions()

    def questions(self) -> list[Question]:
        """List what people must answer before the trials concerned can go on."""
        return questions(self.store, self.name)

    async def carry_out(self, trial_number: int) -> TrialInfo:
        """Carry out all remaining steps of a trial, in order, with the retries that the table allows.

        Cancelling it aborts the running step, waits until that has a legal state, and only then goes on.

        Args:
            trial_number: of the trial.

        Returns:
            The trial. It has ended, unless the campaign was stopped or paused (an instrument that cannot go on pauses
            it), or one of `questions` is about it.

        Raises:
            Unanswered: its instrument is held by an UNKNOWN attempt, and nothing else is running that could go on.
            BudgetSpent: the budget does not allow its next step.
            StoreError: the database refuses.
        """
        return await self._protected(trial_number, partial(self._carry_out, trial_number))

    async def _carry_out(self, number: int, wish: Wish) -> TrialInfo:
        while True:
            trial = self.store.trial(self.name, number)
            step = next((s for s in trial.steps if s.state not in STEP_DONE), None)
            if step is None or step.state in (StepState.FAILED, StepState.CANCELLED) or wish.made:
                return trial
            work = self._work(trial, step, wish)
            if step.state is StepState.PLANNED:
                ready = await self._readiness.of(work, self._procedures[trial.fidelity])
                if ready is Ready.SKIPPED:
                    continue
                if ready is Ready.NOT_NOW:
                    return self.store.trial(self.name, number)
            if step.state is StepState.OPEN:
                goes_on = await self._go_on(work)
            else:
                goes_on = await self._begin(work)
            if not goes_on:
                return self.store.trial(self.name, number)

    async def _begin(self, work: Work) -> bool:
        lane = self._lanes[work.step.instrument]
        if not await self._enter(work, lane):
            return False
        try:
            reached("claim.before")
            fence = self.store.claim(work.step.id, owner=_owner())
            order, refusal = self._order(work)
            attempt = await self._intent(work, fence, order)
            if attempt is None:
                return False
            if refusal is not None:
                return await self.attempts.refuse(work, attempt, refusal)
            return await self.attempts.perform(work, attempt)
        finally:
            await lane.leave()
            await self._take_note()

    async def _go_on(self, work: Work) -> bool:
        for attempt in self.store.open_attempts(self.name):
            if attempt.step_id == work.step.id and attempt.state is not AttemptState.UNKNOWN:
                return await self._resume(attempt, work.wish)
        return False  # a person has not answered yet

    async def _resume(self, attempt: AttemptInfo, wish: Wish) -> bool:
        trial = self.store.trial(self.name, attempt.trial)
        step = next(step for step in trial.steps if step.id == attempt.step_id)
        goes_on = await self.attempts.resume(self._work(trial, step, wish), attempt)
        await self._take_note()
        return goes_on

    async def _intent(self, work: Work, fence: int, order: Order) -> AttemptInfo | None:
        """Ask for the permission; wait where another campaign uses the instrument. None where the campaign stopped."""
        try:
            while not work.wish.made:
                try:
                    attempt = self.attempts.intent(work, fence, order)
                    self._readiness.tell_low(work)
                    return attempt  # noqa: TRY300  the loop is left only with a permission
                except Busy as error:
                    self.attempts.tell(work, str(error))
                    await self.attempts.wait(work.wish, self.clock.poll_s)
        except Stopped:
            self.store.unclaim(work.step.id, fence=fence)
            return None
        except OutOfStock as error:
            self.store.unclaim(work.step.id, fence=fence)
            self._readiness.out_of_stock(work, error)
            return None
        except BaseException:
            with suppress(StoreError):  # what stands in the way of the intent is the news, not this
                self.store.unclaim(work.step.id, fence=fence)
            raise
        self.store.unclaim(work.step.id, fence=fence)
        return None

    # --- waiting, watching, protecting ----------------------------------------------------------------------------

    async def _enter(self, work: Work, lane: Lane) -> bool:
        """Wait for a slot of the instrument within this campaign."""
        while not await lane.enter():
            await self._take_note()
            if not lane.stuck:
                continue
            asked = [q for q in self.questions() if q.instrument == work.step.instrument]
            if not any(other.working for other in self._lanes.values()):
                message = f"trial {work.trial.number} cannot go on before an answer: {asked[0]}"
                raise Unanswered(message)
            if self.store.campaign(self.name).state is not CampaignState.ACTIVE:
                return False
            await self.attempts.wait(work.wish, self.clock.poll_s)
            if work.wish.made:
                return False
        if work.wish.made:
            await lane.leave()
        return not work.wish.made

    async def _take_note(self) -> None:
        """Tell the lanes which of their slots are held by UNKNOWN attempts."""
        held: dict[str, set[int]] = {name: set() for name in self._lanes}
        for attempt in self.store.open_attempts(self.name):
            if attempt.state is AttemptState.UNKNOWN and attempt.instrument in held:
                held[attempt.instrument].add(attempt.id)
        for name, attempts in held.items():
            await self._lanes[name].hold(attempts)

    async def _protected(self, trial: int, act: Callable[[Wish], Coroutine[Any, Any, T]]) -> T:
        """Run an act on a trial so that cancelling ends it in good order: abort, say what happened, then give way."""
        if trial in self._wishes:
            message = f"trial {trial} of {self.name!r} is being carried out already"
            raise IllegalTransition(message)
        wish = self._wishes[trial] = Wish()
        self._watch()
        task = asyncio.create_task(act(wish))
        task.add_done_callback(lambda _: self._wishes.pop(trial, None))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            wish.make("cancelled")
            until = asyncio.get_running_loop().time() + WIND_UP_S
            while not task.done() and (left := until - asyncio.get_running_loop().time()) > 0:
                with suppress(asyncio.CancelledError):  # cancelled once more: the state must still become a legal one
                    await asyncio.wait((task,), timeout=left)
            if task.done() and not task.cancelled():
                task.exception()  # what went wrong on the way out is in the record, and the caller asked to end
            task.cancel()
            raise

    def _watch(self) -> None:
        if self._watcher is None or self._watcher.done():
            self._watcher = asyncio.create_task(self._watch_for_stop())

    async def _watch_for_stop(self) -> None:
        """Look now and then whether the campaign was stopped, as long as anything runs."""
        while self._wishes:
            await self.clock.sleep(self.clock.poll_s)
            with suppress(StoreError):  # a database that does not answer now is asked again in a moment
                info = self.store.campaign(self.name)
                if info.state is CampaignState.STOPPED:
                    for wish in self._wishes.values():
                        wish.make(f"the campaign was stopped: {info.state_reason}")

    # --- what a step needs ----------------------------------------------------------------------------------------

    def _left(self) -> list[AttemptInfo]:
        """Return the open attempts of this executor's instruments."""
        return [a for a in self.store.open_attempts(self.name) if a.instrument in self._descriptions]

    def _steps(self) -> list[StepConfig]:
        """Return the steps of every fidelity."""
        return [step for procedure in self._procedures.values() for step in procedure.values()]

    def _work(self, trial: TrialInfo, step: StepInfo, wish: Wish) -> Work:
        procedure = self._procedures.get(trial.fidelity, {})
        config = procedure.get(step.name)
        if config is None or step.instrument not in self._descriptions:
            message = (
                f"trial {trial.number} has step {step.name!r} on {step.instrument!r}, which the procedure "
                f"({', '.join(procedure) or 'empty'}) no longer has: veto the candidate, or amend the file"
            )
            raise ConfigError(message)
        description = self._descriptions[step.instrument]
        capability = self._capability(step.instrument, description, step.capability or config.capability)
        usual = capability.cost if config.cost is None else config.cost
        return Work(
            trial=trial,
            step=step,
            cost=step.cost if self._priced else usual,
            config=config,
            instrument=self._instruments[step.instrument],
            description=description,
            capability=capability,
            context=Context(
                candidate=trial.candidate,
                outputs=self.store.outputs(self.name, trial.number),
                sample=sample_name(self.name, trial, step, procedure),
                units=self._units,
            ),
            envelope=self._envelopes.get(step.instrument, {}),
            wish=wish,
            trusted=step.instrument not in self._exchanged,
        )

    def _order(self, work: Work) -> tuple[Order, Rejected | None]:
        """Build and check the order; where that fails, the reason goes with what there is of it."""
        order = Order(key="", capability=work.capability.name, sample=work.context.sample)
        try:
            order = build_order(work.config, work.capability, work.context)
            return check_order(order, work.capability, work.envelope), None
        except Rejected as error:
            return order, error

    def _check_names(self, name: str, description: Description) -> None:
        for step in self._steps():
            if step.instrument == name:
                self._capability(name, description, step.capability)
        parameters = {p.name for capability in description.capabilities for p in capability.parameters}
        for bounded in self._envelopes.get(name, {}):
            if bounded not in parameters:
                there = ", ".join(sorted(parameters)) or "none"
                message = f"the envelope of instrument {name!r} bounds {bounded!r}; its parameters are: {there}"
                raise ConfigError(message)

    def _capability(self, name: str, description: Description, wanted: str | None) -> Capability:
        try:
            return description.capability(wanted or None)
        except KeyError as error:
            message = f"instrument {name!r} has {error.args[0]}"
            raise ConfigError(message) from error

    def _known_identities(self) -> dict[str, Identity]:
        known: dict[str, Identity] = {}
        for event in self.store.events(self.name):
            if event.kind == OPENED:
                said = json.loads(event.note)
                known[said["instrument"]] = Identity(said["name"], said["serial"], said["firmware"])
        return known


def _owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
