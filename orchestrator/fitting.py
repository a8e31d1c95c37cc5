"""When a campaign trains, from what, and which fit proposes.

A fit is due after `refit.every` new labels, or when the results since the last one contradict it. It starts warm from
the fit that proposes, or from scratch: when the labels have grown by `refit.cold_growth`, when the last fit lost, on
drift, and on a new alarm. Its standard deviations are widened where proposals' results ask for it, which is part of its
stored state: choosing stays a function of the fit. Whether it proposes is decided by `orchestrator.champion`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator import champion as champions
from orchestrator import prospective
from orchestrator.abilities import HoldsOut, Widens
from orchestrator.champion import Learned, Verdict
from orchestrator.config.schema import CampaignConfig
from orchestrator.domain import Dataset, FitReport
from orchestrator.errors import Diverged, NotEnoughData, StoreError
from orchestrator.planner import Planner
from orchestrator.prospective import Alarm, Judged
from orchestrator.protocols import Surrogate
from orchestrator.record.store import CampaignStore
from orchestrator.record.views import FitInfo
from orchestrator.standing import Standing

ACTOR = "matloop"
SMALLEST_WIDENING = 1.01
"""A factor nearer to 1 is left out."""


def usable(store: CampaignStore, name: str, planner: Planner, fits: Sequence[FitInfo]) -> list[FitInfo]:
    """Return the fits of the same surrogate under the same modelled properties: the others belong to amended files.

    Args:
        store: the campaign database.
        name: of the campaign.
        planner: of the current revision.
        fits: all of them.

    Raises:
        StoreError: a fit names a revision that the campaign does not have.
    """
    config, problem = planner.config, planner.problem
    same: dict[int, bool] = {}
    for revision in store.revisions(name) if fits else ():
        past = CampaignConfig.model_validate(dict(revision["config"]))
        same[int(revision["number"])] = (past.surrogate, past.problem().properties) == (
            config.surrogate,
            problem.properties,
        )
    for fit in fits:
        if fit.revision not in same:
            message = f"fit {fit.id} names revision {fit.revision}, which campaign {name!r} does not have"
            raise StoreError(message)
    return [fit for fit in fits if same[fit.revision] and fit.surrogate == planner.parts.surrogate.use]


def proposing(fits: Sequence[FitInfo]) -> FitInfo | None:
    """Return the newest fit that may propose: the champion."""
    return next((fit for fit in reversed(fits) if fit.report.promoted), None)


def judged(now: Standing, planner: Planner) -> dict[str, Judged]:
    """Put the campaign's own predictions beside what came of them."""
    return prospective.gather(now.trials, now.dataset, now.decisions, now.fits, planner.problem.properties)


def line(seen: Mapping[str, Judged]) -> str:
    """Write how the campaign's own predictions fared, for the history; empty before the first result."""
    return "; ".join(prospective.line(name, prospective.summary(one)) for name, one in seen.items())


def widen(surrogate: Surrogate, seen: Mapping[str, Judged]) -> dict[str, float]:
    """Widen the standard deviations of a new fit as the results of earlier proposals ask for.

    Args:
        surrogate: just fitted; one that cannot be widened stays as it is.
        seen: the campaign's own predictions beside what came, by property.

    Returns:
        The factors, by property; empty where nothing was done.
    """
    factors = {name: prospective.factor(one) for name, one in seen.items()}
    factors = {name: factor for name, factor in factors.items() if factor > SMALLEST_WIDENING}
    if not factors or not isinstance(surrogate, Widens):
        return {}
    surrogate.widen(factors)
    return factors


def fit_if_due(store: CampaignStore, name: str, planner: Planner, now: Standing) -> FitInfo | None:
    """Train the surrogate where that is due, judge the fit, and store it.

    Args:
        store: the campaign database.
        name: of the campaign.
        planner: of the current revision.
        now: how the campaign stands.

    Returns:
        The new fit, or None where none was due or possible.
    """
    dataset = now.dataset
    if not planner.learns or planner.is_initial(now.planned, dataset):
        return None
    fits = usable(store, name, planner, now.fits)
    last, labels = fits[-1] if fits else None, planner.labels(dataset)
    fitted = planner.fitted_labels(last.report.labels, last.seen, dataset) if last else None
    if fitted is not None and labels <= fitted:
        return None
    seen = judged(now, planner)
    drift = _drift(store, planner, last, seen)
    if not (drift or planner.refit_due(dataset, fitted)):
        return None
    return _Training(store, name, planner, dataset, fits, seen, drift).make(now.fits[-1].number + 1 if now.fits else 1)


