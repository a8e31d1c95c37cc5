"""Alarms for what a guard that looks at one result at a time cannot see: a stuck sensor, a reading far off prediction.

They look only at what is known when a result is recorded: the results before it and the prediction by which its trial
was chosen. Doubted trials stay in the record as uncertain; a person says whether they are good.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import pairwise

from orchestrator.config.lab import LabConfig
from orchestrator.config.safety import AlarmsConfig
from orchestrator.domain import Measurement, Quality
from orchestrator.execution.choosing_instrument import Bench
from orchestrator.execution.questions import is_reference
from orchestrator.record.states import AttemptState
from orchestrator.record.store import CampaignStore
from orchestrator.record.views import AttemptInfo, TrialInfo
from orchestrator.units import convert

LEAST_RESIDUALS = 8
"""Below so many residuals a median of deviations says nothing."""
TO_SD = 1.4826
"""Median absolute deviation of a normal distribution → its standard deviation."""


class Alarms:
    """The alarms of one campaign.

    Args:
        store: of the campaign.
        name: of the campaign.
        lab: says which instruments have alarms.
        bench: to take an instrument out of service.
    """

    def __init__(self, store: CampaignStore, name: str, lab: LabConfig, bench: Bench) -> None:
        self.store = store
        self.name = name
        self.lab = lab
        self.bench = bench

    def of(self, instrument: str) -> AlarmsConfig:
        """Return the alarms of an instrument."""
        entry = self.lab.instruments.get(instrument)
        return entry.alarms if entry else AlarmsConfig()

    async def look(self, trial: TrialInfo, attempt: AttemptInfo) -> None:
        """Look at a result that was just recorded."""
        alarms = self.of(attempt.instrument)
        if alarms.stuck is not None:
            await self._stuck(attempt, alarms.stuck)
        if alarms.residual is not None:
            self._residual(trial, attempt, alarms.residual)

    async def _stuck(self, attempt: AttemptInfo, k: int) -> None:
        """Doubt a sensor that gives the same bits again and again at different set-points."""
        past = [
            one
            for one in self.store.attempts(self.name)
            if (one.instrument, one.step) == (attempt.instrument, attempt.step)
            and one.state is AttemptState.RECORDED
            and not is_reference(one)
        ][-k:]
        if len(past) < k or any(a.order["settings"] == b.order["settings"] for a, b in pairwise(past)):
            return
        trials = [one.trial for one in past]
        numbers = [self._numbers(one) for one in past]
        for name in numbers[0]:
            if len({found.get(name) for found in numbers}) == 1:
                reason = f"{name} was {numbers[0][name]!r} {k} times in a row at different set-points: a stuck sensor"
                self._doubt(trials, "stuck", reason, attempt.instrument)
                await self.bench.take_out(attempt.instrument, "stuck", reason)
                return

    def _numbers(self, attempt: AttemptInfo) -> dict[str, float]:
        found = self.store.measurements(self.name, trial=attempt.trial, single=True)
        return {one.property: one.value for one in found if one.step == attempt.step}

    def _residual(self, trial: TrialInfo, attempt: AttemptInfo, limit: float) -> None:
        """Doubt a reading that lies far off its prediction, counted in what readings are off otherwise."""
        goals = self.store.campaign(self.name).config.get("objectives", ())
        units = {one["property"]: one["unit"] for one in goals}
        trials = {one.number: one for one in self.store.trials(self.name)}
        doubted = self.store.doubted(self.name)
        for name in trial.proposal.mean:
            if name not in units:
                continue
            measured = [one for one in self.store.measurements(self.name) if one.property == name]
            residuals = _residuals(measured, trials, name, units[name])
            own = residuals.pop(trial.number, None)
            others = [value for number, value in residuals.items() if number not in doubted]
            if own is None or len(others) < LEAST_RESIDUALS:
                continue
            middle = statistics.median(others)
            spread = TO_SD * statistics.median(abs(value - middle) for value in others)
            if spread > 0 and abs(own - middle) > limit * spread:
                reason = (
                    f"{name} is {abs(own - middle) / spread:.1f} robust standard deviations off its prediction "
                    f"({limit:g} are usual at most)"
                )
                self._doubt([trial.number], "residual", reason, attempt.instrument)

    def _doubt(self, trials: Sequence[int], cause: str, reason: str, instrument: str) -> None:
        subject = ",".join(str(number) for number in sorted(set(trials)))
        self.store.doubt(self.name, trials, cause=cause, reason=f"{instrument}: {reason}")
        self.store.ask(self.name, "doubt", f"trials {subject}: {reason}", instrument=instrument, subject=subject)


def _residuals(measured: Sequence[Measurement], trials: dict[int, TrialInfo], name: str, unit: str) -> dict[int, float]:
    """Return measured minus predicted, in `unit`, by trial."""
    found: dict[int, float] = {}
    for one in measured:
        mean = trials[one.trial].proposal.mean.get(name)
        if mean is not None and one.quality is Quality.GOOD:
            found[one.trial] = convert(one.value, one.unit, unit) - mean
    return found
