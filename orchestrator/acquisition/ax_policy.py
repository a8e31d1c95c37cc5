"""Ax behind our door: its modular BoTorch generator with its own transforms and defaults chooses, we keep the campaign.

A pool is no space that Ax knows, so its acquisition function is evaluated, through its adapter's public method, at
every open candidate, and the best is taken; further picks of a batch are made with the earlier ones as pending. On a
box Ax searches by itself. Ax is told everything anew at each decision. Olson et al., AutoML 2025, "Ax: a platform for
adaptive experimentation"; Balandat et al., NeurIPS 2020, arXiv:1910.06403. MIT; ``pip install 'matloop[ax]'``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np

from orchestrator.acquisition import outsiders
from orchestrator.acquisition.designs import Random
from orchestrator.acquisition.outsider import SPARE, Outsider, OutsiderOptions
from orchestrator.acquisition.outsiders import Rows, Told
from orchestrator.acquisition.policy import Pick, Situation, check_finite
from orchestrator.domain import Array, Candidate, Constraint, Problem, Value
from orchestrator.protocols import Axis, BoxSpace, FiniteSpace

WHO = "Ax"
CHUNK = 512
"""Candidates scored at once: bounds the memory of the joint posterior with every measured point."""


class Ax(Outsider):
    """Ask Ax's default Bayesian generator (Gaussian process, log noisy expected (hypervolume) improvement)."""

    name = "ax"
    who = WHO
    takes_bounds = True

    def __init__(self, options: OutsiderOptions | None = None) -> None:
        super().__init__(options)
        logging.getLogger("ax").setLevel(logging.ERROR)  # it announces its storage on import

    def from_list(self, situation: Situation, space: FiniteSpace, known: Told) -> list[Pick]:
        """Choose among listed candidates."""
        rows = Rows.learn(space.candidates())
        if not rows.sources:
            return Random().pick(situation)  # nothing tells the candidates apart
        open_ones = rows.distinct(self.pool(situation, 1))
        seen = [rows.row(c) for c in (*space.candidates(), *known.candidates, *situation.pending)]
        parameters = [_column(name, [row[i] for row in seen]) for i, name in enumerate(rows.names)]
        adapter = _fitted(situation.problem, parameters, [], [_named(rows, c) for c in known.candidates], known.results)
        asked = [_features(_named(rows, c)) for c in open_ones]
        pending = [_features(_named(rows, c)) for c in situation.pending]
        facts = {"package": outsiders.installed("ax-platform"), "among": len(open_ones)}
        free = np.ones(len(open_ones), dtype=bool)
        picks: list[Pick] = []
        for _ in range(min(situation.q, len(open_ones))):
            places = np.flatnonzero(free)
            scores = _scores(adapter, [asked[i] for i in places], pending, situation.problem)
            check_finite(np.isfinite(scores), "values of Ax's acquisition function")
            best = int(places[np.argmax(scores)])
            free[best] = False
            pending.append(asked[best])
            reason = "Ax's acquisition function is largest here" + _said(adapter, asked[best], situation.problem)
            picks.append(Pick(open_ones[best], float(scores.max()), reason, facts))
        return picks

    def from_box(self, situation: Situation, space: BoxSpace, known: Told) -> list[Pick]:
        """Choose in a box."""
        axes = space.axes()
        at = {axis.name: f"x{i}" for i, axis in enumerate(axes)}
        bound = {name for c in space.linear() for name in c.coefficients}
        told = [_point(axes, c) for c in known.candidates]
        ahead = [_point(axes, c) for c in situation.pending]
        parameters = [
            _axis_parameter(at[axis.name], axis, [point[at[axis.name]] for point in told], plain=axis.name in bound)
            for axis in axes
        ]
        adapter = _fitted(situation.problem, parameters, _linear(space, at), told, known.results)
        pending = [_features(point) for point in ahead]
        made = adapter.gen(n=situation.q + SPARE, pending_observations=_ahead(pending, situation.problem))
        proposed: list[dict[str, Value]] = [
            {axis.name: _within(axis, arm.parameters[at[axis.name]]) for axis in axes} for arm in made.arms
        ]
        facts = {"package": outsiders.installed("ax-platform")}
        return outsiders.settle(situation, space, proposed, facts, "Ax's generator proposes it")


