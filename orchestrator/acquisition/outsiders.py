"""What the policies that ask other people's optimisers share: rows to tell them, answers to trace back, refusals.

An optimiser from elsewhere sees a candidate as a row of numbers and words. Rows are named by us and candidates are
found again by the row's place in a list that we keep, never by comparing floats.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from orchestrator.acquisition.features import fractions
from orchestrator.acquisition.policy import Pick, Situation
from orchestrator.domain import Array, Candidate, Objective, Problem, Value
from orchestrator.errors import IncompatibleError, PluginError
from orchestrator.protocols import BoxSpace, FiniteSpace, SearchSpace

Cell = float | str


def check_installed(package: str, distribution: str, extra: str) -> None:
    """Refuse a policy whose package is missing, before anything runs.

    Args:
        package: that is imported.
        distribution: that provides it.
        extra: of matloop that installs it.

    Raises:
        PluginError: it cannot be found.
    """
    if importlib.util.find_spec(package) is None:
        message = f"the acquisition policy {extra!r} asks {distribution}, which is not installed; type:"
        message += f" pip install 'matloop[{extra}]'"
        raise PluginError(message)


def installed(distribution: str) -> str:
    """Name a distribution with its version."""
    return f"{distribution} {version(distribution)}"


def check_problem(who: str, problem: Problem, *, constraints: bool, goals: frozenset[str]) -> None:
    """Refuse what an optimiser cannot pursue.

    Args:
        who: name of the optimiser.
        problem: of the campaign.
        constraints: whether it takes bounds on results.
        goals: that it knows.

    Raises:
        IncompatibleError: the problem has something else.
    """
    strange = [o for o in problem.objectives if o.goal not in goals]
    if strange:
        message = f"{who} cannot pursue the goal {strange[0].goal!r} of {strange[0].property!r}; it knows"
        message += f" {', '.join(sorted(goals))}: choose one of Matloop's own policies for it"
        raise IncompatibleError(message)
    if problem.constraints and not constraints:
        names = ", ".join(c.property for c in problem.constraints)
        message = f"{who} takes no bounds on results, and the campaign has one on {names}: leave it out, or choose"
        message += " 'log_expected_improvement'"
        raise IncompatibleError(message)
    if len(problem.fidelities) > 1:
        message = f"{who} measures at one fidelity, and the campaign has {len(problem.fidelities)}: keep one, or choose"
        message += " 'log_expected_improvement'"
        raise IncompatibleError(message)


@dataclass(frozen=True, eq=False)
class Rows:
    """Candidates as rows of numbers and words.

    Args:
        sources: what each column is read from: ``("parameter", name)`` or ``("fraction", element)``.
        values: of each column, the different values, sorted.
    """

    sources: tuple[tuple[str, str], ...]
    values: tuple[tuple[Cell, ...], ...]

    @classmethod
    def learn(cls, candidates: Sequence[Candidate]) -> Rows:
        """Find the columns that tell candidates apart.

        Args:
            candidates: all of the space.

        Raises:
            IncompatibleError: a parameter is missing somewhere, or is a number here and a word there.
        """
        names = sorted({name for c in candidates for name in c.parameters})
        symbols = sorted({symbol for c in candidates for symbol in fractions(c)})
        sources, values = [], []
        for source in [("parameter", n) for n in names] + [("fraction", s) for s in symbols]:
            found = {_cell(candidate, source) for candidate in candidates}
            if len({isinstance(cell, str) for cell in found}) > 1:
                message = f"parameter {source[1]!r} is a number in some candidates and a word in others"
                raise IncompatibleError(message)
            if len(found) > 1:
                sources.append(source)
                values.append(tuple(sorted(found)))
        return cls(tuple(sources), tuple(values))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns: x0, x1, …, so that no name means something to a parser of formulas."""
        return tuple(f"x{i}" for i in range(len(self.sources)))

    def row(self, candidate: Candidate) -> tuple[Cell, ...]:
        """Return the row of a candidate."""
        return tuple(_cell(candidate, source) for source in self.sources)

    def distinct(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Keep one candidate a row, the first: polymorphs look alike to an optimiser that knows the elements only."""
        found: dict[tuple[Cell, ...], Candidate] = {}
        for candidate in candidates:
            found.setdefault(self.row(candidate), candidate)
        return list(found.values())


def _cell(candidate: Candidate, source: tuple[str, str]) -> Cell:
    kind, name = source
    if kind == "fraction":
        return fractions(candidate).get(name, 0.0)
    if name not in candidate.parameters:
        message = f"candidate {candidate.label!r} has no parameter {name!r}, and others have; an optimiser from"
        message += " elsewhere needs every parameter of every candidate"
        raise IncompatibleError(message)
    value = candidate.parameters[name]
    return value if isinstance(value, str) else float(value)


@dataclass(frozen=True, eq=False)
class Told:
    """What is known, as told to an optimiser: candidates as applied (n) and results (n × m, NaN where absent).

    The first columns are the objectives, in their order; those of constrained properties follow.
    """

    candidates: tuple[Candidate, ...]
    results: Array


def told(situation: Situation) -> Told:
    """Gather every label, replicates too."""
    labels = situation.dataset.labels(situation.problem.properties)
    return Told(labels.candidates, labels.values)


def distance_to_goal(objective: Objective, values: Array) -> Array:
    """Return how far values are from a target or outside a window, n: a number to be minimised."""
    return np.asarray(-objective.utility(values), dtype=np.float64)


def finite(space: SearchSpace, who: str, most: int) -> FiniteSpace | None:
    """Return the space where it can be listed; None where it is a box.

    Raises:
        IncompatibleError: it is neither, or it has too many candidates.
    """
    if isinstance(space, FiniteSpace):
        n = len(space.candidates())
        if n > most:
            message = f"{who} holds every candidate in memory at once, and there are {n}, more than the option"
            message += f" 'largest_pool' ({most}): raise it, or choose 'log_expected_improvement', which needs no limit"
            raise IncompatibleError(message)
        return space
    if isinstance(space, BoxSpace):
        return None
    message = f"{who} needs a space that can be listed, or a box; {type(space).__name__} is neither"
    raise IncompatibleError(message)


def settle(
    situation: Situation, space: BoxSpace, proposed: Sequence[dict[str, Value]], facts: dict[str, Any], reason: str
) -> list[Pick]:
    """Turn points of a box into open candidates: rounded, different, and open.

    Args:
        situation: with the closed ids.
        space: the box, which rounds.
        proposed: at least q points, best first.
        facts: for the details of each pick.
        reason: for people.

    Returns:
        Up to q picks. A point that is closed after rounding is replaced by the nearest open one of a seeded sample.
    """
    from orchestrator.acquisition.features import describe, distances  # noqa: PLC0415  only where something collides
    from orchestrator.acquisition.open import open_candidates  # noqa: PLC0415  the same
    from orchestrator.errors import SpaceError  # noqa: PLC0415  the same

    picks: list[Pick] = []
    closed = set(situation.closed)
    spare: list[Candidate] | None = None
    for values in proposed:
        if len(picks) == situation.q:
            break
        candidate, note = None, {}
        try:
            candidate = space.make(values)
        except SpaceError:
            note = {"fallback": "nearest open point", "why": "the proposed one lies outside after rounding"}
        if candidate is not None and candidate.id in closed:
            note = {"fallback": "nearest open point", "why": "the proposed one is measured or in flight after rounding"}
        if note:
            if spare is None:
                spare = open_candidates(space, frozenset(closed), 512, situation.seed_for("spare"))
            left = [c for c in spare if c.id not in closed]
            if not left:
                break
            aim = candidate or Candidate.make(label="proposed", parameters=values)
            features = describe([aim, *left], space)
            candidate = left[int(np.argmin(distances(features[:1], features[1:])[0]))]
        if candidate is not None:
            closed.add(candidate.id)
            picks.append(Pick(candidate, None, reason, {**facts, **note}))
    return picks


@contextmanager
def quiet(seed: int) -> Iterator[None]:
    """Seed torch and NumPy, keep their states as they were afterwards, and let warnings of the optimiser pass by."""
    import torch  # noqa: PLC0415  a second that other policies spare

    before = np.random.get_state()  # noqa: NPY002  what others draw from is this global state
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(seed % 2**63)
            np.random.seed(seed % 2**32)  # noqa: NPY002  the same
            yield
    finally:
        np.random.set_state(before)  # noqa: NPY002  the same


def expected_words(names: Sequence[str], means: Sequence[float], sds: Sequence[float]) -> str:
    """Write what the optimiser's own surrogate predicts: ``strength 3.1 ± 0.2``."""
    parts = [f"{n} {m:.3g} ± {s:.2g}" for n, m, s in zip(names, means, sds, strict=True) if math.isfinite(m)]
    return ", ".join(parts)
