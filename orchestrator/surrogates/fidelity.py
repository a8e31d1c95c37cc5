"""Learn from cheap, less trusted results too: the target is a multiple of what lies below it plus a correction.

Kennedy and O'Hagan, Biometrika 87, 1 (2000), doi:10.1093/biomet/87.1.1: y(x) = ρ · below(x) + δ(x), one level on the
other, in the recursive form of Le Gratiet and Garnier, International Journal for Uncertainty Quantification 4, 365
(2014), doi:10.1615/Int.J.UncertaintyQuantification.2014006914. Every level is a surrogate of its own, any of those
that keep held-out predictions: a trained network, frozen features, process parameters. The uncertainty below enters
with ρ², and a draw is a draw below times ρ plus a draw of the correction, so that it is a function.

Whether what lies below helps is asked at every fit: a level is also trained without it (ρ = 0), and only where the
held-out labels are clearly likelier with it, it is used. Cheap results that are noise are so left aside.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from orchestrator.abilities import Forgets, HoldsOut, KnowsItsDomain, PredictsSuccess
from orchestrator.domain import (
    TARGET,
    Array,
    Candidate,
    Dataset,
    FitReport,
    HeldOut,
    JsonObject,
    Outcome,
    Prediction,
    Problem,
    derive_seed,
    sha256,
)
from orchestrator.errors import SurrogateError
from orchestrator.protocols import LooksAtSpace, Options, SearchSpace, Support, Surrogate
from orchestrator.surrogates import state
from orchestrator.surrogates.calibration import assess
from orchestrator.surrogates.explanation import Explaining
from orchestrator.surrogates.stacked import CLASSES, Member
from orchestrator.surrogates.targets import FEWEST
from orchestrator.surrogates.transfer import log_density

INPUTS: frozenset[Support] = frozenset({"structure", "composition", "parameters"})
ANSWERS: frozenset[Support] = frozenset({"uncertainty", "draws", "feasibility"})


class FidelityOptions(Options):
    """Options of `multi_fidelity`."""

    surrogate: Member = Field(
        default=Member(use="gnn_gp"), description="of the target and of each correction: a name, or {use, options}"
    )
    below: Member | None = Field(
        default=None, description="of the fidelities below the target; the same as 'surrogate' where left out"
    )

    @field_validator("surrogate", "below", mode="before")
    @classmethod
    def _a_name_does(cls, value: Any) -> Any:
        return {"use": value} if isinstance(value, str) else value


@dataclass(frozen=True, eq=False)
class _Level:
    """One fidelity.

    Args:
        fidelity: its name.
        rho: factor of the level below, m; zeros for the lowest, and where it is of no use.
        surrogate: of the correction; of the labels themselves where `rho` is zero.
    """

    fidelity: str
    rho: Array
    surrogate: Surrogate


class MultiFidelity(Explaining):
    """Surrogates of several fidelities, one on the other; see `orchestrator.protocols.Surrogate`.

    It answers for the target. With results of the target alone it is the surrogate named in its options.

    Args:
        options: see `FidelityOptions`.
    """

    Options = FidelityOptions
    kind = "multi_fidelity"

    def __init__(self, options: FidelityOptions | None = None) -> None:
        self.options = options or FidelityOptions()
        self._space: SearchSpace | None = None
        self._example = self._new(self.options.surrogate)
        self._levels: tuple[_Level, ...] = ()
        self._properties: tuple[str, ...] = ()
        self._held_out: dict[str, HeldOut] = {}
        self._loaded = False

    def supports(self) -> frozenset[Support]:
        """Name what every level can learn from, and what the target can answer."""
        low = self._new(self.options.below or self.options.surrogate).supports()
        return (self._example.supports() & low & INPUTS) | (self._example.supports() & ANSWERS)

    def knows(self) -> frozenset[str]:
        """Name the pretrained knowledge of all levels."""
        return self._example.knows() | self._new(self.options.below or self.options.surrogate).knows()

    def look_at(self, space: SearchSpace) -> None:
        """Let the levels look at the space."""
        self._space = space
        self._example = self._new(self.options.surrogate)

    # --- learning ---------------------------------------------------------------------------------------------------

    def fit(self, dataset: Dataset, problem: Problem, seed: int) -> FitReport:
        """Train every level, the cheapest first; see `Surrogate.fit`."""
        started = time.perf_counter()
        self._properties = problem.properties
        before = {level.fidelity: level for level in self._levels} if self._loaded else {}
        levels: list[_Level] = []
        notes: list[str] = []
        report = FitReport(0, dataset.sha256)
        for place, name in enumerate(self._order(dataset, problem, notes)):
            level_seed = derive_seed(seed, place, "fidelity") % 2**31
            old = before.get(name)
            level, report, said = self._fit_level(name, tuple(levels), old, (dataset, problem, level_seed))
            notes += [f"{name}: {note}" for note in said]
            levels.append(level)
        self._levels, self._loaded = tuple(levels), False
        top = levels[-1].surrogate
        labels = dataset.labels(self._properties)
        self._held_out = _about(labels_of(dataset, self._properties), _held_out(top))
        alone = len(levels) == 1
        metrics = report.metrics if alone else {name: assess(one)[0] for name, one in self._held_out.items()}
        shares = {
            name: {f"rho_{level.fidelity}": float(level.rho[j]) for level in levels[1:]}
            for j, name in enumerate(self._properties)
        }
        self._remember(problem, labels)
        return replace(
            report,
            labels=len(labels),
            data_sha256=dataset.sha256,
            metrics={name: {**metrics[name], **shares[name]} for name in self._properties},
            seconds=time.perf_counter() - started,
            notes=tuple(notes),
        )

    def update(self, dataset: Dataset) -> None:
        """Bring every level to a dataset; the factors between them stay those of the fit."""
        for k, level in enumerate(self._need()):
            level.surrogate.update(self._left(dataset, level.fidelity, self._levels[:k], level.rho))
        self._remember(None, dataset.labels(self._properties))

    # --- answering --------------------------------------------------------------------------------------------------

    def predict(self, candidates: Sequence[Candidate]) -> Prediction:
        """Return means and standard deviations at the target, n × m; what is not known below counts with ρ²."""
        return self._told(candidates, self._need())

    def draw(self, candidates: Sequence[Candidate], s: int, seed: int) -> Array:
        """Return the values of `s` functions at the target, s × n × m."""
        levels = self._need()
        values = np.zeros((s, len(candidates), len(self._properties)))
        needed = _needed(levels)
        for k, level in enumerate(needed, len(levels) - len(needed)):
            own = level.surrogate.draw(candidates, s, derive_seed(seed, k, "draw") % 2**31)
            values = level.rho * values + own
        return values

    def held_out(self) -> Mapping[str, HeldOut]:
        """Return the held-out predictions of the target's labels; see `HoldsOut`."""
        return dict(self._held_out)

    def success(self, candidates: Sequence[Candidate]) -> Array:
        """Return the probability that a trial of each candidate yields a value, n; see `PredictsSuccess`."""
        top = self._need()[-1].surrogate
        if not isinstance(top, PredictsSuccess):
            message = f"{self.options.surrogate.use} does not learn from failed trials; choose a Gaussian process"
            raise SurrogateError(message)
        return top.success(candidates)

    def outside(self, candidates: Sequence[Candidate]) -> Array:
        """Return how far outside the target's labels each candidate lies, n; see `KnowsItsDomain`."""
        top = self._need()[-1].surrogate
        if not isinstance(top, KnowsItsDomain):
            message = f"{self.options.surrogate.use} does not know its domain; choose a Gaussian process"
            raise SurrogateError(message)
        return top.outside(candidates)

    def forget(self) -> None:
        """Let the levels drop what they computed of candidates."""
        for level in self._levels:
            if isinstance(level.surrogate, Forgets):
                level.surrogate.forget()

    # --- keeping ----------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write each level into a folder of its own, and the factors beside the levels' hashes."""
        levels = self._need()
        rest: JsonObject = {"fidelities": [level.fidelity for level in levels], "options": self._layout()}
        arrays: dict[str, npt.NDArray[Any]] = {}
        for k, level in enumerate(levels):
            (folder / f"level-{k}").mkdir()
            level.surrogate.save(folder / f"level-{k}")
            arrays |= {f"rho.{k}": level.rho, f"sha256.{k}": _hash(folder / f"level-{k}")}
        state.write(folder, self.kind, self._properties, arrays, rest)

    def load(self, folder: Path, problem: Problem) -> None:
        """Read what `save` wrote."""
        arrays, rest = state.read(folder, self.kind, problem.properties)
        if rest["options"] != self._layout():
            message = f"the fit in {folder} has other surrogates or options in its levels; train again without it"
            raise SurrogateError(message)
        self._properties = problem.properties
        levels = []
        for k, name in enumerate(rest["fidelities"]):
            surrogate = self._new(self._member(name))
            surrogate.load(folder / f"level-{k}", problem)
            if not np.array_equal(_hash(folder / f"level-{k}"), arrays[f"sha256.{k}"]):
                message = f"level {k} of the fit in {folder} belongs to another fit; train again without loading it"
                raise SurrogateError(message)
            levels.append(_Level(name, arrays[f"rho.{k}"], surrogate))
        self._levels, self._held_out, self._loaded = tuple(levels), {}, True
        self._remember(problem, None)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _order(self, dataset: Dataset, problem: Problem, notes: list[str]) -> list[str]:
        """Return the fidelities to learn from, the cheapest first and the target last."""
        cost = {fidelity.name: fidelity.cost for fidelity in problem.fidelities}
        found = []
        for name in dataset.fidelities:
            fewest = min(np.isfinite(dataset.labels(problem.properties, name).values).sum(0).tolist(), default=0)
            if name != TARGET and fewest >= FEWEST:
                found.append(name)
            elif name != TARGET:
                notes.append(f"fidelity {name} has {fewest} labels of a property; {FEWEST} are needed to learn from it")
        return [*sorted(found, key=lambda name: (cost.get(name, math.inf), name)), TARGET]

    def _fit_level(
        self, name: str, below: tuple[_Level, ...], old: _Level | None, how: tuple[Dataset, Problem, int]
    ) -> tuple[_Level, FitReport, list[str]]:
        """Train one level without what lies below, and with it where that may help; return the better one."""
        dataset, problem, seed = how
        none = np.zeros(len(problem.properties))
        start = old.surrogate if old is not None and not np.any(old.rho) else None
        plain, report = self._trained(name, none, below, start, how)
        if not below:
            return plain, report, list(report.notes)
        labels = dataset.labels(problem.properties, name)
        slopes = _slopes(labels.values, self._told(labels.candidates, below))
        start = old.surrogate if old is not None and np.any(old.rho) else None
        upon, upon_report = self._trained(name, slopes, below, start, how)
        values = labels_of(dataset, problem.properties, name)
        one, two = _about(values, _held_out(plain.surrogate)), _about(values, _held_out(upon.surrogate))
        # A slope is one more number learned from the same labels: it has to earn half the logarithm of their number.
        earned = {p: log_density({p: two[p]}) - log_density({p: one[p]}) for p in problem.properties}
        wanted = {p: 0.5 * math.log(len(one[p].labels)) / len(one[p].labels) for p in problem.properties}
        good = np.array([earned[p] > wanted[p] for p in problem.properties])
        said = [
            f"{p} as {slopes[j]:.3g} × {below[-1].fidelity} plus a correction: held-out error"
            f" {np.abs(two[p].residuals).mean():.3g}, without {np.abs(one[p].residuals).mean():.3g};"
            f" {'used' if good[j] else 'left aside'}"
            for j, p in enumerate(problem.properties)
        ]
        if not good.any():
            return plain, report, [*said, *report.notes]
        if not good.all():
            upon, upon_report = self._trained(name, np.where(good, slopes, 0.0), below, None, (dataset, problem, seed))
        return upon, upon_report, [*said, *upon_report.notes]

    def _trained(
        self,
        name: str,
        rho: Array,
        below: tuple[_Level, ...],
        start: Surrogate | None,
        how: tuple[Dataset, Problem, int],
    ) -> tuple[_Level, FitReport]:
        dataset, problem, seed = how
        surrogate = start if start is not None else self._new(self._member(name))
        report = surrogate.fit(self._left(dataset, name, below, rho), problem, seed)
        return _Level(name, rho, surrogate), report

    def _left(self, dataset: Dataset, name: str, below: Sequence[_Level], rho: Array) -> Dataset:
        """Return what a level is trained on: its labels less ρ times what lies below, as if they were the target's."""
        column = {p: j for j, p in enumerate(self._properties)}
        rows = [
            row
            for row in dataset.rows
            if row.fidelity == name and (row.outcome is Outcome.FAILED or row.property in column)
        ]
        less = np.zeros(len(rows))
        if np.any(rho) and rows:
            mean = self._told([row.applied_candidate for row in rows], below).mean
            places = [column.get(row.property, 0) for row in rows]
            less = rho[places] * mean[np.arange(len(rows)), places]
        return Dataset(
            tuple(
                replace(row, fidelity=TARGET, value=None if row.value is None else row.value - own)
                for row, own in zip(rows, less.tolist(), strict=True)
            )
        )

    def _told(self, candidates: Sequence[Candidate], levels: Sequence[_Level]) -> Prediction:
        shape = (len(candidates), len(self._properties))
        mean, variance, noise = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        for level in _needed(levels):
            own = level.surrogate.predict(candidates)
            mean = level.rho * mean + own.mean
            variance = level.rho**2 * variance + own.epistemic**2
            noise = own.noise
        return Prediction(mean, np.sqrt(variance), noise)

    def _need(self) -> tuple[_Level, ...]:
        if not self._levels:
            message = f"this {self.kind} was asked before it was trained; call fit or load first"
            raise SurrogateError(message)
        return self._levels

    def _member(self, fidelity: str) -> Member:
        return self.options.surrogate if fidelity == TARGET else self.options.below or self.options.surrogate

    def _new(self, chosen: Member) -> Surrogate:
        kind = CLASSES[chosen.use]
        made: Surrogate = kind(kind.Options.model_validate(chosen.options))
        if self._space is not None and isinstance(made, LooksAtSpace):
            made.look_at(self._space)
        return made

    def _layout(self) -> JsonObject:
        layout: JsonObject = self.options.model_dump(mode="json")
        return layout

    def _columns_of(self, candidates: Sequence[Candidate]) -> Array:
        top = self._need()[-1].surrogate
        if isinstance(top, Explaining):
            return top._columns_of(candidates)  # noqa: SLF001  one mix-in asks another
        message = f"{self.options.surrogate.use} does not say how far apart candidates are"
        raise SurrogateError(message)


