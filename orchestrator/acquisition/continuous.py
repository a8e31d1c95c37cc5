"""Choosing on a box of process parameters, with gradients where the surrogate has a botorch view.

Each slot of the batch is one search (`box_search`) of one acquisition function (`box_scores`): pending candidates and
earlier picks are conditioned on, everything is rounded by the space itself, and the best rounded point that is not
taken wins.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from orchestrator.abilities import BotorchView, HasBotorchView
from orchestrator.acquisition.box import is_box
from orchestrator.acquisition.box_monte_carlo import MonteCarlo
from orchestrator.acquisition.box_posterior import BoxPosterior
from orchestrator.acquisition.box_scores import Baseline, Confidence, DrawnFunction, Goals, Improvement
from orchestrator.acquisition.box_search import Acquisition, Effort, Search
from orchestrator.acquisition.encoding import Encoding, knows_choices
from orchestrator.acquisition.open import open_candidates
from orchestrator.acquisition.policy import Pick, Situation, predict
from orchestrator.acquisition.words import expected
from orchestrator.domain import Array, Candidate
from orchestrator.errors import SpaceExhausted
from orchestrator.protocols import BoxSpace

__all__ = ["Effort", "confident_picks", "improving_picks", "thompson_picks"]

CHECKED = 16
"""Sampled points on which the encoding, and the posterior behind it, are compared with what the surrogate says."""


@dataclass(frozen=True, eq=False)
class _Box:
    """What all slots of a batch share."""

    situation: Situation
    search: Search
    baseline: Baseline
    samples: list[Candidate]
    view: BotorchView
    posterior: BoxPosterior | None

    @classmethod
    def of(cls, situation: Situation, effort: Effort) -> _Box | None:
        """Set up; None where the space is no box, the surrogate has no view of it, or nothing is measured."""
        space, surrogate = situation.space, situation.trained
        if not (is_box(situation) and isinstance(space, BoxSpace) and isinstance(surrogate, HasBotorchView)):
            return None
        samples = open_candidates(space, situation.closed, effort.samples, situation.seed_for("sample"))
        if not samples:
            message = (
                "no point of the box is left to propose; widen its bounds or constraints, or refine its resolution"
            )
            raise SpaceExhausted(message)
        view = surrogate.to_botorch()
        straight = {name for constraint in space.linear() for name in constraint.coefficients}
        encoding = Encoding.find(space.axes(), view, samples[:CHECKED], straight)
        if encoding is None:
            return None
        posterior = BoxPosterior.find(view, encoding, encoding.coordinates(samples[:CHECKED]))
        baseline = Baseline(situation, encoding, posterior)
        measured = tuple(c for c in situation.labels().candidates if knows_choices(encoding.axes, c))
        if not measured:
            return None
        search = Search(situation, space, encoding, effort, measured)
        return cls(situation, search, baseline, samples, view, posterior)

    def picks(
        self, make: Callable[[list[Candidate], int], Acquisition], words: Callable[[int, str], str], *, logarithm: bool
    ) -> list[Pick]:
        """Fill the slots one after the other.

        Args:
            make: pending candidates with the picks so far, and the number of the slot, to what it makes large.
            words: number of the slot and what is predicted, to the reason.
            logarithm: whether values are logarithms of expected gains.
        """
        taken: list[Candidate] = []
        picks: list[Pick] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.situation.seed_for("torch") % 2**63)
            for slot in range(self.situation.q):
                acquisition = make([*self.situation.pending, *taken], slot)
                closed = self.situation.closed | {c.id for c in taken}
                found = self.search.best(acquisition, self.samples, closed, slot)
                if found is None:
                    break
                candidate, value, polished = found
                taken.append(candidate)
                prediction = predict(self.situation.trained, [candidate])
                facts: dict[str, Any] = {"samples": len(self.samples), "polished": polished}
                if logarithm:
                    facts["expected_gain"] = math.exp(min(value - float(acquisition.beside([candidate])[0]), 700.0))
                picks.append(Pick(candidate, value, words(slot, expected(self.situation, prediction, 0)), facts))
        return picks

    def coordinates(self, candidates: list[Candidate]) -> Array:
        """Return coordinates of those that the box still knows."""
        encoding = self.search.encoding
        return encoding.coordinates([c for c in candidates if knows_choices(encoding.axes, c)])


def improving_picks(situation: Situation, effort: Effort) -> list[Pick] | None:
    """Choose up to q points of a box by log noisy expected (hypervolume) improvement.

    Args:
        situation: with a trained surrogate.
        effort: how much work.

    Returns:
        The picks, best first; None where another search must be used.

    Raises:
        SpaceExhausted: no open point was found.
        NonFiniteValues: the acquisition function is not finite.
    """
    box = _Box.of(situation, effort)
    if box is None:
        return None
    closed_form = box.posterior is not None and Goals(situation).apart()

    def make(pending: list[Candidate], slot: int) -> Acquisition:
        before = pending[-1] if slot else None
        at = box.coordinates(pending)
        if closed_form and box.posterior is not None:
            return Improvement(situation, box.posterior, box.baseline, at, draws=effort.draws, before=before)
        encoding = box.search.encoding
        return MonteCarlo(situation, box.view, encoding, box.baseline, at, draws=effort.draws, before=before)

    def words(_: int, prediction: str) -> str:
        return f"largest noisy expected improvement in the box; predicted {prediction}"

    return box.picks(make, words, logarithm=True)


def confident_picks(
    situation: Situation, effort: Effort, beta: float, batch: Literal["shrink", "top"]
) -> list[Pick] | None:
    """Choose up to q points of a box by their upper confidence bounds; see `improving_picks`.

    Args:
        situation: with a trained surrogate.
        effort: how much work.
        beta: standard deviations added.
        batch: ``shrink`` conditions standard deviations on picks and pending candidates.
    """
    box = _Box.of(situation, effort)
    if box is None or box.posterior is None:
        return None
    posterior = box.posterior

    def make(pending: list[Candidate], _: int) -> Acquisition:
        at = box.coordinates(pending if batch == "shrink" else [])
        return Confidence(situation, posterior, box.baseline, at, beta=beta)

    def words(_: int, prediction: str) -> str:
        return f"bound at {beta:g} standard deviations is best; predicted {prediction}"

    return box.picks(make, words, logarithm=False)


def thompson_picks(situation: Situation, effort: Effort) -> list[Pick] | None:
    """Choose for each slot the best point of a box by a drawn function of its own; see `improving_picks`."""
    box = _Box.of(situation, effort)
    if box is None:
        return None
    seed = situation.seed_for("functions")

    def make(_: list[Candidate], slot: int) -> Acquisition:
        return DrawnFunction(situation, box.search.encoding, slot, situation.q, seed)

    def words(slot: int, prediction: str) -> str:
        return f"best of drawn function {slot + 1} of {situation.q}; predicted {prediction}"

    return box.picks(make, words, logarithm=False)
