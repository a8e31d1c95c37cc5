"""BayBE behind our door: its default recommender chooses, we keep the campaign.

BayBE (Fitzner et al., Digital Discovery 2025, doi:10.1039/D5DD00050E) is told the space, every label and what is
pending at each decision, and forgets it again, so that a decision stays a pure function of what the store holds.
Apache-2.0; ``pip install 'matloop[baybe]'``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from orchestrator.acquisition import outsiders
from orchestrator.acquisition.designs import Random
from orchestrator.acquisition.outsider import SPARE, Outsider
from orchestrator.acquisition.outsiders import Rows, Told
from orchestrator.acquisition.policy import Pick, Situation
from orchestrator.domain import Candidate, Objective
from orchestrator.errors import IncompatibleError
from orchestrator.protocols import Axis, BoxSpace, FiniteSpace

if TYPE_CHECKING:
    import pandas as pd

WHO = "BayBE"
LISTED_VALUES = 64
"""An integer axis with at most so many values is a list to BayBE; longer ones are continuous and rounded by us, and so
are all where there are linear constraints: BayBE then searches every combination of listed values in turn."""


class Baybe(Outsider):
    """Ask BayBE's default recommender (its Gaussian process, log expected improvement or hypervolume improvement)."""

    name = "baybe"
    who = WHO
    takes_bounds = False

    def from_list(self, situation: Situation, space: FiniteSpace, known: Told) -> list[Pick]:
        """Choose among listed candidates."""
        from baybe.parameters import CategoricalParameter, NumericalDiscreteParameter  # noqa: PLC0415  optional
        from baybe.searchspace import SearchSpace, SubspaceDiscrete  # noqa: PLC0415  the same

        rows = Rows.learn(space.candidates())
        if not rows.sources:
            return Random().pick(situation)  # nothing tells the candidates apart
        open_ones = rows.distinct(self.pool(situation, 1))
        parameters = [
            CategoricalParameter(name, values)
            if isinstance(values[0], str)
            else NumericalDiscreteParameter(name, values)
            for name, values in zip(rows.names, rows.values, strict=True)
        ]
        frame = _frame(rows, open_ones)
        discrete = SubspaceDiscrete.from_dataframe(frame, parameters)
        measured = _measured(_frame(rows, known.candidates), known, situation)
        wanted = min(situation.q, len(open_ones))
        found, recommender = _recommended(
            situation, SearchSpace(discrete=discrete), measured, _frame(rows, situation.pending), wanted
        )
        facts = {"package": outsiders.installed("baybe"), "among": len(open_ones)}
        said = _said(recommender, SearchSpace(discrete=discrete), situation, measured, found)
        return [
            Pick(open_ones[int(place)], None, f"BayBE recommends it{words}", facts)
            for place, words in zip(found.index, said, strict=True)
        ]

    def from_box(self, situation: Situation, space: BoxSpace, known: Told) -> list[Pick]:
        """Choose in a box."""
        from baybe.searchspace import SearchSpace  # noqa: PLC0415  optional

        axes = space.axes()
        bound = {name for c in space.linear() for name in c.coefficients}
        parameters = [_parameter(f"x{i}", axis, bound) for i, axis in enumerate(axes)]
        baybe_space = SearchSpace.from_product(parameters, _constraints(space))
        wanted = situation.q + SPARE
        if baybe_space.continuous.is_empty:
            wanted = min(wanted, len(baybe_space.discrete.exp_rep))
        measured = _measured(_box_frame(axes, known.candidates, bound), known, situation)
        pending = _box_frame(axes, situation.pending, bound)
        found, _ = _recommended(situation, baybe_space, measured, pending, wanted)
        proposed = [
            {axis.name: _value(axis, row[f"x{i}"], bound) for i, axis in enumerate(axes)}
            for row in found.to_dict("records")
        ]
        facts = {"package": outsiders.installed("baybe")}
        return outsiders.settle(situation, space, proposed, facts, "BayBE recommends it")


def _measured(rows: pd.DataFrame, known: Told, situation: Situation) -> pd.DataFrame:
    """Return rows with the values of the objectives beside them; BayBE takes gaps with several objectives only."""
    column = situation.problem.properties.index
    objectives = situation.problem.objectives
    values = {f"y{j}": known.results[:, column(o.property)] for j, o in enumerate(objectives)}
    measured = rows.assign(**values)
    return measured.dropna().reset_index(drop=True) if len(objectives) == 1 else measured