def _hash(folder: Path) -> npt.NDArray[np.uint8]:
    """Return the SHA-256 of a level's description, which holds that of its arrays."""
    return np.frombuffer(bytes.fromhex(sha256((folder / state.REST).read_bytes())), dtype=np.uint8)


def labels_of(dataset: Dataset, properties: Sequence[str], fidelity: str = TARGET) -> dict[str, dict[int, float]]:
    """Return the labels of each property at one fidelity, by trial number."""
    labels = dataset.labels(properties, fidelity)
    return {
        name: {t: float(v) for t, v in zip(labels.trials, labels.values[:, j], strict=True) if math.isfinite(v)}
        for j, name in enumerate(properties)
    }


def _needed(levels: Sequence[_Level]) -> Sequence[_Level]:
    """Return the levels from the last one on that stands on nothing below."""
    first = max((k for k, level in enumerate(levels) if not np.any(level.rho)), default=0)
    return levels[first:]


def _slopes(values: Array, below: Prediction) -> Array:
    """Return the slope of each property's labels over what lies below, m.

    It is the least-squares one, shrunk as far as what lies below is uncertain where the labels are: without that, an
    almost constant prediction would get an enormous factor.
    """
    slopes = np.zeros(values.shape[1])
    for j in range(values.shape[1]):
        there = np.isfinite(values[:, j])
        y, x = values[there, j], below.mean[there, j]
        y, x = y - y.mean(), x - x.mean()
        size = float(x @ x) + float((below.epistemic[there, j] ** 2).sum())
        slopes[j] = float(x @ y) / size if size > 0 else 0.0
    return slopes


def _about(labels: Mapping[str, Mapping[int, float]], held_out: Mapping[str, HeldOut]) -> dict[str, HeldOut]:
    """Return held-out predictions of corrections as those of the labels: the residuals are the same."""
    return {
        name: replace(one, labels=np.array([labels[name][trial] for trial in one.trials]))
        for name, one in held_out.items()
    }


def _held_out(surrogate: Surrogate) -> Mapping[str, HeldOut]:
    if not isinstance(surrogate, HoldsOut):
        message = f"{type(surrogate).__name__} keeps no held-out predictions, by which fidelities are judged"
        raise SurrogateError(message)
    return surrogate.held_out()
