"""Learn from cheap, less trusted results too: the target is a multiple of what lies below it plus a correction.

Kennedy and O'Hagan, Biometrika 87, 1 (2000), doi:10.1093/biomet/87.1.1: y(x) = ρ · below(x) + δ(x), one level on the
other, in the recursive form of Le Gratiet and Garnier, International Journal for Uncertainty Quantification 4, 365
(2014), doi:10.1615/Int.J.UncertaintyQuantification.2014006914. Every level is a surrogate of its own, any of those
that keep held-out predictions: a trained network, frozen features, process parameters. The uncertainty below enters
with ρ², and a draw is a draw below times ρ plus a draw of the correction, so that it is a function.

Whether what lies below helps is asked at every fit: a level is also trained without it (ρ = 0), and only where the
held-out labels are clearly likelier with it, it is used. Cheap results that are noise are so left aside. Results of
earlier campaigns (fidelities ``earlier:NAME``) stand on nothing, and each is offered to every level above beside the
next cheaper fidelity; a level stands on the one that helps most. As long as the target has too few labels to ask, it is
taken to be what lies below it plus an unknown constant.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator

from orchestrator.abilities import BotorchView, Forgets, HoldsOut, KnowsItsDomain, PredictsSuccess
from orchestrator.domain import (
    EARLIER,
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
from orchestrator.errors import IncompatibleError, SurrogateError
from orchestrator.protocols import BoxSpace, LooksAtSpace, Options, SearchSpace, Support, Surrogate
from orchestrator.surrogates import state
from orchestrator.surrogates.calibration import assess
from orchestrator.surrogates.explanation import Explaining
from orchestrator.surrogates.levels import (
    Level,
    about,
    about_earlier,
    drawn,
    fewest_labels,
    label_count,
    labels_of,
    offered,
    predicted,
    slopes_over,
    stands_on,
)
from orchestrator.surrogates.offset import Offset
from orchestrator.surrogates.stacked import CLASSES, Member
from orchestrator.surrogates.targets import FEWEST
from orchestrator.surrogates.transfer import log_density

TINY = 1e-300
INPUTS: frozenset[Support] = frozenset({"structure", "composition", "parameters"})
ANSWERS: frozenset[Support] = frozenset({"uncertainty", "draws", "feasibility"})
GRADIENTS: frozenset[Support] = frozenset({"botorch"})


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
        self._levels: tuple[Level, ...] = ()
        self._properties: tuple[str, ...] = ()
        self._held_out: dict[str, HeldOut] = {}
        self._loaded = False

    def supports(self) -> frozenset[Support]:
        """Name what every level can learn from, and what the target can answer."""
        high, low = self._example.supports(), self._new(self.options.below or self.options.surrogate).supports()
        constant = bool(self._levels) and isinstance(self._levels[-1].surrogate, Offset)
        gradients = isinstance(self._space, BoxSpace) and not constant  # a box names the columns of all levels
        return (high & low & INPUTS) | (high & ANSWERS) | (high & low & GRADIENTS if gradients else frozenset())

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
        before = {level.fidelity: (level, stands_on(level, self._levels)) for level in self._levels if self._loaded}
        levels: list[Level] = []
        notes: list[str] = []
        report = FitReport(0, dataset.sha256)
        order = self._order(dataset, problem, notes)
        for place, name in enumerate(order):
            level_seed = derive_seed(seed, place, "fidelity") % 2**31
            old = before.get(name)
            if name == TARGET and levels and fewest_labels(dataset, problem, name) < FEWEST:
                level, report, said = self._offset(tuple(levels), dataset, problem)
                notes += [f"{name}: {note}" for note in said]
                levels.append(level)
                break
            level, report, said = self._fit_level(name, tuple(levels), old, (dataset, problem, level_seed))
            notes += [f"{name}: {note}" for note in said]
            levels.append(level)
        self._levels, self._loaded = tuple(levels), False
        top = levels[-1].surrogate
        labels = dataset.labels(self._properties)
        self._held_out = about(labels_of(dataset, self._properties), _held_out(top))
        alone = len(levels) == 1
        metrics = report.metrics if alone else {name: assess(one)[0] for name, one in self._held_out.items()}
        notes += about_earlier(levels)
        shares = {
            name: {f"rho_{level.fidelity}": float(level.rho[j]) for level in levels[1:]}
            for j, name in enumerate(self._properties)
        }
        self._remember(problem, labels)
        return replace(
            report,
            labels=len(labels),
            data_sha256=dataset.sha256,
            metrics={name: {**metrics.get(name, {}), **shares[name]} for name in self._properties},
            seconds=time.perf_counter() - started,
            notes=tuple(notes),
        )

    def update(self, dataset: Dataset) -> None:
        """Bring every level to a dataset; the factors between them stay those of the fit."""
        for level in self._need():
            level.surrogate.update(self._left(dataset, level, self._levels))
        self._remember(None, dataset.labels(self._properties))

    # --- answering --------------------------------------------------------------------------------------------------

    def predict(self, candidates: Sequence[Candidate]) -> Prediction:
        """Return means and standard deviations at the target, n × m; what is not known below counts with ρ²."""
        return predicted(candidates, self._need())

    def draw(self, candidates: Sequence[Candidate], s: int, seed: int) -> Array:
        """Return the values of `s` functions at the target, s × n × m."""
        return drawn(candidates, self._need(), s, seed)

    def informs(self, candidates: Sequence[Candidate], fidelities: Sequence[str]) -> Array:
        """Return the share of the target's variance that a result of each fidelity would remove, n × fidelities.

        It is the squared correlation of the result, its noise included, with the target: what is not known at a level
        reaches the target through the factors on the way; a level that the target does not stand on tells nothing.
        The mean over the properties counts.
        """
        levels = self._need()
        target = predicted(candidates, levels).epistemic ** 2
        shares = np.zeros((len(candidates), len(fidelities)))
        place: int | None = len(levels) - 1
        rho = np.ones(len(self._properties))
        while place is not None:
            level = levels[place]
            if level.fidelity in fidelities:
                there = predicted(candidates, levels, place)
                known = there.epistemic**4 / np.maximum(there.epistemic**2 + there.noise**2, TINY)
                share = np.clip(rho**2 * known / np.maximum(target, TINY), 0.0, 1.0)
                shares[:, fidelities.index(level.fidelity)] = share.mean(axis=1)
            rho, place = rho * level.rho, level.below
        return shares

    def to_botorch(self) -> BotorchView:
        """Return the target's posterior as a sum of botorch models.

        Raises:
            IncompatibleError: the levels are no exact Gaussian processes over the columns of one box.
        """
        levels = self._need()
        if "botorch" not in self.supports():
            message = (
                f"{self.options.surrogate.use} over several fidelities has no botorch model here: that takes exact"
                " Gaussian processes on a box and enough labels of the target; choose a policy that uses draws"
            )
            raise IncompatibleError(message)
        from orchestrator.surrogates.summed import summed_view  # noqa: PLC0415  only boxes pay for botorch

        return summed_view(levels)

    def held_out(self) -> Mapping[str, HeldOut]:
        """Return the held-out predictions of the target's labels; see `HoldsOut`."""
        return dict(self._held_out)

    def success(self, candidates: Sequence[Candidate]) -> Array:
        """Return the probability that a trial of each candidate yields a value, n; see `PredictsSuccess`."""
        top = self._speaker()
        if not isinstance(top, PredictsSuccess):
            message = f"{self.options.surrogate.use} does not learn from failed trials; choose a Gaussian process"
            raise SurrogateError(message)
        return top.success(candidates)

    def outside(self, candidates: Sequence[Candidate]) -> Array:
        """Return how far outside the target's labels each candidate lies, n; see `KnowsItsDomain`."""
        top = self._speaker()
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
        rest: JsonObject = {
            "fidelities": [level.fidelity for level in levels],
            "below": [level.below for level in levels],
            "offset": isinstance(levels[-1].surrogate, Offset),
            "options": self._layout(),
        }
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
        # a fit of the layout before names no places: each level stood on the one before it
        places = rest.get("below") or [None, *range(len(rest["fidelities"]) - 1)]
        for k, name in enumerate(rest["fidelities"]):
            surrogate = Offset() if rest.get("offset") and name == TARGET else self._new(self._member(name))
            surrogate.load(folder / f"level-{k}", problem)
            if not np.array_equal(_hash(folder / f"level-{k}"), arrays[f"sha256.{k}"]):
                message = f"level {k} of the fit in {folder} belongs to another fit; train again without loading it"
                raise SurrogateError(message)
            below = places[k] if np.any(arrays[f"rho.{k}"]) else None
            levels.append(Level(name, arrays[f"rho.{k}"], surrogate, below))
        self._levels, self._held_out, self._loaded = tuple(levels), {}, True
        self._remember(problem, None)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _order(self, dataset: Dataset, problem: Problem, notes: list[str]) -> list[str]:
        """Return the fidelities to learn from, the cheapest first and the target last."""
        cost = {fidelity.name: fidelity.cost for fidelity in problem.fidelities}
        found = []
        for name in dataset.fidelities:
            fewest = fewest_labels(dataset, problem, name)
            if name != TARGET and fewest >= FEWEST:
                found.append(name)
            elif name != TARGET:
                notes.append(f"fidelity {name} has {fewest} labels of a property; {FEWEST} are needed to learn from it")
        found.sort(key=lambda name: (not name.startswith(EARLIER), cost.get(name, math.inf), name))
        return [*found, TARGET]

    def _offset(
        self, levels: tuple[Level, ...], dataset: Dataset, problem: Problem
    ) -> tuple[Level, FitReport, list[str]]:
        """Take the target to be what lies below it plus an unknown constant: too few labels to ask for more."""
        own = [k for k, level in enumerate(levels) if not level.fidelity.startswith(EARLIER)]
        place = (
            own[-1] if own else max(range(len(levels)), key=lambda k: (label_count(dataset, problem, levels[k]), -k))
        )
        spread = np.nanstd(dataset.labels(problem.properties, levels[place].fidelity).values, axis=0)
        level = Level(TARGET, np.ones(len(problem.properties)), Offset(spread), place)
        report = level.surrogate.fit(self._left(dataset, level, levels), problem, 0)
        count = fewest_labels(dataset, problem, TARGET)
        said = (
            f"{count} labels of a property: taken as {levels[place].fidelity} plus a constant, which nothing judges yet"
        )
        return level, report, [said]

    def _fit_level(
        self, name: str, levels: tuple[Level, ...], old: tuple[Level, str] | None, how: tuple[Dataset, Problem, int]
    ) -> tuple[Level, FitReport, list[str]]:
        """Train one level without what lies below, and with each that may help; return the best one."""
        dataset, problem, _ = how
        plain = Level(name, np.zeros(len(problem.properties)), self._start(name, old, ""))
        best, report = plain, plain.surrogate.fit(self._left(dataset, plain, levels), problem, how[2])
        told: list[str] = []
        most = 0.0
        for place in offered(name, levels):
            level, found, said, gain = self._upon(plain, place, levels, old, how)
            told += said
            if level is not None and found is not None and gain > most:
                best, report, most = level, found, gain
        return best, report, [*told, *report.notes]

    def _upon(
        self,
        plain: Level,
        place: int,
        levels: tuple[Level, ...],
        old: tuple[Level, str] | None,
        how: tuple[Dataset, Problem, int],
    ) -> tuple[Level | None, FitReport | None, list[str], float]:
        """Train a level on top of another one, and say what that gains by the held-out labels."""
        dataset, problem, seed = how
        name, properties = plain.fidelity, problem.properties
        labels = dataset.labels(properties, name)
        slopes = slopes_over(labels.values, predicted(labels.candidates, levels, place))
        level = Level(name, slopes, self._start(name, old, levels[place].fidelity), place)
        report = level.surrogate.fit(self._left(dataset, level, levels), problem, seed)
        values = labels_of(dataset, properties, name)
        one, two = about(values, _held_out(plain.surrogate)), about(values, _held_out(level.surrogate))
        # A slope is one more number learned from the same labels: it has to earn half the logarithm of their number.
        earned = {p: log_density({p: two[p]}) - log_density({p: one[p]}) for p in properties}
        wanted = {p: 0.5 * math.log(len(one[p].labels)) / len(one[p].labels) for p in properties}
        good = np.array([earned[p] > wanted[p] for p in properties])
        below = levels[place].fidelity
        said = [
            f"{p} as {slopes[j]:.3g} × {below} plus a correction: held-out error"
            f" {np.abs(two[p].residuals).mean():.3g}, without {np.abs(one[p].residuals).mean():.3g};"
            f" {'used' if good[j] else 'left aside'}"
            for j, p in enumerate(properties)
        ]
        if not good.any():
            return None, None, said, 0.0
        if not good.all():
            level = Level(name, np.where(good, slopes, 0.0), self._new(self._member(name)), place)
            report = level.surrogate.fit(self._left(dataset, level, levels), problem, seed)
        return level, report, said, sum(earned[p] for p, yes in zip(properties, good, strict=True) if yes)

    def _start(self, name: str, old: tuple[Level, str] | None, below: str) -> Surrogate:
        """Return what a level is trained from: the old one where that stood on the same, else a new one."""
        if old is not None and old[1] == below and not isinstance(old[0].surrogate, Offset):
            return old[0].surrogate
        return self._new(self._member(name))

    def _left(self, dataset: Dataset, level: Level, levels: Sequence[Level]) -> Dataset:
        """Return what a level is trained on: its labels less ρ times what lies below, as if they were the target's."""
        column = {p: j for j, p in enumerate(self._properties)}
        rows = [
            row
            for row in dataset.rows
            if row.fidelity == level.fidelity and (row.outcome is Outcome.FAILED or row.property in column)
        ]
        less = np.zeros(len(rows))
        if level.below is not None and np.any(level.rho) and rows:
            mean = predicted([row.applied_candidate for row in rows], levels, level.below).mean
            places = [column.get(row.property, 0) for row in rows]
            less = level.rho[places] * mean[np.arange(len(rows)), places]
        return Dataset(
            tuple(
                replace(row, fidelity=TARGET, value=None if row.value is None else row.value - own)
                for row, own in zip(rows, less.tolist(), strict=True)
            )
        )

    def _speaker(self) -> Surrogate:
        """Return what speaks for the target: its own surrogate, or that below where its own is but a constant."""
        levels = self._need()
        place = len(levels) - 1
        while isinstance(levels[place].surrogate, Offset) and (below := levels[place].below) is not None:
            place = below
        return levels[place].surrogate

    def _need(self) -> tuple[Level, ...]:
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
        top = self._speaker()
        if isinstance(top, Explaining):
            return top._columns_of(candidates)  # noqa: SLF001  one mix-in asks another
        message = f"{self.options.surrogate.use} does not say how far apart candidates are"
        raise SurrogateError(message)


def _hash(folder: Path) -> npt.NDArray[np.uint8]:
    """Return the SHA-256 of a level's description, which holds that of its arrays."""
    return np.frombuffer(bytes.fromhex(sha256((folder / state.REST).read_bytes())), dtype=np.uint8)


def _held_out(surrogate: Surrogate) -> Mapping[str, HeldOut]:
    if not isinstance(surrogate, HoldsOut):
        message = f"{type(surrogate).__name__} keeps no held-out predictions, by which fidelities are judged"
        raise SurrogateError(message)
    return surrogate.held_out()
