"""A view of a crystal as a small SVG: atoms, bonds, coordination polyhedra and the edges of the cell.

Colours are Jmol's and radii covalent, both as ASE ships them, so that the picture looks as chemists expect.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from orchestrator.domain import Array, Crystal

SIZE = 220
"""Width and height of the picture in its own units."""

LARGEST_BALL = 17.0
"""Radius in the picture above which atoms would hide each other."""

TURN, TILT = np.radians(-24.0), np.radians(14.0)
"""View: turned a little about the vertical and tilted, so that no row of atoms hides another."""

ON_FACE = 0.06
"""Fraction of a cell edge within which an atom counts as lying on a face, and is shown on the opposite one too."""

BOND = 1.2
"""Two atoms are bonded below this multiple of the sum of their covalent radii."""

ANIONS = frozenset({"H", "N", "O", "F", "P", "S", "Cl", "As", "Se", "Br", "Te", "I"})
COORDINATION = range(4, 9)
"""Numbers of anions around a cation that are drawn as a polyhedron; twelve (a large A cation) would hide the rest."""

SAME_SITE = 0.1
"""Angstrom: two atoms are never closer; this leaves out an atom and its own place."""

MOST_ATOMS = 200
"""Sites above which no picture is drawn: nothing could be seen in it."""


@dataclass(frozen=True)
class _Atom:
    symbol: str
    at: tuple[float, float, float]
    inside: bool
    paint: str
    """Name of the shaded ball that fills it."""


def picture(crystal: Crystal, title: str, *, colors: Sequence[str] = (), salt: str = "") -> str:
    """Draw a crystal.

    Args:
        crystal: what to draw.
        title: said to those who cannot see it.
        colors: one a site, as ``#rrggbb``, in place of the elements' own.
        salt: makes names unique among the pictures of a page, where `colors` are given.

    Returns:
        An SVG element; empty for a crystal with too many sites.
    """
    if not 0 < len(crystal.species) <= MOST_ATOMS:
        return ""
    lattice = np.array(crystal.lattice)
    paints = [f"site-{salt}-{i}" for i in range(len(colors))] or [f"atom-{symbol}" for symbol in crystal.species]
    shades = dict(zip(paints, colors or [_hex(symbol) for symbol in crystal.species], strict=True))
    atoms, polyhedra = _scene(crystal, lattice, paints)
    project = _Projection(np.array([a.at for a in atoms]), lattice)
    shapes: list[tuple[float, str]] = []
    for start, end in _edges(lattice):
        (x1, y1, z1), (x2, y2, z2) = project(start), project(end)
        line = f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="cell"/>'
        shapes.append((min(z1, z2) - 0.5, line))
    for center, ligands in polyhedra:
        shapes.extend(_faces(shades[atoms[center].paint], [atoms[i] for i in ligands], project))
        shapes.extend(_bond(atoms[center], atoms[i], project) for i in ligands)
    shapes.extend(_ball(atom, project) for atom in atoms)
    shapes.sort(key=lambda shape: shape[0])
    legend = _legend({symbol: paints[crystal.species.index(symbol)] for symbol in crystal.species})
    body = "".join(text for _, text in shapes)
    return (
        f'<svg class="crystal" viewBox="0 0 {SIZE} {SIZE + 26}" role="img" aria-label="{escape(title, quote=True)}">'
        f"<title>{escape(title)}</title>{_gradients(shades)}{body}{legend}</svg>"
    )


class _Projection:
    """Rotates and scales positions in angstrom to the picture; z grows towards the viewer."""

    def __init__(self, positions: Array, lattice: Array) -> None:
        c = lattice[2] / np.linalg.norm(lattice[2])  # upright
        a = lattice[0] - c * (lattice[0] @ c)
        a /= np.linalg.norm(a)
        upright = np.array([a, c, np.cross(a, c)])
        turn = np.array([[np.cos(TURN), 0, np.sin(TURN)], [0, 1, 0], [-np.sin(TURN), 0, np.cos(TURN)]])
        tilt = np.array([[1, 0, 0], [0, np.cos(TILT), -np.sin(TILT)], [0, np.sin(TILT), np.cos(TILT)]])
        self.matrix = tilt @ turn @ upright
        corners = np.array([corner for edge in _edges(lattice) for corner in edge])
        everything = np.vstack([positions, corners]) @ self.matrix.T
        low, high = everything.min(axis=0), everything.max(axis=0)
        self.middle = (low + high) / 2
        self.scale = (SIZE - 2 * LARGEST_BALL - 4) / max(float((high - low)[:2].max()), 1e-6)

    def __call__(self, position: Array | tuple[float, float, float]) -> tuple[float, float, float]:
        x, y, z = (self.matrix @ np.asarray(position) - self.middle) * self.scale
        return SIZE / 2 + float(x), SIZE / 2 - float(y), float(z)


def _scene(
    crystal: Crystal, lattice: Array, paints: Sequence[str]
) -> tuple[list[_Atom], list[tuple[int, tuple[int, ...]]]]:
    """List the atoms to draw and, for each drawn center, which of them surround it."""
    fractional = np.mod(np.array(crystal.frac_coords), 1.0)
    surroundings = [_ligands(i, crystal, lattice, fractional) for i in range(len(crystal.species))]
    centers = [i for i, around in enumerate(surroundings) if len(around) in COORDINATION]
    if len(centers) == 1:  # a single polyhedron looks best in the middle of the cell
        fractional = np.mod(fractional + 0.5 - fractional[centers[0]], 1.0)
    atoms: dict[tuple[str, tuple[float, float, float]], int] = {}
    drawn: list[_Atom] = []

    def put(site: int, frac: Array, *, inside: bool) -> int:
        symbol = crystal.species[site]
        x, y, z = (round(float(v), 3) + 0.0 for v in frac @ lattice)
        key = (symbol, (x, y, z))
        if key not in atoms:
            atoms[key] = len(drawn)
            drawn.append(_Atom(symbol, (x, y, z), inside, paints[site]))
        return atoms[key]

    polyhedra = []
    for i in range(len(crystal.species)):
        for image in _images(fractional[i]):
            here = put(i, fractional[i] + image, inside=True)
            if i in centers:
                around = _ligands(i, crystal, lattice, fractional)
                where = tuple(put(j, fractional[j] + s + image, inside=False) for j, s in around)
                polyhedra.append((here, where))
    return drawn, polyhedra


def _images(frac: Array) -> Iterable[Array]:
    """List the lattice translations of an atom that lie on the faces of the cell."""
    options = [[0] + [1] * bool(x < ON_FACE) + [-1] * bool(x > 1 - ON_FACE) for x in frac]
    return (np.array(shift, dtype=float) for shift in itertools.product(*options))


def _ligands(i: int, crystal: Crystal, lattice: Array, fractional: Array) -> list[tuple[int, Array]]:
    """Return (site, translation) of the anions bonded to a cation."""
    from ase.data import atomic_numbers, covalent_radii  # noqa: PLC0415  only reports draw

    if crystal.species[i] in ANIONS:
        return []
    found = []
    radius = covalent_radii[atomic_numbers[crystal.species[i]]]
    for j, symbol in enumerate(crystal.species):
        if symbol not in ANIONS:
            continue
        reach = BOND * (radius + covalent_radii[atomic_numbers[symbol]])
        for shift in itertools.product((-1, 0, 1), repeat=3):
            vector = (fractional[j] + shift - fractional[i]) @ lattice
            if SAME_SITE < np.linalg.norm(vector) < reach:
                found.append((j, np.array(shift, dtype=float)))
    return found


def _edges(lattice: Array) -> list[tuple[Array, Array]]:
    corners = [np.array(c, dtype=float) for c in itertools.product((0, 1), repeat=3)]
    return [
        (one @ lattice, other @ lattice)
        for one, other in itertools.combinations(corners, 2)
        if np.abs(one - other).sum() == 1
    ]


def _faces(color: str, ligands: list[_Atom], project: _Projection) -> list[tuple[float, str]]:
    """Draw the faces of a coordination polyhedron."""
    from scipy.spatial import ConvexHull, QhullError  # noqa: PLC0415  only reports draw

    points = np.array([ligand.at for ligand in ligands])
    try:
        hull = ConvexHull(points, qhull_options="QJ")
    except QhullError:  # a flat surrounding has no faces; its bonds are drawn all the same
        return []
    shapes = []
    for corners in hull.simplices:
        projected = [project(points[k]) for k in corners]
        depth = sum(z for _, _, z in projected) / 3
        outline = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in projected)
        shapes.append((depth, f'<polygon points="{outline}" fill="{color}" stroke="{color}" class="face"/>'))
    return shapes


def _bond(one: _Atom, other: _Atom, project: _Projection) -> tuple[float, str]:
    (x1, y1, z1), (x2, y2, z2) = project(one.at), project(other.at)
    return min(z1, z2), f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="bond"/>'


def _ball(atom: _Atom, project: _Projection) -> tuple[float, str]:
    from ase.data import atomic_numbers, covalent_radii  # noqa: PLC0415  only reports draw

    x, y, z = project(atom.at)
    share = 0.27 if atom.symbol in ANIONS else 0.34  # smaller than in nature, so that one sees through
    radius = share * float(covalent_radii[atomic_numbers[atom.symbol]]) * project.scale
    radius = min(max(radius, 3.0), LARGEST_BALL)
    return z, f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="url(#{atom.paint})" class="atom"/>'


def _gradients(shades: Mapping[str, str]) -> str:
    """Define one shaded ball a paint; equal definitions in several pictures of a page do no harm."""
    balls = [
        f'<radialGradient id="{name}" cx="35%" cy="30%" r="75%"><stop offset="0" stop-color="#fff"'
        f' stop-opacity="0.95"/><stop offset="0.28" stop-color="{color}"/><stop offset="1"'
        f' stop-color="{_darker(color)}"/></radialGradient>'
        for name, color in shades.items()
    ]
    return f"<defs>{''.join(balls)}</defs>"


def _legend(paints: Mapping[str, str]) -> str:
    width = 52
    left = SIZE / 2 - width * len(paints) / 2
    return "".join(
        f'<circle cx="{left + width * k + 8:.0f}" cy="{SIZE + 13}" r="8" fill="url(#{paint})" class="atom"/>'
        f'<text x="{left + width * k + 20:.0f}" y="{SIZE + 19}" class="element">{escape(name)}</text>'
        for k, (name, paint) in enumerate(paints.items())
    )


def _hex(symbol: str) -> str:
    from ase.data import atomic_numbers  # noqa: PLC0415  only reports draw
    from ase.data.colors import jmol_colors  # noqa: PLC0415

    return "#" + "".join(f"{round(255 * float(part)):02x}" for part in jmol_colors[atomic_numbers[symbol]])


def _darker(color: str) -> str:
    return "#" + "".join(f"{int(int(color[k : k + 2], 16) * 0.55):02x}" for k in (1, 3, 5))
