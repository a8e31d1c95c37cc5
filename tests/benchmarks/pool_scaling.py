"""How long, and how much memory, does one batch of ten take from 10,000, 100,000 and a million candidates?

    python -m tests.benchmarks.pool_scaling            goes on where it was cut off
    python -m tests.benchmarks.pool_scaling --units 2  at most two units now

Candidates are points of eight parameters in a columnar pool; an ensemble of five small networks has learned fifty of
them. Ours is the default policy (`log_expected_improvement`), asked in a state in which nothing is scored yet, and in
one in which the scores lie on disk. The peers are botorch's `optimize_acqf_discrete` with its
`qLogNoisyExpectedImprovement`, on the same five networks as an `EnsembleModel`, and on a `SingleTaskGP`: its own way to
choose from a list. Each unit is a process of its own with two threads, with at most 4 GB of memory and ten minutes of
processor time; what does not survive has no row. Seconds are the process's own, of both threads together, so that other
work on the computer does not count; peak memory is that of the whole process, imports and pool included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.abilities import PoolScores
from orchestrator.domain import Array, Budget, Candidate, Dataset, Objective, Outcome, Prediction, Problem, Row
from tests.benchmarks.units import HERE, Unit, protocol, row, run_missing, say, summarise

ROOT = HERE.parents[1]
SIZES = {"1e4": 10_000, "1e5": 100_000, "1e6": 1_000_000}
SEEDS = 3
LABELS, BATCH, DIMENSIONS, MEMBERS, WIDTH = 50, 10, 8, 5, 64
THREADS = 2
MEMORY = 4_000_000_000
LIMIT_S = 600
LIMIT_WALL_S = 3600.0
PROBLEM = Problem((Objective("y", "eV", "maximize"),), budget=Budget(trials=100))
ARMS = {
    "matloop": "log expected improvement over the columnar pool",
    "botorch_ensemble": "optimize_acqf_discrete, qLogNoisyExpectedImprovement, the same networks as EnsembleModel",
    "botorch_gp": "optimize_acqf_discrete, qLogNoisyExpectedImprovement, SingleTaskGP",
}
PEERS = tuple(arm for arm in ARMS if arm != "matloop")
Narrow = npt.NDArray[np.float32]


def target(x: Array) -> Array:
    """Return a smooth made-up property of points, n × d."""
    return np.asarray(np.sin(5 * x[:, 0]) + x[:, 1] * x[:, 2] - (x[:, 3:] - 0.4).__pow__(2).sum(axis=1))


class Networks:
    """Five networks of two hidden layers, each trained on its own half of the labels; see `Surrogate`."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.networks: Any = None

    def supports(self) -> frozenset[str]:
        """Name what it can learn from and answer."""
        return frozenset({"parameters", "uncertainty", "draws"})

    def learn(self, x: Array, y: Array) -> None:
        """Train the members."""
        import torch  # noqa: PLC0415  only the work needs it

        torch.manual_seed(self._seed)
        self.networks = torch.nn.ModuleList()
        inputs, labels = torch.from_numpy(x).float(), torch.from_numpy(y).float()
        for member in range(MEMBERS):
            half = torch.from_numpy(np.random.default_rng([self._seed, member]).permutation(len(y))[: len(y) // 2])
            network = torch.nn.Sequential(
                torch.nn.Linear(DIMENSIONS, WIDTH),
                torch.nn.ReLU(),
                torch.nn.Linear(WIDTH, WIDTH),
                torch.nn.ReLU(),
                torch.nn.Linear(WIDTH, 1),
            )
            optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
            for _ in range(200):
                optimiser.zero_grad()
                loss = ((network(inputs[half])[:, 0] - labels[half]) ** 2).mean()
                loss.backward()
                optimiser.step()
            self.networks.append(network)

    def update(self, dataset: Dataset) -> None:
        """Stay as trained: only a training changes networks."""

    def members(self, x: Array | Narrow) -> Narrow:
        """Return what each member says of points, s × n × 1."""
        import torch  # noqa: PLC0415  the same

        with torch.no_grad():
            points = torch.from_numpy(np.array(x, dtype=np.float32))
            return np.stack([network(points).numpy() for network in self.networks])

    def score_pool(self, pool: Any, start: int, stop: int) -> PoolScores:
        """Score a stretch of the pool from its arrays."""
        said = self.members(pool.features()[0][start:stop])
        return PoolScores(said.mean(axis=0), said.std(axis=0), said)

    def predict(self, candidates: Sequence[Candidate]) -> Prediction:
        """Return mean and standard deviation over the members."""
        said = self.members(_points(candidates)).astype(np.float64)
        return Prediction(said.mean(axis=0), said.std(axis=0), np.full(said.shape[1:], 0.01))

    def draw(self, candidates: Sequence[Candidate], s: int, seed: int) -> Array:
        """Return functions: the members, shuffled, again and again."""
        order = np.resize(np.random.default_rng(seed).permutation(MEMBERS), s)
        return self.members(_points(candidates)).astype(np.float64)[order]


def _points(candidates: Sequence[Candidate]) -> Array:
    return np.array([[float(c.parameters[f"x{j}"]) for j in range(DIMENSIONS)] for c in candidates])


def table(folder: Path, n: int, seed: int) -> Path:
    """Write the pool."""
    path = folder / f"pool-{n}-{seed}.npz"
    if not path.exists():
        rng = np.random.default_rng([n, seed])
        np.savez(path, **{f"x{j}": rng.random(n) for j in range(DIMENSIONS)})
    return path


def ours(folder: Path, n: int, seed: int) -> dict[str, float]:
    """Choose a batch twice in one state: scored, and with the scores at hand."""
    from orchestrator.acquisition import pool_scores  # noqa: PLC0415  peers do not load it
    from orchestrator.acquisition.improvement import LogExpectedImprovement  # noqa: PLC0415  the same
    from orchestrator.spaces.columns import Columns  # noqa: PLC0415  the same

    begun = time.process_time()
    parameters = {f"x{j}": {} for j in range(DIMENSIONS)}
    space = Columns(Columns.Options.model_validate({"path": table(folder, n, seed), "parameters": parameters}))
    space.features()
    read = time.process_time() - begun
    known = space.take(np.random.default_rng(seed).choice(n, LABELS, replace=False))
    labels = target(_points(known))
    surrogate: Any = Networks(seed)
    surrogate.learn(_points(known), labels)
    rows = [Row(i + 1, c, c.parameters, "y", float(labels[i]), None, Outcome.MEASURED) for i, c in enumerate(known)]
    dataset = Dataset(tuple(rows))

    def choose() -> tuple[float, list[str]]:
        begun = time.process_time()
        chosen = LogExpectedImprovement().select(
            surrogate,
            space,
            q=BATCH,
            problem=PROBLEM,
            dataset=dataset,
            pending=(),
            closed=frozenset(),
            costs={},
            seed=seed,
        )
        return time.process_time() - begun, [proposal.candidate.id for proposal in chosen]

    scored, first = choose()
    pool_scores.forget()
    cached, second = choose()
    if first != second:
        message = "the batch depends on whether the scores were at hand"
        raise AssertionError(message)
    return {"read": read, "scored": scored, "cached": cached}


def peer(folder: Path, n: int, seed: int, arm: str) -> dict[str, float]:
    """Choose a batch as botorch does from a list."""
    import torch  # noqa: PLC0415  only the work needs it
    from botorch.acquisition.logei import qLogNoisyExpectedImprovement  # noqa: PLC0415  the same
    from botorch.fit import fit_gpytorch_mll  # noqa: PLC0415  the same
    from botorch.models import SingleTaskGP  # noqa: PLC0415  the same
    from botorch.models.ensemble import EnsembleModel  # noqa: PLC0415  the same
    from botorch.optim import optimize_acqf_discrete  # noqa: PLC0415  the same
    from gpytorch.mlls import ExactMarginalLogLikelihood  # noqa: PLC0415  the same

    content = np.load(table(folder, n, seed))
    x = np.stack([content[f"x{j}"] for j in range(DIMENSIONS)], axis=1)
    known = np.random.default_rng(seed).choice(n, LABELS, replace=False)
    inputs, labels = torch.from_numpy(x[known]), torch.from_numpy(target(x[known]))[:, None]
    model: Any
    if arm == "botorch_gp":
        model = SingleTaskGP(inputs, labels)
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    else:
        surrogate = Networks(seed)
        surrogate.learn(x[known], target(x[known]))

        class Ensemble(EnsembleModel):
            """The same networks as botorch wants them: batch × members × q × m."""

            _num_outputs = 1

            def forward(self, X: torch.Tensor) -> torch.Tensor:  # noqa: N803  botorch names it
                said = [network(X.float()).double() for network in surrogate.networks]
                return torch.stack(said, dim=-3)

        model = Ensemble()
    begun = time.process_time()
    function = qLogNoisyExpectedImprovement(model=model, X_baseline=inputs, prune_baseline=True)
    with torch.no_grad():
        optimize_acqf_discrete(function, q=BATCH, choices=torch.from_numpy(x), unique=True)
    return {"scored": time.process_time() - begun}


def child(arm: str, n: int, seed: int, folder: Path) -> None:
    """Measure one unit in this process and write it down for the one that began it."""
    import torch  # noqa: PLC0415  only the work needs it

    torch.set_num_threads(THREADS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)  # libraries reserve, too
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S + 5))
    seconds = ours(folder, n, seed) if arm == "matloop" else peer(folder, n, seed, arm)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    say(json.dumps({**seconds, "peak_mb": peak / 1e6}))