def _recommended(
    situation: Situation, space: Any, measured: pd.DataFrame, pending: pd.DataFrame, wanted: int
) -> tuple[pd.DataFrame, Any]:
    """Return the rows that BayBE recommends, with their index, and the recommender that it trained."""
    from baybe.recommenders import BotorchRecommender  # noqa: PLC0415  optional

    recommender = BotorchRecommender()
    asked = {"pending_experiments": pending} if len(pending) else {}
    return recommender.recommend(
        wanted, space, _objective(situation.problem.objectives), measured, **asked
    ), recommender


def _frame(rows: Rows, candidates: tuple[Candidate, ...] | list[Candidate]) -> pd.DataFrame:
    """Return rows with the places of the candidates as index."""
    import pandas as pd  # noqa: PLC0415  half a second that other policies spare

    return pd.DataFrame([rows.row(c) for c in candidates], columns=list(rows.names))


def _box_frame(axes: tuple[Axis, ...], candidates: tuple[Candidate, ...], bound: set[str]) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415  half a second that other policies spare

    content = [[_told(axis, candidate.parameters[axis.name], bound) for axis in axes] for candidate in candidates]
    return pd.DataFrame(content, columns=[f"x{i}" for i in range(len(axes))])


def _told(axis: Axis, value: float | str, bound: set[str]) -> float | str:
    if isinstance(value, str):
        return value
    return math.log10(value) if axis.log and axis.name not in bound else float(value)


def _value(axis: Axis, value: Any, bound: set[str]) -> float | str:
    """Undo `_told`, within the bounds to the last digit."""
    if axis.kind == "categorical":
        return str(value)
    number = 10.0 ** float(value) if axis.log and axis.name not in bound else float(value)
    number = min(max(number, axis.low), axis.high)
    return float(round(number)) if axis.kind == "integer" else number


def _parameter(name: str, axis: Axis, bound: set[str]) -> Any:
    from baybe.parameters import (  # noqa: PLC0415  optional
        CategoricalParameter,
        NumericalContinuousParameter,
        NumericalDiscreteParameter,
    )

    if axis.kind == "categorical":
        return CategoricalParameter(name, axis.choices)
    if axis.kind == "integer" and not bound and not axis.log and axis.high - axis.low < LISTED_VALUES:
        return NumericalDiscreteParameter(name, [float(v) for v in range(int(axis.low), int(axis.high) + 1)])
    if axis.log and axis.name not in bound:
        return NumericalContinuousParameter(name, (math.log10(axis.low), math.log10(axis.high)))
    return NumericalContinuousParameter(name, (axis.low, axis.high))


def _constraints(space: BoxSpace) -> list[Any]:
    from baybe.constraints import ContinuousLinearConstraint  # noqa: PLC0415  optional

    at = {axis.name: f"x{i}" for i, axis in enumerate(space.axes())}
    return [
        ContinuousLinearConstraint(
            parameters=[at[name] for name in c.coefficients],
            operator="=" if c.sense == "==" else "<=",
            coefficients=tuple(c.coefficients.values()),
            rhs=c.bound,
        )
        for c in space.linear()
    ]


def _objective(objectives: tuple[Objective, ...]) -> Any:
    from baybe.objectives import ParetoObjective  # noqa: PLC0415  optional

    targets = [_target(f"y{j}", objective) for j, objective in enumerate(objectives)]
    return targets[0].to_objective() if len(targets) == 1 else ParetoObjective(targets)


def _target(name: str, objective: Objective) -> Any:
    from baybe.targets import NumericalTarget  # noqa: PLC0415  optional

    if objective.goal == "target" and objective.target is not None:
        return NumericalTarget.match_absolute(name, objective.target)
    if objective.goal == "window" and objective.window is not None:
        low, high = objective.window
        # clamped: inside the window nothing is better than anything else
        return NumericalTarget.match_absolute(name, (low + high) / 2).clamp(min=(high - low) / 2)
    if objective.goal in {"maximize", "minimize"}:
        return NumericalTarget(name, minimize=objective.goal == "minimize")
    message = f"BayBE cannot pursue {objective.property!r}: goal {objective.goal!r} lacks its target or window"
    raise IncompatibleError(message)


def _said(recommender: Any, space: Any, situation: Situation, measured: pd.DataFrame, found: pd.DataFrame) -> list[str]:
    """Write what BayBE's surrogate predicts of each recommended row."""
    objectives = situation.problem.objectives
    stats = recommender.get_surrogate(space, _objective(objectives), measured).posterior_stats(found)
    names = [o.property for o in objectives]
    sentences = []
    for row in stats.to_dict("records"):
        means = [row[f"y{j}_mean"] for j in range(len(names))]
        sds = [row[f"y{j}_std"] for j in range(len(names))]
        sentences.append(f"; its surrogate predicts {outsiders.expected_words(names, means, sds)}")
    return sentences
