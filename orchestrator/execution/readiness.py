"""Whether the next step of a trial may begin: its conditions, the wait after the step before it, its resources."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from enum import Enum

from orchestrator.config.steps import SampleConfig, StepConfig
from orchestrator.errors import IllegalTransition, OutOfStock
from orchestrator.execution.attempts import Attempts, Work
from orchestrator.execution.choosing_instrument import Hindrance
from orchestrator.execution.conditions import unmet
from orchestrator.record.resources import ResourceInfo
from orchestrator.record.samples import first_name, full_name, ordered_sample
from orchestrator.record.states import AttemptState, CampaignState, StepState
from orchestrator.record.store import CampaignStore
from orchestrator.record.views import StepInfo, TrialInfo
from orchestrator.units import convert

MICROSECONDS = 1_000_000
LOOK_EVERY = 5.0
"""So many looks of the clock's apart, a trial that waits asks whether its campaign was paused."""
LOW = "low stock"
"""Kind of the events that tell that a stock is low."""


class Ready(Enum):
    """What to do with a planned step."""

    GO = "go"
    SKIPPED = "skipped"
    NOT_NOW = "not now"


class Readiness:
    """Looks after everything that must be so before a step is claimed.

    Args:
        store: of the campaign.
        name: of the campaign.
        attempts: for waiting and telling.
    """

    def __init__(self, store: CampaignStore, name: str, attempts: Attempts) -> None:
        self.store = store
        self.name = name
        self.attempts = attempts
        self.clock = attempts.clock
        self._low: set[str] = set()

    async def of(self, work: Work, procedure: Mapping[str, StepConfig]) -> Ready:
        """Skip a step whose conditions do not hold, or wait until it may begin.

        Args:
            work: of a PLANNED step.
            procedure: of the trial, by the names of the planned steps.

        Returns:
            NOT_NOW where the work is to end early, or the campaign is no longer active.
        """
        reason = unmet(work.config, work.context)
        if reason:
            self.store.skip(work.step.id, reason=reason)
            return Ready.SKIPPED
        return Ready.GO if await self._rested(work, _wait_s(work.trial, work.step, procedure)) else Ready.NOT_NOW

    async def _rested(self, work: Work, seconds: float) -> bool:
        """Wait out the time after the step before; the time is stored, so that a crash does not begin it anew."""
        if seconds <= 0:
            return True
        until = work.step.not_before
        if until is None:
            until = self.store.rest(work.step.id, until=self.clock.now() + round(seconds * MICROSECONDS))
            self.attempts.tell(work, f"waits for {seconds:g} s")
        # never longer than the whole: a clock that was set back must not hold a sample for ever
        end = self.clock.monotonic() + min(seconds, max(0.0, (until - self.clock.now()) / MICROSECONDS))
        while not work.wish.made and (left := end - self.clock.monotonic()) > 0:
            await self.attempts.wait(work.wish, min(left, LOOK_EVERY * self.clock.poll_s))
            if self.store.campaign(self.name).state is not CampaignState.ACTIVE:
                return False
        return not work.wish.made

    def occupied(self, work: Work) -> Hindrance | None:
        """Say that others hold what a step needs; asked before the claim, which would be written at each look."""
        if not work.config.needs:
            return None
        for one in self.store.resources():
            need = work.config.needs.get(one.name)
            if need is not None and one.free < convert(need.amount, need.unit, one.unit) <= one.level:
                whose = ", ".join(f"trial {number} of {name}" for name, number in one.holders)
                reason = f"waits for {one.name!r}, which {whose or 'nobody'} holds"
                if self._only_people_free(one):
                    return Hindrance("unknown", f"{reason} until a person has answered", work.step.instrument)
                return Hindrance("busy", reason, work.step.instrument)
        return None

    def _only_people_free(self, resource: ResourceInfo) -> bool:
        """Say whether all that is held of a resource is held by attempts of this campaign that are UNKNOWN."""
        asked = {
            (self.name, attempt.trial)
            for attempt in self.store.open_attempts(self.name)
            if attempt.state is AttemptState.UNKNOWN
        }
        return bool(resource.holders) and set(resource.holders) <= asked

    def used(self, member: str, slots: int) -> Hindrance | None:
        """Say that other campaigns use an instrument; asked before the claim, which would be written at each look."""
        users = self.store.users(self.name, member)
        if len(users) < slots:
            return None
        return Hindrance("busy", f"waits for {member!r}, which is used by {', '.join(sorted(set(users)))}", member)

    def out_of_stock(self, work: Work, error: OutOfStock) -> None:
        """Pause the campaign until somebody refilled what a step needs."""
        why = f"step {work.step.name!r} of trial {work.trial.number} cannot begin: {error}"
        self.attempts.tell(work, why)
        with suppress(IllegalTransition):  # it is paused or stopped already
            self.store.set_state(self.name, CampaignState.PAUSED, actor="matloop", reason=why)

    def tell_low(self, work: Work) -> None:
        """Say once when a stock that a step takes from has become low."""
        if not work.config.needs:
            return
        for one in self.store.resources():
            if one.name not in work.config.needs:
                continue
            if one.low and one.name not in self._low:
                self.store.add_event(self.name, kind=LOW, actor="matloop", note=str(one))
                self.attempts.tell(work, str(one))
            (self._low.add if one.low else self._low.discard)(one.name)


def sample_name(campaign: str, trial: TrialInfo, step: StepInfo, procedure: Mapping[str, StepConfig]) -> str:
    """Name the sample that the order of a step speaks of.

    Args:
        campaign: name.
        trial: of the step.
        step: that is to be done.
        procedure: of the trial, by the names of the planned steps.
    """
    if not any(one.sample for one in procedure.values()):
        return trial.sample or first_name(campaign, trial.number)
    before = [
        _config(procedure, one.name)
        for one in trial.steps
        if one.index < step.index and one.state is StepState.RECORDED
    ]
    return full_name(first_name(campaign, trial.number), ordered_sample(_config(procedure, step.name), before))


def _config(procedure: Mapping[str, StepConfig], name: str) -> SampleConfig | None:
    config = procedure.get(name)
    return None if config is None else config.sample


def _wait_s(trial: TrialInfo, step: StepInfo, procedure: Mapping[str, StepConfig]) -> float:
    """Return the wait after the last step of a trial that was really done."""
    done = [one for one in trial.steps if one.index < step.index and one.state is StepState.RECORDED]
    config = procedure.get(done[-1].name) if done else None
    return config.wait.total_s if config is not None and config.wait is not None else 0.0