def _metrics(problem: Problem) -> list[str]:
    """Name what Ax is told of: objectives first (y0, y1, …), then constrained properties (c0, c1, …)."""
    return [f"y{j}" for j in range(len(problem.objectives))] + [f"c{k}" for k in range(len(problem.constraints))]


def _fitted(
    problem: Problem, parameters: list[Any], linear: list[Any], points: Sequence[dict[str, Any]], values: Array
) -> Any:
    """Return Ax's adapter, trained on everything that is known.

    Args:
        problem: of the campaign.
        parameters: Ax's.
        linear: Ax's parameter constraints.
        points: n measured points by parameter name.
        values: n × m, NaN where absent.
    """
    from ax.adapter.registry import Generators  # noqa: PLC0415  optional, and three seconds
    from ax.core.arm import Arm  # noqa: PLC0415  the same
    from ax.core.data import Data  # noqa: PLC0415  the same
    from ax.core.experiment import Experiment  # noqa: PLC0415  the same
    from ax.core.metric import Metric  # noqa: PLC0415  the same
    from ax.core.search_space import SearchSpace  # noqa: PLC0415  the same
    from pandas import DataFrame  # noqa: PLC0415  the same

    experiment = Experiment(
        name="matloop",
        search_space=SearchSpace(parameters, parameter_constraints=linear),
        tracking_metrics=[Metric(name=name) for name in _metrics(problem)],
        optimization_config=_goal(problem),
    )
    told, lines = _told(problem, values), []
    for i, point in enumerate(points):
        trial = experiment.new_trial()
        trial.add_arm(Arm(parameters=point, name=f"trial{i}"))
        trial.mark_running(no_runner_required=True)
        for name, column in told.items():
            if np.isfinite(column[i]):
                at = {"arm_name": f"trial{i}", "trial_index": trial.index, "metric_name": name}
                lines.append({**at, "metric_signature": name, "mean": float(column[i]), "sem": float("nan")})
        trial.mark_completed()
    experiment.attach_data(Data(df=DataFrame(lines)))
    return Generators.BOTORCH_MODULAR(experiment=experiment, data=experiment.lookup_data())


def _told(problem: Problem, values: Array) -> dict[str, Array]:
    """Return what each metric is told, n: a property, or for targets and windows the distance to them."""
    told: dict[str, Array] = {}
    for j, objective in enumerate(problem.objectives):
        column = values[:, problem.properties.index(objective.property)]
        far = objective.goal in {"target", "window"}
        told[f"y{j}"] = outsiders.distance_to_goal(objective, column) if far else column
    for k, constraint in enumerate(problem.constraints):
        told[f"c{k}"] = values[:, problem.properties.index(constraint.property)]
    return told


def _goal(problem: Problem) -> Any:
    from ax.core.objective import Objective  # noqa: PLC0415  optional
    from ax.core.optimization_config import MultiObjectiveOptimizationConfig, OptimizationConfig  # noqa: PLC0415

    names = {name: name for name in _metrics(problem)}
    signs = ["" if o.goal == "maximize" else "-" for o in problem.objectives]
    objective = Objective(
        expression=", ".join(f"{sign}y{j}" for j, sign in enumerate(signs)), metric_name_to_signature=names
    )
    bounds = [bound for k, c in enumerate(problem.constraints) for bound in _outcome(k, c, names)]
    kind = OptimizationConfig if len(signs) == 1 else MultiObjectiveOptimizationConfig
    return kind(objective=objective, outcome_constraints=bounds)


def _outcome(k: int, constraint: Constraint, names: dict[str, str]) -> list[Any]:
    from ax.core.outcome_constraint import OutcomeConstraint  # noqa: PLC0415  optional

    sides = [(">=", constraint.low), ("<=", constraint.high)]
    return [
        OutcomeConstraint(expression=f"c{k} {sign} {bound!r}", metric_name_to_signature=names, relative=False)
        for sign, bound in sides
        if bound is not None
    ]


