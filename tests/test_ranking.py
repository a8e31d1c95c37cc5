"""The best so far: feasible first, non-dominated first."""

from __future__ import annotations

from orchestrator.domain import Constraint, Dataset, Objective, Outcome, Problem, Proposal, Row
from orchestrator.ranking import rank
from orchestrator.record.states import TrialState
from orchestrator.record.views import TrialInfo
from tests.fakes import point


def _trial(number: int) -> TrialInfo:
    candidate = point(float(number))
    return TrialInfo(
        number=number,
        candidate=candidate,
        proposal=Proposal(candidate, "random", "by chance"),
        decision=1,
        state=TrialState.COMPLETED,
        reason="",
        fidelity="target",
        replicate=0,
        steps=(),
        planned_at=0,
        started_at=0,
        ended_at=0,
        sample="",
    )


def _rows(number: int, **values: float) -> list[Row]:
    return [
        Row(number, point(float(number)), {}, name, value, None, Outcome.MEASURED, measurement=10 * number + j)
        for j, (name, value) in enumerate(values.items())
    ]


def test_infeasible_candidates_come_last_however_good_they_are() -> None:
    """A constraint is a condition, not a wish."""
    problem = Problem((Objective("y", "1", "maximize"),), (Constraint("ok", "1", low=0.5),))
    rows = _rows(1, y=9.0, ok=0.0) + _rows(2, y=1.0, ok=1.0) + _rows(3, y=2.0, ok=1.0)
    best = rank(problem, Dataset(tuple(rows)), [_trial(n) for n in (1, 2, 3)])
    assert [b.trial.number for b in best] == [3, 2, 1]
    assert [b.feasible for b in best] == [True, True, False]


def test_the_front_leads_with_several_objectives() -> None:
    """Non-dominated trials come before dominated ones; a trial that lacks an objective is not ranked."""
    problem = Problem((Objective("a", "1", "maximize"), Objective("b", "1", "minimize")))
    rows = _rows(1, a=1.0, b=1.0) + _rows(2, a=2.0, b=2.0) + _rows(3, a=1.5, b=3.0) + _rows(4, a=9.0)
    best = rank(problem, Dataset(tuple(rows)), [_trial(n) for n in (1, 2, 3, 4)])
    assert [b.trial.number for b in best] == [2, 1, 3]
    assert [b.on_front for b in best] == [True, True, False]
