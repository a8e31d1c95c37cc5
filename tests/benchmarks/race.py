"""Races of optimisers on public tables: same random starts, same budget, the shipped default against peers.

python -m tests.benchmarks.crossed_barrel --data matloop-data/public            goes on where it was cut off
python -m tests.benchmarks.crossed_barrel --only baybe,ax --part 3/16 --lines part3.jsonl      a share, elsewhere
python -m tests.benchmarks.crossed_barrel --merge part*.jsonl --units 0         takes the shares in
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.domain import Array
from tests.benchmarks.data import SOURCES
from tests.benchmarks.race_arms import ROOT, WORDS, measure, units
from tests.benchmarks.race_code import learned_by
from tests.benchmarks.race_works import WORKS, Work
from tests.benchmarks.units import HERE, Unit, merge, protocol, row, run_missing, say, split_arguments, summarise

RESAMPLES = 4000
PUBLISHED = {20: 0.714, 50: 0.931, 100: 0.976, 200: 0.990}
"""Mean hypervolume of Olympus' BoTorch planner on the redoxmers as words, from the 40 campaigns that its authors put
into their repository (aspuru-guzik-group/olympus, case_study_3)."""
Result = Mapping[str, Any]
Found = Mapping[str, Mapping[int, Result]]
"""Arm → seed → result."""


def run(name: str, text: str, sources: Sequence[str]) -> None:
    """Measure what is missing of one benchmark and write its summary.

    Args:
        name: of the benchmark.
        text: one or two sentences on what is measured.
        sources: keys of `SOURCES` that it reads.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "matloop-data" / "public", help="folder of `make data`")
    parser.add_argument("--only", default="", help="arms to measure now, with commas between")
    split_arguments(parser)
    chosen = parser.parse_args()
    missing = [SOURCES[s].name for s in sources if not (chosen.data / SOURCES[s].name).exists()]
    if missing:
        say(f"{name} is left out: {', '.join(missing)} is not below {chosen.data}; run 'make data'")
        return
    if chosen.merge:
        say(f"{name}: {merge(name, chosen.merge)} new lines")
    one_thread()
    only = {arm for arm in chosen.only.split(",") if arm}
    everything = units(name)
    wanted = [unit for unit in everything if not only or unit.parameters["arm"] in only]
    runnable = [unit for unit in wanted if there(str(unit.parameters["arm"]))]
    for arm in sorted({str(u.parameters["arm"]) for u in wanted} - {str(u.parameters["arm"]) for u in runnable}):
        say(f"{name}: {arm} is not installed and is not measured now (pip install 'matloop[{arm}]')")
    settings: dict[str, Any] = {
        "protocol": protocol(
            [HERE / "race_arms.py", HERE / "race_peers.py", HERE / "race_works.py"],
            *(SOURCES[source].sha256 for source in sources),
        ),
        "packages": [p for p in ("torch", "botorch", "scikit-learn", "baybe", "ax-platform") if _installed(p)],
        "counts": lambda line: line["result"]["code"] == learned_by(line["parameters"]["arm"]),
    }
    run_missing(
        name,
        runnable,
        lambda unit: measure(unit, chosen.data),
        most=chosen.units,
        part=chosen.part,
        lines=chosen.lines,
        **settings,
    )
    if chosen.lines is not None:
        return
    lines = run_missing(name, everything, _nothing, most=0, **settings)
    found: dict[str, dict[str, dict[int, Result]]] = {}
    for line in lines:
        p = line["parameters"]
        found.setdefault(p["work"], {}).setdefault(p["arm"], {})[p["seed"]] = line["result"]
    rows = [one for work in WORKS[name] if work.name in found for one in rows_of(work, found[work.name])]
    say(f"{name}: {len(lines)} of {len(everything)} units are measured")
    if rows:
        path = summarise(
            name,
            rows,
            work=text + _where(lines),
            command=f"make bench-{name}",
            protocol=settings["protocol"],
            arms={arm: words for arm, words in WORDS.items() if any(arm in arms for arms in found.values())},
        )
        say(f"wrote {path}")