def measure(unit: Unit, folder: Path) -> Mapping[str, Any]:
    """Measure one unit in a process of its own."""
    p = unit.parameters
    n = SIZES[p["size"]]
    table(folder, n, p["seed"])
    asked = ["--child", p["arm"], str(n), str(p["seed"]), str(folder)]
    more = {"XDG_CACHE_HOME": str(folder), "OMP_NUM_THREADS": str(THREADS)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.pool_scaling", *asked],
            capture_output=True,
            text=True,
            timeout=LIMIT_WALL_S,
            check=False,
            cwd=ROOT,
            env={**os.environ, **more},
        )
    except subprocess.TimeoutExpired:
        return {"lost": f"not done after {LIMIT_WALL_S:.0f} s of the clock"}
    if -done.returncode in {signal.SIGXCPU, signal.SIGKILL}:
        return {"lost": f"not done after {LIMIT_S} s of the processor"}
    if done.returncode:
        return {"lost": done.stderr.strip().splitlines()[-1][:200] if done.stderr.strip() else f"rc {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result if result["peak_mb"] < MEMORY / 1e6 else {**result, "lost": "more than 4 GB"}


def rows_of(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Turn the lines into rows: seconds and peak memory of each arm and size that survived."""
    found: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    for line in lines:
        if "lost" not in line["result"]:
            found.setdefault((line["parameters"]["arm"], line["parameters"]["size"]), []).append(line["result"])
    made = []
    for (arm, size), results in found.items():
        for name in ("cached", "scored", "read"):
            values = [result[name] for result in results if name in result]
            if values:
                made.append(row(arm, f"seconds_{size}_{name}", "s", values, low=min(values), high=max(values)))
        peaks = [result["peak_mb"] for result in results]
        made.append(row(arm, f"peak_mb_{size}", "MB", peaks, low=min(peaks), high=max(peaks)))
    return made


def units() -> list[Unit]:
    """List everything that belongs to the benchmark."""
    return [
        Unit(f"{arm}/{size}/{seed}", {"arm": arm, "size": size, "seed": seed})
        for arms in (("matloop",), PEERS)
        for size in SIZES
        for arm in arms
        for seed in range(SEEDS if arm == "matloop" else 1)
    ]


def main() -> None:
    """Measure what is missing and write the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=None, help="run at most so many units now")
    parser.add_argument("--try", dest="small", default=None, metavar="KEY", help="only try one unit, no line")
    parser.add_argument("--child", nargs=4, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        arm, n, seed, folder = arguments.child
        child(arm, int(n), int(seed), Path(folder))
        return
    everything = units()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.small is not None:
            for unit in everything:
                if unit.key == arguments.small:
                    say(f"{unit.key}: {measure(unit, folder)}")
            return
        rooms = [ROOT / "orchestrator" / "acquisition", ROOT / "orchestrator" / "spaces"]
        code = protocol([path for room in rooms for path in room.glob("*.py")])
        lost_already: set[str] = set()

        def work(unit: Unit) -> dict[str, Any]:
            arm = unit.parameters["arm"]
            result = {"lost": "lost with fewer already"} if arm in lost_already else measure(unit, folder)
            if "lost" in result:
                lost_already.add(arm)
            return {**result, "code": code}

        lines = run_missing(
            "pool_scaling",
            everything,
            work,
            protocol=protocol([Path(__file__)]),
            packages=("botorch", "gpytorch", "numpy", "torch"),
            most=arguments.units,
        )
    lost = {line["unit"]: line["result"]["lost"] for line in lines if "lost" in line["result"]}
    made = rows_of(lines)
    summarise(
        "pool_scaling",
        made,
        work=(
            f"One batch of {BATCH} from a columnar pool of {DIMENSIONS} parameters, {LABELS} points of it measured,"
            f" with an ensemble of {MEMBERS} networks; {THREADS} threads. Seconds with the pool still to be scored"
            " (scored; of the peers the whole choice), with the scores of this state on disk (cached), and to read the"
            " table (read, once), of processor time; peak memory of the process. Median, least, most of the seeds."
        ),
        command="python -m tests.benchmarks.pool_scaling",
        protocol=protocol([Path(__file__)]),
        arms=ARMS,
        lost=lost,
        missing=[unit.key for unit in everything if unit.key not in {line["unit"] for line in lines}],
    )
    for one in made:
        say(f"{one['who']}: {one['metric']} {one['median']:.2f} {one['unit']}")
    if len(lines) < len(everything):
        say(f"pool_scaling: {len(lines)} of {len(everything)} units are measured; run again to go on")
        sys.exit(0 if arguments.units is not None else 1)


if __name__ == "__main__":
    main()
