"""The one loop that serves all modes: plan when enough trials are free, carry out what is planned, stop for a reason.

`parallel` trials are kept in flight. As soon as `plan_when_free` of them are free the campaign plans again, with the
rest as pending: 1 is asynchronous, `parallel` gives synchronous rounds. The plain command line and the Prefect flow
both run this loop; Prefect wraps its four acts by `Hooks`.

With `queue` so many trials are planned ahead: an instrument that falls idle takes the next of them at once, while a
training or a choice goes on beside it. Every result has what waits ranked anew together with everything else; what is
not chosen again is withdrawn, what has begun is only conditioned on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from orchestrator.campaign import Campaign, Plan
from orchestrator.choosing import queue_of
from orchestrator.errors import BudgetSpent, SpaceExhausted, Unanswered
from orchestrator.execution.clock import Clock
from orchestrator.execution.executor import Executor
from orchestrator.execution.questions import waits
from orchestrator.record.states import AttemptState, CampaignState, TrialState
from orchestrator.record.views import FitInfo, TrialInfo
from orchestrator.standing import Standing
from orchestrator.units import convert, shown

T = TypeVar("T")
FAILURES_IN_A_ROW = 10
"""So many trials that fail one after the other are the instrument's doing, not the candidates': a person is needed."""


class Hooks(Protocol):
    """What may be wrapped around the loop's acts; the plain loop wraps nothing."""

    async def fit(self, act: Callable[[], Awaitable[FitInfo | None]]) -> FitInfo | None:
        """Run a training."""

    async def propose(self, act: Callable[[], Awaitable[Plan]]) -> Plan:
        """Run a choice."""

    async def trial(self, trial: TrialInfo, act: Callable[[], Awaitable[TrialInfo]]) -> TrialInfo:
        """Carry out a trial."""

    async def publish(self, campaign: Campaign, news: str) -> None:
        """Show what is new; must never raise."""


class Plain:
    """Hooks of the plain loop: nothing around the acts, and a place to print news.

    Args:
        say: called with one line for people whenever something happened.
    """

    def __init__(self, say: Callable[[str], None] = lambda _: None) -> None:
        self.say = say

    async def fit(self, act: Callable[[], Awaitable[FitInfo | None]]) -> FitInfo | None:
        """Run a training."""
        return await act()

    async def propose(self, act: Callable[[], Awaitable[Plan]]) -> Plan:
        """Run a choice."""
        return await act()

    async def trial(self, trial: TrialInfo, act: Callable[[], Awaitable[TrialInfo]]) -> TrialInfo:
        """Carry out a trial."""
        del trial
        return await act()

    async def publish(self, campaign: Campaign, news: str) -> None:
        """Print one line."""
        del campaign
        self.say(news)


async def run(
    campaign: Campaign, *, hooks: Hooks | None = None, clock: Clock | None = None, threaded: bool = True, who: str = ""
) -> str:
    """Run a campaign until it stops, and say why it stopped.

    Args:
        campaign: to be run; a half-finished one is resumed where it stands.
        hooks: wrapped around fits, choices, trials and news.
        clock: of the campaign; a test may run it faster than the wall's.
        threaded: plan on a thread, so that instruments go on meanwhile; off under a virtual clock.
        who: named to others who want to run the same campaign.

    Returns:
        One sentence. The campaign is DONE, unless it was stopped, paused, or waits for a person's answer.

    Raises:
        Held: another process runs this campaign.
        MatloopError: an instrument could not be opened, or planning failed.
    """
    with campaign.store.hold(campaign.name, who=who):
        executor = campaign.executor(clock)
        turns = _Turns(campaign, executor, hooks or Plain(), executor.clock, threaded=threaded)
        await executor.open()
        try:
            for question in await executor.recover():
                await turns.hooks.publish(campaign, str(question))
            return await turns.run()
        finally:
            await turns.drop()
            await executor.close()


