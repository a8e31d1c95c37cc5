"""Phase boundary: measure where the class of a candidate is least known.

``bald`` is what a measurement is expected to tell of the function: the entropy of the believed class minus the mean
entropy under each function (Houlsby, Huszár, Ghahramani, Lengyel 2011, arXiv:1112.5745). ``entropy`` is the entropy of
the believed class alone. A batch, and what is pending, repel: each score is multiplied by how little the class
probabilities of a candidate move together with those of what is chosen already, read from joint draws.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from orchestrator.abilities import Classifies
from orchestrator.acquisition.learning import LearningPolicy, learned_columns
from orchestrator.acquisition.policy import NonFiniteValues, Pick, PolicyOptions, Situation, check_finite
from orchestrator.acquisition.ranking import searched
from orchestrator.acquisition.slots import Slots, promising
from orchestrator.domain import Array, Candidate
from orchestrator.errors import IncompatibleError
from orchestrator.protocols import Support

CHUNK = 2048
NOTHING = 1e-9
"""Score below which no candidate can tell anything."""


class PhaseBoundaryOptions(PolicyOptions):
    """Options of `PhaseBoundary`.

    Args:
        score: ``bald`` or ``entropy``.
        draws: functions drawn.
        shortlist: how many of the best scores are drawn jointly for a batch.
        samples: points sampled where the space cannot be listed.
    """

    score: Literal["bald", "entropy"] = "bald"
    draws: int = Field(default=256, ge=32, le=4096)
    shortlist: int = Field(default=512, ge=8, le=8192)
    samples: int = Field(default=2048, ge=16, le=1_000_000)


class PhaseBoundary(LearningPolicy):
    """Choose the candidates whose class is least known."""

    Options: ClassVar[type[PolicyOptions]] = PhaseBoundaryOptions
    options: PhaseBoundaryOptions
    name = "phase_boundary"

    def needs(self) -> frozenset[Support]:
        """Need a classifier, such as ``phase_classifier``."""
        return frozenset({"draws", "classes"})

    def pick(self, situation: Situation) -> list[Pick]:
        """Choose up to q open candidates, best first."""
        if not isinstance(situation.trained, Classifies):
            message = "phase_boundary needs a surrogate of classes: write 'surrogate: {use: phase_classifier}'"
            raise IncompatibleError(message)
        pool = searched(
            self.pool(situation, self.options.samples),
            situation,
            lambda candidates: (self._scores(situation, candidates)[0][:, None], np.zeros(len(candidates))),
        )
        values, believed = self._scores(situation, pool)
        check_finite(np.isfinite(values), "scores")
        if values.max() < NOTHING:
            message = "every candidate seems to be of one class, the only one that was measured so far"
            raise NonFiniteValues(message)
        unclear = {name: int((p.max(axis=1) < 0.9).sum()) for name, p in believed.items()}  # noqa: PLR2004  said below
        picks = []
        for i, value in self._batch(situation, pool, values):
            chances = {
                name: {str(one): round(float(p[i, k]), 4) for k, one in enumerate(situation.trained.classes(name))}
                for name, p in believed.items()
            }
            picks.append(
                Pick(
                    pool[i],
                    value,
                    f"its class is least known: {_in_words(chances)}; the class of {max(unclear.values())} of"
                    f" {len(pool)} open candidates is less than 90 % sure",
                    {"among": len(pool), "chances": chances, "less_than_90_percent_sure": unclear},
                )
            )
        return picks

    def _names(self, situation: Situation) -> list[str]:
        return [situation.problem.properties[j] for j in learned_columns(situation.problem)]

    def _scores(self, situation: Situation, candidates: list[Candidate]) -> tuple[Array, dict[str, Array]]:
        """Return the score summed over properties, n, and the believed probabilities by property, n × k each."""
        total, believed = np.zeros(len(candidates)), {}
        for name in self._names(situation):
            parts = []
            for start in range(0, len(candidates), CHUNK):
                each = self._chances(situation, candidates[start : start + CHUNK], name)
                mean = each.mean(axis=0)
                score = _entropy(mean)
                if self.options.score == "bald":
                    score = score - _entropy(each).mean(axis=0)
                total[start : start + CHUNK] += score
                parts.append(mean)
            believed[name] = np.concatenate(parts)
        return total * np.exp(situation.log_success(candidates)), believed

    def _chances(self, situation: Situation, candidates: list[Candidate], name: str) -> Array:
        surrogate = situation.trained
        assert isinstance(surrogate, Classifies)  # noqa: S101  for mypy: `pick` has checked it
        each = surrogate.chances(candidates, name, self.options.draws, situation.seed_for("draws"))
        check_finite(np.isfinite(each).all(axis=(0, 2)), "class probabilities")
        return each

    def _batch(self, situation: Situation, pool: list[Candidate], values: Array) -> list[tuple[int, float]]:
        order = np.argsort(-values, kind="stable")
        if situation.q == 1 and not situation.pending:
            return [(int(order[0]), float(values[order[0]]))]
        listed = promising(situation, pool, order, max(self.options.shortlist, 2 * situation.q))
        known = [*(pool[i] for i in listed), *situation.pending]
        drawn = [self._chances(situation, known, name) for name in self._names(situation)]
        each = np.concatenate(drawn, axis=2)
        each -= each.mean(axis=0)
        size = np.sqrt((each**2).sum(axis=(0, 2)))
        each /= np.maximum(size, np.finfo(float).tiny)[None, :, None]
        left = values[listed].copy()
        for j in range(len(listed), len(known)):
            left *= _apart(each, j)[: len(listed)]
        slots = Slots(situation, [pool[i] for i in listed])
        picks = []
        for _ in range(min(situation.q, len(listed))):
            best = int(np.lexsort((-left, ~slots.open()))[0])
            slots.take(best)
            picks.append((int(listed[best]), float(left[best])))
            left = left * _apart(each, best)[: len(listed)]
        return picks


def _apart(each: Array, j: int) -> Array:
    """Return one minus the squared correlation of every candidate with candidate j, over draws and classes."""
    together = np.einsum("snk,sk->n", each, each[:, j])
    return np.asarray(1.0 - np.clip(together, -1.0, 1.0) ** 2)


def _entropy(p: Array) -> Array:
    """Return the entropy, in nats, of probabilities over the last axis."""
    return np.asarray(-(p * np.log(np.maximum(p, np.finfo(float).tiny))).sum(axis=-1))


def _in_words(chances: dict[str, dict[str, float]]) -> str:
    parts = []
    for name, by_class in chances.items():
        likely = sorted(by_class.items(), key=lambda item: -item[1])[:3]
        parts.append(f"{name} " + ", ".join(f"{one} with {p:.0%}" for one, p in likely))
    return "; ".join(parts)
