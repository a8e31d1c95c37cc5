"""Why a surrogate says what it says, found by asking it: contributions, neighbours, counterfactuals.

Contributions are Shapley values (L. S. Shapley, in Contributions to the Theory of Games II, 1953, as used for
predictions by Lundberg and Lee, NeurIPS 2017, doi:10.48550/arXiv.1705.07874): the mean of what a part adds to the
prediction over all orders in which the parts can become known. They are chosen over gradients because they need nothing
but `predict`, so that they explain the whole surrogate (networks, tabulated statistics, Gaussian process or forest
together), and because they add up exactly. Every combination is asked for up to `MOST_PARTS` parts; above that, orders
are drawn. What stands in for a part that is left out is said in `coalitions`.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.domain import (
    Array,
    Candidate,
    Contribution,
    Explanation,
    Labels,
    Neighbour,
    Prediction,
    Problem,
    Substitution,
)
from orchestrator.errors import SurrogateError
from orchestrator.surrogates.coalitions import MOST_PARTS, Background, Part, without
from orchestrator.surrogates.substitutes import substituted

ORDERS = 16
"""Orders drawn where there are too many parts for every combination."""
NEIGHBOURS = 5
"""Training candidates named."""
SOURCE = "Shapley 1953; Lundberg and Lee 2017"

Kept = tuple[bool, ...]


@dataclass(frozen=True)
class Questions:
    """What must be predicted to explain one candidate.

    Args:
        parts: of the candidate.
        asked: candidates, real and imagined.
        weights: parts + 1 rows × asked: the first row gives the baseline, the others the contributions.
        method: in words.
    """

    parts: tuple[Part, ...]
    asked: tuple[Candidate, ...]
    weights: Array
    method: str


def questions(candidate: Candidate, background: Background) -> Questions:
    """List what must be predicted, and how the answers add up.

    Args:
        candidate: to be explained.
        background: where stand-ins come from.

    Returns:
        The questions. Baseline and contributions are weighted sums of the answers.
    """
    parts = background.divide(candidate)
    if len(parts) > MOST_PARTS:
        return _sampled(candidate, parts)
    k, references = len(parts), len(parts[0].stand_ins)
    asked: list[Candidate] = []
    weights: list[Array] = []
    for kept in itertools.product((False, True), repeat=k):
        row = np.array([float(not any(kept)), *(_weight(kept, i) for i in range(k))])
        variants = range(references) if not all(kept) else (0,)
        for reference in variants:
            asked.append(without(candidate, parts, kept, reference))
            weights.append(row / len(variants))
    method = (
        f"Shapley values, exact over the {2**k} combinations of {k} part{'s' if k > 1 else ''}; a part left out is"
        f" replaced in turn by {references} that are typical of the labelled candidates ({SOURCE})"
    )
    return Questions(parts, tuple(asked), np.array(weights).T, method)


def _weight(kept: Kept, i: int) -> float:
    """Return the factor of a combination's value in the Shapley value of part i."""
    k, size = len(kept), sum(kept)
    if kept[i]:
        return math.factorial(size - 1) * math.factorial(k - size) / math.factorial(k)
    return -math.factorial(size) * math.factorial(k - size - 1) / math.factorial(k)


