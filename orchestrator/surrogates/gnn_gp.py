"""Crystal graph network with a Gaussian-process head: a deep kernel that is honest about what it has not seen.

A few MEGNet trunks each leave one fold of the labels out. The head is one exact Gaussian process whose covariance adds
the trunks' readouts and answers, the neighbourhood statistics of `networks.environments` and composition statistics.
Its hyperparameters are learned from labels as seen by the trunk that was not trained on them (`surrogates.crossfit`). So
the head leans on the network as far as the network has proved itself: hardly at twenty labels, mostly at a thousand.
Networks' features under a Gaussian process: Tran et al., Mach. Learn.: Sci. Technol. 1, 025006 (2020),
doi:10.1088/2632-2153/ab7e1a. Nothing in it is pretrained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from orchestrator.domain import Array, Candidate, JsonObject
from orchestrator.networks import composition, devices, environments
from orchestrator.networks.crystals import content_key, crystals_of
from orchestrator.networks.graphs import GraphCache
from orchestrator.networks.megnet import READOUT, Trunk, new_trunk, represent
from orchestrator.networks.training import Schedule, shrink_and_perturb, train
from orchestrator.protocols import Options, Support
from orchestrator.surrogates import crossfit
from orchestrator.surrogates.encoding import Scaling
from orchestrator.surrogates.gaussian import Design, GaussianSurrogate
from orchestrator.surrogates.heads import GaussianHead
from orchestrator.surrogates.hyper import Hyperparameters, Points
from orchestrator.surrogates.kernels import Term
from orchestrator.surrogates.targets import Standardised

FLOOR = 1e-3
"""Smallest scale of a readout column: a column that the network leaves constant says nothing."""
FEWEST_TO_TRAIN = 2
"""Labels without which a trunk keeps its first weights."""
MANY = 150
"""Labels from which on a network earns long training; below, effort is bounded so that a fit takes seconds."""
EFFORT = 3000
"""Structures times epochs of all trunks together below `MANY` labels: some 5 s on one core for five-atom cells."""
LONG, SHORT, LONGEST = 60, 15, 100
"""Epochs: from `MANY` labels on, at least, at most. A warm start takes half."""


class GraphGaussianProcessOptions(Options):
    """Options of `gnn_gp`."""

    cutoff: float = Field(default=4.0, ge=2.0, le=10.0, description="Å; 5 sees further and costs twice as much")
    blocks: int = Field(default=3, ge=1, le=6, description="interaction blocks of MEGNet")
    folds: int | None = Field(
        default=None, ge=2, le=10, description="trunks, each without one fold of the labels; 2 below 150 labels, else 3"
    )
    epochs: int | None = Field(default=None, ge=1, description="passes over the labels; chosen from their number")
    rate: float = Field(default=5e-3, gt=0, description="highest learning rate")
    beside: tuple[Literal["environments", "composition"], ...] = Field(
        default=("environments", "composition"), description="untrained features that the head uses besides"
    )
    kernel: Literal["matern52", "rbf"] = "matern52"
    device: devices.Device = "auto"


class GraphGaussianProcess(GaussianSurrogate):
    """Gaussian process on cross-fitted MEGNet trunks.

    Args:
        options: see `GraphGaussianProcessOptions`.
    """

    Options = GraphGaussianProcessOptions
    kind = "gnn_gp"

    def __init__(self, options: GraphGaussianProcessOptions | None = None) -> None:
        super().__init__()
        self.options = options or GraphGaussianProcessOptions()
        self._graphs = GraphCache(self.options.cutoff)
        self._trunks: list[Trunk] = []
        self._folds: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._rows: dict[str, Array] = {}
        self._where = devices.choose(self.options.device)

    def supports(self) -> frozenset[Support]:
        """Name what it can learn from and answer."""
        return frozenset({"structure", "uncertainty", "draws", "botorch"})

    def _device(self) -> str:
        return self._where[1]

    # --- training ---------------------------------------------------------------------------------------------------

    def _learn(self, data: Standardised, seed: int, *, warm: bool) -> Design:
        n, m = data.y.shape
        folds = self.options.folds or (2 if n < MANY else 3)
        warm = warm and len(self._trunks) == folds
        candidates = data.labels.candidates
        graphs = self._graphs.get(crystals_of(candidates))
        self._folds = _folds(data, folds)
        schedule = self._schedule(n, folds, warm=warm)
        trunks = []
        for k in range(folds):
            trunk = new_trunk(m, self.options.cutoff, self.options.blocks, seed + k)
            if warm:
                trunk = shrink_and_perturb(self._trunks[k].state_dict(), trunk)
            mine = np.flatnonzero(self._folds != k)
            if len(mine) >= FEWEST_TO_TRAIN:
                trunk = train(
                    trunk,
                    [graphs[i] for i in mine],
                    data.y[mine],
                    schedule=schedule,
                    seed=seed + k,
                    device=self._where[0],
                )
            trunks.append(trunk.eval())
        self._trunks = trunks
        self._rows = {}
        self.notes.append(
            f"{folds} trunks, {schedule.epochs} epochs each{' from the weights of the fit before' if warm else ''}"
        )
        raw = self._encode(candidates)
        floors = np.concatenate(
            [np.full(folds * (READOUT + m), FLOOR), *(_floors(name) for name in self.options.beside)]
        )
        return Design(Scaling.standardise(raw, floors), self._terms(folds, m))

    def _schedule(self, n: int, folds: int, *, warm: bool) -> Schedule:
        epochs = self.options.epochs
        if epochs is None:
            epochs = LONG if n >= MANY else min(max(EFFORT // ((folds - 1) * n), SHORT), LONGEST)
            epochs = max(1, epochs // 2) if warm else epochs
        return Schedule(epochs=epochs, batch=16 if n < MANY else 32, rate=self.options.rate)

    def _terms(self, folds: int, m: int) -> tuple[Term, ...]:
        """Return the covariance over all columns: the terms of each trunk, then the shared ones."""
        width = READOUT + m
        shared, start = [], folds * width
        for name in self.options.beside:
            group = tuple(range(start, start + len(_floors(name))))
            shared += [Term(self.options.kernel, (group,)), Term("linear", (group,))]
            start += len(group)
        own = [term for k in range(folds) for term in self._own(k * width, m)]
        return (*own, *shared)

    def _own(self, start: int, m: int) -> tuple[Term, Term]:
        """Return the terms of one trunk: a function of the readout, a straight line in the answers."""
        readout = tuple(range(start, start + READOUT))
        answers = tuple(range(start + READOUT, start + READOUT + m))
        return Term(self.options.kernel, (readout,)), Term("linear", (answers,))

    def _fit_head(
        self, design: Design, points: Points, start: Hyperparameters | None, rows: npt.NDArray[np.bool_]
    ) -> tuple[GaussianHead, tuple[Array, Array]]:
        folds = len(self._trunks)
        width = len(self._own(0, self._trunks[0].outputs)[0].columns) + self._trunks[0].outputs
        views = []
        for k in range(folds):
            columns = [*range(k * width, (k + 1) * width), *range(folds * width, points.x.shape[1])]
            views.append(crossfit.View(Points(points.x[:, columns], points.y, points.known), self._folds[rows] == k))
        shared = tuple(_shifted(term, -(folds - 1) * width) for term in design.terms[2 * folds :])
        terms = (*self._own(0, self._trunks[0].outputs), *shared)
        hyper = crossfit.learn(terms, views, _narrow(start, folds))
        head = GaussianHead(design.terms, _widen(hyper, folds), points)
        return head, crossfit.held_out_residuals(terms, hyper, views)

    # --- encoding ---------------------------------------------------------------------------------------------------

    def _encode(self, candidates: Sequence[Candidate]) -> Array:
        crystals = crystals_of(candidates)
        keys = [content_key(crystal) for crystal in crystals]
        missing = {key: crystal for key, crystal in zip(keys, crystals, strict=True) if key not in self._rows}
        if missing:
            graphs = self._graphs.get(list(missing.values()))
            answers = np.hstack([represent(trunk, graphs, self._where[0]) for trunk in self._trunks])
            self._rows |= dict(zip(missing, answers, strict=True))
        width = sum(READOUT + trunk.outputs for trunk in self._trunks)
        parts = [np.array([self._rows[key] for key in keys]).reshape(len(keys), width)]
        if "environments" in self.options.beside:
            parts.append(environments.statistics(crystals))
        if "composition" in self.options.beside:
            parts.append(composition.statistics(candidates))
        return np.hstack(parts)

    def _encoding_state(self) -> tuple[dict[str, npt.NDArray[Any]], JsonObject]:
        arrays = {
            f"trunk.{k}.{name}": value.numpy()
            for k, trunk in enumerate(self._trunks)
            for name, value in trunk.state_dict().items()
        }
        rest: JsonObject = {
            "trunks": len(self._trunks),
            "outputs": self._trunks[0].outputs,
            "cutoff": self.options.cutoff,
            "blocks": self.options.blocks,
            "beside": list(self.options.beside),
        }
        return arrays, rest

    def _load_encoding(self, arrays: Mapping[str, npt.NDArray[Any]], rest: Mapping[str, Any]) -> None:
        self.options = self.options.model_copy(
            update={"cutoff": rest["cutoff"], "blocks": rest["blocks"], "beside": tuple(rest["beside"])}
        )
        self._graphs = GraphCache(self.options.cutoff)
        self._rows = {}
        self._trunks = []
        for k in range(rest["trunks"]):
            trunk = new_trunk(rest["outputs"], self.options.cutoff, self.options.blocks, seed=0)
            prefix = f"trunk.{k}."
            trunk.load_state_dict(
                {name[len(prefix) :]: torch.from_numpy(v) for name, v in arrays.items() if name.startswith(prefix)}
            )
            self._trunks.append(trunk.eval())


def _folds(data: Standardised, folds: int) -> npt.NDArray[np.int64]:
    """Return the fold of each labelled trial: that of the first trial of its candidate, so that it never changes."""
    first: dict[str, int] = {}
    for trial, candidate in zip(data.labels.trials, data.labels.candidates, strict=True):
        first.setdefault(candidate.id, trial)
    return np.array([first[candidate.id] % folds for candidate in data.labels.candidates], dtype=np.int64)


def _floors(name: str) -> Array:
    if name == "composition":
        return composition.FLOOR * composition.spread()
    return np.full(environments.DIMENSION, composition.FLOOR)


def _shifted(term: Term, by: int) -> Term:
    return Term(term.kind, tuple(tuple(column + by for column in group) for group in term.groups))


def _widen(hyper: Hyperparameters, folds: int) -> Hyperparameters:
    """Share the trunk terms of one view among all trunks: the mean of their covariances."""
    own = np.tile(hyper.log_variances[:2] - math.log(folds), folds)
    return Hyperparameters(
        np.concatenate([np.repeat(hyper.log_lengthscales[:1], folds), hyper.log_lengthscales[1:]]),
        np.concatenate([own, hyper.log_variances[2:]]),
        hyper.log_noise,
        hyper.mean,
    )


def _narrow(hyper: Hyperparameters | None, folds: int) -> Hyperparameters | None:
    """Undo `_widen`."""
    if hyper is None:
        return None
    return Hyperparameters(
        hyper.log_lengthscales[folds - 1 :],
        np.concatenate([hyper.log_variances[:2] + math.log(folds), hyper.log_variances[2 * folds :]]),
        hyper.log_noise,
        hyper.mean,
    )
