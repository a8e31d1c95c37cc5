"""Several surrogates asked as one: each counts as far as it has predicted labels that it had not seen.

With few labels a Gaussian process on a pretrained potential's features, or on the composition, is ahead; with more the
trained network takes over. Nobody has to know where: the weights are learned anew at every fit (`surrogates.stacking`)
and stand in its notes, so that the hand-over can be read off the record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import Field, ValidationError, field_validator, model_validator

from orchestrator.abilities import Forgets, HoldsOut, KnowsItsDomain, PredictsSuccess
from orchestrator.domain import (
    Array,
    Candidate,
    Dataset,
    FitReport,
    HeldOut,
    JsonObject,
    Prediction,
    Problem,
    derive_seed,
)
from orchestrator.errors import Diverged, SurrogateError
from orchestrator.protocols import LooksAtSpace, Options, SearchSpace, Support, Surrogate
from orchestrator.surrogates import stacking, state
from orchestrator.surrogates.calibration import assess, calibrated, sd_factor
from orchestrator.surrogates.composition_gp import CompositionGaussianProcess
from orchestrator.surrogates.conformal import Conformal
from orchestrator.surrogates.explanation import Explaining
from orchestrator.surrogates.forest import CompositionForest
from orchestrator.surrogates.gaussian_process import GaussianProcess
from orchestrator.surrogates.gnn_ensemble import GraphEnsemble
from orchestrator.surrogates.gnn_gp import GraphGaussianProcess
from orchestrator.surrogates.gnn_laplace import GraphLaplace
from orchestrator.surrogates.potential_gp import PotentialGaussianProcess

CLASSES: Mapping[str, Any] = {
    "composition_forest": CompositionForest,
    "composition_gp": CompositionGaussianProcess,
    "gaussian_process": GaussianProcess,
    "gnn_ensemble": GraphEnsemble,
    "gnn_gp": GraphGaussianProcess,
    "gnn_laplace": GraphLaplace,
    "potential_gp": PotentialGaussianProcess,
}
"""What can be a member: surrogates that keep their held-out predictions."""
LEAST = 0.02
"""A member with a smaller weight is not asked: it would cost its time and change nothing."""
INPUTS: frozenset[Support] = frozenset({"structure", "composition", "parameters"})
ANSWERS: frozenset[Support] = frozenset({"uncertainty", "draws"})
IF_ALL: frozenset[Support] = frozenset({"feasibility"})


class Member(Options):
    """One surrogate of the stack."""

    use: str
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        if self.use not in CLASSES:
            message = f"{self.use!r} cannot be a member; write one of {', '.join(sorted(CLASSES))}"
            raise ValueError(message)
        try:
            CLASSES[self.use].Options.model_validate(self.options)
        except ValidationError as error:
            first = error.errors()[0]
            message = f"option {'.'.join(map(str, first['loc']))!r} of {self.use}: {first['msg']}"
            raise ValueError(message) from error
        return self


class StackedOptions(Options):
    """Options of `stacked`."""

    members: tuple[Member, ...] = Field(
        default=(),
        description="names, or {use: NAME, options: …}; left out: gnn_gp, composition_gp, and potential_gp if allowed",
    )
    foundation: bool = Field(
        default=True,
        description="whether the default members hold a pretrained potential; false where the instrument is one",
    )

    @field_validator("members", mode="before")
    @classmethod
    def _names_do(cls, members: Any) -> Any:
        return [{"use": one} if isinstance(one, str) else one for one in members]

    def chosen(self) -> tuple[Member, ...]:
        """Return the members, the default ones where none are named."""
        if self.members:
            return self.members
        names = ["gnn_gp", "composition_gp", *(["potential_gp"] if self.foundation else [])]
        return tuple(Member(use=name) for name in names)


class Stacked(Explaining):
    """Mixture of surrogates with learned weights; see `orchestrator.protocols.Surrogate`.

    A draw belongs to one member, which the seed chooses by the weights; so it is a function.

    Args:
        options: see `StackedOptions`.
    """

    Options = StackedOptions
    kind = "stacked"

    def __init__(self, options: StackedOptions | None = None) -> None:
        self.options = options or StackedOptions()
        self._chosen = self.options.chosen()
        self._space: SearchSpace | None = None
        self._members: list[Surrogate] = [self._new(member) for member in self._chosen]
        self._names = _numbered([member.use for member in self._chosen])
        self._weights = np.zeros(len(self._members))
        self._factors: tuple[float, ...] = ()
        self._conformal: tuple[Conformal, ...] = ()
        self._properties: tuple[str, ...] = ()
        self._held_out: dict[str, HeldOut] = {}

    def supports(self) -> frozenset[Support]:
        """Name what every member can learn from, and what the mixture can answer."""
        everyone = frozenset.intersection(*(member.supports() for member in self._members))
        return (everyone & INPUTS) | ANSWERS | (everyone & IF_ALL)

    def knows(self) -> frozenset[str]:
        """Name the pretrained knowledge of all members."""
        return frozenset().union(*(member.knows() for member in self._members))

    def look_at(self, space: SearchSpace) -> None:
        """Let the members that want to look at the space."""
        self._space = space
        for member in self._members:
            if isinstance(member, LooksAtSpace):
                member.look_at(space)

    # --- learning ---------------------------------------------------------------------------------------------------

    def fit(self, dataset: Dataset, problem: Problem, seed: int) -> FitReport:
        """Train every member, then weigh them; see `Surrogate.fit`."""
        started = time.perf_counter()
        reports: dict[int, FitReport] = {}
        notes: list[str] = []
        for k, member in enumerate(self._members):
            try:
                reports[k] = member.fit(dataset, problem, derive_seed(seed, k, "member") % 2**31)
            except Diverged as error:
                notes.append(f"{self._names[k]} is left out: {error}")
        if not reports:
            message = f"no member of the stack could be trained: {'; '.join(notes)}"
            raise Diverged(message)
        trained = sorted(reports)
        held = [_held_out(self._members[k]) for k in trained]
        weights, losses = stacking.weigh(held)
        self._weights = np.zeros(len(self._members))
        self._weights[trained] = np.where(weights >= min(LEAST, weights.max()), weights, 0.0)
        self._weights /= self._weights.sum()
        self._properties = problem.properties
        together = stacking.mixed(held, self._weights[trained])
        self._held_out = {name: calibrated(one) for name, one in together.items()}
        self._factors = tuple(sd_factor(together[name]) for name in self._properties)
        self._conformal = tuple(
            Conformal.learn(together[name].residuals, together[name].sd * factor)
            for name, factor in zip(self._properties, self._factors, strict=True)
        )
        judged = {name: assess(together[name]) for name in self._properties}
        shares = {f"weight_{self._names[k]}": float(self._weights[k]) for k in trained}
        said = ", ".join(
            f"{self._names[k]} {self._weights[k]:.2f} (alone {loss:.2f} nats a label)"
            for k, loss in zip(trained, losses, strict=True)
        )
        labels = dataset.labels(self._properties)
        notes.append(f"weights by out-of-fold likelihood at {len(labels)} labels: {said}")
        notes += [f"{self._names[k]}: {note}" for k in trained for note in reports[k].notes]
        self._remember(problem, labels)
        first = reports[trained[0]]
        return FitReport(
            labels=first.labels,
            data_sha256=first.data_sha256,
            metrics={name: metrics | shares for name, (metrics, _) in judged.items()},
            calibration={name: calibration for name, (_, calibration) in judged.items()},
            device=", ".join(dict.fromkeys(reports[k].device for k in trained)),
            seconds=time.perf_counter() - started,
            warm=any(report.warm for report in reports.values()),
            notes=tuple(notes),
        )

    def update(self, dataset: Dataset) -> None:
        """Bring every member that counts to a dataset; the weights stay those of the fit."""
        for _, member in self._asked():
            member.update(dataset)
        self._remember(None, dataset.labels(self._properties))

    # --- answering --------------------------------------------------------------------------------------------------

    def predict(self, candidates: Sequence[Candidate]) -> Prediction:
        """Return means and standard deviations, n × m; the members' disagreement is epistemic."""
        weights, told = self._told(candidates)
        means = np.array([one.mean for one in told])
        mean, variance = stacking.moments(means, np.array([one.epistemic for one in told]) ** 2, weights)
        noise = np.tensordot(weights, np.array([one.noise for one in told]) ** 2, 1)
        factors = np.array(self._factors)
        return Prediction(mean, factors * np.sqrt(variance), factors * np.sqrt(noise))

    def draw(self, candidates: Sequence[Candidate], s: int, seed: int) -> Array:
        """Return the values of `s` functions from the mixture, s × n × m."""
        weights, told = self._told(candidates)
        centre = np.tensordot(weights, np.array([one.mean for one in told]), 1)
        owners = np.random.default_rng(seed).choice(len(weights), size=s, p=weights)
        values = np.zeros((s, len(candidates), len(self._properties)))
        for k, (place, member) in enumerate(self._asked()):
            rows = np.flatnonzero(owners == k)
            if len(rows):
                values[rows] = member.draw(candidates, len(rows), derive_seed(seed, place, "draw") % 2**31)
        # what calibrates the mixture stretches every draw away from its mean
        stretched: Array = centre + np.array(self._factors) * (values - centre)
        return stretched

    def held_out(self) -> Mapping[str, HeldOut]:
        """Return the held-out predictions of the last fit; see `HoldsOut`."""
        return dict(self._held_out)

    def widen(self, factors: Mapping[str, float]) -> None:
        """Multiply the standard deviations of the last fit; see `Widens`."""
        own = zip(self._properties, self._factors, strict=True)
        self._factors = tuple(factor * factors.get(name, 1.0) for name, factor in own)

    def interval(self, candidates: Sequence[Candidate], level: float) -> tuple[Array, Array]:
        """Return lower and upper ends, n × m each; see `GivesIntervals`."""
        told = self.predict(candidates)
        ends = [self._conformal[j].interval(told.mean[:, j], told.sd[:, j], level) for j in range(told.mean.shape[1])]
        return np.array([low for low, _ in ends]).T, np.array([high for _, high in ends]).T

    def success(self, candidates: Sequence[Candidate]) -> Array:
        """Return the probability that a trial of each candidate yields a value, n; see `PredictsSuccess`."""
        return self._mean_of(lambda member: member.success(candidates) if isinstance(member, PredictsSuccess) else None)

    def outside(self, candidates: Sequence[Candidate]) -> Array:
        """Return how far outside each candidate lies, n; see `KnowsItsDomain`."""
        return self._mean_of(lambda member: member.outside(candidates) if isinstance(member, KnowsItsDomain) else None)

    def forget(self) -> None:
        """Let the members drop what they computed of candidates."""
        for member in self._members:
            if isinstance(member, Forgets):
                member.forget()

    # --- keeping ----------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write weights and calibration, and each trained member into a folder of its own."""
        self._asked()
        arrays = {f"conformal.{j}": one.scores for j, one in enumerate(self._conformal)} | {"weights": self._weights}
        rest = {"members": self._layout(), "factors": list(self._factors)}
        state.write(folder, self.kind, self._properties, arrays, rest)
        for name, (_, member) in zip(self._folders(), self._asked(), strict=True):
            (folder / name).mkdir()
            member.save(folder / name)

    def load(self, folder: Path, problem: Problem) -> None:
        """Read what `save` wrote; a member that did not count then starts anew at the next fit."""
        arrays, rest = state.read(folder, self.kind, problem.properties)
        if rest["members"] != self._layout():
            names = ", ".join(member["use"] for member in rest["members"])
            message = f"the fit in {folder} stacks {names} with other members or options; train again without it"
            raise SurrogateError(message)
        self._properties, self._factors = problem.properties, tuple(rest["factors"])
        self._weights = arrays["weights"]
        self._conformal = tuple(Conformal(arrays[f"conformal.{j}"]) for j in range(len(self._properties)))
        self._members = [
            member if weight > 0 else self._new(chosen)
            for member, chosen, weight in zip(self._members, self._chosen, self._weights, strict=True)
        ]
        for name, (_, member) in zip(self._folders(), self._asked(), strict=True):
            member.load(folder / name, problem)
        self._held_out = {}
        self._remember(problem, None)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _new(self, chosen: Member) -> Surrogate:
        kind = CLASSES[chosen.use]
        made: Surrogate = kind(kind.Options.model_validate(chosen.options))
        if self._space is not None and isinstance(made, LooksAtSpace):
            made.look_at(self._space)
        return made

    def _asked(self) -> list[tuple[int, Surrogate]]:
        """Return the members that count, with their places."""
        if not self._factors:
            message = "this stack was asked before it was trained; call fit or load first"
            raise SurrogateError(message)
        return [(k, self._members[k]) for k in np.flatnonzero(self._weights > 0).tolist()]

    def _folders(self) -> list[str]:
        return [f"member-{k}" for k, _ in self._asked()]

    def _told(self, candidates: Sequence[Candidate]) -> tuple[Array, list[Prediction]]:
        asked = self._asked()
        return self._weights[[k for k, _ in asked]], [member.predict(candidates) for _, member in asked]

    def _mean_of(self, ask: Callable[[Any], Array | None]) -> Array:
        """Return the weighted mean over the members that answer."""
        answers = [(self._weights[k], answer) for k, member in self._asked() if (answer := ask(member)) is not None]
        if not answers:
            message = f"none of {', '.join(self._names)} can answer this; stack a Gaussian process with them"
            raise SurrogateError(message)
        mean: Array = sum(w * a for w, a in answers) / sum(w for w, _ in answers)
        return mean

    def _columns_of(self, candidates: Sequence[Candidate]) -> Array:
        """See candidates as the heaviest member does that can say how."""
        for k in np.argsort(-self._weights, kind="stable").tolist():
            member = self._members[k]
            if isinstance(member, Explaining) and self._weights[k] > 0:
                return member._columns_of(candidates)  # noqa: SLF001  one mix-in asks another
        message = f"none of {', '.join(self._names)} says how far apart candidates are"
        raise SurrogateError(message)

    def _layout(self) -> list[JsonObject]:
        return [member.model_dump(mode="json") for member in self._chosen]


def _held_out(member: Surrogate) -> Mapping[str, HeldOut]:
    if not isinstance(member, HoldsOut):
        message = f"{type(member).__name__} keeps no held-out predictions, so it cannot be weighed"
        raise SurrogateError(message)
    return member.held_out()


def _numbered(names: Sequence[str]) -> tuple[str, ...]:
    """Tell members of one name apart."""
    return tuple(
        name if names.count(name) == 1 else f"{name}_{names[: i + 1].count(name)}" for i, name in enumerate(names)
    )
