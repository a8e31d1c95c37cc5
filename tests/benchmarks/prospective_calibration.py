"""Inside replayed campaigns: did what was measured lie where it had been predicted to, on the *chosen* candidates?

    python -m tests.benchmarks.prospective_calibration --data matloop-data/public     goes on where it was cut off

Ten campaigns an arm over 3,787 cubic perovskites: 10 random measurements, then rounds of 10. Each proposal's mean and
standard deviation are kept before the table is asked, and judged afterwards. `as trained` takes out of the same
predictions the factor by which the campaign had widened their standard deviations on account of earlier results.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.config.schema import CampaignConfig
from orchestrator.prospective import Judged
from orchestrator.replay import replay_once
from tests.benchmarks.data import SOURCES, provide
from tests.benchmarks.discovery_arms import CAMPAIGN, ROOT, SEEDS, SHARE, known, learned_by
from tests.benchmarks.units import Unit, protocol, row, run_missing, say, summarise

ARMS: Mapping[str, tuple[dict[str, Any] | None, int, int]] = {
    "matloop": (None, 200, 10),
    "composition_forest": ({"use": "composition_forest", "options": {}}, 200, 10),
    "gnn_gp": ({"use": "gnn_gp", "options": {"device": "cpu"}}, 120, 3),
    "stacked": ({"use": "stacked", "options": {}}, 120, 2),
}
"""Arm → surrogate (none: the campaign file's), measurements a campaign, campaigns: networks take minutes each."""
MARKS = (100, 120, 200)
"""Measurements after which the share of the best 1 % that was found is stated."""
WORDS = {
    "matloop": "the shipped campaign file",
    "gnn_gp": "graph network under a Gaussian process, nothing pretrained",
    "stacked": "graph network, composition and potential, weighed by out-of-fold likelihood",
    "composition_forest": "forest on composition features",
}
METRICS = {
    "coverage_50": "share",
    "coverage_80": "share",
    "coverage_90": "share",
    "coverage_95": "share",
    "miscalibration_area": "share",
    "spearman": "",
}
AS_TRAINED = ("coverage_90", "miscalibration_area")
"""Stated also without the widening that a campaign applied to itself, where it did."""


def measure(unit: Unit, data: Path) -> Mapping[str, Any]:
    """Replay one campaign and keep what it said of what it chose."""
    config, parts, truth = known(data)
    surrogate, budget, _ = ARMS[unit.parameters["arm"]]
    changes: dict[str, Any] = {"budget": {"trials": budget}}
    changes |= {"surrogate": surrogate} if surrogate else {}
    changed = CampaignConfig.model_validate({**config.snapshot(), **changes})
    parts = replace(parts, surrogate=changed.surrogate or parts.surrogate)
    done = replay_once(changed, parts, truth, int(unit.parameters["seed"]))
    [judged] = done.judged.values()
    best = truth.best(SHARE)
    found = np.cumsum([one in best for one in done.chosen]) / len(best)
    return {
        "recall": {str(n): float(found[n - 1]) for n in MARKS if n <= len(found)},
        "trials": list(judged.trials),
        "predicted": [round(x, 5) for x in judged.predicted],
        "sd": [round(x, 5) for x in judged.sd],
        "measured": [round(x, 5) for x in judged.measured],
        "widened": [round(x, 4) for x in judged.widened],
        "code": learned_by(unit.parameters["arm"]),
    }


def judged_of(line: Mapping[str, Any]) -> Judged:
    """Build the predictions and results of a line."""
    result = line["result"]
    parts = (tuple(result[part]) for part in ("predicted", "sd", "measured", "widened"))
    return Judged("heat_all", tuple(result["trials"]), ("",) * len(result["trials"]), *parts)


def rows_of(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Turn the lines into rows: every score, in the whole campaign, and the coverage early and late."""
    made = []
    for arm in ARMS:
        own = [judged_of(line) for line in lines if line["parameters"]["arm"] == arm]
        if not own:
            continue
        recalls = [line["result"]["recall"] for line in lines if line["parameters"]["arm"] == arm]
        made += [
            row(arm, f"recall_best1pct_{n}", "share", [one[str(n)] for one in recalls])
            for n in MARKS
            if str(n) in recalls[0]
        ]
        for name, unit in METRICS.items():
            made.append(row(arm, name, unit, [one.scores[name] for one in own]))
        if any(factor != 1.0 for one in own for factor in one.widened):
            for name in AS_TRAINED:
                plain = [one.as_trained().scores[name] for one in own]
                made.append(row(f"{arm}_as_trained", name, METRICS[name], plain))
        early = [one.among(range(61)) for one in own]
        late = [one.among(range(61, 1000)) for one in own]
        for words, some in (("to_60", early), ("from_61", late)):
            made.append(row(arm, f"coverage_90_{words}", "share", [one.scores["coverage_90"] for one in some]))
    return made


def main() -> None:
    """Measure what is missing and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "matloop-data" / "public", help="folder of `make data`")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--arm", choices=list(ARMS), default=None, help="run units of this arm only")
    parser.add_argument("--units", type=int, default=None, help="run at most so many units now")
    arguments = parser.parse_args()
    table = arguments.data / SOURCES["discovery"].name
    if not table.exists():
        table = provide(SOURCES["discovery"], ROOT.parent / "shared" / "data", arguments.data)
    import torch  # noqa: PLC0415  only to keep it to one thread, as the measurement states

    torch.set_num_threads(1)
    mark = protocol([CAMPAIGN, table], SHARE, {arm: [use, budget] for arm, (use, budget, _) in ARMS.items()})
    everything = [
        Unit(f"{arm}/{seed}", {"arm": arm, "seed": seed})
        for seed in range(arguments.seeds)
        for arm, (_, _, seeds) in ARMS.items()
        if seed < seeds and arguments.arm in {None, arm}
    ]
    packages = ("chgnet", "matgl", "numpy", "scikit-learn", "scipy", "torch")

    def work(unit: Unit) -> Mapping[str, Any]:
        return measure(unit, table)

    name = "prospective_calibration"
    run_missing(name, everything, work, protocol=mark, packages=packages, most=arguments.units)
    whole = [Unit(f"{arm}/{seed}") for arm, (_, _, seeds) in ARMS.items() for seed in range(seeds)]
    lines = run_missing(name, whole, work, protocol=mark, packages=packages, most=0)
    if len(lines) < len(whole):
        say(f"{name}: {len(lines)} of {len(whole)} units are measured; run again to go on")
    summarise(
        "prospective_calibration",
        rows_of(lines),
        work=(
            "Results of chosen candidates against what was predicted of them before, in replayed campaigns over 3,787"
            " cubic perovskites: 10 random measurements, then rounds of 10."
        ),
        command="make bench-prospective_calibration",
        protocol=mark,
        arms=WORDS,
    )


if __name__ == "__main__":
    main()
