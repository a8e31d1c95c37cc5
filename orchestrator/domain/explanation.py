"""Why a surrogate says what it says: contributions, neighbours, counterfactuals."""

from __future__ import annotations

import builtins
from dataclasses import dataclass


@dataclass(frozen=True)
class Contribution:
    """What one part of a candidate adds to a prediction, in the property's unit.

    Args:
        name: of the part: ``Ba`` for an element, ``Ba 0`` for the atom of site 0, a parameter's name.
        value: signed contribution.
        site: index of the atom, for one that stands for an atom.
    """

    name: str
    value: float
    site: int | None = None


@dataclass(frozen=True)
class Neighbour:
    """A training candidate near the explained one, as the surrogate sees them.

    Args:
        label: what people call it.
        candidate_id: of the training candidate.
        similarity: 1 at the same place, towards 0 far away.
        value: its label, in the property's unit.
    """

    label: str
    candidate_id: str
    similarity: float
    value: float


@dataclass(frozen=True)
class Substitution:
    """A counterfactual: the same candidate with one element replaced, and the prediction for it."""

    old: str
    new: str
    label: str
    mean: float
    sd: float


@dataclass(frozen=True)
class Explanation:
    """Why a surrogate predicts what it predicts for one candidate and one property.

    Args:
        property: what is explained.
        unit: of every number here.
        mean: prediction.
        sd: of one more measurement.
        baseline: what is predicted where nothing is known of the candidate; `mean` = `baseline` + those of elements
            and parameters.
        method: how the contributions were found, with its source.
        atoms: one contribution an atom, in the order of the sites; empty for candidates without a crystal.
        elements: one contribution an element, the sum over its atoms.
        parameters: one contribution a process parameter.
        neighbours: nearest training candidates first.
        substitutions: most favourable ones first.
    """

    property: str
    unit: str
    mean: float
    sd: float
    baseline: float
    method: str
    atoms: tuple[Contribution, ...] = ()
    elements: tuple[Contribution, ...] = ()
    parameters: tuple[Contribution, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    substitutions: tuple[Substitution, ...] = ()

    @builtins.property  # the field `property` hides the name
    def parts(self) -> tuple[Contribution, ...]:
        """Contributions of elements and parameters: what adds up to the prediction."""
        return self.elements + self.parameters
