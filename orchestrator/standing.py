"""How a campaign stands, read from the store."""

from __future__ import annotations

from functools import cached_property

from orchestrator.domain import Dataset, Problem
from orchestrator.record.states import TrialState
from orchestrator.record.store import CampaignStore
from orchestrator.record.views import CampaignInfo, DecisionInfo, FitInfo, TrialInfo

OPEN = frozenset({TrialState.PLANNED, TrialState.RUNNING})
"""States of trials that are in flight or wait to be."""


class Standing:
    """How a campaign stands at one moment: what the store says, each thing read once and only if it is asked for.

    Args:
        store: the campaign database.
        name: of the campaign.
        problem: its properties and units.
    """

    def __init__(self, store: CampaignStore, name: str, problem: Problem) -> None:
        self._store, self._name, self._problem = store, name, problem

    @cached_property
    def info(self) -> CampaignInfo:
        """The campaign's row."""
        return self._store.campaign(self._name)

    @cached_property
    def trials(self) -> list[TrialInfo]:
        """Every trial, by number."""
        return self._store.trials(self._name)

    @cached_property
    def decisions(self) -> list[DecisionInfo]:
        """Every decision, by number."""
        return self._store.decisions(self._name)

    @cached_property
    def fits(self) -> list[FitInfo]:
        """Every fit, by number."""
        return self._store.fits(self._name)

    @cached_property
    def dataset(self) -> Dataset:
        """What is known, in the problem's units."""
        return self._store.dataset(self._name, units=self._problem.units)

    @property
    def open_trials(self) -> list[TrialInfo]:
        """The trials that are planned or running."""
        return [trial for trial in self.trials if trial.state in OPEN]

    @property
    def planned(self) -> int:
        """Number of trials that this campaign planned; imported ones are not counted."""
        imported = {decision.number for decision in self.decisions if decision.purpose == "imported"}
        return sum(trial.decision not in imported for trial in self.trials)