def _where(lines: Sequence[Mapping[str, Any]]) -> str:
    """Say so where units were measured elsewhere: seconds are those of the machine that measured."""
    here = version("torch").partition("+")[0]
    seen = Counter(line["versions"]["torch"].partition("+")[0] for line in lines)
    elsewhere = sum(count for torch, count in seen.items() if torch != here)
    if not elsewhere:
        return ""
    share = f"{elsewhere} of {len(lines)} units"
    return f" {share} ran on another machine (16 cores, one unit a core), where their seconds were taken."


def one_thread() -> None:
    """Let torch use one core: seconds an ask are stated for one, and parts run side by side."""
    import torch  # noqa: PLC0415  slow to import

    torch.set_num_threads(1)


def there(arm: str) -> bool:
    """Say whether an arm's package is installed."""
    return arm not in {"baybe", "ax"} or importlib.util.find_spec(arm) is not None


def _installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def _nothing(unit: Unit) -> Result:
    message = f"{unit.key} was to be read, not measured"
    raise AssertionError(message)


def rows_of(work: Work, found: Found) -> list[dict[str, Any]]:
    """Turn the results on one table into rows, with paired differences of the shipped default to every other arm."""
    suffix = work.name.partition("/")[2]
    tail = f"_{suffix}" if suffix else ""
    made = []
    for metric, (unit, statistic) in metrics(work).items():
        for arm in WORDS:
            results = [r for _, r in sorted(found.get(arm, {}).items())]
            values = [v for r in results if np.isfinite(v := statistic(r))]
            if values and arm == "random" and metric == "n_80":
                made.append({**row(arm, f"{metric}{tail}", unit, [_expected(results[0], 0.8)]), "n": len(results)})
            elif values:
                made.append(_row(arm, f"{metric}{tail}", unit, values))
    for arm in WORDS:
        results = [result for _, result in sorted(found.get(arm, {}).items())]
        if results and arm != "random" and not work.name.startswith("redoxmers"):
            made += [_row_of(arm, f"{m}{tail}", results, f) for m, f in factors(work).items()]
    made += published(work, tail)
    made += differences(work, found, tail)
    order = list(dict.fromkeys(one["metric"] for one in made))
    lead = [m for m in order if m.startswith(("AF", "EF"))]
    return sorted(made, key=lambda one: ([*lead, *(m for m in order if m not in lead)]).index(one["metric"]))


def published(work: Work, tail: str) -> list[dict[str, Any]]:
    """Return rows of what others measured on the same table."""
    if work.name != "redoxmers/words":
        return []
    return [
        {**row("BoTorch in Olympus (published)", f"hypervolume_{mark}{tail}", "share", [value]), "n": 40}
        for mark, value in PUBLISHED.items()
    ]


def differences(work: Work, found: Found, tail: str) -> list[dict[str, Any]]:
    """Return what the shipped default does better or worse than each other arm, seed by seed."""
    ours = found.get("matloop", {})
    made = []
    for metric in compared(work):
        unit, statistic = metrics(work)[metric]
        for arm in WORDS:
            both = sorted(set(ours) & set(found.get(arm, {})))
            if arm == "matloop" or len(both) < 2:
                continue
            pairs = [statistic(ours[seed]) - statistic(found[arm][seed]) for seed in both]
            if not np.isfinite(pairs).all() or (arm == "random" and metric == "n_80"):
                continue  # the arm was not measured so far; random choice reaches 80 % beyond the cap
            made.append(_row("matloop", f"{metric}{tail}_minus_{arm}", unit, pairs))
    return made


def metrics(work: Work) -> dict[str, tuple[str, Callable[[Result], float]]]:
    """Return metric → unit and how it is read from one campaign; means are reported."""
    time = {"seconds_an_ask": ("s", lambda r: float(r["ask_s"]))}
    if len(work.goals) > 1:
        return {f"hypervolume_{m}": ("share", _volume(m)) for m in work.marks} | time
    found = {f"top_{m}": ("share", _share(m)) for m in work.marks}
    if work.name.startswith("oer"):
        return {"first_top1": ("evaluations", lambda r: _reached(r, 1)), **found, **time}
    if work.name.startswith("direct_arylation"):
        return {f"best_yield_{m}": ("%", _top(m)) for m in work.marks} | found | time
    return {"n_80": ("evaluations", lambda r: _to(r, 0.8)), **found, **time}


