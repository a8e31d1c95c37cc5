"""How far predictions could be trusted: what was predicted before a trial, and what came.

A proposal's mean and standard deviation are stored before its trial runs, so nothing here has seen its own answer. Only
chosen candidates count, which is where trust matters and where it is hardest to earn: the best of many predictions is
also the luckiest one. Everything is a function of stored rows.

Predictive sequences judged by what came: Dawid, J. R. Stat. Soc. A 147, 278 (1984), doi:10.2307/2981683.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist

import numpy as np
from scipy.special import bdtr

from orchestrator import scoring
from orchestrator.domain import Dataset, frozen
from orchestrator.record.views import DecisionInfo, FitInfo, TrialInfo
from orchestrator.scoring import Predicted

LEVEL = 0.9
"""Nominal coverage of the intervals that are watched."""
WINDOW = 24
"""Newest results that the rolling figures are about."""
LONG_WINDOW = 96
"""Newest results in which a smaller, lasting fault shows."""
ENOUGH = 16
"""Results below which no alarm is given."""
PRIOR_RESULTS = 10.0
"""Results that the belief "the factor is 1" is worth when standard deviations are widened."""
FAR, WIDEST = 6.0, 4.0
"""Errors are cut at so many standard deviations, and no standard deviation is widened more than so many times."""
DRIFT_CHANCE, FEWEST_TO_DRIFT = 0.01, 3
"""Results since the last training that so rarely lie outside by chance, and are so many at least, are drift."""


@dataclass(frozen=True)
class Judged:
    """Predictions of one property against what came, in the order of completion.

    Args:
        name: of the property.
        trials: numbers of the trials.
        labels: what people call their candidates.
        predicted: means.
        sd: standard deviations of one more measurement.
        measured: values.
        widened: factor that each sd had been widened by, for earlier results; empty means never.
    """

    name: str
    trials: tuple[int, ...]
    labels: tuple[str, ...]
    predicted: tuple[float, ...]
    sd: tuple[float, ...]
    measured: tuple[float, ...]
    widened: tuple[float, ...] = ()

    @classmethod
    def of_rows(cls, name: str, rows: Sequence[tuple[int, str, float, float, float, float]]) -> Judged:
        """Build it from rows of trial, label, predicted, sd, measured and widening, at least one."""
        return cls(name, *zip(*rows, strict=True))

    def __len__(self) -> int:
        """Count the predictions."""
        return len(self.measured)

    @cached_property
    def pairs(self) -> Predicted:
        """The predictions as `orchestrator.scoring` takes them."""
        return Predicted(*(np.array(part, dtype=np.float64) for part in (self.measured, self.predicted, self.sd)))

    @cached_property
    def scores(self) -> Mapping[str, float]:
        """Every score; see `orchestrator.scoring.score`."""
        return frozen(scoring.score(self.pairs))

    @property
    def z(self) -> tuple[float, ...]:
        """Errors in standard deviations."""
        return tuple((self.pairs.errors / self.pairs.sd).tolist())

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's rank correlation of predicted and measured; None where either side does not vary."""
        found = scoring.rank_correlation(self.pairs.mean, self.pairs.values)
        return None if math.isnan(found) else found

    def coverage(self, level: float) -> float:
        """Return the share of results inside the central interval of a nominal coverage."""
        return scoring.coverage(self.pairs.errors, self.pairs.sd, level)

    def inside(self, level: float = LEVEL) -> int:
        """Count the results inside the central interval of a nominal coverage."""
        return round(self.coverage(level) * len(self))

    def uncertainty(self, level: float) -> tuple[float, float]:
        """Return Wilson's 95 % interval of the coverage: how much of a deviation may be chance."""
        n, p, z = len(self), self.coverage(level), NormalDist().inv_cdf(0.975)
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return max(0.0, middle - half), min(1.0, middle + half)

    def last(self, n: int) -> Judged:
        """Return the n newest."""
        return self._only(range(max(0, len(self) - n), len(self)))

    def among(self, trials: Collection[int]) -> Judged:
        """Return those of some trials."""
        return self._only([i for i, trial in enumerate(self.trials) if trial in trials])

    def as_trained(self) -> Judged:
        """Return the predictions as they would have been without any widening."""
        factors = self.widened or (1.0,) * len(self)
        return replace(self, sd=tuple(s / f for s, f in zip(self.sd, factors, strict=True)), widened=())

    def _only(self, rows: Sequence[int]) -> Judged:
        def part(values: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(values[i] for i in rows) if values else ()

        return Judged(
            self.name,
            tuple(self.trials[i] for i in rows),
            tuple(self.labels[i] for i in rows),
            part(self.predicted),
            part(self.sd),
            part(self.measured),
            part(self.widened),
        )


@dataclass(frozen=True)
class Alarm:
    """Something about a property's predictions that people should know.

    Args:
        name: of the property.
        kind: ``too_sure``, ``too_careful`` or ``uninformative``.
        text: one sentence, with the numbers.
    """

    name: str
    kind: str
    text: str


def gather(
    trials: Sequence[TrialInfo],
    dataset: Dataset,
    decisions: Sequence[DecisionInfo],
    fits: Sequence[FitInfo],
    properties: Sequence[str],
) -> dict[str, Judged]:
    """Put every stored prediction beside what came of it.

    Args:
        trials: of the campaign.
        dataset: what is known.
        decisions: of the campaign.
        fits: of the campaign.
        properties: modelled ones.

    Returns:
        By property, in the order of completion; properties without a single result that had been predicted are absent.
    """
    labels = dataset.labels(properties)
    place = {number: i for i, number in enumerate(labels.trials)}
    fit_of = {decision.number: decision.fit for decision in decisions}
    factors = {fit.id: widening(fit) for fit in fits}
    known = sorted((t for t in trials if t.number in place), key=lambda t: (t.ended_at or math.inf, t.number))
    found = {}
    for j, name in enumerate(properties):
        rows = [
            (
                trial.number,
                trial.candidate.label,
                trial.proposal.mean[name],
                trial.proposal.sd[name],
                float(labels.values[place[trial.number], j]),
                factors.get(fit_of.get(trial.decision) or 0, {}).get(name, 1.0),
            )
            for trial in known
            if name in trial.proposal.mean and trial.proposal.sd.get(name, 0.0) > 0
        ]
        rows = [row for row in rows if math.isfinite(row[4])]
        if rows:
            found[name] = Judged.of_rows(name, rows)
    return found


def widening(fit: FitInfo) -> Mapping[str, float]:
    """Return by which factors the standard deviations of a stored fit were widened, by property."""
    return {name: found.get("widened", 1.0) for name, found in fit.report.prospective.items()}


def factor(judged: Judged) -> float:
    """Return by how much the standard deviations of the next fit have to be widened.

    Held-out residuals have given the fit its own factor already, with which they are as large as stated; here the
    results that came of proposals join them. The factor is 1 unless their 90 % intervals, as trained, held fewer of
    them than chance explains.

    Args:
        judged: predictions and results.

    Returns:
        At least 1.
    """
    trained = judged.as_trained()
    if not any(_too_few(trained.last(n)) for n in (WINDOW, LONG_WINDOW)):
        return 1.0
    z = np.minimum(np.abs(np.array(trained.last(LONG_WINDOW).z)), FAR)
    weight = len(z) + PRIOR_RESULTS
    return min(max(math.sqrt((float(np.sum(z**2)) + PRIOR_RESULTS) / weight), 1.0), WIDEST)


def alarms(judged: Judged, unit: str = "") -> tuple[Alarm, ...]:
    """Say what is wrong with the newest predictions; nothing where chance explains what is seen.

    Args:
        judged: predictions and results.
        unit: of the property, for the sentence.
    """
    recent = judged.last(WINDOW)
    if len(recent) < ENOUGH:
        return ()
    found = []
    low, high = scoring.binomial_band(len(recent), LEVEL)
    inside = recent.inside()
    count = f"{inside} of the last {len(recent)} results of {judged.name} lie inside their {LEVEL:.0%} intervals"
    if inside < low:
        found.append(Alarm(judged.name, "too_sure", f"{count}, at least {low} were expected: its sd is too small"))
    elif inside > high:
        found.append(Alarm(judged.name, "too_careful", f"{count}, at most {high} were expected: its sd is too large"))
    rho = recent.scores["spearman"]
    if rho <= 0:
        size = f"; the errors average {recent.scores['mae']:.3g} {unit}".rstrip() if unit else ""
        text = (
            f"sd of {judged.name} says nothing about the error (rank correlation {rho:.2f} over {len(recent)} results)"
        )
        found.append(Alarm(judged.name, "uninformative", (text + size).replace("-", "\N{MINUS SIGN}")))
    return tuple(found)


def drifted(judged: Judged, known: Collection[int]) -> str:
    """Say whether the results since the last training contradict it; empty where chance explains them.

    Args:
        judged: predictions and results.
        known: trials whose results the last training has seen.
    """
    new = judged.among(set(judged.trials) - set(known))
    if len(new) < FEWEST_TO_DRIFT or bdtr(new.inside(), len(new), LEVEL) > DRIFT_CHANCE:
        return ""
    count = f"{len(new) - new.inside()} of the {len(new)} results of {judged.name} since the last training"
    return f"{count} lie outside their {LEVEL:.0%} intervals"


def summary(judged: Judged) -> dict[str, float]:
    """Return the numbers that a fit's report keeps: over all results, and over the newest.

    Args:
        judged: predictions and results.

    Returns:
        ``n``, every score, ``inside_90`` with its binomial band ``low_90`` to ``high_90``, the same of the newest with
        ``recent_`` before the name, and one ``alarm_…`` = 1 for each alarm.
    """
    numbers: dict[str, float] = {}
    for start, part in (("", judged), ("recent_", judged.last(WINDOW))):
        low, high = scoring.binomial_band(len(part), LEVEL)
        counts = {"n": len(part), "inside_90": part.inside(), "low_90": low, "high_90": high}
        numbers |= {start + name: float(value) for name, value in {**counts, **part.scores}.items()}
    return numbers | {f"alarm_{alarm.kind}": 1.0 for alarm in alarms(judged)}


def line(name: str, numbers: Mapping[str, float]) -> str:
    """Write a summary as one line for people."""
    text = f"{name}: {numbers['inside_90']:.0f} of {numbers['n']:.0f} results within 90 %"
    text += f" ({numbers['low_90']:.0f} to {numbers['high_90']:.0f} expected)"
    if numbers["recent_n"] < numbers["n"]:
        text += f", {numbers['recent_inside_90']:.0f} of the last {numbers['recent_n']:.0f}"
    rho = numbers["recent_spearman"]
    return text if math.isnan(rho) else text + f", rank correlation of error and sd {_signed(rho)}"


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def _too_few(judged: Judged) -> bool:
    return len(judged) >= ENOUGH and judged.inside() < scoring.binomial_band(len(judged), LEVEL)[0]
