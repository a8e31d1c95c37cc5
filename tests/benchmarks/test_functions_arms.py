"""What the benchmark of test functions measures: problems of botorch, arms, one unit of work.

These lines are part of the protocol: a change here measures everything anew. A unit is one arm on one problem from one
seed's Sobol points, measured one at a time up to the problem's budget. The botorch arm is what its tutorials do:
`SingleTaskGP` with its defaults, `qLogExpectedImprovement` or with constraints `qLogNoisyExpectedImprovement`,
`optimize_acqf` with 10 restarts of 512 samples, and on mixed spaces `optimize_acqf_mixed_alternating`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from botorch.acquisition.logei import qLogExpectedImprovement, qLogNoisyExpectedImprovement
from botorch.acquisition.objective import GenericMCObjective
from botorch.fit import fit_gpytorch_mll
from botorch.models import ModelListGP, SingleTaskGP
from botorch.models.transforms import Normalize, Standardize
from botorch.optim import optimize_acqf, optimize_acqf_mixed_alternating
from botorch.test_functions import Ackley, AugmentedBranin, AugmentedHartmann, PressureVessel, Rosenbrock
from botorch.test_functions.synthetic import ConstrainedGramacy, ConstrainedHartmann
from gpytorch.mlls import ExactMarginalLogLikelihood, SumMarginalLogLikelihood

from orchestrator import plugins
from orchestrator.config.defaults import default_surrogate
from orchestrator.config.schema import CampaignConfig
from orchestrator.domain import (
    TARGET,
    Budget,
    Candidate,
    Dataset,
    Fidelity,
    Outcome,
    Row,
    derive_seed,
)
from tests.benchmarks.units import HERE, Unit, protocol

ROOT = HERE.parents[1]
ROUGH = "rough"
ARMS = ("matloop", "matloop_target_only", "botorch", "random")
WORDS = {
    "matloop": "the shipped default; where there are fidelities, it chooses them",
    "matloop_target_only": "the shipped default without the cheaper fidelity",
    "botorch": "botorch's tutorials: SingleTaskGP, log expected improvement, optimize_acqf or its mixed kind",
    "random": "random points of the space",
}
SLOW = ("matloop", "matloop_target_only", "botorch")
"""Arms whose ask may take more than a second: ten seeds; thirty of the others."""


@dataclass(frozen=True)
class Work:
    """One problem, to be minimised.

    Args:
        function: of botorch.
        whole: positions of the axes that take whole numbers only.
        optimum: smallest feasible value.
        starts: Sobol points that every arm begins with.
        budget: measurements in all; with fidelities, their price, one at the target costing 1.
        constraints: how many, at least zero where satisfied.
        rough: value of the last axis at the cheaper fidelity, and its price; None where there is none.
    """

    function: Callable[[], Any]
    optimum: float
    starts: int
    budget: float
    whole: tuple[int, ...] = ()
    constraints: int = 0
    rough: tuple[float, float] | None = None


WORKS = {
    "gramacy_constrained": Work(ConstrainedGramacy, 0.5998, 6, 30, constraints=2),
    "hartmann_constrained": Work(ConstrainedHartmann, -3.32237, 14, 50, constraints=1),
    "pressure_vessel": Work(PressureVessel, 6059.946341, 10, 50, constraints=4),
    "ackley_mixed": Work(
        lambda: Ackley(dim=13, bounds=[(0.0, 1.0)] * 10 + [(-1.0, 1.0)] * 3), 0.0, 14, 60, whole=tuple(range(10))
    ),
    "rosenbrock_mixed": Work(lambda: Rosenbrock(dim=6, bounds=[(-5.0, 10.0)] * 6), 0.0, 14, 60, whole=(0, 1, 2, 3)),
    "branin_fidelities": Work(AugmentedBranin, 0.397887, 4, 20, rough=(0.5, 0.2)),
    "hartmann_fidelities": Work(AugmentedHartmann, -3.32237, 8, 45, rough=(0.5, 0.2)),
}


class Bench:
    """A problem as a campaign sees it: a box, values and prices."""

    def __init__(self, name: str) -> None:
        self.work = WORKS[name]
        self.function = self.work.function()
        bounds = self.function.bounds.double().numpy()
        self.bounds = bounds[:, :-1] if self.work.rough else bounds
        self.names = [f"x{i}" for i in range(self.bounds.shape[1])]
        self.content: dict[str, Any] = {
            "name": name.replace("_", "-"),
            "objectives": [{"property": "f", "unit": "dimensionless", "goal": "minimize"}],
            "constraints": [
                {"property": f"c{k}", "unit": "dimensionless", "min": 0} for k in range(self.work.constraints)
            ],
            "space": {
                "use": "box",
                "options": {
                    "parameters": {
                        name: {"min": float(low), "max": float(high)}
                        | ({"kind": "integer"} if i in self.work.whole else {})
                        for i, (name, low, high) in enumerate(zip(self.names, *self.bounds, strict=True))
                    }
                },
            },
            "budget": {"trials": round(self.work.budget)},
        }
        self.config = CampaignConfig.model_validate(self.content)
        self.space = plugins.build("spaces", "box", self.content["space"]["options"])
        self.problem = self.config.problem()

    def point(self, candidate: Candidate) -> list[float]:
        """Return the numbers of a candidate."""
        return [float(candidate.parameters[name]) for name in self.names]

    def measured(self, point: list[float], fidelity: str) -> dict[str, float]:
        """Return the property, and the constrained ones, at a point."""
        more = [] if self.work.rough is None else [1.0 if fidelity == TARGET else self.work.rough[0]]
        x = torch.tensor([[*point, *more]], dtype=torch.double)
        found = {"f": float(self.function(x)[0])}
        if self.work.constraints:
            found |= {f"c{k}": float(v) for k, v in enumerate(self.function.evaluate_slack(x)[0])}
        return found

    def price(self, fidelity: str) -> float:
        """Return what one measurement costs."""
        return self.work.rough[1] if fidelity == ROUGH and self.work.rough else 1.0


class Arm:
    """Chooses the next candidate and the fidelity to measure it at."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench, self.seed = bench, seed

    def ask(self, dataset: Dataset, number: int) -> tuple[Candidate, str]:
        """Return what to measure next."""
        raise NotImplementedError


