"""Why the surrogate thinks what it thinks: explanations from a stored fit, for the report and the command line.

The surrogate comes through `plugins` and the contract `Explains`, its state from the store: the fit that last proposed,
updated to what is known now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from orchestrator import plugins
from orchestrator.abilities import Explains, ExplainsItsNetwork
from orchestrator.config.defaults import MULTI_FIDELITY, default_surrogate
from orchestrator.config.read import load_lab
from orchestrator.config.schema import CampaignConfig
from orchestrator.domain import Candidate, Dataset, Explanation, Problem
from orchestrator.errors import StoreError
from orchestrator.protocols import Surrogate
from orchestrator.record.views import CampaignInfo, DecisionInfo, FitInfo

BEST = 3
"""Candidates that the report explains."""
MOST_PREDICTED = 400
"""Measured candidates from which the effects of elements are told; more are thinned out evenly."""
FEWEST_WITH = 2
"""Candidates that must hold an element before its effect is told."""
RIDGE = 1.0
"""Pulls the effect of a rare element towards none: as one more candidate with the element and no effect would."""


class HoldsFits(Protocol):
    """The part of `CampaignStore` that is read here."""

    def campaign(self, name: str) -> CampaignInfo:
        """Return the campaign."""

    def decisions(self, name: str) -> list[DecisionInfo]:
        """Return its decisions."""

    def fits(self, name: str) -> list[FitInfo]:
        """Return its fits."""

    def fit_folder(self, fit_id: int) -> Path:
        """Return the folder of a fit."""


@dataclass(frozen=True)
class Explained:
    """One candidate with the reasons for its prediction.

    Args:
        candidate: what.
        explanation: why.
        trial: its number, where it has one.
        measured: what came out, where it was measured.
    """

    candidate: Candidate
    explanation: Explanation
    trial: int | None = None
    measured: float | None = None


@dataclass(frozen=True)
class Effects:
    """What each element does to the prediction, other elements being equal.

    Args:
        unit: of the effects.
        values: element → effect.
        counts: element → how many candidates hold it.
        explained: share of the predictions' variance that a plain sum over elements gives (R²).
        candidates: how many predictions went in.
    """

    unit: str
    values: Mapping[str, float]
    counts: Mapping[str, int]
    explained: float
    candidates: int


@dataclass(frozen=True)
class Why:
    """What a report says about the reasons.

    Args:
        note: how the reasons were found, or why there are none.
        explained: best first.
        effects: of elements; None where candidates have none.
    """

    note: str
    explained: tuple[Explained, ...] = ()
    effects: Effects | None = None
    measured: Mapping[str, float] = field(default_factory=dict)
    """Label → measured value, to say of a substitute that it is known."""


def proposing(store: HoldsFits, name: str) -> FitInfo:
    """Return the fit that made the last decision, or the last fit where none has decided yet.

    Raises:
        StoreError: there is no fit.
    """
    fits = {fit.id: fit for fit in store.fits(name)}
    if not fits:
        message = (
            f"campaign {name!r} has no fit, so there is no surrogate to explain: it is trained after the initial design"
            " by a policy that learns"
        )
        raise StoreError(message)
    used = [decision.fit for decision in store.decisions(name) if decision.fit in fits]
    return fits[used[-1]] if used and used[-1] is not None else list(fits.values())[-1]


def restored(store: HoldsFits, name: str, dataset: Dataset) -> Surrogate:
    """Read the surrogate that proposes, updated to a dataset.

    Args:
        store: the campaign database.
        name: of the campaign.
        dataset: what is known.

    Returns:
        The surrogate.

    Raises:
        StoreError: there is no fit.
        PluginError: the surrogate is not installed, or its options are wrong.
        SurrogateError: the stored state is not one of this surrogate.
    """
    info = store.campaign(name)
    config = CampaignConfig.model_validate(dict(info.config))
    fit = proposing(store, name)
    lab = info.links.get("lab")
    base = str(Path(info.file).parent) if info.file else None
    used = config.surrogate
    if used is None and fit.surrogate == MULTI_FIDELITY:  # what is inside of it depends on the space
        modules = load_lab(lab).allowed_modules if lab and ":" in config.space.use else ()
        space = plugins.build("spaces", config.space.use, config.space.options, base=base, allowed_modules=modules)
        used = default_surrogate(space, config)
    surrogate: Surrogate = plugins.build(
        "surrogates",
        fit.surrogate,
        used.options if used is not None and used.use == fit.surrogate else {},
        base=base,
        allowed_modules=load_lab(lab).allowed_modules if lab and ":" in fit.surrogate else (),
    )
    surrogate.load(store.fit_folder(fit.id), config.problem())
    surrogate.update(dataset)
    return surrogate


def explain(
    surrogate: Surrogate, candidates: Sequence[Candidate], name: str, *, network: bool = False
) -> tuple[Explanation, ...]:
    """Explain the predictions of one property.

    Args:
        surrogate: to be asked.
        candidates: n candidates.
        name: of the property.
        network: ask the networks inside alone.

    Returns:
        n explanations.

    Raises:
        StoreError: the surrogate cannot explain itself, or has no network.
    """
    if network:
        if isinstance(surrogate, ExplainsItsNetwork):
            return surrogate.explain_network(candidates, name)
        message = (
            f"the surrogate {type(surrogate).__name__} has no network that could be explained apart; leave --network"
            " out to explain the whole surrogate"
        )
        raise StoreError(message)
    if not isinstance(surrogate, Explains):
        message = (
            f"the surrogate {type(surrogate).__name__} does not explain its predictions: it lacks the method 'explain'"
            " (orchestrator.abilities.Explains)"
        )
        raise StoreError(message)
    return surrogate.explain(candidates, name)


def element_effects(surrogate: Surrogate, candidates: Sequence[Candidate], problem: Problem, name: str) -> Effects:
    """Tell the elements' effects on the prediction: a ridge regression of predictions on which elements are present.

    Args:
        surrogate: to be asked.
        candidates: for which predictions are taken; those without elements are left out.
        problem: properties and units.
        name: of the property.

    Returns:
        The effects: how much higher the prediction is with the element than without, as far as a sum can say it.
    """
    held = {candidate.id: (candidate, _elements(candidate)) for candidate in candidates}
    known = [(candidate, symbols) for candidate, symbols in held.values() if symbols]
    if len(known) > MOST_PREDICTED:
        known = [known[i] for i in np.linspace(0, len(known) - 1, MOST_PREDICTED).astype(int)]
    counts = Counter(symbol for _, symbols in known for symbol in symbols)
    told = sorted(symbol for symbol, count in counts.items() if FEWEST_WITH <= count < len(known))
    unit = problem.units[name]
    if not told:
        return Effects(unit, {}, counts, 0.0, len(known))
    mean = surrogate.predict([candidate for candidate, _ in known]).mean[:, problem.properties.index(name)]
    present = np.array([[float(symbol in symbols) for symbol in told] for _, symbols in known])
    centred, aside = present - present.mean(0), mean - mean.mean()
    effects = np.linalg.solve(centred.T @ centred + RIDGE * np.eye(len(told)), centred.T @ aside)
    total = float(aside @ aside)
    left = float(((aside - centred @ effects) ** 2).sum())
    share = 1.0 - left / total if total > 0 else 0.0
    return Effects(unit, dict(zip(told, effects.tolist(), strict=True)), dict(counts), share, len(known))


def _elements(candidate: Candidate) -> frozenset[str]:
    if candidate.crystal is not None:
        return frozenset(candidate.crystal.species)
    if candidate.composition is not None:
        from pymatgen.core import Composition  # noqa: PLC0415  2 s to import

        return frozenset(str(symbol) for symbol in Composition(candidate.composition).get_el_amt_dict())
    return frozenset()