def _sampled(candidate: Candidate, parts: tuple[Part, ...]) -> Questions:
    """Follow some orders, each also backwards; the sum stays exact because each order's steps add up."""
    k, references = len(parts), len(parts[0].stand_ins)
    rng = np.random.default_rng(k)
    asked: list[Candidate] = []
    weights: list[Array] = []
    forward = [rng.permutation(k) for _ in range(ORDERS // 2)]
    orders = [order for one in forward for order in (one, one[::-1])]
    for number, order in enumerate(orders):
        kept = [False] * k
        row = np.zeros(k + 1)
        row[0] = 1.0
        for i in order:
            row[1 + i] -= 1.0
            asked.append(without(candidate, parts, kept, number // 2 % references))
            weights.append(row / len(orders))
            kept[i] = True
            row = np.zeros(k + 1)
            row[1 + i] += 1.0
        asked.append(candidate)
        weights.append(row / len(orders))
    method = (
        f"Shapley values of {k} parts over {len(orders)} drawn orders; a part left out is replaced by one that is"
        f" typical of the labelled candidates ({SOURCE})"
    )
    return Questions(parts, tuple(asked), np.array(weights).T, method)


def contributions(parts: Sequence[Part], values: Array, candidate: Candidate) -> tuple[tuple[Contribution, ...], ...]:
    """Name contributions.

    Args:
        parts: of the candidate.
        values: one a part.
        candidate: that was explained.

    Returns:
        By atom, by element, by parameter; equivalent atoms share theirs equally.
    """
    by_site: dict[int, float] = {}
    by_element: dict[str, float] = {}
    by_parameter: list[Contribution] = []
    for part, value in zip(parts, values.tolist(), strict=True):
        if part.parameter:
            by_parameter.append(Contribution(part.name, value))
            continue
        by_element[part.name] = by_element.get(part.name, 0.0) + value
        by_site |= dict.fromkeys(part.sites, value / max(len(part.sites), 1))
    species = candidate.crystal.species if candidate.crystal is not None else ()
    atoms = tuple(Contribution(f"{symbol} {i}", by_site[i], i) for i, symbol in enumerate(species))
    return atoms, tuple(Contribution(name, value) for name, value in by_element.items()), tuple(by_parameter)


def neighbours(own: Array, columns: Array, labels: Labels, values: Array, most: int = NEIGHBOURS) -> list[Neighbour]:
    """Find the labelled candidates nearest to one candidate.

    Args:
        own: its columns, d.
        columns: of the n labelled candidates, n × d.
        labels: the candidates.
        values: their labels of the property, n.
        most: how many are wanted.

    Returns:
        Nearest first. Similarity is 1 / (1 + (distance / typical)²), typical being the median distance of a labelled
        candidate to its nearest other: two typical neighbours have 0.5.
    """
    distance = np.sqrt(((columns - own) ** 2).sum(1))
    typical = _typical(columns)
    found: list[Neighbour] = []
    for i in np.argsort(distance, kind="stable"):
        candidate = labels.candidates[i]
        if not np.isfinite(values[i]) or any(candidate.id == one.candidate_id for one in found):
            continue
        similarity = 1.0 / (1.0 + (float(distance[i]) / typical) ** 2)
        found.append(Neighbour(candidate.label, candidate.id, similarity, float(values[i])))
        if len(found) == most:
            break
    return found


def _typical(columns: Array) -> float:
    """Return the median distance to the nearest other row that is elsewhere."""
    squares = (columns**2).sum(1)
    between = np.maximum(squares[:, None] + squares[None, :] - 2 * columns @ columns.T, 0.0)
    between[between < 1e-9 * max(float(squares.max(initial=0.0)), 1e-9)] = np.inf
    nearest = np.sqrt(between.min(1, initial=np.inf))
    return float(np.median(nearest[np.isfinite(nearest)])) if np.isfinite(nearest).any() else 1.0


@dataclass(frozen=True, eq=False)
class Known:
    """What an explanation needs besides the surrogate.

    Args:
        problem: goals and units.
        labels: of the last update.
        columns: encodes candidates as the surrogate sees them, normalised, n × d.
    """

    problem: Problem
    labels: Labels
    columns: Callable[[Sequence[Candidate]], Array]


def explain_by_asking(
    predict: Callable[[Sequence[Candidate]], Prediction], known: Known, candidates: Sequence[Candidate], name: str
) -> tuple[Explanation, ...]:
    """Explain any surrogate's predictions of one property through `predict` alone.

    Args:
        predict: of the surrogate.
        known: goals, units and labelled candidates.
        candidates: n candidates.
        name: of a modelled property.

    Returns:
        n explanations; each adds up to the prediction exactly.
    """
    problem = known.problem
    if not candidates:
        return ()
    j = problem.properties.index(name)
    background = Background(known.labels.candidates)
    games = [questions(candidate, background) for candidate in candidates]
    swaps = [substituted(candidate) for candidate in candidates]
    everything = [*candidates]
    for game, swapped in zip(games, swaps, strict=True):
        everything += [*game.asked, *(candidate for _, _, candidate in swapped)]
    answer = predict(everything)
    mean, sd = answer.mean[:, j], answer.sd[:, j]
    own = known.columns(candidates)
    columns = known.columns(known.labels.candidates)
    made, start = [], len(candidates)
    for i, (candidate, game, swapped) in enumerate(zip(candidates, games, swaps, strict=True)):
        baseline, *values = game.weights @ mean[start : start + len(game.asked)]
        start += len(game.asked)
        atoms, elements, parameters = contributions(game.parts, np.array(values), candidate)
        tried = [
            Substitution(old, new, changed.label, float(mean[start + n]), float(sd[start + n]))
            for n, (old, new, changed) in enumerate(swapped)
        ]
        start += len(swapped)
        made.append(
            Explanation(
                property=name,
                unit=problem.units[name],
                mean=float(mean[i]),
                sd=float(sd[i]),
                baseline=float(baseline),
                method=game.method,
                atoms=atoms,
                elements=elements,
                parameters=parameters,
                neighbours=tuple(neighbours(own[i], columns, known.labels, known.labels.values[:, j])),
                substitutions=tuple(_favourable(tried, problem, name, float(mean[i]))),
            )
        )
    return tuple(made)


def _favourable(tried: list[Substitution], problem: Problem, name: str, mean: float) -> list[Substitution]:
    """Sort by what the objective wants; by the size of the change where the property is only constrained."""
    for objective in problem.objectives:
        if objective.property == name:
            wanted = objective.utility(np.array([one.mean for one in tried]))
            return [tried[i] for i in np.argsort(-wanted, kind="stable")]
    return sorted(tried, key=lambda one: -abs(one.mean - mean))


class Explaining:
    """Mix-in: the contract `orchestrator.abilities.Explains` for surrogates that remember what they were updated to."""

    _problem: Problem | None = None
    _labels: Labels | None = None

    @abstractmethod
    def predict(self, candidates: Sequence[Candidate]) -> Prediction:
        """Return means and standard deviations; see `Surrogate.predict`."""

    @abstractmethod
    def _columns_of(self, candidates: Sequence[Candidate]) -> Array:
        """Return what the surrogate sees of candidates, normalised, n × d."""

    def _remember(self, problem: Problem | None, labels: Labels | None) -> None:
        """Keep the problem of a fit or a loaded fit, and the labels of a fit or an update; None keeps or forgets.

        Args:
            problem: None after an update: it stays.
            labels: None after a load: there are none until the update that follows.
        """
        self._problem = problem or self._problem
        self._labels = labels

    def explain(self, candidates: Sequence[Candidate], name: str) -> tuple[Explanation, ...]:
        """Explain the predictions of one property; see `Explains.explain`.

        Raises:
            SurrogateError: the property is not modelled, or there are no labels to compare with.
        """
        return explain_by_asking(self.predict, self._known(name), candidates, name)

    def _known(self, name: str) -> Known:
        """Return what an explanation of a property needs besides the surrogate."""
        if self._problem is None or self._labels is None or not len(self._labels):
            message = (
                "an explanation compares with labelled candidates, and this surrogate holds none; call fit, or load"
                " and update, before explain"
            )
            raise SurrogateError(message)
        if name not in self._problem.properties:
            there = ", ".join(self._problem.properties)
            message = f"there is no modelled property {name!r} to explain; there are: {there}"
            raise SurrogateError(message)
        return Known(self._problem, self._labels, self._columns_of)
