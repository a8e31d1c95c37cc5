"""Made-up materials that the conformance checks train on: 14 crystals, formulas or settings, all different."""

from __future__ import annotations

from typing import Literal

from orchestrator.domain import Candidate, Crystal

Reads = Literal["structure", "composition", "parameters"]
SALTS = (
    ("Na", "Cl", 5.6),
    ("K", "Cl", 6.3),
    ("Li", "F", 4.0),
    ("Na", "F", 4.6),
    ("Mg", "O", 4.2),
    ("Ca", "O", 4.8),
    ("Sr", "O", 5.1),
    ("Li", "Cl", 5.1),
    ("K", "F", 5.3),
    ("Ba", "O", 5.5),
    ("K", "Br", 6.6),
    ("Na", "Br", 6.0),
    ("Rb", "Cl", 6.6),
    ("Rb", "F", 5.6),
)
"""Cation, anion and cell edge in Å of rock-salt crystals."""


def candidates_for(reads: Reads) -> list[Candidate]:
    """Return 14 candidates that carry what a surrogate reads."""
    if reads == "structure":
        return [_crystal(*salt) for salt in SALTS]
    if reads == "composition":
        return [Candidate.make(label=a + b, composition=a + b) for a, b, _ in SALTS]
    return [
        Candidate.make(
            label=f"setting {i}",
            parameters={"temperature": 300.0 + 50 * ((5 * i) % 14), "time": 1.0 + i, "gas": ("N2", "O2")[i % 2]},
        )
        for i in range(len(SALTS))
    ]


def stranger_for(reads: Reads) -> Candidate:
    """Return a candidate that a surrogate which reads this cannot read."""
    if reads == "parameters":
        return Candidate.make(label="stranger", composition="NaCl")
    return Candidate.make(label="stranger", parameters={"pressure": 3.0})


def _crystal(cation: str, anion: str, edge: float) -> Candidate:
    half = edge / 2
    crystal = Crystal(
        lattice=((0.0, half, half), (half, 0.0, half), (half, half, 0.0)),
        species=(cation, anion),
        frac_coords=((0.0, 0.0, 0.0), (0.5, 0.5, 0.5)),
    )
    formula = cation + anion
    return Candidate.make(label=formula, composition=formula, crystal=crystal, crystal_key=f"made up/{formula}")