@dataclass(frozen=True)
class _Training:
    """One training: everything it depends on."""

    store: CampaignStore
    name: str
    planner: Planner
    dataset: Dataset
    fits: Sequence[FitInfo]
    seen: Mapping[str, Judged]
    drift: str

    def make(self, number: int) -> FitInfo | None:
        """Train, judge and store fit `number`."""
        planner, dataset = self.planner, self.dataset
        champion, alarms = proposing(self.fits), self._new_alarms()
        scratch = self._scratch(champion, alarms)
        folder = self.store.fit_folder(champion.id) if champion else None
        learned = champions.read(folder) if folder else Learned()
        since = self._since(champion, folder, learned)
        parent = champion if champion and not scratch else None
        try:
            surrogate, report, seed = planner.train(number, dataset, folder if parent else None)
        except NotEnoughData as error:
            self._notice(f"no fit: {error}")
            return None
        except Diverged as error:
            if champion is None:
                raise
            self._notice(f"no fit: {error}; fit {champion.number} goes on")
            return None
        verdict = self._verdict(champion, learned, since, surrogate)
        widened = widen(surrogate, self.seen)
        with tempfile.TemporaryDirectory(prefix="matloop-fit-") as made:
            surrogate.save(Path(made))
            champions.keep(Path(made), surrogate, dataset.labels(planner.problem.properties).trials)
            fit = self.store.record_fit(
                self.name,
                number=number,
                parent=parent.id if parent else None,
                surrogate=planner.parts.surrogate.use,
                seed=seed,
                seen=sorted({row.token for row in dataset.rows}),
                report=self._report(report, champion, verdict, widened, scratch),
                folder=Path(made),
                note=line(self.seen),
            )
        self._tell(number, champion, verdict, alarms=alarms, widened=widened, scratch=scratch)
        return fit

    # --- before ---------------------------------------------------------------------------------------------------

    def _new_alarms(self) -> list[Alarm]:
        """Return the alarms that stand now and did not at the last fit."""
        before = self.fits[-1].report.prospective if self.fits else {}
        units = self.planner.problem.units
        return [
            alarm
            for name, one in self.seen.items()
            for alarm in prospective.alarms(one, units[name])
            if not before.get(name, {}).get(f"alarm_{alarm.kind}")
        ]

    def _scratch(self, champion: FitInfo | None, alarms: Sequence[Alarm]) -> str:
        """Say why this fit is trained from scratch; empty where it starts from the champion."""
        if champion is None:
            return "nothing to start from"
        if self.drift:
            return self.drift
        if alarms:
            return alarms[0].text
        if not self.fits[-1].report.promoted:
            return f"fit {self.fits[-1].number} was worse than fit {champion.number}"
        cold = next((self._labels(fit) for fit in reversed(self.fits) if not fit.report.warm), 0)
        labels = self.planner.labels(self.dataset)
        if self.planner.cold_due(labels, cold):
            return f"{labels} labels, {cold} at the last training from scratch"
        return ""

    def _labels(self, fit: FitInfo) -> int:
        return self.planner.fitted_labels(fit.report.labels, fit.seen, self.dataset)

    def _since(
        self, champion: FitInfo | None, folder: Path | None, learned: Learned
    ) -> Mapping[tuple[str, int], float]:
        """Let the champion predict what came after it; nothing where its successor could not be compared."""
        if champion is None or folder is None or not learned.held_out:
            return {}
        surrogate, properties = self.planner.restore(folder), self.planner.problem.properties
        widened = prospective.widening(champion)
        return champions.losses_since(surrogate, self.dataset, learned, properties, widened)

    # --- after ----------------------------------------------------------------------------------------------------

    def _verdict(
        self,
        champion: FitInfo | None,
        learned: Learned,
        since: Mapping[tuple[str, int], float],
        surrogate: Surrogate,
    ) -> Verdict:
        if champion is None:
            return Verdict(promoted=True, reason="the first fit of this surrogate")
        if not isinstance(surrogate, HoldsOut) or not learned.held_out:
            return Verdict(promoted=True, reason=f"not compared with fit {champion.number}: no held-out predictions")
        theirs, mine = (champions.losses_held_out(held) for held in (learned.held_out, surrogate.held_out()))
        return champions.compare(theirs, since, mine, f"fit {champion.number}")

    def _report(
        self,
        report: FitReport,
        champion: FitInfo | None,
        verdict: Verdict,
        widened: Mapping[str, float],
        scratch: str,
    ) -> FitReport:
        notes = [f"trained from scratch: {scratch}"] if champion and scratch else []
        notes += [f"sd of {name} × {factor:.2f}, as the proposals' results ask for" for name, factor in widened.items()]
        numbers = {
            name: prospective.summary(one) | ({"widened": widened[name]} if name in widened else {})
            for name, one in self.seen.items()
        }
        return replace(
            report,
            notes=(*report.notes, *notes),
            prospective=numbers,
            promoted=verdict.promoted,
            champion=champion.id if champion else None,
            reason=verdict.reason,
        )

    def _tell(
        self,
        number: int,
        champion: FitInfo | None,
        verdict: Verdict,
        *,
        alarms: Sequence[Alarm],
        widened: Mapping[str, float],
        scratch: str,
    ) -> None:
        """Write into the history what people should know, and what was done about it."""
        done = [f"fit {number} was trained from scratch"] if scratch else []
        for text, name in [(alarm.text, alarm.name) for alarm in alarms] + [(self.drift, "")] * bool(self.drift):
            wide = [f"its sd is widened by {widened[name]:.2f}"] if name in widened else []
            self._notice("; ".join([text, *done, *wide]))
        if champion is not None and not verdict.promoted:
            self._notice(f"fit {number} is kept but does not propose: {verdict.reason}; fit {champion.number} goes on")

    def _notice(self, text: str) -> None:
        self.store.add_event(self.name, kind="notice", actor=ACTOR, note=text)


def _drift(store: CampaignStore, planner: Planner, last: FitInfo | None, seen: Mapping[str, Judged]) -> str:
    """Say how the results since the last fit contradict it; empty where they do not, or where nobody wants to know."""
    if last is None or not planner.config.refit.drift or not seen:
        return ""
    known = champions.read(store.fit_folder(last.id)).trials
    return next((text for one in seen.values() if known and (text := prospective.drifted(one, known))), "")