class Ours(Arm):
    """The shipped default: what a file gets that names space, problem, budget and seed."""

    def __init__(self, bench: Bench, seed: int, *, fidelities: bool) -> None:
        super().__init__(bench, seed)
        chosen = bench.config.acquisition
        self.problem = bench.problem
        surrogate = default_surrogate(bench.space)
        use, options = surrogate.use, dict(surrogate.options)
        policy = (chosen.use, dict(chosen.options))
        if fidelities and bench.work.rough is not None:  # as the schema and the defaults do for a file with fidelities
            levels = (Fidelity(ROUGH, bench.work.rough[1]), Fidelity(TARGET, 1.0))
            budget = Budget(cost=bench.work.budget)
            self.problem = replace(bench.problem, fidelities=levels, budget=budget)
            use, options = "multi_fidelity", {"surrogate": surrogate.model_dump()}
            policy = ("fidelity_choice", {})
        self.policy = plugins.build("acquisition", *policy)
        self.surrogate = plugins.build("surrogates", use, options)
        if hasattr(self.surrogate, "look_at"):
            self.surrogate.look_at(bench.space)

    def ask(self, dataset: Dataset, number: int) -> tuple[Candidate, str]:
        """Train on everything and choose."""
        self.surrogate.fit(dataset, self.problem, derive_seed(self.seed, number, "fit"))
        self.surrogate.update(dataset)
        closed = frozenset(row.candidate.id for row in dataset.rows if row.fidelity == TARGET)
        made = self.policy.select(
            self.surrogate,
            self.bench.space,
            q=1,
            problem=self.problem,
            dataset=dataset,
            pending=(),
            closed=closed,
            costs={one.name: one.cost for one in self.problem.fidelities},
            seed=derive_seed(self.seed, number, "select"),
        )[0]
        return made.candidate, made.fidelity


class Tutorial(Arm):
    """botorch as its tutorials use it, at the target."""

    def ask(self, dataset: Dataset, number: int) -> tuple[Candidate, str]:
        """Fit and optimise anew."""
        bench = self.bench
        torch.manual_seed(derive_seed(self.seed, number, "botorch") % 2**31)
        labels = dataset.labels(bench.problem.properties)
        x = torch.tensor([bench.point(c) for c in labels.candidates], dtype=torch.double)
        y = torch.from_numpy(labels.values).double()
        y[:, 0] = -y[:, 0]
        bounds = torch.from_numpy(bench.bounds)
        made = [
            SingleTaskGP(
                x, y[:, [j]], input_transform=Normalize(x.shape[1], bounds=bounds), outcome_transform=Standardize(1)
            )
            for j in range(y.shape[1])
        ]
        if bench.work.constraints:
            model: Any = ModelListGP(*made)
            fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
            acquisition: Any = qLogNoisyExpectedImprovement(
                model,
                X_baseline=x,
                prune_baseline=True,
                objective=GenericMCObjective(lambda values, X=None: values[..., 0]),  # noqa: N803  botorch's name
                constraints=[lambda values, j=j: -values[..., j] for j in range(1, y.shape[1])],
            )
        else:
            model = made[0]
            fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
            acquisition = qLogExpectedImprovement(model, best_f=y[:, 0].max())
        if bench.work.whole:
            values = {
                j: [float(v) for v in range(round(bench.bounds[0, j]), round(bench.bounds[1, j]) + 1)]
                for j in bench.work.whole
            }
            found, _ = optimize_acqf_mixed_alternating(
                acquisition, bounds, discrete_dims=values, q=1, num_restarts=10, raw_samples=512
            )
        else:
            found, _ = optimize_acqf(acquisition, bounds, q=1, num_restarts=10, raw_samples=512)
        point = np.clip(found[0].detach().numpy(), *bench.bounds)
        return bench.space.make(dict(zip(bench.names, map(float, point), strict=True))), TARGET