def _column(name: str, cells: Sequence[float | str]) -> Any:
    """Return Ax's parameter for one column of a pool: a range, or unordered choices."""
    from ax.core.parameter import ChoiceParameter, ParameterType, RangeParameter  # noqa: PLC0415  optional

    if isinstance(cells[0], str):
        values = sorted({str(cell) for cell in cells})
        return ChoiceParameter(
            name=name, parameter_type=ParameterType.STRING, values=values, is_ordered=False, sort_values=False
        )
    numbers = [float(cell) for cell in cells]
    return RangeParameter(name=name, parameter_type=ParameterType.FLOAT, lower=min(numbers), upper=max(numbers))


def _axis_parameter(name: str, axis: Axis, told: Sequence[Any], *, plain: bool) -> Any:
    """Return Ax's parameter for one axis of a box; set-points as applied may lie a little outside the bounds."""
    from ax.core.parameter import ChoiceParameter, ParameterType, RangeParameter  # noqa: PLC0415  optional

    if axis.kind == "categorical":
        return ChoiceParameter(
            name=name,
            parameter_type=ParameterType.STRING,
            values=list(axis.choices),
            is_ordered=False,
            sort_values=False,
        )
    whole = axis.kind == "integer"
    low, high = min([axis.low, *told]), max([axis.high, *told])
    return RangeParameter(
        name=name,
        parameter_type=ParameterType.INT if whole else ParameterType.FLOAT,
        lower=int(low) if whole else low,
        upper=int(high) if whole else high,
        log_scale=axis.log and not plain and low > 0,
    )


def _linear(space: BoxSpace, at: dict[str, str]) -> list[Any]:
    from ax.core.parameter_constraint import ParameterConstraint  # noqa: PLC0415  optional

    made = []
    for constraint in space.linear():
        total = " + ".join(f"{c!r}*{at[name]}" for name, c in constraint.coefficients.items())
        word = "equality" if constraint.sense == "==" else "inequality"
        made.append(ParameterConstraint(**{word: f"{total} {constraint.sense} {constraint.bound!r}"}))
    return made


def _point(axes: tuple[Axis, ...], candidate: Candidate) -> dict[str, Any]:
    """Return a point of a box under Ax's names."""
    point: dict[str, Any] = {}
    for i, axis in enumerate(axes):
        value = candidate.parameters[axis.name]
        point[f"x{i}"] = str(value) if axis.kind == "categorical" else float(value)
        if axis.kind == "integer":
            point[f"x{i}"] = round(float(value))
    return point


def _within(axis: Axis, value: Any) -> Value:
    if axis.kind == "categorical":
        return str(value)
    return min(max(float(value), axis.low), axis.high)


def _named(rows: Rows, candidate: Candidate) -> dict[str, Any]:
    return dict(zip(rows.names, rows.row(candidate), strict=True))


def _features(point: dict[str, Any]) -> Any:
    from ax.core.observation import ObservationFeatures  # noqa: PLC0415  optional

    return ObservationFeatures(parameters=dict(point))


def _ahead(pending: list[Any], problem: Problem) -> dict[str, list[Any]] | None:
    """Say for each metric what is pending: copies, since Ax rewrites what it is given in place."""
    return {name: deepcopy(pending) for name in _metrics(problem)} if pending else None


def _scores(adapter: Any, asked: list[Any], pending: list[Any], problem: Problem) -> Array:
    """Return Ax's acquisition function at each candidate, n."""
    parts = [
        adapter.evaluate_acquisition_function(asked[i : i + CHUNK], pending_observations=_ahead(pending, problem))
        for i in range(0, len(asked), CHUNK)
    ]
    return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])


def _said(adapter: Any, asked: Any, problem: Problem) -> str:
    """Write what Ax's surrogate predicts of a candidate."""
    means, variances = adapter.predict([asked])
    plain = [
        (o.property, f"y{j}") for j, o in enumerate(problem.objectives) if o.goal not in {"target", "window"}
    ]  # of the others Ax knows the distance to the goal only
    words = outsiders.expected_words(
        [name for name, _ in plain],
        [means[metric][0] for _, metric in plain],
        [float(variances[metric][metric][0]) ** 0.5 for _, metric in plain],
    )
    return f"; its surrogate predicts {words}" if words else ""
