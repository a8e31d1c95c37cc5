"""One attempt from the intent to its end, in the one order of acts that loses nothing and repeats nothing.

intent committed → order sent → handle committed → raw bytes durable → MEASURED → checked → recorded in one transaction.
A crash between any two acts leaves a state from which `resume` finds the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from orchestrator.config.lab import ParameterEnvelope
from orchestrator.config.steps import StepConfig
from orchestrator.domain import (
    Absent,
    Capability,
    Description,
    Finished,
    JsonObject,
    Order,
    Recovery,
    Running,
    Unsure,
    Whereabouts,
)
from orchestrator.errors import (
    BadData,
    Damaged,
    Effect,
    Fault,
    IllegalTransition,
    InstrumentError,
    Rejected,
    StoreError,
    TimedOut,
)
from orchestrator.execution.checks import check_order, check_result
from orchestrator.execution.clock import Clock
from orchestrator.execution.events import OrderEvents, Wish
from orchestrator.execution.guard import Outcome, supervise
from orchestrator.execution.inputs import Context, applied_values
from orchestrator.execution.questions import is_reference
from orchestrator.execution.raw import pack, unpack
from orchestrator.execution.retry import Next, Verdict, is_computation, verdict
from orchestrator.execution.safety import Safety, cause_of
from orchestrator.protocols import Instrument, Recoverable
from orchestrator.record.crash_points import reached
from orchestrator.record.states import AttemptState, CampaignState
from orchestrator.record.store import CampaignStore
from orchestrator.record.views import AttemptInfo, StepInfo, TrialInfo

LOOKUP_S = 30.0  # a look into a log takes a moment; a device that needs longer is not there
LOOKS = 3  # how often a job that was lost sight of is looked up before a person is asked
STORE_WAITS_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # a full disk is made room on in minutes; the result is in memory
SKIPPED = "the lab's table gives such trials up"
STOPPED = "stopped: "  # begins the note of attempts that we ended ourselves; they say nothing about the instrument


@dataclass(frozen=True)
class Work:
    """All that one step of one trial needs.

    Args:
        trial: as planned.
        step: of the trial.
        cost: of one attempt, in the campaign's cost unit.
        config: of the step, from the procedure.
        member: name of the instrument that does it; where the step names a kind, one of its members.
        instrument: that does it.
        description: of the instrument.
        capability: that the step uses.
        context: where inputs come from.
        envelope: tighter bounds of the lab, by parameter.
        wish: that the trial's work ends early.
        trusted: whether the instrument is the one that open attempts were sent to.
        resumed: whether another process may have sent the attempt's order before.
    """

    trial: TrialInfo
    step: StepInfo
    cost: float
    config: StepConfig
    member: str
    instrument: Instrument
    description: Description
    capability: Capability
    context: Context
    envelope: Mapping[str, ParameterEnvelope]
    wish: Wish
    trusted: bool = True
    resumed: bool = False


@dataclass(frozen=True)
class Progress:
    """News from a running step: `fraction` is between 0 and 1."""

    trial: int
    step: str
    fraction: float
    text: str = ""


class Attempts:
    """Carries the attempts of one campaign from state to state.

    Every act returns whether the trial can go on: to its next step, to another attempt, or to its end. It cannot where
    the campaign was stopped, and where a person must answer first.

    Args:
        store: of the campaign.
        name: of the campaign.
        clock: of the campaign.
        on_progress: gets news of running steps.
        safety: what watches over the orders.
    """

    def __init__(
        self,
        store: CampaignStore,
        name: str,
        clock: Clock,
        on_progress: Callable[[Progress], None],
        safety: Safety,
    ) -> None:
        self.store = store
        self.name = name
        self.clock = clock
        self.on_progress = on_progress
        self.safety = safety
        # A person who starts the campaign anew allows the tries of the retry table anew.
        self._earlier = max((attempt.id for attempt in store.attempts(name)), default=0)

    # --- the ordinary way -----------------------------------------------------------------------------------------

    def intent(self, work: Work, fence: int, order: Order, mark: JsonObject | None = None) -> AttemptInfo:
        """Commit the permission to start; `mark` goes into the record with the order."""
        return self.store.intent(
            work.step.id,
            fence=fence,
            order={**order.to_json(), **(mark or {})},
            instrument=work.member,
            slots=work.description.slots,
            cost=work.cost,
            sample=work.context.sample or "",
            needs={} if mark else work.config.needs,
        )

    async def perform(self, work: Work, attempt: AttemptInfo, tries: int = 1) -> bool:
        """Send the order of an attempt and see it to its end.

        Args:
            work: of the step.
            attempt: INTENT at the first try; later tries send the same order with the same key.
            tries: counts the sendings of this attempt.
        """
        try:
            order = check_order(Order.from_json(attempt.order), work.capability, work.envelope)
        except Rejected as error:
            if tries > 1 or work.resumed:
                return self.hold(attempt, f"it may have been started, and must not be sent again: {error}")
            return await self.refuse(work, attempt, error)
        if (tries > 1 or work.resumed) and self.safety.gates is not None:
            # an order that never arrived would begin now: what had to hold before the first sending must hold again
            shut = await self.safety.gates.interlocks(work.trial, work.step, work.member, order.capability)
            if shut is not None:
                return self.hold(attempt, f"it may have been started, and must not be sent again: {shut.reason}")
        outcome = await self.send(work, attempt, order)
        return await self.conclude(work, attempt, outcome, tries)

    async def refuse(self, work: Work, attempt: AttemptInfo, refusal: Rejected) -> bool:
        """Fail an attempt whose order must not be sent; the intent stands in the record, with the reason."""
        return await self.settle(work, attempt, Outcome(None, refusal, ended=True), tries=1)

    async def send(self, work: Work, attempt: AttemptInfo, order: Order) -> Outcome:
        """Hand the order to the instrument, under the guard."""
        events = self._events(work, attempt)
        running = work.instrument.run(order, events)
        return await supervise(running, work.instrument, events, self.clock, deadline_s=order.deadline_s)

    async def conclude(self, work: Work, attempt: AttemptInfo, outcome: Outcome, tries: int) -> bool:
        """Keep and record what came back, or settle what went wrong."""
        if outcome.error is not None:
            return await self.settle(work, attempt, outcome, tries)
        reached("result.received")
        try:
            await self._patiently(work, lambda: self.keep(attempt, outcome.result))
        except BadData as error:
            return await self.settle(work, attempt, Outcome(None, error, ended=True), tries)
        return await self.record(work, attempt.id)

    def keep(self, attempt: AttemptInfo, result: object) -> None:
        """Make the raw bytes durable, and only then say MEASURED."""
        content, attachments = pack(result)
        for attachment in attachments:
            self.store.raw.put(attachment.content)
        digest = self.store.raw.put(content)
        self.store.advance(attempt.id, AttemptState.MEASURED, raw_sha256=digest)

    async def record(self, work: Work, attempt_id: int) -> bool:
        """Check what the raw store holds for a MEASURED or HELD attempt, and record it in one transaction."""
        attempt = self.store.attempt(attempt_id)
        order = Order.from_json(attempt.order)
        try:
            result, attachments = unpack(self.store.raw.get(attempt.raw_sha256 or ""))
            checked = check_result(
                result,
                order,
                work.capability,
                ordered_at=attempt.created_at,
                now=self.clock.now(),
                saturating=self.safety.alarms.of(work.member).saturation,
            )
            if is_reference(attempt):
                await self.safety.references.judge(attempt, checked)
                return True
        except BadData as error:
            if attempt.state is AttemptState.MEASURED:
                self.store.advance(attempt.id, AttemptState.HELD, effect=error.effect.value, note=str(error))
            return await self.settle(work, attempt, Outcome(None, error, ended=True), tries=1)
        self.store.record(
            attempt.id,
            checked.measurements,
            structures=checked.structures,
            applied=applied_values(work.config, work.capability, checked.applied, work.context),
            attachments=attachments,
            notes=checked.notes,
        )
        self.safety.bench.succeeded(work.member)
        await self.safety.alarms.look(work.trial, self.store.attempt(attempt.id))
        return True

    # --- what went wrong ------------------------------------------------------------------------------------------

    async def settle(self, work: Work, attempt: AttemptInfo, outcome: Outcome, tries: int) -> bool:
        """Do after a failure what the retry table says.

        Args:
            work: of the step.
            attempt: that failed.
            outcome: with the error.
            tries: counts the sendings and look-ups of this attempt.
        """
        error = outcome.error or Fault("nothing came back")
        if (tries > 1 or work.resumed) and error.effect is Effect.NONE:
            # Nothing happened this time; what the first sending did is as unknown as before.
            error = type(error)(str(error), effect=Effect.UNKNOWN)
        if outcome.aborted:
            return self._stopped(work, attempt, error, outcome.aborted)
        times = tries if error.effect is Effect.UNKNOWN else self._failures(attempt, error.effect) + 1
        what = verdict(
            error,
            failed=times,
            description=work.description,
            capability=work.capability,
            table=self.safety.lab.failures,
            names={work.member, work.step.instrument},
        )
        reason = f"{type(error).__name__}: {error}"
        goes_on = await self._do(what, work, attempt, outcome, tries, error, reason)
        state = self.store.attempt(attempt.id).state
        real = not is_computation(work.description, work.capability)
        if state is AttemptState.UNKNOWN:
            await self.safety.bench.lost(work.member, reason)
        if real and what.next is not Next.OUT_OF_SERVICE and state is not AttemptState.RECORDED:
            hung = isinstance(error, TimedOut) and not outcome.ended
            await self.safety.failed(work.member, error, reason, hung=hung)
        return goes_on

    async def _do(  # noqa: PLR0917  the whole case, as `settle` has it
        self,
        what: Verdict,
        work: Work,
        attempt: AttemptInfo,
        outcome: Outcome,
        tries: int,
        error: InstrumentError,
        reason: str,
    ) -> bool:
        """Do what the table says."""
        if what.next is Next.HOLD and error.effect is Effect.DONE and attempt.raw_sha256 is None:
            what = replace(what, next=Next.ASK)  # the driver kept nothing that could be held
        if what.next is Next.HOLD or (what.next is Next.ASK and error.effect is Effect.UNKNOWN):
            return self.hold(attempt, reason)
        if what.next is Next.LOOK_UP:
            return await self.look_up(work, attempt, tries, ended=outcome.ended, because=reason)
        if what.next in (Next.RETRY, Next.SEND_AGAIN, Next.OTHER):
            self.tell(work, f"{reason}; again in {what.wait_s:g} s")
        if what.next is Next.SEND_AGAIN:
            await self.wait(work.wish, what.wait_s)
            return not work.wish.made and await self.perform(work, attempt, tries + 1)
        if what.next is Next.PAUSE:
            return self._pause(work, attempt, error, reason)
        if what.next is Next.OUT_OF_SERVICE and error.effect is Effect.UNKNOWN:
            self.hold(attempt, reason)
            await self.safety.bench.take_out(work.member, "fault", reason)
            return False
        spent = error.effect in (Effect.STARTED, Effect.DONE)
        again = what.next is not Next.FAIL and not (what.next is Next.OUT_OF_SERVICE and spent)
        again = again or is_reference(attempt)
        self.store.end_attempt(attempt.id, AttemptState.FAILED, retry=again, reason=reason, effect=error.effect.value)
        if what.next in (Next.RETRY, Next.OTHER):
            if what.next is Next.OTHER:
                self.safety.avoided.setdefault(work.step.id, set()).add(work.member)
            await self.wait(work.wish, what.wait_s)
        else:
            await self._afterwards(what.next, work, attempt, error, reason)
        return True

    async def _afterwards(
        self, what: Next, work: Work, attempt: AttemptInfo, error: InstrumentError, reason: str
    ) -> None:
        """Do what follows where no further attempt is made now."""
        if what is Next.OUT_OF_SERVICE:
            self.tell(work, reason)
            await self.safety.bench.take_out(work.member, cause_of(error), reason)
        elif is_reference(attempt):
            because = f"its reference could not be measured: {reason}"
            await self.safety.bench.take_out(work.member, "reference", because)
        elif what is Next.SKIP:
            self.store.give_up(self.name, work.trial.number, actor="matloop", reason=f"{reason}; {SKIPPED}")
        elif what is Next.ASK:
            self.store.ask(
                self.name,
                "failure",
                reason,
                trial=work.trial.number,
                step_id=work.step.id,
                instrument=work.member,
                subject=str(attempt.number),
            )

    def hold(self, attempt: AttemptInfo, why: str) -> bool:
        """Leave an attempt UNKNOWN, which keeps its slot and its budget until a person answers; a HELD one stays so."""
        if self.store.attempt(attempt.id).state not in (AttemptState.UNKNOWN, AttemptState.HELD):
            self.store.advance(attempt.id, AttemptState.UNKNOWN, effect=Effect.UNKNOWN.value, note=why)
        return False

    def _pause(self, work: Work, attempt: AttemptInfo, error: InstrumentError, reason: str) -> bool:
        """Plan the step again, and pause the campaign until a person has seen to the instrument."""
        self.store.end_attempt(attempt.id, AttemptState.FAILED, retry=True, reason=reason, effect=error.effect.value)
        self.tell(work, reason)
        with suppress(IllegalTransition):  # it is paused or stopped already
            why = f"instrument {work.member!r} cannot go on: {reason}"
            self.store.set_state(self.name, CampaignState.PAUSED, actor="matloop", reason=why)
        return False

    def _stopped(self, work: Work, attempt: AttemptInfo, error: InstrumentError, why: str) -> bool:
        """Settle an attempt that we ended ourselves: nothing may be begun again, nothing may be forgotten."""
        note = f"{STOPPED}{why} ({error})"
        if error.effect is Effect.NONE or is_computation(work.description, work.capability):
            self.store.end_attempt(attempt.id, AttemptState.FAILED, retry=True, reason=note, effect=Effect.NONE.value)
        elif error.effect is not Effect.UNKNOWN:
            self.store.end_attempt(attempt.id, AttemptState.FAILED, retry=False, reason=note, effect=error.effect.value)
        elif work.description.recovery is Recovery.BLIND:
            self.hold(attempt, note)
        return False  # on the other recovery classes it stays open, and `resume` finds out

    def _failures(self, attempt: AttemptInfo, effect: Effect) -> int:
        return sum(
            past.state is AttemptState.FAILED and past.effect == effect.value and not past.note.startswith(STOPPED)
            for past in self.store.attempts(self.name, trial=attempt.trial)
            if past.step_id == attempt.step_id and past.id > self._earlier
        )

    # --- after a crash, or when a job was lost sight of -----------------------------------------------------------

    async def resume(self, work: Work, attempt: AttemptInfo) -> bool:
        """Go on with an attempt that another process left open; that process is dead."""
        if attempt.state in (AttemptState.MEASURED, AttemptState.HELD):
            return await self.record(work, attempt.id)
        if not work.trusted:
            return self.hold(attempt, "the instrument is another one than the order was sent to")
        if work.description.recovery is Recovery.IDEMPOTENT:
            return await self.perform(replace(work, resumed=True), attempt)
        if work.description.recovery is Recovery.QUERYABLE:
            return await self.look_up(work, attempt, tries=1, ended=True, because="the process that sent it ended")
        return self.hold(attempt, "the process that sent it ended, and this instrument cannot say what became of it")

    async def look_up(self, work: Work, attempt: AttemptInfo, tries: int, *, ended: bool, because: str) -> bool:
        """Ask a queryable instrument what became of an attempt, and go on from there.

        Args:
            work: of the step.
            attempt: whose outcome is unknown.
            tries: counts the look-ups of this attempt.
            ended: whether its sender is provably through; only then can "never started" be proof.
            because: why it is unknown.
        """
        attempt = self.store.attempt(attempt.id)
        where = await self.whereabouts(work, attempt)
        if isinstance(where, Absent) and ended and attempt.handle is None:
            await self.quiesce(work)
            where = await self.whereabouts(work, attempt)
            if isinstance(where, Absent):
                reason = f"the instrument's own log shows that it never started ({because})"
                self.store.end_attempt(attempt.id, AttemptState.NOT_STARTED, retry=True, reason=reason)
                return True
        if isinstance(where, Finished):
            return await self.conclude(work, attempt, Outcome(where.result, None, ended=True), tries)
        if isinstance(where, Running) and isinstance(work.instrument, Recoverable) and tries <= LOOKS:
            if attempt.state is not AttemptState.RUNNING:
                self.store.advance(attempt.id, AttemptState.RUNNING, handle=where.handle, note="found by its key")
            events = self._events(work, attempt)
            waiting = work.instrument.attach(where.handle, events)
            deadline = Order.from_json(attempt.order).deadline_s
            outcome = await supervise(waiting, work.instrument, events, self.clock, deadline_s=deadline)
            return await self.conclude(work, attempt, outcome, tries + 1)
        return self.hold(attempt, f"{because}; asked where it is, the instrument says: {where}")

    async def whereabouts(self, work: Work, attempt: AttemptInfo) -> Whereabouts:
        """Ask the instrument where the job of an attempt is; changes nothing there."""
        if not isinstance(work.instrument, Recoverable):
            return Unsure("the driver declares 'queryable' but has no 'lookup'")
        try:
            return await asyncio.wait_for(work.instrument.lookup(attempt.key, attempt.handle), LOOKUP_S)
        except Exception as error:  # noqa: BLE001  whatever a driver raises means that it cannot tell
            return Unsure(f"{type(error).__name__}: {error}")

    async def quiesce(self, work: Work) -> None:
        """Wait until nothing that a dead sender sent can still arrive."""
        await self.clock.sleep(work.description.delivery_s)

    # --- small parts ----------------------------------------------------------------------------------------------

    async def wait(self, wish: Wish, seconds: float) -> None:
        """Wait, but not longer than until the work is to end early."""
        pause = asyncio.create_task(self.clock.sleep(seconds))
        wished = asyncio.create_task(wish.wait())
        try:
            await asyncio.wait((pause, wished), return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
            wished.cancel()

    def _events(self, work: Work, attempt: AttemptInfo) -> OrderEvents:
        def accepted(handle: JsonObject) -> None:
            reached("ack.before_commit")
            if self.store.attempt(attempt.id).state in (AttemptState.INTENT, AttemptState.UNKNOWN):
                self.store.advance(attempt.id, AttemptState.SUBMITTED, handle=handle)
            reached("ack.after_commit")

        def progress(fraction: float, text: str) -> None:
            self.on_progress(Progress(work.trial.number, work.step.name, fraction, text))

        return OrderEvents(self.clock, work.wish, accepted, progress)

    async def _patiently(self, work: Work, act: Callable[[], None]) -> None:
        """Do what makes a result durable again and again while the disk is full or the database does not answer."""
        for seconds in STORE_WAITS_S:
            try:
                return act()
            except (IllegalTransition, Damaged):
                raise
            except (OSError, StoreError) as error:
                self.tell(work, f"the result cannot be stored: {error}; trying again in {seconds:g} s")
                await self.wait(work.wish, seconds)
        return act()

    def tell(self, work: Work, text: str) -> None:
        """Pass on news about a step."""
        self.on_progress(Progress(work.trial.number, work.step.name, 0.0, text))

    def say(self, trial: int, text: str) -> None:
        """Pass on news about a trial."""
        self.on_progress(Progress(trial, "", 0.0, text))
