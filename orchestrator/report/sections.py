"""The contents of the report's sections, ready to be put into the page: texts, tables, pictures."""

from __future__ import annotations

import io
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from orchestrator.domain import TARGET, Objective, Value
from orchestrator.ranking import Best
from orchestrator.record.states import CampaignState, TrialState
from orchestrator.record.views import DecisionInfo
from orchestrator.report.crystals import picture
from orchestrator.report.facts import IMPORTED_PURPOSE, Facts
from orchestrator.report.words import bound, formula, given, number, plain, seconds, some, unit_of, when, with_error

ROWS = 15
"""Candidates in the table of the best."""

PACKAGES = (
    "matloop",
    "numpy",
    "scipy",
    "torch",
    "torch-geometric",
    "matgl",
    "botorch",
    "gpytorch",
    "chgnet",
    "pymatgen",
)
"""Packages whose versions decide what numbers come out."""

PEOPLE = frozenset({"notice", "amend", "state", "stop", "pause", "resume", "veto", "told", "answer", "begin", "create"})
"""Kinds of events that are shown beside those that anybody but Matloop caused."""

MOST_ROWS = 400
"""Decisions and fits that are shown, the last ones: a page of 2,000 trials must still open at once."""

DECIDING = ("mae", "r2", "nll", "crps", "miscalibration_area", "spearman", "held_out")
"""Metrics of a fit in the log; `matloop fits card` has all."""

MOST_EVENTS = 200
"""Events that are shown; the database holds all."""

Cell = dict[str, Any]


def tiles(facts: Facts) -> list[Cell]:
    """Return the key figures."""
    found: list[Cell] = []
    for objective in facts.pursued[:2]:
        value = _best_value(facts, objective)
        name = f"best {plain(objective.property)}"
        found.append({"value": number(value), "unit": unit_of(objective.unit), "name": name})
    if len(facts.pursued) > 1:
        front = sum(b.on_front for b in facts.best)
        found.append({"value": str(front), "name": "candidates on the front: none is better in everything"})
    done, failed = facts.count(TrialState.COMPLETED), facts.count(TrialState.FAILED)
    cheap = sum(t.state is TrialState.COMPLETED and t.fidelity != TARGET for t in facts.trials.values())
    more = (f", {cheap} of them at a cheaper fidelity" if cheap else "") + (f", {failed} failed" if failed else "")
    found.append({"value": str(done), "name": f"trials completed{more}"})
    if facts.problem.constraints and facts.points:
        share = sum(p.feasible for p in facts.points) / len(facts.points)
        found.append({"value": f"{100 * share:.0f} %", "name": "of the results hold every constraint"})
    if facts.fits:
        labels = facts.fits[-1].report.labels
        found.append({"value": str(len(facts.fits)), "name": f"trainings, the last on {labels} results"})
    if facts.info.spent.hours > 0:
        found.append({"value": seconds(facts.info.spent.hours * 3600), "name": "running time"})
    if facts.info.spent.cost > 0:
        found.append(
            {"value": number(facts.info.spent.cost), "name": "cost units spent" + _of(facts.problem.budget.cost)}
        )
    return found


def _of(cap: float | None) -> str:
    return "" if cap is None else f" of {given(cap)}"


def _best_value(facts: Facts, objective: Objective) -> float | None:
    """Return the best feasible value of one objective."""
    values = [b.values[objective.property] for b in facts.best if b.feasible]
    return max(values, key=lambda v: float(objective.utility(np.array([v]))[0]), default=None)


def best_table(facts: Facts) -> tuple[list[Cell], list[list[Cell]]]:
    """Return headings and rows of the table of the best candidates."""
    problem, several = facts.problem, len(facts.pursued) > 1
    points = {p.trial: p for p in facts.points}
    parameters = sorted({name for b in facts.best[:ROWS] for name in b.trial.candidate.parameters})
    if len(parameters) > 6:  # noqa: PLR2004  more columns would not fit; the label names them too
        parameters = []
    headings: list[Cell] = [{"name": "" if parameters else "Candidate"}]
    for name in parameters:
        unit = parameter_unit(facts, name)
        headings.append({"name": plain(name) + (f", {unit}" if unit else ""), "number": True})
    for objective in problem.objectives:
        unit = unit_of(objective.unit)
        headings.append({"name": plain(objective.property) + (f", {unit}" if unit else ""), "number": True})
        headings.append({"name": "predicted before", "number": True})
    headings += [{"name": plain(c.property), "number": True} for c in problem.constraints]
    if several:
        headings.append({"name": "on the front"})
    headings += [{"name": "trial", "number": True}, {"name": "chosen by"}]
    rows = []
    for rank, best in enumerate(facts.best[:ROWS], start=1):
        point = points[best.trial.number]
        label = "" if parameters else formula(best.trial.candidate)  # of a box it would repeat the parameters
        row: list[Cell] = [{"kind": "formula", "rank": rank, "text": label}]
        row += [{"kind": "n", "text": _value(best.trial.candidate.parameters.get(name))} for name in parameters]
        for objective in problem.objectives:
            name = objective.property
            row.append({"kind": "n", "text": with_error(best.values[name], point.errors.get(name))})
            known = point.predicted.get(name)
            row.append({"kind": "n dim", "text": with_error(*known) if known else "–"})
        for constraint in problem.constraints:
            value = point.values.get(constraint.property)
            holds = value is not None and _holds(constraint.low, constraint.high, value)
            row.append({"kind": "n ok" if holds else "n not", "text": ("✓ " if holds else "✗ ") + number(value, 3)})
        if several:
            row.append({"kind": "ok" if best.on_front else "dim", "text": "✓" if best.on_front else "–"})
        row += [
            {"kind": "n", "text": str(best.trial.number)},
            {"kind": "dim", "text": plain(best.trial.proposal.policy)},
        ]
        rows.append(row)
    return headings, rows


