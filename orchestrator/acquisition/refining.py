"""A shortlist scored again by botorch: noisy log expected (hypervolume) improvement of each candidate, pick by pick.

Where the surrogate's posterior is Gaussian, quasi-Monte Carlo draws of each candidate together with the measured and
pending points are steadier than joint draws of the whole shortlist. Candidates are compared by position in the list;
nothing is ever found again by its floats. Ament et al., NeurIPS 2023, arXiv:2310.20708; Daulton, Balandat, Bakshy,
NeurIPS 2021, arXiv:2105.08195.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from orchestrator.abilities import BotorchView
from orchestrator.acquisition.box_monte_carlo import MonteCarlo
from orchestrator.acquisition.draws import reference
from orchestrator.acquisition.gains import utilities
from orchestrator.acquisition.situation import Situation, check_finite, predict
from orchestrator.acquisition.worth import Worth
from orchestrator.domain import Array, Candidate

MOST = 256
"""Candidates that are scored again: each costs a joint posterior with what is measured."""


@dataclass(eq=False)
class _Measured:
    """Measured points as botorch sees them.

    Args:
        points: n0 × d encoded candidates.
        corner: k utilities from which hypervolume is counted.
    """

    points: Array
    corner: Array


def refined_batch(
    situation: Situation, view: BotorchView, listed: Sequence[Candidate], alone: Array, draws: int
) -> list[tuple[int, float, float]] | None:
    """Choose a batch from the best of a shortlist, each pick given the ones before.

    Args:
        situation: with a trained surrogate.
        view: that surrogate as a botorch model.
        listed: n candidates, the most promising first; the first `MOST` are scored.
        alone: n scores of single candidates, which break ties.
        draws: quasi-Monte Carlo draws.

    Returns:
        Position, score and expected gain of each pick; None where nothing is measured yet, so that botorch has nothing
        to compare with.

    Raises:
        NonFiniteValues: a score is NaN.
    """
    known = situation.labels().candidates
    if not known:
        return None
    listed = listed[:MOST]
    points = np.asarray(view.encode(listed), dtype=np.float64)
    reached = utilities(predict(situation.trained, known).mean, situation.problem)
    measured = _Measured(np.asarray(view.encode(known), dtype=np.float64), reference(situation, reached))
    taken = np.asarray(view.encode(situation.pending), dtype=np.float64) if situation.pending else points[:0]
    worth, picks = Worth(situation, listed), []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(situation.seed_for("torch") % 2**63)
        for _ in range(min(situation.q, len(listed))):
            acquisition = MonteCarlo(situation, view, _as_is, measured, taken, draws=draws, before=worth.last)
            gains = acquisition.values(points)
            check_finite(~np.isnan(gains), "acquisition values")
            scores = gains + worth.logs()
            best = int(np.lexsort((-alone[: len(listed)], np.where(worth.slots.open(), -scores, np.inf)))[0])
            worth.take(best)
            gain = float(np.exp(np.minimum(gains[best] + worth.success[best], 700.0)))
            picks.append((best, float(scores[best]), gain))
            taken = np.vstack([taken, points[best : best + 1]])
    return picks


def _as_is(points: torch.Tensor) -> torch.Tensor:
    """Leave points that are encoded already."""
    return points