class Random(Arm):
    """Random points."""

    def ask(self, dataset: Dataset, number: int) -> tuple[Candidate, str]:
        """Draw one."""
        del dataset
        return self.bench.space.sample(1, derive_seed(self.seed, number, "random"))[0], TARGET


def arm_of(name: str, bench: Bench, seed: int) -> Arm:
    """Build an arm."""
    if name.startswith("matloop"):
        return Ours(bench, seed, fidelities=name == "matloop")
    return Tutorial(bench, seed) if name == "botorch" else Random(bench, seed)


def measure(unit: Unit) -> Mapping[str, Any]:
    """Run one arm on one problem with one seed.

    Returns:
        Regret after every measurement at the target, seconds of each ask, price at the end, and our code's hash.
    """
    p = unit.parameters
    bench = Bench(str(p["work"]))
    work, seed = bench.work, int(p["seed"])
    arm = arm_of(str(p["arm"]), bench, seed)
    rows: list[Row] = []
    spent, trial = 0.0, 0
    regrets: list[float] = []
    best = worst_of(bench)

    def tell(candidate: Candidate, fidelity: str) -> None:
        nonlocal spent, trial, best
        trial += 1
        spent += bench.price(fidelity)
        found = bench.measured(bench.point(candidate), fidelity)
        rows.extend(
            Row(trial, candidate, {}, name, value, None, Outcome.MEASURED, fidelity, measurement=100 * trial + j)
            for j, (name, value) in enumerate(found.items())
        )
        if fidelity == TARGET:
            if all(found[c.property] >= 0 for c in bench.problem.constraints):
                best = min(best, found["f"])
            regrets.append(best - work.optimum)

    for candidate in bench.space.sample(work.starts, derive_seed(seed, 0, "starts")):
        tell(candidate, TARGET)
        if work.rough is not None and p["arm"] == "matloop":
            tell(candidate, ROUGH)
    asks = []
    while spent + 1.0 <= work.budget + 1e-9:
        begun = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # botorch's own remarks on fits and inputs; nothing here acts on them
            candidate, fidelity = arm.ask(Dataset(tuple(rows)), trial + 1)
        asks.append(time.perf_counter() - begun)
        tell(candidate, fidelity)
    return {
        "regret": regrets[-1],
        "curve": [float(f"{r:.6g}") for r in regrets],
        "seconds_an_ask": float(np.median(asks)),
        "asks": len(asks),
        "price": round(spent, 6),
        "code": learned_by(str(p["arm"])),
    }


def worst_of(bench: Bench) -> float:
    """Return what counts as reached before anything feasible is: the worst of 1,024 random points."""
    return max(bench.measured(bench.point(c), TARGET)["f"] for c in bench.space.sample(1024, 0))


def learned_by(arm: str) -> str:
    """Return the hash of our code behind an arm; empty for the others."""
    if not arm.startswith("matloop"):
        return ""
    files = [*(ROOT / "orchestrator" / "acquisition").glob("box*.py"), ROOT / "orchestrator" / "spaces" / "box.py"]
    names = ("encoding", "gaussian", "gaussian_process", "heads", "hyper", "kernels", "targets", "fidelity")
    files += [ROOT / "orchestrator" / "acquisition" / f"{n}.py" for n in ("continuous", "encoding", "fidelity_choice")]
    return protocol([*files, *(ROOT / "orchestrator" / "surrogates" / f"{n}.py" for n in names)])


def units(seeds: int, cheap_seeds: int) -> list[Unit]:
    """List everything that belongs to the benchmark."""
    return [
        Unit(f"{name}/{arm}/{seed}", {"work": name, "arm": arm, "seed": seed})
        for seed in range(max(seeds, cheap_seeds))
        for name, work in WORKS.items()
        for arm in ARMS
        if work.rough is not None or arm != "matloop_target_only"
        if seed < (seeds if arm in SLOW else cheap_seeds)
    ]