def parameter_unit(facts: Facts, name: str) -> str:
    """Return the unit of a parameter as the campaign file gives it; nothing where it gives none."""
    declared = facts.config.space.options.get("parameters")
    entry = declared.get(name) if isinstance(declared, Mapping) else None
    unit = entry.get("unit") if isinstance(entry, Mapping) else None
    return unit_of(unit) if isinstance(unit, str) else ""


def best_note(facts: Facts) -> str:
    """Say how to read the table of the best candidates."""
    note = (
        "“Predicted before” is what the surrogate said at the time of choosing: mean ± standard deviation of one"
        " measurement. It was stored before the trial ran; a dash means that no surrogate chose the candidate."
    )
    if facts.problem.constraints:
        note += f" Wanted: {'; '.join(bound(c) for c in facts.problem.constraints)}."
    if len(facts.best) > ROWS:
        note += f" The first {ROWS} of {len(facts.best)} are shown; matloop export --csv writes all."
    return note


def cards(facts: Facts) -> list[Cell]:
    """Return the pictures of the best structures."""
    found = []
    ranked: Mapping[int, Best] = {b.trial.number: b for b in facts.best}
    objective = facts.problem.objectives[0]
    for trial, crystal in facts.crystals.items():
        best = ranked[trial]
        svg = picture(crystal, f"crystal structure of {best.trial.candidate.label}")
        if svg and best.feasible:
            value = f"{number(best.values[objective.property])} {unit_of(objective.unit)}"
            found.append({"svg": svg, "title": formula(best.trial.candidate), "value": value})
    return found


def failures(facts: Facts) -> list[Cell]:
    """Return the rows of the table of failures."""
    rows: list[Cell] = [
        {"count": len(labels), "reason": reason, "labels": some(labels)} for reason, labels in facts.failures.items()
    ]
    for constraint in facts.problem.constraints:
        broken = [
            p.label
            for p in facts.points
            if constraint.property in p.values
            and not _holds(constraint.low, constraint.high, p.values[constraint.property])
        ]
        if broken:
            rows.append(
                {"count": len(broken), "reason": f"measured, but not {bound(constraint)}", "labels": some(broken)}
            )
    return rows


def parts(facts: Facts) -> list[Cell]:
    """Return the rows of the table of times."""
    longest = max((part.total for part in facts.parts), default=1.0) or 1.0
    return [
        {
            "name": part.name,
            "count": len(part.times),
            "median": seconds(part.median),
            "longest": seconds(max(part.times)),
            "total": seconds(part.total),
            "share": round(100 * part.total / longest, 1),
        }
        for part in facts.parts
    ]


def commands(facts: Facts) -> list[tuple[str, str]]:
    """Return the commands that carry on from here."""
    name, file = facts.info.name, facts.info.file or "FILE"
    by_hand = not facts.config.procedure
    rows: list[tuple[str, str]] = []
    if by_hand:
        rows += [
            (f"matloop ask {name}", "what to measure next"),
            (f"matloop tell {name} TRIAL PROPERTY=VALUE", "record what came out"),
        ]
    elif facts.info.state is not CampaignState.DONE:
        rows.append((f"matloop resume {name}", "go on where it stands; nothing is measured twice"))
    rows.append((f"matloop amend {file}", "adopt a changed file, such as a larger budget; every revision is kept"))
    if not by_hand and facts.info.state is CampaignState.DONE:
        rows.append((f"matloop resume {name}", "then go on"))
    rows += [
        (f"matloop status {name}", "how it stands"),
        (f"matloop export {name} --csv {name}.csv", "every trial as one line of a table"),
        (f"matloop verify {name} --decisions", "check every row and file, and choose again what was chosen"),
    ]
    return rows


