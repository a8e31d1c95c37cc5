"""The story of one trial: why it was chosen, from what knowledge, what was done and what came back.

`told` gathers it from the store, as JSON content; `shown` lays the same out for people.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flows.overview import number
from orchestrator.config.schema import CampaignConfig
from orchestrator.errors import StoreError
from orchestrator.record.states import TrialState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

    from orchestrator.domain import Dataset
    from orchestrator.record.store import CampaignStore
    from orchestrator.record.views import DecisionInfo, TrialInfo

SAID_ELSEWHERE = frozenset(
    {
        "among",
        "expense",
        "fallback",
        "fidelity_reason",
        "fidelity_why",
        "nearest_distances",
        "nearest_measured",
        "open",
        "pending",
        "probability_of_success",
        "rank",
        "seed",
        "why",
    }
)
"""Details of a proposal that have a place of their own."""
TOLD_METRICS = ("mae", "r2", "accuracy", "nll")
Z_90 = 1.645
"""Beyond so many standard deviations lies one normal result in ten."""


def told(store: CampaignStore, name: str, trial_number: int) -> dict[str, Any]:
    """Gather the story of a trial.

    Args:
        store: the campaign database.
        name: of the campaign.
        trial_number: of the trial.

    Returns:
        JSON content.

    Raises:
        StoreError: there is no such trial.
    """
    trial = store.trial(name, trial_number)
    decision = next((d for d in store.decisions(name) if d.number == trial.decision), None)
    if decision is None:
        message = f"decision {trial.decision} of trial {trial_number} is missing from campaign {name!r}: matloop verify"
        raise StoreError(message)
    problem = CampaignConfig.model_validate(dict(store.campaign(name).config)).problem()
    dataset = store.dataset(name, units=problem.units)
    return {
        "campaign": name,
        "trial": trial.number,
        "state": trial.state.value.lower(),
        "state_reason": trial.reason,
        "candidate": {
            "id": trial.candidate.id,
            "label": trial.candidate.label,
            "parameters": dict(trial.candidate.parameters),
        },
        "fidelity": trial.fidelity,
        "chosen": _chosen(store, name, trial, decision),
        "predictions": _predictions(trial, dataset, problem.units),
        "nearest_measured": _neighbours(store, name, trial, dataset),
        "knowledge": _knowledge(store, name, decision),
        "steps": _steps(store, name, trial),
        "measurements": _measurements(store, name, trial),
    }


def _chosen(store: CampaignStore, name: str, trial: TrialInfo, decision: DecisionInfo) -> dict[str, Any]:
    proposal, details = trial.proposal, dict(trial.proposal.details)
    place = next((i for i, p in enumerate(decision.proposals, 1) if p.candidate.id == trial.candidate.id), None)
    known = {t.candidate.id: {"trial": t.number, "label": t.candidate.label} for t in store.trials(name)}
    return {
        "decision": decision.number,
        "purpose": decision.purpose,
        "policy": proposal.policy,
        "at": _when(decision.made_at),
        "place": place,
        "of": len(decision.proposals),
        "reason": proposal.reason,
        "score": proposal.score,
        "among": details.get("among", details.get("open")),
        "open": details.get("open"),
        "pending": [known.get(key, {"trial": None, "label": key[:12]}) for key in decision.pending],
        "probability_of_success": details.get("probability_of_success", details.get("success")),
        "expense": details.get("expense"),
        "fidelity_reason": details.get("fidelity_reason", details.get("fidelity_why", "")),
        "fallback": f"{details['fallback']}: {details.get('why', '')}" if "fallback" in details else "",
        "details": {key: value for key, value in details.items() if key not in SAID_ELSEWHERE},
        "best_before": decision.summary.best,
    }


def _predictions(trial: TrialInfo, dataset: Dataset, units: Mapping[str, str]) -> list[dict[str, Any]]:
    came = {row.property: row.value for row in dataset.rows if row.trial == trial.number and row.value is not None}
    chances = trial.proposal.details.get("chances", {})  # of the classes, where the property has some
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys([*trial.proposal.mean, *(key for key in came if key in units)]):
        mean, sd, value = trial.proposal.mean.get(name), trial.proposal.sd.get(name), came.get(name)
        off = (value - mean) / sd if mean is not None and sd and value is not None else None
        said = {"mean": mean, "sd": sd, "chances": dict(chances.get(name, {})), "measured": value, "z": off}
        rows.append({"property": name, "unit": units.get(name, ""), **said})
    return rows


def _neighbours(store: CampaignStore, name: str, trial: TrialInfo, dataset: Dataset) -> list[dict[str, Any]]:
    details = trial.proposal.details
    ids = list(details.get("nearest_measured", ()))
    apart = list(details.get("nearest_distances", ())) or [None] * len(ids)
    trials = {t.candidate.id: t for t in store.trials(name)}
    values: dict[str, dict[str, float]] = {}
    labels: dict[str, str] = {}
    for row in dataset.rows:
        labels[row.candidate.id] = row.candidate.label
        if row.value is not None and row.fidelity == trial.fidelity:
            values.setdefault(row.candidate.id, {})[row.property] = row.value
    return [
        {
            "id": key,
            "label": labels.get(key, key[:12]),
            "trial": trials[key].number if key in trials else None,
            "distance": distance,
            "values": values.get(key, {}),
        }
        for key, distance in zip(ids, apart, strict=True)
    ]


def _knowledge(store: CampaignStore, name: str, decision: DecisionInfo) -> dict[str, Any]:
    fit = next((f for f in store.fits(name) if f.id == decision.fit), None)
    return {
        "results": len(decision.seen),
        "dataset_sha256": decision.seen_sha256,
        "pending": len(decision.pending),
        "seed": decision.seed,
        "device": decision.device,
        "threads": decision.threads,
        "seconds": decision.seconds,
        "fit": None
        if fit is None
        else {
            "number": fit.number,
            "surrogate": fit.surrogate,
            "labels": fit.report.labels,
            "checkpoint_sha256": fit.checkpoint_sha256,
            "seconds": fit.report.seconds,
            "metrics": {key: dict(value) for key, value in fit.report.metrics.items()},
            "notes": list(fit.report.notes),
        },
    }


def _steps(store: CampaignStore, name: str, trial: TrialInfo) -> list[dict[str, Any]]:
    attempts = store.attempts(name, trial=trial.number)
    return [
        {
            "step": step.name,
            "instrument": step.instrument,
            "state": step.state.value.lower(),
            "reason": step.reason,
            "attempts": [
                {
                    "number": a.number,
                    "at": _when(a.created_at),
                    "state": a.state.value.lower(),
                    "effect": a.effect,
                    "raw_sha256": a.raw_sha256,
                    "note": a.note,
                }
                for a in attempts
                if a.step_id == step.id
            ],
        }
        for step in trial.steps
    ]


def _measurements(store: CampaignStore, name: str, trial: TrialInfo) -> list[dict[str, Any]]:
    return [
        {
            "property": m.property,
            "value": m.value,
            "unit": m.unit,
            "std_error": m.std_error,
            "quality": m.quality.value,
            "at": _when(m.measured_at),
            "step": m.step,
        }
        for m in store.measurements(name, trial=trial.number)
    ]


def _when(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1e6, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


# --- for people ------------------------------------------------------------------------------------------------------


def shown(content: Mapping[str, Any]) -> RenderableType:
    """Lay a story out for the terminal.

    Args:
        content: from `told`.
    """
    from rich.console import Group  # noqa: PLC0415  not needed for JSON
    from rich.text import Text  # noqa: PLC0415  the same

    from flows.screen import COLOURS  # noqa: PLC0415  the same

    colour = COLOURS[TrialState(content["state"].upper())]
    head = Text.assemble(
        (f"trial {content['trial']} of {content['campaign']}", "bold"),
        "  ",
        (content["candidate"]["label"], "bold cyan"),
        "  ",
        (content["state"], colour),
        f" ({content['state_reason']})" if content["state_reason"] else "",
    )
    parts: list[RenderableType] = [head, *_set_points(content["candidate"]), Text(""), *_reasons(content)]
    if content["predictions"]:
        parts += [Text(""), _predicted(content["predictions"])]
    if content["nearest_measured"]:
        parts += [Text(""), _near(content["nearest_measured"], content["predictions"])]
    parts += [Text(""), *_done(content)]
    return Group(*parts)


def _set_points(candidate: Mapping[str, Any]) -> list[RenderableType]:
    from rich.text import Text  # noqa: PLC0415  not needed for JSON

    points = ", ".join(f"{key} = {_short(value)}" for key, value in candidate["parameters"].items())
    lines: list[RenderableType] = [Text(points)] if points else []
    return [*lines, Text(f"candidate {candidate['id'][:16]}", style="dim")]


def _reasons(content: Mapping[str, Any]) -> list[RenderableType]:
    from rich.table import Table  # noqa: PLC0415  not needed for JSON
    from rich.text import Text  # noqa: PLC0415  the same

    chosen, knowledge = content["chosen"], content["knowledge"]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    reason = chosen["reason"]
    grid.add_row("why", Text(reason[:1].upper() + reason[1:], style="bold"))
    if chosen["fallback"]:
        grid.add_row("fallback", Text(chosen["fallback"], style="yellow"))
    place = f", place {chosen['place']} of {chosen['of']}" if chosen["place"] else ""
    decided = f"chosen in decision {chosen['decision']} ({chosen['purpose']}) by {chosen['policy']}{place}"
    grid.add_row("decided", f"{decided}, {chosen['at']}, in {knowledge['seconds']:.2g} s")
    if chosen["score"] is not None:
        among = f", the best of {chosen['among']} compared" if chosen["among"] and chosen["place"] == 1 else ""
        grid.add_row("score", f"{chosen['score']:.4g} (larger is better{among})")
    if chosen["probability_of_success"] is not None:
        grid.add_row("success", f"{chosen['probability_of_success']:.0%} likely to yield a value, by past failures")
    if chosen["expense"]:
        grid.add_row("expense", f"cost {chosen['expense']['cost']:g}, {chosen['expense']['hours']:g} h")
    if content["fidelity"] != "target" or chosen["fidelity_reason"]:
        why = chosen["fidelity_reason"].removeprefix(f"at {content['fidelity']}: ")
        grid.add_row("fidelity", ": ".join(filter(None, (content["fidelity"], why))))
    flying = ", ".join(f"{one['label']} (trial {one['trial']})" for one in chosen["pending"])
    grid.add_row("pending", flying or "nothing was in flight")
    grid.add_row("known then", _known(knowledge, chosen))
    if knowledge["fit"] is not None:
        grid.add_row("learned", _fit(knowledge["fit"]))
    for key, value in chosen["details"].items():
        grid.add_row(key.replace("_", " "), _plainly(value))
    grid.add_row("to repeat", f"seed {knowledge['seed']}; {knowledge['device']}, {knowledge['threads']} threads")
    return [grid]


def _known(knowledge: Mapping[str, Any], chosen: Mapping[str, Any]) -> str:
    best = f", best {number(chosen['best_before'])}" if chosen["best_before"] is not None else ""
    left = f", {chosen['open']} candidates open" if chosen["open"] is not None else ""
    return f"{knowledge['results']} measured values (dataset {knowledge['dataset_sha256'][:12]}){best}{left}"


def _fit(fit: Mapping[str, Any]) -> str:
    told_of = "; ".join(
        f"{name}: "
        + ", ".join(f"{key} {metrics[key]:.3g}" for key in ("mae", "r2", "accuracy", "nll") if key in metrics)
        for name, metrics in fit["metrics"].items()
    )
    about = f" ({told_of})" if told_of else ""
    return (
        f"fit {fit['number']}: {fit['surrogate']} on {fit['labels']} labels{about}, checkpoint"
        f" {fit['checkpoint_sha256'][:12]}"
    )


def _predicted(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    from rich.table import Table  # noqa: PLC0415  not needed for JSON

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("property")
    table.add_column("predicted", justify="right")
    table.add_column("measured", justify="right")
    table.add_column("")
    for row in rows:
        unit = "" if row["unit"] == "dimensionless" else f" ({row['unit']})"
        said = "–" if row["mean"] is None else f"{number(row['mean'])} ± {number(row['sd'], 2)}"
        z = row["z"]
        if row.get("chances"):  # numbers that name classes: their mean says nothing
            likely = sorted(row["chances"].items(), key=lambda item: -item[1])[:2]
            said, z = " or ".join(f"{one} ({p:.0%})" for one, p in likely), None
        off = "" if z is None else f"{z:+.1f} sd" + ("" if abs(z) <= Z_90 else ": a surprise")
        style = "yellow" if z is not None and abs(z) > Z_90 else "dim"
        table.add_row(f"{row['property']}{unit}", said, number(row["measured"]), f"[{style}]{off}[/]" if off else "")
    return table


def _near(neighbours: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]) -> RenderableType:
    from rich.table import Table  # noqa: PLC0415  not needed for JSON

    names = [row["property"] for row in predictions] or sorted({key for one in neighbours for key in one["values"]})
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("nearest measured")
    table.add_column("trial", justify="right", style="dim")
    table.add_column("distance", justify="right", style="dim")
    for name in names:
        table.add_column(name, justify="right")
    for one in neighbours:
        from_where = "earlier" if one["trial"] is None else str(one["trial"])
        table.add_row(
            one["label"], from_where, number(one["distance"], 3), *(number(one["values"].get(name)) for name in names)
        )
    return table


def _done(content: Mapping[str, Any]) -> list[RenderableType]:
    from rich.text import Text  # noqa: PLC0415  not needed for JSON

    lines = []
    for step in content["steps"]:
        lines.append(f"step {step['step']} on {step['instrument']}: {step['state']} {step['reason']}".rstrip())
        lines += [
            f"  attempt {a['number']} ({a['at']}): {a['state']}"
            + (f", effect {a['effect']}" if a["effect"] else "")
            + (f", raw {a['raw_sha256'][:12]}" if a["raw_sha256"] else "")
            + (f"; {a['note']}" if a["note"] else "")
            for a in step["attempts"]
        ]
    shown_lines: list[RenderableType] = [Text(line, style="dim") for line in lines]
    shown_lines += [
        Text.assemble(
            (f"{m['property']} = {number(m['value'], 6)} {m['unit']}".removesuffix(" dimensionless"), "bold"),
            f" ± {number(m['std_error'], 2)}" if m["std_error"] is not None else "",
            (f" ({m['quality']}, {m['at']}{', ' + m['step'] if m['step'] else ''})", "dim"),
        )
        for m in content["measurements"]
    ]
    return shown_lines


def _plainly(value: Any) -> str:
    """Write a detail for people: numbers short, several side by side."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plainly(one)}" for key, one in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(_plainly(one) for one in value) or "none"
    return _short(value)


def _short(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)
