"""A periodic table whose cells are coloured by a number an element, as a small SVG that follows the page's theme."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from ase.data import chemical_symbols

from orchestrator.report.words import number

SYMBOLS: list[str] = list(chemical_symbols[1:104])
NOBLE = (0, 2, 10, 18, 36, 54, 86)
"""Atomic numbers after which a row begins."""
LANTHANUM, LUTETIUM, ACTINIUM, LAWRENCIUM = 57, 71, 89, 103
COLUMNS, ROWS = 18, 9.4
CELL = 40
PAD = 2
F_ROW = 7.4
"""Row of the lanthanides, a little below the others."""
F_COLUMN = 3
SHORT, LONG = 8, 18
"""Lengths of rows without and with d elements."""
WEAK = 0.06
"""Shares of the largest number below which a cell stays neutral."""


def place(symbol: str) -> tuple[float, int]:
    """Return row and column of an element, from 0; lanthanides and actinides stand below."""
    z = SYMBOLS.index(symbol) + 1
    if LANTHANUM <= z < LUTETIUM:
        return F_ROW, F_COLUMN + z - LANTHANUM - 1
    if ACTINIUM <= z < LAWRENCIUM:
        return F_ROW + 1, F_COLUMN + z - ACTINIUM - 1
    row = max(i for i, noble in enumerate(NOBLE) if z > noble)
    at = z - NOBLE[row] - 1
    length = (NOBLE[row + 1] if row + 1 < len(NOBLE) else NOBLE[-1] + 32) - NOBLE[row]
    if row == 0:
        return 0, 0 if z == 1 else COLUMNS - 1
    if length == SHORT:
        return row, at if at < 2 else at + LONG - SHORT  # noqa: PLR2004  two s elements stand left
    if length == LONG or at < 2:  # noqa: PLR2004  the same
        return row, at
    return row, at - 14  # after the fourteen below


def heat_map(values: Mapping[str, float], counts: Mapping[str, int], unit: str, title: str, *, better: int) -> str:
    """Draw the table.

    Args:
        values: element → number.
        counts: element → how many candidates hold it; one without a number is outlined.
        unit: of the numbers.
        title: said to those who cannot see it.
        better: 1 where larger is wanted, −1 where smaller is; 0 where neither.

    Returns:
        An SVG element; cells take the classes ``for`` and ``against``.
    """
    largest = max((abs(value) for value in values.values()), default=0.0) or 1.0
    cells = []
    for symbol in SYMBOLS:
        row, column = place(symbol)
        x, y = column * CELL + PAD / 2, row * CELL + PAD / 2
        side = CELL - PAD
        held = counts.get(symbol, 0)
        value = values.get(symbol)
        if value is None:
            kind, strength, told = ("held" if held else "none"), 0.0, f"{symbol}: in {held} candidates, too few to tell"
        else:
            strength = abs(value) / largest
            sign = value * (better or 1)
            kind = "even" if strength < WEAK else ("for" if sign > 0 else "against")
            told = f"{symbol}: {signed(value)} {unit}, in {held} candidates".replace(" ,", ",")
        center = x + side / 2
        inside = "" if value is None else f'<text x="{center:.0f}" y="{y + 31:.0f}" class="v">{signed(value)}</text>'
        shade = f' style="fill-opacity:{0.12 + 0.78 * strength:.2f}"' if kind in {"for", "against"} else ""
        middle = 18 if value is not None else 25
        tip = f"<title>{escape(told)}</title>" if held else ""
        cells.append(
            f'<g class="{kind}">{tip}<rect x="{x:.0f}" y="{y:.0f}" width="{side}" height="{side}" rx="5"{shade}/>'
            f'<text x="{center:.0f}" y="{y + middle:.0f}" class="s">{symbol}</text>{inside}</g>'
        )
    return (
        f'<svg class="periodic" viewBox="0 0 {COLUMNS * CELL} {ROWS * CELL:.0f}" role="img"'
        f' aria-label="{escape(title, quote=True)}"><title>{escape(title)}</title>{"".join(cells)}</svg>'
    )


def signed(value: float) -> str:
    """Write a number with its sign and two digits."""
    text = number(value, 2)
    return text if value < 0 else f"+{text}"
