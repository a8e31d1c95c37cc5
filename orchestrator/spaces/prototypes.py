"""A prototype decorated with every allowed choice of elements, under charge neutrality and windows of geometry.

Windows: tolerance factor (V. M. Goldschmidt, Naturwissenschaften 14, 477 (1926), doi:10.1007/BF01507527) and octahedral
factor (C. Li et al., J. Alloys Compd. 372, 40 (2004), doi:10.1016/j.jallcom.2003.10.017: halide perovskites were found
at 0.81-1.11 and 0.44-0.90).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from orchestrator.domain import Candidate, Json, derive_seed
from orchestrator.errors import MaterialError, SpaceError
from orchestrator.materials.ions import octahedral_factor, radius, states, tolerance_factor
from orchestrator.materials.prototypes import perovskite, rattled
from orchestrator.materials.structures import check, crystal_key, formula
from orchestrator.protocols import Options as BaseOptions
from orchestrator.spaces.listed import LEFT_OUT, Listed

Role = Literal["A", "B", "X"]
ROLES: tuple[Role, ...] = ("A", "B", "X")
NEIGHBOURS: Mapping[str, int] = {"A": 12, "B": 6, "X": 6}
"""Coordination numbers whose radii are used; Shannon's own choice for X is six."""
ATOMS: Mapping[str, int] = {"A": 1, "B": 1, "X": 3}

Window = Annotated[tuple[float, float], Field(description="smallest and largest allowed value")]


@dataclass(frozen=True)
class Choice:
    """Oxidation states of one decoration, and what follows from them."""

    states: Mapping[str, int]
    radii: Mapping[str, float]
    rank: int

    @property
    def tolerance(self) -> float:
        """Goldschmidt's tolerance factor."""
        return tolerance_factor(self.radii["A"], self.radii["B"], self.radii["X"])

    @property
    def octahedral(self) -> float:
        """The octahedral factor."""
        return octahedral_factor(self.radii["B"], self.radii["X"])