def decisions(facts: Facts) -> list[Cell]:
    """Return the rows of the decision log."""
    fit_numbers = {fit.id: fit.number for fit in facts.fits}
    return [
        {
            "number": d.number,
            "when": when(d.made_at),
            "policy": plain(d.policy) if d.purpose == "acquisition" else f"{plain(d.policy)} ({d.purpose})",
            "seen": len(d.seen),
            "pending": len(d.pending),
            "fit": fit_numbers.get(d.fit, "–") if d.fit is not None else "–",
            "proposed": _proposed(d),
            "best": number(d.summary.best),
            "gain": number(d.summary.expected_gain, 3),
            "seconds": "–" if d.purpose == IMPORTED_PURPOSE else f"{d.seconds:.2f}",
        }
        for d in facts.decisions[-MOST_ROWS:]
    ]


def _proposed(decision: DecisionInfo) -> str:
    """Name what a decision proposed: formulas, or trials where labels would repeat the set-points."""
    candidates = [p.candidate for p in decision.proposals]
    gone = f"; withdrew {some([str(number) for number in decision.withdrawn], 8)}" if decision.withdrawn else ""
    if any(c.parameters for c in candidates):
        return f"trials {some([str(number) for number in decision.trials], 8)}{gone}"
    return f"{some([formula(c) for c in candidates], 8)}{gone}"


def fits(facts: Facts) -> list[Cell]:
    """Return the rows of the table of fits."""
    numbers = {fit.id: fit.number for fit in facts.fits}
    rows = []
    for fit in facts.fits[-MOST_ROWS:]:
        report = fit.report
        metrics = "; ".join(
            f"{plain(name)}: " + ", ".join(f"{plain(key)} {number(found[key], 3)}" for key in _told(found))
            for name, found in report.metrics.items()
        )
        start = f"from fit {numbers.get(fit.parent, fit.parent)}" if fit.parent is not None else "from nothing"
        rows.append(
            {
                "number": fit.number,
                "when": when(fit.made_at),
                "surrogate": fit.surrogate,
                "labels": report.labels,
                "start": (start if report.warm or fit.parent is None else f"{start}, trained anew")
                + ("" if report.promoted else "; does not propose"),
                "metrics": metrics or "–",
                "device": report.device,
                "seconds": f"{report.seconds:.1f}",
                "checkpoint": fit.checkpoint_sha256[:12],
                "data": report.data_sha256[:12],
                "notes": "; ".join((*report.notes, *([report.reason] if report.reason else []))),
            }
        )
    return rows


def _told(metrics: Mapping[str, float]) -> list[str]:
    """Name the metrics of a fit that are shown: all of a few, else those that decide, and the members' weights."""
    deciding = [name for name in DECIDING if name in metrics]
    return [*deciding, *sorted(name for name in metrics if name.startswith("weight_"))] or sorted(metrics)


def notices(facts: Facts) -> list[Cell]:
    """Return the events that a person caused or should know."""
    found = [e for e in facts.events if e.kind in PEOPLE]
    return [{"when": when(e.at), "actor": e.actor, "kind": e.kind, "note": e.note} for e in found[-MOST_EVENTS:]]


def provenance(facts: Facts) -> list[tuple[str, str]]:
    """Return versions and hashes."""
    rows = [
        ("campaign", f"{facts.info.name}, seed {facts.info.seed}, {facts.info.uuid}"),
        ("configuration (SHA-256)", f"{facts.info.config_sha256}, revision {facts.info.revision}"),
        ("results (SHA-256)", facts.data_sha256),
        ("devices", ", ".join(dict.fromkeys(f"{d.device}, {d.threads} threads" for d in facts.decisions)) or "–"),
        (
            "Python",
            f"{platform.python_version()} on {platform.system()} {platform.machine()} (where this page was made)",
        ),
    ]
    return rows + [(name, found) for name in PACKAGES if (found := _version(name))]


def config_text(facts: Facts) -> str:
    """Write the campaign's configuration as YAML, defaults filled in."""
    yaml = YAML()  # this one keeps the order of the keys
    out = io.StringIO()
    yaml.dump(facts.config.snapshot(), out)
    return out.getvalue()


def progress_note(facts: Facts) -> str:
    """Say how to read the plot of progress."""
    imported = sum(p.initial for p in facts.points)
    note = f"{len(facts.points)} results"
    if imported and imported < len(facts.points):
        note += f", the first {imported} from the initial design or from a table"
    return f"{note}. Values far out are drawn at the edge."


def time_note(facts: Facts) -> str:
    """Say what the times mean."""
    parallel = facts.config.parallel
    side = (
        f" Up to {parallel} trials ran side by side, so the sums may exceed the running time." if parallel > 1 else ""
    )
    return f"Steps count from the order to the recorded result.{side}"


def provenance_version() -> str:
    """Return the version of Matloop."""
    return _version("matloop") or "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _value(value: Value | None) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else given(float(value))


def _holds(low: float | None, high: float | None, value: float) -> bool:
    return (low is None or value >= low) and (high is None or value <= high)
