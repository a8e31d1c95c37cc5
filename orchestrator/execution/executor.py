"""Carries out the trials of a campaign: the room's one door.

It knows instruments only as a protocol and keeps nothing that the store does not know: a new executor on the same store
goes on where the last one, or its crash, left off.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, TypeVar

from orchestrator.config.lab import LabConfig, ParameterEnvelope
from orchestrator.config.resources import ResourceConfig
from orchestrator.config.schema import ScheduleConfig
from orchestrator.config.steps import StepConfig, expanded
from orchestrator.domain import TARGET, Description, JsonObject, Order
from orchestrator.errors import (
    Busy,
    ConfigError,
    IllegalTransition,
    OutOfStock,
    Rejected,
    Stopped,
    StoreError,
)
from orchestrator.execution.answers import Question, questions
from orchestrator.execution.attempts import Attempts, Progress, Work
from orchestrator.execution.checks import check_order
from orchestrator.execution.choosing_instrument import Bench, Hindrance
from orchestrator.execution.clock import Clock
from orchestrator.execution.events import Wish
from orchestrator.execution.gates import Gates
from orchestrator.execution.inputs import Context, build_order
from orchestrator.execution.lease import Lease
from orchestrator.execution.opening import capability_of, needed, open_all, same_device
from orchestrator.execution.patience import Patience
from orchestrator.execution.questions import is_reference
from orchestrator.execution.readiness import Readiness, Ready, sample_name
from orchestrator.execution.safety import Safety
from orchestrator.execution.turns import Turns
from orchestrator.protocols import Instrument
from orchestrator.record.crash_points import reached
from orchestrator.record.states import STEP_DONE, AttemptState, CampaignState, StepState
from orchestrator.record.store import CampaignStore
from orchestrator.record.views import AttemptInfo, StepInfo, TrialInfo

T = TypeVar("T")
WIND_UP_S = 12.0  # the guard's abort and cancel, and a commit: then a cancelled trial has its legal state


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
        schedule: how it is decided who goes next on an instrument.
        lab: kinds, interlocks, approvals, failures, references, alarms and patience of the lab file.
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
        schedule: ScheduleConfig | None = None,
        lab: LabConfig | None = None,
    ) -> None:
        self.store = store
        self.name = name
        self.clock = clock or Clock()
        self._lab = lab or LabConfig(patience_s=0.0)
        self._instruments = dict(instruments)
        self._bench = Bench(store, name, self._instruments, self._lab.kinds)
        self._safety = Safety(store, name, self._lab, self._bench)
        tell = on_progress or (lambda _: None)
        self.attempts = self.attempts_type(store, name, self.clock, tell, self._safety)
        self._patience = Patience(store, name, self.attempts, self._bench, self._lab.patience_s)
        self._lease = Lease(self.clock)
        procedures = {**(below or {}), TARGET: procedure}
        self._procedures = {name: expanded(steps) for name, steps in procedures.items()}
        self._resources = dict(resources or {})
        self._readiness = Readiness(store, name, self.attempts)
        self._priced = priced
        self._envelopes = {key: dict(value) for key, value in (envelopes or {}).items()}
        self._units = dict(units or {})
        self._descriptions: dict[str, Description] = {}
        self._gates = Gates(store, name, self.clock, lab=self._lab, bench=self._bench, descriptions=self._descriptions)
        self._safety.gates = self._gates
        self._turns = Turns(
            schedule or ScheduleConfig(),
            self.clock,
            self._procedures,
            members=self._bench.members,
            descriptions=self._descriptions,
            places={name: one.places for name, one in self._resources.items() if one.places is not None},
        )
        self._marks: dict[int, JsonObject | None] = {}
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
        names = needed(self._steps(), self._lab)
        found = await open_all(self.store, self.name, self._bench, names, self._envelopes)
        self._descriptions.update(found)
        for step in self._steps():
            for name in self._bench.members(step.instrument):
                capability_of(name, found[name], step.capability)
        entries = {name: self._lab.instruments[name] for name in found if name in self._lab.instruments}
        self._lease.begin(
            {name: (self._instruments[name], one.lease_s) for name, one in entries.items() if one.lease_s is not None}
        )

    async def close(self) -> None:
        """End what runs, leaving every step in a legal state, and close the instruments."""
        await self.abort_all("the campaign is closed")
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None
        await self._lease.end()
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
        """Choose an instrument, see that nothing stands in the way, ask for the permission, and carry the step out."""
        hindrance = self._gates.asked(work.step)
        chosen: str | Hindrance = hindrance or ""
        if hindrance is None:
            await self._take_note()
            chosen = self._readiness.occupied(work) or await self._in_turn(work)
        if isinstance(chosen, str):
            try:
                with self._turns.at_work(work.trial.number, work.step, work.step.instrument):
                    done = await self._on(chosen, work)
            finally:
                await self._bench.lanes[chosen].leave()
                await self._take_note()
            if not isinstance(done, Hindrance):
                self._patience.forget(work.trial.number)
                return done
            chosen = done
        return await self._patience.wait(work.trial.number, len(self._wishes), chosen, work.wish)

    async def _in_turn(self, work: Work) -> str | Hindrance:
        """Wait for the turn of a step on its instrument."""
        number, step = work.trial.number, work.step
        flying = tuple(self._wishes)
        if await self._turns.look(flying, lambda: [self.store.trial(self.name, one) for one in flying]):
            await self._bench.look_again()
        avoided = {*self._safety.avoided.get(step.id, ())}
        if len(members := self._bench.members(step.instrument)) > 1:
            avoided |= {one for one in members if self._readiness.used(one, self._bench.lanes[one].slots)}
        return await self._bench.enter(step.instrument, avoided, lambda: self._turns.planned(number, step.name))

    async def _on(self, member: str, work: Work) -> bool | Hindrance:
        """Carry a step out on an instrument of which a slot is ours; or say why it cannot be begun."""
        if work.wish.made:
            return False
        work = self._work(work.trial, work.step, work.wish, member)
        mark = None
        order, refusal = self._order(work)
        reference = self._safety.references.due(member) if refusal is None else None
        hindrance = self._readiness.used(member, work.description.slots)
        if hindrance is None and refusal is None:
            hindrance = await self._gates.hindrance(work.trial, work.step, member, order)
        if hindrance is not None:
            return hindrance
        if reference is not None:
            work = replace(work, capability=capability_of(member, work.description, reference.capability))
            work = replace(work, cost=work.capability.cost)
            order, mark = self._safety.references.order(reference, work.capability)
            order, refusal = _checked(order, work)
        reached("claim.before")
        fence = self.store.claim(work.step.id, owner=_owner())
        self._marks[work.step.id] = mark
        try:
            attempt = await self._intent(work, fence, order)
        except Busy as error:
            return Hindrance("busy", str(error), member)
        if attempt is None:
            return False
        if refusal is not None:
            return await self.attempts.refuse(work, attempt, refusal)
        return await self.attempts.perform(work, attempt)

    async def _go_on(self, work: Work) -> bool:
        for attempt in self.store.open_attempts(self.name):
            if attempt.step_id == work.step.id and attempt.state is not AttemptState.UNKNOWN:
                return await self._resume(attempt, work.wish)
        return False  # a person has not answered yet

    async def _resume(self, attempt: AttemptInfo, wish: Wish) -> bool:
        trial = self.store.trial(self.name, attempt.trial)
        step = next(step for step in trial.steps if step.id == attempt.step_id)
        trusted = same_device(self.store, self.name, self._bench, attempt)
        work = replace(self._work(trial, step, wish, attempt.instrument), trusted=trusted)
        if is_reference(attempt):
            work = replace(work, capability=work.description.capability(Order.from_json(attempt.order).capability))
        goes_on = await self.attempts.resume(work, attempt)
        await self._take_note()
        return goes_on

    async def _intent(self, work: Work, fence: int, order: Order) -> AttemptInfo | None:
        """Ask for the permission. None where the campaign stopped.

        Raises:
            Busy: another campaign uses the instrument.
        """
        try:
            if not work.wish.made:
                attempt = self.attempts.intent(work, fence, order, self._marks.pop(work.step.id, None))
                self._readiness.tell_low(work)
                return attempt
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

    async def _take_note(self) -> None:
        """Tell the bench which slots are held by UNKNOWN attempts, and which instruments are out of service."""
        held: dict[str, set[int]] = {name: set() for name in self._bench.lanes}
        for attempt in self.store.open_attempts(self.name):
            if attempt.state is AttemptState.UNKNOWN and attempt.instrument in held:
                held[attempt.instrument].add(attempt.id)
        for name, attempts in held.items():
            await self._bench.lanes[name].hold(attempts)
        await self._bench.take_note()

    async def _protected(self, trial: int, act: Callable[[Wish], Coroutine[Any, Any, T]]) -> T:
        """Run an act on a trial so that cancelling ends it in good order: abort, say what happened, then give way."""
        if trial in self._wishes:
            message = f"trial {trial} of {self.name!r} is being carried out already"
            raise IllegalTransition(message)
        wish = self._wishes[trial] = Wish()
        self._watch()
        task = asyncio.create_task(act(wish))
        task.add_done_callback(lambda _: self._wishes.pop(trial, None))
        task.add_done_callback(lambda _: self._patience.forget(trial))
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
            if any(out.passing for out in self._bench.out.values()):
                await self._bench.look()

    # --- what a step needs ----------------------------------------------------------------------------------------

    def _left(self) -> list[AttemptInfo]:
        """Return the open attempts of this executor's instruments."""
        return [a for a in self.store.open_attempts(self.name) if a.instrument in self._descriptions]

    def _steps(self) -> list[StepConfig]:
        """Return the steps of every fidelity."""
        return [step for procedure in self._procedures.values() for step in procedure.values()]

    def _work(self, trial: TrialInfo, step: StepInfo, wish: Wish, member: str | None = None) -> Work:
        procedure = self._procedures.get(trial.fidelity, {})
        config = procedure.get(step.name)
        name = member or self._bench.members(step.instrument)[0]
        if config is None or name not in self._descriptions:
            message = (
                f"trial {trial.number} has step {step.name!r} on {step.instrument!r}, which the procedure "
                f"({', '.join(procedure) or 'empty'}) no longer has: veto the candidate, or amend the file"
            )
            raise ConfigError(message)
        description = self._descriptions[name]
        capability = capability_of(name, description, step.capability or config.capability)
        usual = capability.cost if config.cost is None else config.cost
        return Work(
            trial=trial,
            step=step,
            cost=step.cost if self._priced else usual,
            config=config,
            member=name,
            instrument=self._instruments[name],
            description=description,
            capability=capability,
            context=Context(
                candidate=trial.candidate,
                outputs=self.store.outputs(self.name, trial.number),
                sample=sample_name(self.name, trial, step, procedure),
                units=self._units,
            ),
            envelope=self._envelopes.get(name, {}),
            wish=wish,
        )

    def _order(self, work: Work) -> tuple[Order, Rejected | None]:
        """Build and check the order; where that fails, the reason goes with what there is of it."""
        order = Order(key="", capability=work.capability.name, sample=work.context.sample)
        try:
            order = build_order(work.config, work.capability, work.context)
        except Rejected as error:
            return order, error
        return _checked(order, work)


def _checked(order: Order, work: Work) -> tuple[Order, Rejected | None]:
    """Check an order; where it must not be sent, the reason goes with it."""
    try:
        return check_order(order, work.capability, work.envelope), None
    except Rejected as error:
        return order, error


def _owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