def compared(work: Work) -> list[str]:
    """Name the metrics in which the default is compared with every arm, seed by seed."""
    if len(work.goals) > 1:
        return ["hypervolume_50", "hypervolume_200"]
    if work.name.startswith("oer"):
        return ["first_top1", "top_200"]
    if work.name.startswith("direct_arylation"):
        return ["best_yield_30", "best_yield_90", "top_90"]
    return ["n_80", "top_100"]


def factors(work: Work) -> dict[str, Callable[[Sequence[Result]], float]]:
    """Return factors of a whole arm: acceleration against random choice, and the largest enhancement.

    As the authors of the tables define them: random choice needs n = level × rows, and the enhancement is the mean
    share found divided by n / rows.
    """
    if work.start > 2:
        return {}
    return {
        "AF_80": lambda rs: 0.8 * rs[0]["rows"] / statistics.mean(_to(r, 0.8) for r in rs),
        "AF_50": lambda rs: 0.5 * rs[0]["rows"] / statistics.mean(_to(r, 0.5) for r in rs),
        "EF_max": _enhancement,
    }


def _enhancement(results: Sequence[Result]) -> float:
    rows = int(results[0]["rows"])
    last = min(*(int(r["measured"]) for r in results), rows)
    grid = np.arange(5, last + 1)  # before five measurements one lucky start is an enhancement of dozens
    curves = [np.searchsorted(np.array(r["hits"]), grid, side="right") / r["best"] for r in results]
    return float((np.mean(curves, axis=0) / (grid / rows)).max())


def _expected(result: Result, level: float) -> float:
    """Return after how many random choices without replacement a share of the best is expected, exactly."""
    return float(np.ceil(level * result["best"] - 1e-9) * (result["rows"] + 1) / (result["best"] + 1))


def _to(result: Result, level: float) -> float:
    return _reached(result, int(np.ceil(level * result["best"] - 1e-9)))


def _reached(result: Result, count: int) -> float:
    """Return after how many measurements `count` of the best are found; one more than measured where they are not."""
    hits = result["hits"]
    return float(hits[count - 1]) if len(hits) >= count else float(result["measured"] + 1)


def _share(mark: int) -> Callable[[Result], float]:
    return lambda r: sum(hit <= mark for hit in r["hits"]) / r["best"]


def _top(mark: int) -> Callable[[Result], float]:
    return lambda r: float(r["top"][str(mark)])


def _volume(mark: int) -> Callable[[Result], float]:
    return lambda r: float(r["hypervolume"].get(str(mark), np.nan))


def _row(who: str, metric: str, unit: str, values: Sequence[float]) -> dict[str, Any]:
    """Return a row with the mean and its 95 % bootstrap interval."""
    data: Array = np.asarray(values, dtype=np.float64)
    means = np.random.default_rng(0).choice(data, size=(RESAMPLES, len(data))).mean(axis=1)
    low, high = (float(x) for x in np.quantile(means, [0.025, 0.975]))
    return {**row(who, metric, unit, list(values), low=low, high=high), "median": float(data.mean())}


def _row_of(
    who: str, metric: str, results: Sequence[Result], statistic: Callable[[Sequence[Result]], float]
) -> dict[str, Any]:
    """Return a row with a statistic of a whole arm and its 95 % bootstrap interval over seeds."""
    rng = np.random.default_rng(0)
    drawn = [statistic([results[i] for i in rng.integers(len(results), size=len(results))]) for _ in range(400)]
    low, high = (float(x) for x in np.quantile(drawn, [0.025, 0.975]))
    value = statistic(results)
    return {**row(who, metric, "ratio", [value] * len(results), low=low, high=high), "median": value}
