"""Stopping rules: when they end a campaign, and what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from orchestrator import plugins
from orchestrator.acquisition.stopping import (
    NoImprovement,
    NoImprovementOptions,
    TargetReached,
    TargetReachedOptions,
)
from orchestrator.domain import (
    Candidate,
    Constraint,
    Dataset,
    DecisionSummary,
    Expense,
    Expenses,
    Objective,
    Outcome,
    Problem,
    Row,
    Spent,
)
from orchestrator.errors import ConfigError
from orchestrator.protocols import CampaignView, StoppingRule

ENERGY = Objective("energy", "eV", "minimize")


def view(
    values: Sequence[float | tuple[float, float] | None] = (),
    problem: Problem | None = None,
    chances: Sequence[float | None] = (),
) -> CampaignView:
    """Make a view: a value a trial (None failed; a pair has two properties), P(best) a decision."""
    problem = problem or Problem((ENERGY,))
    rows = []
    for i, value in enumerate(values, start=1):
        candidate = Candidate.make(label=f"c{i}", parameters={"x": i})
        if value is None:
            rows.append(Row(i, candidate, {}, "", None, None, Outcome.FAILED, reason="melted"))
            continue
        for name, number in zip(problem.properties, value if isinstance(value, tuple) else (value,), strict=False):
            rows.append(Row(i, candidate, {}, name, number, None, Outcome.MEASURED, measurement=len(rows)))
    summaries = tuple(DecisionSummary(probability_best=p) for p in chances)
    return CampaignView(
        problem, Dataset(tuple(rows)), Spent(), summaries[-1] if summaries else None, len(summaries), summaries
    )


def rule(**options: float) -> NoImprovement:
    """Build the rule from its options."""
    return NoImprovement(NoImprovementOptions.model_validate(options))


def test_stops_when_nothing_better_is_expected_several_times_in_a_row() -> None:
    """Three decisions in a row below the probability stop; fewer, an interruption or an unknown do not."""
    stop = rule(probability=0.05)
    assert stop.reason(view(chances=[0.96, 0.97])) is None
    assert stop.reason(view(chances=[0.99, 0.99, 0.94])) is None
    assert stop.reason(view(chances=[0.99, None, 0.99])) is None
    assert stop.reason(view(chances=[0.96, 0.95, 0.99])) is None
    said = stop.reason(view(chances=[0.1, 0.96, 0.97, 0.99]))
    assert said is not None
    assert "below 0.05" in said
    assert "last 3 decisions" in said
    assert "0.04" in said
    assert rule(probability=0.05, decisions=1).reason(view(chances=[0.1, 0.96])) is not None
    assert stop.reason(view()) is None


def test_stops_when_trials_brought_nothing() -> None:
    """N trials without a better value stop; a better one, even within the last n, or a short history do not."""
    stop = rule(trials=3)
    assert stop.reason(view([1.0, 2.0, 3.0])) is None
    assert stop.reason(view([3.0, 2.0, 4.0, 1.0])) is None
    said = stop.reason(view([1.0, 2.0, None, 4.0]))
    assert said == "the last 3 trials brought no improvement"
    assert rule(trials=3, epsilon=0.5).reason(view([1.0, 0.6, 1.2, 0.7])) is not None
    assert rule(trials=3, epsilon=0.3).reason(view([1.0, 0.6, 1.2, 0.7])) is None
    assert stop.reason(view([None, None, None, None])) is not None
    assert stop.reason(view([None, None, None, 4.0])) is None


def test_constraints_decide_what_counts_as_better() -> None:
    """A better value that violates a constraint is no improvement."""
    problem = Problem((ENERGY,), (Constraint("gap", "eV", low=1.0),))
    values = [(2.0, 1.5), (1.0, 0.2), (0.5, 0.1)]
    assert rule(trials=2).reason(view(values, problem)) is not None
    assert rule(trials=2).reason(view([*values[:2], (0.5, 1.1)], problem)) is None


def test_with_two_objectives_a_new_compromise_is_an_improvement() -> None:
    """A trial that no earlier one dominates keeps the campaign going."""
    problem = Problem((ENERGY, Objective("cost", "dimensionless", "minimize")))
    assert rule(trials=1).reason(view([(1.0, 5.0), (5.0, 1.0), (3.0, 3.0)], problem)) is None
    assert rule(trials=1).reason(view([(1.0, 5.0), (5.0, 1.0), (5.0, 6.0)], problem)) is not None


@pytest.mark.parametrize(
    ("goal", "wanted", "values"),
    [("minimize", 0.2, [0.5, 0.3, 0.2]), ("maximize", 8.0, [1.0, 7.9, 8.1]), ("target", 0.1, [1.0, 2.0, 1.55])],
)
def test_the_target_is_reached(goal: str, wanted: float, values: list[float]) -> None:
    """Only the last of the values reaches the target; the sentence names candidate and value."""
    objective = Objective("energy", "eV", goal, 1.5 if goal == "target" else None)  # type: ignore[arg-type]
    stop = TargetReached(TargetReachedOptions(value=wanted))
    assert stop.reason(view(values[:2], Problem((objective,)))) is None
    said = stop.reason(view(values, Problem((objective,))))
    assert said is not None
    assert f"c3 has energy {values[2]:g} eV" in said


def test_the_target_can_be_wanted_several_times_and_feasible() -> None:
    """`count` counts different feasible candidates; values that are absent count for nothing."""
    problem = Problem((ENERGY,), (Constraint("gap", "eV", low=1.0),))
    stop = TargetReached(TargetReachedOptions(value=1.0, count=2))
    assert stop.reason(view([(0.5, 2.0), (0.5, 0.5), (math.nan, 2.0)], problem)) is None
    said = stop.reason(view([(0.5, 2.0), (0.7, 1.5)], problem))
    assert said is not None
    assert "and 1 more" in said


def test_a_property_that_is_no_objective_is_named() -> None:
    """The error lists the objectives that exist."""
    stop = TargetReached(TargetReachedOptions(value=1.0, property="enregy"))
    with pytest.raises(ConfigError, match=r"enregy.*energy"):
        stop.reason(view([1.0]))


def after(problem: Problem, *summaries: DecisionSummary) -> CampaignView:
    """Make a view of some decisions."""
    return CampaignView(problem, Dataset(()), Spent(), summaries[-1] if summaries else None, len(summaries), summaries)


def test_stops_when_nothing_is_worth_its_cost() -> None:
    """The best gain a cost unit below what is asked for, three decisions in a row; hours are another question."""
    problem = Problem((ENERGY,), expenses=Expenses(rates={"x": Expense(1.0, 0.5)}))
    stop = plugins.build("stopping", "not_worth_its_cost", {"least": 0.01})
    poor, rich = DecisionSummary(gain_per_cost=0.004), DecisionSummary(gain_per_cost=0.2)
    assert stop.reason(after(problem, poor, poor)) is None
    assert stop.reason(after(problem, poor, rich, poor)) is None
    assert stop.reason(after(problem, poor, DecisionSummary(), poor)) is None
    said = stop.reason(after(problem, rich, poor, poor, poor))
    assert "0.004 eV a cost unit" in said
    hourly = plugins.build("stopping", "not_worth_its_cost", {"least": 0.01, "per": "hour", "decisions": 1})
    assert hourly.reason(after(problem, poor)) is None
    assert "0.002 eV an hour" in hourly.reason(after(problem, DecisionSummary(gain_per_hour=0.002)))


def test_an_expense_that_no_trial_has_is_refused() -> None:
    """A rule that could never fire says so."""
    stop = plugins.build("stopping", "not_worth_its_cost", {"least": 0.01, "per": "hour"})
    with pytest.raises(ConfigError, match="hour"):
        stop.reason(after(Problem((ENERGY,))))


def test_stops_when_the_best_is_probably_good_enough() -> None:
    """The shortfall at the asked probability, or at the next higher one that is kept, must stay below epsilon."""
    problem = Problem((ENERGY,))
    near = DecisionSummary(regret=((0.9, 0.01), (0.95, 0.03), (0.99, 0.2)))
    far = DecisionSummary(regret=((0.9, 0.1), (0.95, 0.3), (0.99, 0.5)))
    stop = plugins.build("stopping", "probably_best", {"epsilon": 0.05})
    assert stop.reason(after(problem, near, near)) is None
    assert stop.reason(after(problem, near, far, near)) is None
    assert "0.03 eV" in stop.reason(after(problem, far, near, near, near))
    surer = plugins.build("stopping", "probably_best", {"epsilon": 0.05, "probability": 0.96})
    assert surer.reason(after(problem, near, near, near)) is None
    unknown = plugins.build("stopping", "probably_best", {"epsilon": 9.0, "probability": 0.99})
    assert unknown.reason(after(problem, *[DecisionSummary(regret=((0.9, 0.0),))] * 3)) is None


def test_stops_when_the_front_hardly_moves() -> None:
    """Late trials that add less than the asked share of hypervolume stop; one that extends the front does not."""
    problem = Problem((ENERGY, Objective("cost", "dimensionless", "minimize")))
    stop = plugins.build("stopping", "hypervolume_plateau", {"trials": 2, "growth": 0.05})
    front = [(1.0, 5.0), (3.0, 3.0), (5.0, 1.0)]
    assert stop.reason(view(front[:2], problem)) is None
    said = stop.reason(view([*front, (5.0, 5.0), (4.0, 4.0)], problem))
    assert "hardly moves" in said
    assert stop.reason(view([*front, (5.0, 5.0), (2.0, 2.0)], problem)) is None
    with pytest.raises(ConfigError, match="no_improvement"):
        stop.reason(view([1.0, 2.0]))


def test_windows_can_be_reached_and_learning_has_no_target() -> None:
    """A value inside the window is at distance 0 of it; what is only to be learned has no target."""
    window = Objective("gap", "eV", "window", window=(1.5, 3.0))
    stop = TargetReached(TargetReachedOptions(value=0.0))
    assert stop.reason(view([1.0, 3.2], Problem((window,)))) is None
    assert "c2 has gap 2 eV" in str(stop.reason(view([1.0, 2.0], Problem((window,)))))
    learn = Problem((Objective("gap", "eV", "learn"),))
    with pytest.raises(ConfigError, match="learn"):
        stop.reason(view([1.0], learn))
    assert rule(trials=1).reason(view([1.0, 2.0, 3.0], learn)) is None


def test_rules_come_through_the_plugin_door() -> None:
    """Both are found by name, and a rule that could never fire is refused."""
    assert isinstance(plugins.build("stopping", "no_improvement", {"probability": 0.05}), StoppingRule)
    assert isinstance(plugins.build("stopping", "target_reached", {"value": 1}), StoppingRule)
    with pytest.raises(plugins.PluginError, match="probability"):
        plugins.build("stopping", "no_improvement", {})
    with pytest.raises(plugins.PluginError, match="probability"):
        plugins.build("stopping", "no_improvement", {"probability": 1.5})
