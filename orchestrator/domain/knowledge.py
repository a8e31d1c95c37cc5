"""What a surrogate says and what a policy decides: predictions, fits, proposals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from orchestrator.domain.candidates import Candidate
from orchestrator.domain.canonical import TARGET, Array, frozen


@dataclass(frozen=True, eq=False)
class Prediction:
    """A surrogate's answer for n candidates and m properties, in the properties' units.

    Args:
        mean: n × m.
        epistemic: n × m standard deviations from not knowing the function.
        noise: n × m standard deviations of one more measurement around the function.
    """

    mean: Array
    epistemic: Array
    noise: Array

    @property
    def sd(self) -> Array:
        """Standard deviation of one more measurement, n × m."""
        return np.hypot(self.epistemic, self.noise)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What a surrogate predicted of labels that did not take part in making the predictions; k labels of one property.

    Args:
        residuals: label minus prediction, k.
        sd: predicted standard deviations of the labels, k.
        labels: the labels themselves, k; all in the property's unit.
        trials: their trial numbers, k.
    """

    residuals: Array
    sd: Array
    labels: Array
    trials: tuple[int, ...] = ()


@dataclass(frozen=True)
class FitReport:
    """What one training did.

    Args:
        labels: number of labelled trials used.
        data_sha256: hash of the dataset.
        metrics: per property and metric name, such as ``{"energy": {"mae": 0.1}}``, on held-out labels.
        calibration: per property: nominal coverage → observed coverage on held-out labels, and the sd scale applied.
        device: where it ran, with the reason where it was chosen automatically.
        seconds: wall time.
        warm: whether it started from an earlier fit.
        notes: what the user should know (fall-backs, jitter, outliers).
        prospective: per property: how the campaign's own predictions fared until then; see `orchestrator.prospective`.
        promoted: whether it may propose; False for a challenger that was worse than the fit that proposes.
        champion: id of the fit that it was compared with; None where there was none.
        reason: one sentence on why it was promoted or not.
    """

    labels: int
    data_sha256: str
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=frozen)
    calibration: Mapping[str, Mapping[str, float]] = field(default_factory=frozen)
    device: str = "cpu"
    seconds: float = 0.0
    warm: bool = False
    notes: tuple[str, ...] = ()
    prospective: Mapping[str, Mapping[str, float]] = field(default_factory=frozen)
    promoted: bool = True
    champion: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Proposal:
    """A candidate to measure next, and why.

    Args:
        candidate: what.
        fidelity: at which level of trust.
        score: value of the acquisition function; larger is better.
        mean: posterior mean of each modelled property, where there is a surrogate.
        sd: posterior standard deviation of one more measurement of each.
        policy: name of the acquisition policy.
        reason: one sentence for people.
        details: further facts for `why`: rank, pending ids, fall-backs.
    """

    candidate: Candidate
    policy: str
    reason: str
    score: float | None = None
    mean: Mapping[str, float] = field(default_factory=frozen)
    sd: Mapping[str, float] = field(default_factory=frozen)
    fidelity: str = TARGET
    details: Mapping[str, Any] = field(default_factory=frozen)


@dataclass(frozen=True)
class DecisionSummary:
    """What the last decision knew, for stopping rules.

    Args:
        best: best feasible value of the first objective so far.
        probability_best: P(no open candidate is better than the best by more than epsilon), where computable.
        expected_gain: largest expected improvement among the open candidates, in the objective's unit.
        open_candidates: how many candidates can still be proposed; None for a continuous space.
        regret: pairs of a probability and how much the best falls short of the optimum at most with that probability:
            in the objective's unit, or with several objectives as a share of the dominated hypervolume.
        gain_per_cost: largest expected improvement for one unit of price among the open candidates; with several
            objectives of the hypervolume. None where a trial has no price.
        gain_per_hour: the same for an hour.
        hypervolume: dominated by what is measured, with several objectives, in the product of their units.
        reference: corner from which it is counted, as utilities (larger is better), one an objective.
    """

    best: float | None = None
    probability_best: float | None = None
    expected_gain: float | None = None
    open_candidates: int | None = None
    regret: tuple[tuple[float, float], ...] = ()
    gain_per_cost: float | None = None
    gain_per_hour: float | None = None
    hypervolume: float | None = None
    reference: tuple[float, ...] = ()


@dataclass(frozen=True)
class Spent:
    """What has been used of the budget: trials, wall hours, cost."""

    trials: int = 0
    hours: float = 0.0
    cost: float = 0.0
