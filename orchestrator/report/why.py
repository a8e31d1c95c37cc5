"""The section "Why" of the report: what speaks for the best candidates, drawn and in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import Any

import numpy as np

from orchestrator.domain import Candidate, Contribution, Dataset, Explanation, Objective, Problem
from orchestrator.errors import MatloopError
from orchestrator.report.crystals import picture
from orchestrator.report.explanations import BEST, Explained, HoldsFits, Why, element_effects, explain, restored
from orchestrator.report.facts import Facts
from orchestrator.report.periodic import heat_map, signed
from orchestrator.report.words import formula, number, plain, unit_of, with_error

NEUTRAL, TOWARDS, AWAY = (0xD5, 0xDA, 0xE3), (0x2F, 0x6F, 0xED), (0xD9, 0x62, 0x2B)
"""Colours of atoms: no contribution, towards what is wanted, away from it; the last two are the page's own."""
SWAPS = 5
"""Substitutes shown a candidate."""
WIDTH, ROW, LEFT, RIGHT = 430, 26, 92, 74
"""Of the picture of contributions: its width, a row's height, room for names and for numbers."""
MOST_DECIMALS = 5
MOST_PARTS = 12
"""Contributions drawn; the rest is drawn as one."""


def find_reasons(store: HoldsFits, facts: Facts, dataset: Dataset) -> Why:
    """Explain the best candidates of a campaign, or say why that cannot be done; never raises what a surrogate raises.

    Args:
        store: the campaign database.
        facts: of the campaign.
        dataset: what is known, in the problem's units.

    Returns:
        The reasons.
    """
    name = facts.problem.objectives[0].property
    chosen = [best for best in facts.best if best.feasible][:BEST] or list(facts.best[:BEST])
    if not chosen or not facts.fits:
        return Why("No surrogate was trained, so there is nothing to explain.")
    try:
        surrogate = restored(store, facts.info.name, dataset)
        found = explain(surrogate, [best.trial.candidate for best in chosen], name)
        measured = [best.trial.candidate for best in facts.best]
        effects = element_effects(surrogate, measured, facts.problem, name)
    except MatloopError as error:
        return Why(f"The predictions could not be explained: {error}.")
    except Exception as error:  # noqa: BLE001  a surrogate from elsewhere may raise anything; the report matters more
        return Why(f"The predictions could not be explained: {type(error).__name__}: {error}.")
    explained = tuple(
        Explained(best.trial.candidate, why, best.trial.number, best.values.get(name))
        for best, why in zip(chosen, found, strict=True)
    )
    known = {point.label: point.values[name] for point in facts.points if name in point.values}
    return Why(f"{found[0].method}.", explained, effects if effects.values else None, known)


def direction(problem: Problem, explanation: Explanation) -> int:
    """Say whether a larger value of the explained property is wanted (1), a smaller one (−1), or neither (0)."""
    for objective in problem.objectives:
        if objective.property == explanation.property:
            return _wanted(objective, explanation.baseline)
    return 0


def _wanted(objective: Objective, here: float) -> int:
    if objective.goal == "learn":
        return 0
    if objective.goal == "window" and objective.window is not None:
        low, high = objective.window
        return int(here < low) - int(here > high)
    if objective.goal == "target":
        return 1 if (objective.target or 0.0) > here else -1
    return 1 if objective.goal == "maximize" else -1


def section(why: Why, problem: Problem) -> dict[str, Any]:
    """Return the contents of the section.

    Args:
        why: the reasons.
        problem: goals and units.

    Returns:
        Texts, tables and SVG, the latter already escaped.
    """
    cards = [_card(one, why, problem, place) for place, one in enumerate(why.explained)]
    effects = ""
    effects_note = ""
    if why.effects is not None:
        name = why.explained[0].explanation.property
        better = direction(problem, why.explained[0].explanation)
        unit = unit_of(why.effects.unit)
        effects = heat_map(
            why.effects.values, why.effects.counts, unit, f"effects of elements on {plain(name)}", better=better
        )
        effects_note = (
            f"How much {plain(name)}{f' ({unit})' if unit else ''} is predicted to change when a candidate holds the"
            f" element, told from {why.effects.candidates} measured candidates. Such a sum explains"
            f" {100 * max(why.effects.explained, 0.0):.0f} % of the variance of the predictions; outlined elements"
            " occur too rarely, or everywhere."
        )
    return {
        "note": f"{reading(why, problem)} {why.note}" if why.explained else why.note,
        "cards": cards,
        "effects": effects,
        "effects_note": effects_note,
    }


def reading(why: Why, problem: Problem) -> str:
    """Say how to read the contributions."""
    explanation = why.explained[0].explanation
    name, better = plain(explanation.property), direction(problem, explanation)
    blue, orange = ("towards what is wanted", "away from it") if better else ("up", "down")
    crystal = any(one.candidate.crystal is not None for one in why.explained)
    return (
        f"What the surrogate knows now says of {name}: blue moves the prediction {blue}, orange {orange}"
        f"{', in the structure as in the bars' if crystal else ''}. It starts from what is typical of the"
        " measured candidates, and shows what the surrogate believes, not a mechanism."
    )


