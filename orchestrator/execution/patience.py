"""Steps that cannot start now: they wait, and everything else goes on.

Only where nothing at all can go on any more, and the lab's patience is at its end, does the campaign pause, or end its
turns until a person has answered.
"""

from __future__ import annotations

from contextlib import suppress
from typing import NoReturn

from orchestrator.errors import IllegalTransition, Unanswered
from orchestrator.execution.attempts import Attempts
from orchestrator.execution.choosing_instrument import Bench, Hindrance
from orchestrator.execution.events import Wish
from orchestrator.execution.questions import questions
from orchestrator.record.states import CampaignState
from orchestrator.record.store import CampaignStore

PEOPLE = frozenset({"unknown", "approval", "failure"})
"""Kinds of hindrances that only an answer ends."""
AT_ONCE = frozenset({"unknown"})
"""Kinds for which nobody waits where nothing else can go on: the answer carries the campaign on."""
FOR_EVER = frozenset({"busy"})
"""Kinds that end by themselves, as another campaign's work does."""


class Patience:
    """Waiting of the trials of one campaign.

    Args:
        store: of the campaign.
        name: of the campaign.
        attempts: for waiting and telling.
        bench: knows whether anything works.
        patience_s: so long the campaign waits where nothing can go on.
    """

    def __init__(self, store: CampaignStore, name: str, attempts: Attempts, bench: Bench, patience_s: float) -> None:
        self.store = store
        self.name = name
        self.attempts = attempts
        self.bench = bench
        self.patience_s = patience_s
        self._waiting: dict[int, tuple[Hindrance, float]] = {}

    async def wait(self, trial: int, in_flight: int, hindrance: Hindrance, wish: Wish) -> bool:
        """Wait a moment; say whether the trial may look again.

        Args:
            trial: number.
            in_flight: how many trials are being carried out.
            hindrance: why it cannot go on.
            wish: that the trial's work ends early.

        Raises:
            Unanswered: nothing can go on before an answer.
        """
        clock = self.attempts.clock
        now = clock.monotonic()
        known = self._waiting.get(trial)
        if known is None or known[0].kind != hindrance.kind:
            self.attempts.say(trial, hindrance.reason)
        self._waiting[trial] = (hindrance, known[1] if known is not None else now)
        if self.store.campaign(self.name).state is not CampaignState.ACTIVE:
            self.forget(trial)
            return False
        nothing_works = not self.bench.working and len(self._waiting) >= in_flight
        patience = 0.0 if hindrance.kind in AT_ONCE else self.patience_s
        if nothing_works and hindrance.kind not in FOR_EVER:
            since = max(begun for _, begun in self._waiting.values())
            if now - since >= patience:
                self.forget(trial)
                if hindrance.kind in PEOPLE:
                    self._unanswered(trial, hindrance)
                self._pause(hindrance)
                return False
        await self.attempts.wait(wish, clock.poll_s)
        return not wish.made

    def forget(self, trial: int) -> None:
        """Take note that a trial waits no longer."""
        self._waiting.pop(trial, None)

    def _unanswered(self, trial: int, hindrance: Hindrance) -> NoReturn:
        there = questions(self.store, self.name)
        about = [one for one in there if one.instrument == hindrance.instrument or one.trial == trial]
        asked = next(iter([*about, *there]), hindrance.reason)  # a place may be held on another instrument
        message = f"trial {trial} cannot go on before an answer: {asked}"
        raise Unanswered(message)

    def _pause(self, hindrance: Hindrance) -> None:
        with suppress(IllegalTransition):  # it is paused or stopped already
            self.store.set_state(self.name, CampaignState.PAUSED, actor="matloop", reason=hindrance.reason)