class _Turns:
    """The turns of one loop: which trials are in flight, and when to plan again."""

    def __init__(self, campaign: Campaign, executor: Executor, hooks: Hooks, clock: Clock, *, threaded: bool) -> None:
        self.campaign = campaign
        self.executor = executor
        self.hooks = hooks
        self.clock = clock
        self.threaded = threaded
        self.in_flight: dict[asyncio.Task[TrialInfo], int] = {}
        self.exhausted = ""
        self.blocked = ""
        self.unanswered = ""
        self.unpaid: set[int] = set()
        self.failures = 0
        self.news = 0
        self.planning: asyncio.Task[None] | None = None
        self.ticked = clock.monotonic()

    async def run(self) -> str:
        """Take turns until nothing is in flight and nothing is left to plan."""
        campaign = self.campaign
        campaign.derive()
        while True:
            self._tick()
            if campaign.config.queue:
                await self._go_ahead()
            else:
                await self._plan()
                self._start(campaign.open_trials())
            awaited: set[asyncio.Task[Any]] = {*self.in_flight, *([self.planning] if self.planning else [])}
            if not awaited:
                return await self._end()
            done, _ = await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            if self.planning in done:
                planned, self.planning = self.planning, None
                await planned
            for task in sorted(done & set(self.in_flight), key=self.in_flight.__getitem__):
                await self._finish(task, self.in_flight.pop(task))

    async def _finish(self, task: asyncio.Task[TrialInfo], number: int) -> None:
        """Take in how a trial ended; a trial that may not go on ends the turns, not the campaign."""
        try:
            trial = await task
        except Unanswered as error:
            self.blocked = self.unanswered = str(error)
            return
        except BudgetSpent as error:
            self.blocked = str(error)
            self.unpaid.add(number)
            return
        self.news += 1
        self.campaign.derive()
        await self.hooks.publish(self.campaign, _news(self.campaign, trial))
        self.failures = self.failures + 1 if trial.state is TrialState.FAILED else 0
        if self.failures == FAILURES_IN_A_ROW and self.campaign.info.state is CampaignState.ACTIVE:
            reason = f"{self.failures} trials in a row failed, the last one: {trial.reason}"
            self.campaign.store.set_state(self.campaign.name, CampaignState.PAUSED, actor="matloop", reason=reason)

    async def drop(self) -> None:
        """Cancel what is in flight; the executor leaves every step in a legal state."""
        tasks: list[asyncio.Task[Any]] = [*self.in_flight, *([self.planning] if self.planning else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.in_flight.clear()
        self.planning = None
        self._tick()

    async def _plan(self) -> None:
        """Plan as many trials as are free, if enough are."""
        config = self.campaign.config
        while not (self.exhausted or self.blocked):
            now = self.campaign.standing()
            free = config.parallel - len(now.open_trials) + self._set_aside()
            if free < config.plan_when_free or self.campaign.stop_reason(now) is not None:
                return
            left = self.campaign.trials_left(now)
            q = free if now.decisions else max(free, config.initial.trials)
            try:
                await self.hooks.fit(lambda: self._apart(self.campaign.fit_if_due))
                plan = await self.hooks.propose(
                    lambda: self._apart(self.campaign.propose, q if left is None else min(q, left))  # noqa: B023
                )
            except SpaceExhausted as error:
                self.exhausted = f"{error.what}: {error}"
                return
            await self.hooks.publish(self.campaign, _decided(plan))
            if not plan.trials:
                self.exhausted = "space exhausted: nothing was proposed"

    def _set_aside(self) -> int:
        """Count the trials whose result is HELD: they wait for a person and keep no instrument, so the rest goes on."""
        store, name = self.campaign.store, self.campaign.name
        return sum(attempt.state is AttemptState.HELD for attempt in store.open_attempts(name))

    # --- with a queue ---------------------------------------------------------------------------------------------

    async def _go_ahead(self) -> None:
        """Start what waits, and let a plan be made beside it where there is news or nothing waits."""
        campaign, now = self.campaign, self.campaign.standing()
        queue = queue_of(now, self._begun)
        reason = campaign.stop_reason(now, waiting=len(queue))
        if reason is not None:
            if queue and now.info.state is CampaignState.ACTIVE:
                numbers = campaign.withdraw(reason, begun=self._begun)
                await self.hooks.publish(campaign, f"withdrawn, because the campaign stops: trials {numbers}")
            waits = {trial.number for trial in queue}  # an initial design is carried out, as far as the budget goes
            self._start([trial for trial in now.open_trials if trial.number not in waits])
            return
        running = self._begun | {trial.number for trial in now.open_trials if trial.state is TrialState.RUNNING}
        free = campaign.config.parallel - len(running)
        self._start(_ranked(now), most=len(self.in_flight) + max(free, 0))
        due = len(now.open_trials) < campaign.config.parallel or self.news >= campaign.config.plan_when_free
        if due and self.planning is None and not (self.exhausted or self.blocked):
            self.news = 0
            self.planning = asyncio.ensure_future(self._plan_ahead())

    async def _plan_ahead(self) -> None:
        """Train if due, then rank what waits anew together with everything else."""
        if self._wanted()[0] < 1:
            return
        try:
            await self.hooks.fit(lambda: self._apart(self.campaign.fit_if_due))
            q, ahead = self._wanted()  # results and starts may have come meanwhile
            if q < 1:
                return
            plan = await self.hooks.propose(lambda: self._decide(q, ahead))
        except SpaceExhausted as error:
            self.exhausted = f"{error.what}: {error}"
            return
        await self.hooks.publish(self.campaign, _decided(plan))
        if not plan.trials and not plan.kept:
            self.exhausted = "space exhausted: nothing was proposed"

    def _wanted(self) -> tuple[int, int]:
        """Return how many trials are wanted besides those begun, and how many of them only to wait."""
        campaign, now = self.campaign, self.campaign.standing()
        config, queue = campaign.config, len(queue_of(now, self._begun))
        free = config.parallel - (len(now.open_trials) - queue) + self._set_aside()
        q = max(free + config.queue, 0 if now.decisions else config.initial.trials)
        left = campaign.trials_left(now)
        return q if left is None else min(q, left + queue), config.queue

    async def _decide(self, q: int, ahead: int) -> Plan:
        """Choose on a thread, and record on this one, where nothing can be started meanwhile."""
        choice = await self._apart(partial(self.campaign.choose, q, begun=self._begun, ahead=ahead))
        return self.campaign.settle(choice, begun=self._begun)

    @property
    def _begun(self) -> set[int]:
        """Numbers of the trials that are being carried out, whatever the record says yet."""
        return set(self.in_flight.values())

    # --- both -----------------------------------------------------------------------------------------------------

    def _start(self, trials: Sequence[TrialInfo], most: int | None = None) -> None:
        """Start planned trials, in the order given, until `parallel` are in flight, or `most`."""
        if self.unanswered or self.campaign.info.state is not CampaignState.ACTIVE:
            return
        if self.blocked:  # the budget begins no more; what was begun and stood still for a question is ended
            trials = [one for one in trials if one.state is TrialState.RUNNING and one.number not in self.unpaid]
        begun = self._begun
        held = {attempt.trial for attempt in self.campaign.store.open_attempts(self.campaign.name)}
        for trial in trials:
            if len(self.in_flight) >= (self.campaign.config.parallel if most is None else most):
                return
            if trial.number in begun or trial.number in held:
                continue
            carry_out = self.hooks.trial(trial, lambda number=trial.number: self.executor.carry_out(number))  # type: ignore[misc]
            self.in_flight[asyncio.ensure_future(carry_out)] = trial.number

    async def _end(self) -> str:
        """Say why nothing is left to do, and mark the campaign DONE where it is."""
        campaign = self.campaign
        waiting = [a for a in campaign.store.open_attempts(campaign.name) if waits(a)]
        if waiting:
            reason = f"waits for a person's answer on trial {waiting[0].trial}: matloop answer {campaign.name}"
            await self.hooks.publish(campaign, reason)
            return reason
        if self.unanswered:  # and answered meanwhile: the campaign is not done, it only has to be resumed
            reason = f"a question was answered while nothing else could go on: matloop resume {campaign.name}"
            await self.hooks.publish(campaign, reason)
            return reason
        reason = campaign.stop_reason() or self.blocked or self.exhausted or "nothing is left to do"
        if campaign.info.state is CampaignState.ACTIVE:
            if campaign.config.queue:
                campaign.withdraw(reason)
            campaign.store.set_state(campaign.name, CampaignState.DONE, actor="matloop", reason=reason)
        await self.hooks.publish(campaign, reason)
        return reason

    async def _apart(self, act: Callable[..., T], *arguments: object) -> T:
        """Run a slow act on a thread, so that instruments go on meanwhile."""
        if self.threaded:
            return await asyncio.to_thread(act, *arguments)
        return act(*arguments)

    def _tick(self) -> None:
        """Account the time that the campaign has been run."""
        now = self.clock.monotonic()
        self.campaign.store.tick(self.campaign.name, (now - self.ticked) / 3600)
        self.ticked = now


def _ranked(now: Standing) -> list[TrialInfo]:
    """Return the open trials, best first: as the last decision ranked them; what it did not name stands before."""
    places = {number: place for place, number in enumerate(now.decisions[-1].trials)} if now.decisions else {}
    return sorted(now.open_trials, key=lambda trial: (places.get(trial.number, -1), trial.number))


def _decided(plan: Plan) -> str:
    """Describe a decision, in one line."""
    said = ["; ".join(trial.candidate.label for trial in plan.trials)] if plan.trials or not plan.kept else []
    for what, trials in (("kept", plan.kept), ("withdrawn", plan.withdrawn)):
        if trials:
            said.append(f"{what}: {'; '.join(trial.candidate.label for trial in trials)}")
    return f"decision {plan.decision} ({plan.policy}): {' | '.join(said)}"


def _news(campaign: Campaign, trial: TrialInfo) -> str:
    """Describe how a trial ended, in one line."""
    label = f"trial {trial.number} {trial.candidate.label}"
    if trial.state is not TrialState.COMPLETED:
        return f"{label}: {trial.state.value.lower()} {trial.reason}".rstrip()
    units = campaign.problem.units
    values = [
        f"{m.property} = {convert(m.value, m.unit, units[m.property]):.4g} {shown(units[m.property])}".rstrip()
        for m in campaign.store.measurements(campaign.name, trial=trial.number)
        if m.property in units
    ]
    return f"{label}: {', '.join(values) or 'measured'}"