def _card(one: Explained, why: Why, problem: Problem, place: int) -> dict[str, Any]:
    explanation = one.explanation
    better = direction(problem, explanation)
    unit = unit_of(explanation.unit)

    def low(label: str) -> str:
        return formula(replace(one.candidate, label=label))

    predicted = f"predicted {with_error(explanation.mean, explanation.sd)} {unit}".rstrip()
    measured = f", measured {number(one.measured)} {unit}".rstrip() if one.measured is not None else ""
    swaps = explanation.substitutions[:SWAPS]
    return {
        "title": formula(one.candidate),
        "known": any(s.label in why.measured for s in swaps),
        "summary": f"{predicted}{measured}",
        "picture": colored(one.candidate, explanation, better, salt=f"{place}"),
        "bars": waterfall(
            explanation, better, f"contributions to {plain(explanation.property)} of {one.candidate.label}"
        ),
        "neighbours": [
            {"label": low(n.label), "similarity": f"{100 * n.similarity:.0f} %", "value": number(n.value, 3)}
            for n in explanation.neighbours
            if n.candidate_id != one.candidate.id
        ],
        "swaps": [
            {
                "swap": f"{s.old} → {s.new}",
                "label": low(s.label),
                "predicted": with_error(s.mean, s.sd),
                "kind": "ok" if better * (s.mean - explanation.mean) > 0 else "dim",
                "change": signed(s.mean - explanation.mean),
                "measured": number(why.measured[s.label], 3) if s.label in why.measured else "",
            }
            for s in swaps
        ],
    }


def colored(candidate: Candidate, explanation: Explanation, better: int, *, salt: str) -> str:
    """Draw the crystal with its atoms coloured by their contributions; empty where there is none.

    Args:
        candidate: that is explained.
        explanation: with one contribution an atom.
        better: 1 where larger is wanted, −1 where smaller is; 0 counts as 1.
        salt: unique on the page.
    """
    if candidate.crystal is None or not explanation.atoms:
        return ""
    largest = max(abs(atom.value) for atom in explanation.atoms) or 1.0
    colors = [_shade((better or 1) * atom.value / largest) for atom in explanation.atoms]
    title = f"{candidate.label}: atoms coloured by their contributions"
    return picture(candidate.crystal, title, colors=colors, salt=salt)


def _shade(strength: float) -> str:
    """Return a colour between neutral and an end, strength from −1 to 1."""
    end = TOWARDS if strength > 0 else AWAY
    mixed = np.array(NEUTRAL) + (np.array(end) - np.array(NEUTRAL)) * min(abs(strength), 1.0)
    return "#" + "".join(f"{round(part):02x}" for part in mixed.tolist())


def waterfall(explanation: Explanation, better: int, title: str) -> str:
    """Draw how contributions lead from the baseline to the prediction.

    Args:
        explanation: what is drawn.
        better: 1 where larger is wanted, −1 where smaller is; 0 counts as 1.
        title: said to those who cannot see it.

    Returns:
        An SVG element.
    """
    parts = _largest(explanation.parts)
    steps = np.concatenate([[explanation.baseline], explanation.baseline + np.cumsum([part.value for part in parts])])
    low, high = float(min(*steps, explanation.mean)), float(max(*steps, explanation.mean))
    span = (high - low) or abs(high) or 1.0
    low, high = low - 0.06 * span, high + 0.06 * span

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)

    decimals = 2 - math.floor(math.log10(span))
    rows = [_row(0, "typical", _fixed(explanation.baseline, decimals), _point(x(explanation.baseline), 0, "start"))]
    for i, part in enumerate(parts):
        one, other = sorted((x(float(steps[i])), x(float(steps[i + 1]))))
        kind = "for" if (better or 1) * part.value > 0 else "against"
        box = f'x="{one:.1f}" y="{(i + 1) * ROW + 5}" width="{max(other - one, 1.5):.1f}" height="{ROW - 10}"'
        bar = f'<rect {box} rx="3" class="{kind}"/>'
        sign = "+" if part.value > 0 else ""
        rows.append(_row(i + 1, part.name, sign + _fixed(part.value, decimals), bar))
    last = len(parts) + 1
    rows.append(_row(last, "predicted", _fixed(explanation.mean, decimals), _point(x(explanation.mean), last, "end")))
    joints = "".join(
        f'<line x1="{x(float(step)):.1f}" x2="{x(float(step)):.1f}" y1="{i * ROW + 13}" y2="{(i + 1) * ROW + 13}"'
        ' class="joint"/>'
        for i, step in enumerate(steps)
    )
    return (
        f'<svg class="waterfall" viewBox="0 0 {WIDTH} {(last + 1) * ROW}" role="img"'
        f' aria-label="{escape(title, quote=True)}"><title>{escape(title)}</title>{joints}{"".join(rows)}</svg>'
    )


def _largest(parts: Sequence[Contribution]) -> list[Contribution]:
    """Sort by size; what does not fit is drawn as one."""
    ordered = sorted(parts, key=lambda part: -abs(part.value))
    if len(ordered) <= MOST_PARTS:
        return ordered
    rest = sum(part.value for part in ordered[MOST_PARTS - 1 :])
    return [*ordered[: MOST_PARTS - 1], Contribution("the others", rest)]


def _fixed(value: float, decimals: int) -> str:
    """Write a number with as many decimals as its neighbours, where that is short."""
    if not 0 <= decimals <= MOST_DECIMALS:
        return number(value, 3)
    return f"{value:.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def _row(i: int, name: str, value: str, mark: str) -> str:
    y = i * ROW + 18
    short = name if len(name) <= 14 else f"{name[:13]}…"  # noqa: PLR2004  what fits into LEFT
    return (
        f'<text x="{LEFT - 10}" y="{y}" class="name">{escape(plain(short))}</text>{mark}'
        f'<text x="{WIDTH - 4}" y="{y}" class="number">{value}</text>'
    )


def _point(x: float, i: int, kind: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{i * ROW + 13}" r="5" class="{kind}"/>'