class Prototypes(Listed):
    """Decorated prototypes as a search space. Candidates are called after their formula, A first: CsPbI3."""

    class Options(BaseOptions):
        """What to decorate, and with what."""

        prototype: Literal["perovskite"] = Field(default="perovskite", description="ABX3, cubic, five atoms")
        sites: dict[Role, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(
            description="element symbols by role"
        )
        charge_neutral: bool = Field(default=True, description="keep only decorations whose charges add up to zero")
        tolerance_factor: Window | None = Field(default=None, description="such as [0.8, 1.1]")
        octahedral_factor: Window | None = Field(default=None, description="such as [0.41, 0.9]")
        oxidation_states: dict[str, Annotated[tuple[int, ...], Field(min_length=1)]] = Field(
            default_factory=dict, description="instead of the common ones, by element, most common first"
        )
        rattle: Annotated[float, Field(ge=0, le=0.5)] = Field(
            default=0.05, description="angstrom by which every atom leaves its ideal place, so that symmetry can break"
        )
        rattle_seed: Annotated[int, Field(ge=0)] = 0

        @model_validator(mode="after")
        def _coherent(self) -> Self:
            if missing := [role for role in ROLES if role not in self.sites]:
                message = f"'sites' lacks {', '.join(missing)}; a perovskite needs A, B and X"
                raise ValueError(message)
            for role, elements in self.sites.items():
                if twice := sorted({element for element in elements if elements.count(element) > 1}):
                    message = f"'sites' names {', '.join(twice)} twice under {role}"
                    raise ValueError(message)
            for name in ("tolerance_factor", "octahedral_factor"):
                window = getattr(self, name)
                if window is not None and window[0] > window[1]:
                    message = f"'{name}' is [smallest, largest]; {list(window)} is empty"
                    raise ValueError(message)
            return self

    def __init__(self, options: Options) -> None:
        self._options = options
        self._states: dict[str, tuple[int, ...]] = {}
        for role in ROLES:
            for element in options.sites[role]:
                self._states[element] = self._allowed(element)
        found: list[Candidate] = []
        removed = {"same_element_twice": 0, "not_charge_neutral": 0, "tolerance_factor": 0, "octahedral_factor": 0}
        for a, b, x in product(*(options.sites[role] for role in ROLES)):
            elements = {"A": a, "B": b, "X": x}
            choice = self._choose(elements)
            if isinstance(choice, str):
                removed[choice] += 1
            else:
                found.append(self._candidate(elements, choice))
        facts: dict[str, Json] = {LEFT_OUT + name: count for name, count in removed.items()}
        super().__init__("prototypes", found, facts)

    def _allowed(self, element: str) -> tuple[int, ...]:
        chosen = self._options.oxidation_states.get(element, ())
        try:
            known = states(element)
        except MaterialError as error:
            message = f"space prototypes, sites: {error}"
            raise SpaceError(message) from error
        if unknown := [state for state in chosen if state not in known]:
            message = (
                f"space prototypes: {element} has no ionic radius in the state {unknown[0]:+d};"
                f" states with one: {', '.join(f'{state:+d}' for state in known) or 'none'}"
            )
            raise SpaceError(message)
        if not known:
            message = f"space prototypes: there is no ionic radius for {element}; leave it out"
            raise SpaceError(message)
        return chosen or known

    def _choose(self, elements: Mapping[str, str]) -> Choice | str:
        """Return the most common states that pass the filters, or the name of the last filter that was reached."""
        if len(set(elements.values())) < len(elements):
            return "same_element_twice"
        choices = list(self._choices(elements))
        if self._options.charge_neutral:
            choices = [c for c in choices if sum(ATOMS[role] * c.states[role] for role in ROLES) == 0]
        if not choices:
            return "not_charge_neutral"
        choices = [c for c in choices if _inside(c.tolerance, self._options.tolerance_factor)]
        if not choices:
            return "tolerance_factor"
        choices = [c for c in choices if _inside(c.octahedral, self._options.octahedral_factor)]
        if not choices:
            return "octahedral_factor"
        return min(choices, key=lambda c: (c.rank, abs(c.tolerance - 1)))

    def _choices(self, elements: Mapping[str, str]) -> Sequence[Choice]:
        """List the oxidation states that A, B (positive) and X (negative) may have."""
        options = [
            [(rank, s) for rank, s in enumerate(self._states[elements[role]]) if (s < 0) == (role == "X")]
            for role in ROLES
        ]
        return [
            Choice(
                states=dict(zip(ROLES, (s for _, s in ranked), strict=True)),
                radii={r: radius(elements[r], s, NEIGHBOURS[r]) for r, (_, s) in zip(ROLES, ranked, strict=True)},
                rank=sum(rank for rank, _ in ranked),
            )
            for ranked in product(*options)
        ]

    def _candidate(self, elements: Mapping[str, str], choice: Choice) -> Candidate:
        label = f"{elements['A']}{elements['B']}{elements['X']}3"
        crystal = perovskite(elements, choice.radii)
        if self._options.rattle:
            seed = derive_seed(self._options.rattle_seed, 0, label)  # of its own: independent of the other candidates
            crystal = rattled(crystal, self._options.rattle, seed)
        check(crystal, label)
        return Candidate.make(
            label=label,
            composition=formula(crystal),
            crystal=crystal,
            crystal_key=crystal_key(crystal),
            attributes={
                "prototype": self._options.prototype,
                "tolerance_factor": round(choice.tolerance, 4),
                "octahedral_factor": round(choice.octahedral, 4),
                "oxidation_states": {elements[role]: choice.states[role] for role in ROLES},
                "rattle": self._options.rattle,
            },
        )


def _inside(value: float, window: tuple[float, float] | None) -> bool:
    return window is None or window[0] <= value <= window[1]
