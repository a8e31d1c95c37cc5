"""Results of earlier campaigns of the same database, taken over once, when a campaign begins.

They become rows of its dataset at a fidelity of their own, ``earlier:NAME``: they never count as values of the target,
close no candidate, and are believed as far as held-out labels of the target show that they help (`multi_fidelity`).
What was taken is frozen: the other campaign may grow, this one's decisions can still be recomputed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator import plugins
from orchestrator.config.read import Loaded
from orchestrator.config.schema import CampaignConfig, EarlierConfig
from orchestrator.domain import EARLIER, TARGET, Candidate, Outcome, Problem, Row, Value, frozen, sha256
from orchestrator.errors import MatloopError
from orchestrator.measuring import parameter_units
from orchestrator.protocols import BoxSpace, SearchSpace
from orchestrator.record.store import CampaignStore
from orchestrator.units import convert, same_dimension

ROOM = 1_000_000_000
"""Numbers set apart for each earlier campaign: more trials and measurements than any has."""
UNKNOWN_ERROR = 0.05
"""Standard error, as a share of the spread of the values, that a weight below 1 scales where none was measured."""


@dataclass(frozen=True)
class Taken:
    """What was taken over.

    Args:
        rows: of every earlier campaign, at their fidelities.
        units: of the values, by property.
        notices: what the user should know, one sentence a campaign.
    """

    rows: tuple[Row, ...] = ()
    units: Mapping[str, str] = field(default_factory=frozen)
    notices: tuple[str, ...] = ()


def gather(store: CampaignStore, loaded: Loaded, problem: Problem, space: SearchSpace) -> Taken:
    """Read the results of the campaigns that a file names.

    Args:
        store: the campaign database.
        loaded: the campaign file.
        problem: its properties and units.
        space: its search space, for what candidates carry and in which units.

    Raises:
        ConfigError: there is no such campaign, its properties are others, or none of its results can be used.
    """
    rows: list[Row] = []
    notices = []
    for place, earlier in enumerate(loaded.config.earlier):
        at = ("earlier", place, "campaign")
        try:
            found, left_out = _Source(store, earlier, problem, space, loaded.lab.allowed_modules).read()
        except MatloopError as error:
            raise loaded.source.error(str(error), at) from error
        if not found:
            names = ", ".join(earlier.properties.get(name, name) for name in problem.properties)
            message = (
                f"campaign {earlier.campaign!r} has no result of {names} that can be used here"
                + (f" ({left_out} candidates lack what this space's candidates carry)" if left_out else "")
                + "; map its properties with 'properties: {HERE: THERE}', or leave it out"
            )
            raise loaded.source.error(message, at)
        rows += [_set_apart(row, place) for row in _weighted(found, earlier.weight)]
        count = len({row.trial for row in found})
        lacking = f"; {left_out} were left out: they lack what this space's candidates carry" if left_out else ""
        notices.append(
            f"{count} results of the earlier campaign {earlier.campaign!r} are taken in with weight"
            f" {earlier.weight:g}{lacking}"
        )
    return Taken(tuple(rows), problem.units, tuple(notices))


@dataclass(frozen=True)
class _Source:
    """One earlier campaign."""

    store: CampaignStore
    earlier: EarlierConfig
    problem: Problem
    space: SearchSpace
    allowed_modules: tuple[str, ...]

    def read(self) -> tuple[list[Row], int]:
        """Return its values of the target in this campaign's units, and how many trials had to be left out."""
        info = self.store.campaign(self.earlier.campaign)
        theirs = CampaignConfig.model_validate(dict(info.config))
        units = self._their_units(theirs, str(Path(info.file).parent) if info.file else None)
        rows: list[Row] = []
        left_out: set[int] = set()
        kept: dict[int, Candidate | None] = {}
        for here, there in ((name, self.earlier.properties.get(name, name)) for name in self.problem.properties):
            unit, known = self.problem.units[here], theirs.problem().units.get(there)
            if known is not None and not same_dimension(known, unit):
                message = (
                    f"{there!r} of campaign {self.earlier.campaign!r} is given in {known}, and {here!r} in {unit}: they"
                    " are different things"
                )
                raise MatloopError(message)
            for row in self.store.dataset(self.earlier.campaign, units={there: unit}).rows:
                if row.property != there or row.fidelity != TARGET or row.outcome is not Outcome.MEASURED:
                    continue
                if row.trial not in kept:
                    kept[row.trial] = self._translated(row.applied_candidate, units)
                candidate = kept[row.trial]
                if candidate is None:
                    left_out.add(row.trial)
                    continue
                fidelity = f"{EARLIER}{self.earlier.campaign}"
                rows.append(replace(row, candidate=candidate, applied=frozen(), property=here, fidelity=fidelity))
        return rows, len(left_out)

    def _their_units(self, theirs: CampaignConfig, base: str | None) -> Mapping[str, str]:
        """Return the units of the other campaign's parameters, as far as its space still says them."""
        try:
            use = theirs.space
            there = plugins.build("spaces", use.use, use.options, base=base, allowed_modules=self.allowed_modules)
        except (MatloopError, OSError):
            return {}  # a table that is gone: its candidates are in the database, in the units that this file uses
        return parameter_units(there)

    def _translated(self, candidate: Candidate, units: Mapping[str, str]) -> Candidate | None:
        """Return a candidate in this space's units; None where it lacks what candidates carry here."""
        offers = self.space.offers()
        if ("structure" in offers and candidate.crystal is None) or (
            offers == {"composition"} and candidate.composition is None
        ):
            return None
        here = parameter_units(self.space)
        values: dict[str, Value] = {}
        for name in self._parameters():
            if name not in candidate.parameters:
                return None
            value = candidate.parameters[name]
            if not isinstance(value, str) and name in here and units.get(name, here[name]) != here[name]:
                value = convert(float(value), units[name], here[name])
            values[name] = value
        axes = self.space.axes() if isinstance(self.space, BoxSpace) else ()
        if any(axis.choices and values[axis.name] not in axis.choices for axis in axes):
            return None
        if values == dict(candidate.parameters):
            return candidate
        changed = sha256(f"{candidate.id} as parameters of another space")
        return replace(candidate, id=changed, parameters=frozen(values))

    def _parameters(self) -> list[str]:
        if "parameters" not in self.space.offers():
            return []
        return list(self.space.sample(1, seed=0)[0].parameters)


def _weighted(rows: list[Row], weight: float) -> list[Row]:
    """Divide the variances by the weight; values without a standard error get one first where the weight is below 1."""
    if weight == 1.0:
        return rows
    usual: dict[str, float] = {}
    for name in {row.property for row in rows}:
        values = [float(row.value) for row in rows if row.property == name and row.value is not None]
        middle = sum(values) / len(values)
        usual[name] = UNKNOWN_ERROR * math.sqrt(sum((v - middle) ** 2 for v in values) / len(values))
    return [
        replace(row, std_error=(usual[row.property] if row.std_error is None else row.std_error) / math.sqrt(weight))
        for row in rows
    ]


def _set_apart(row: Row, place: int) -> Row:
    """Give a row numbers that no trial and no measurement of this campaign can have: negative ones."""
    first = ROOM * (place + 1)
    return replace(row, trial=-(first + row.trial), measurement=-(first + (row.measurement or 0)))
