"""What the graph surrogates share: trunks that make the columns, and folds that keep the head honest.

A head is one exact Gaussian process, a mixture of several, or the Bayesian last layer of the trunks; `pairs` says which
of them goes with which network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from orchestrator.domain import Array, Candidate, Dataset, Explanation, FitReport, JsonObject, Problem
from orchestrator.protocols import InputPath, Support
from orchestrator.surrogates import crossfit, pairs
from orchestrator.surrogates.gaussian import Design, GaussianOptions, GaussianSurrogate
from orchestrator.surrogates.heads import Head
from orchestrator.surrogates.hyper import Hyperparameters, Points
from orchestrator.surrogates.kernels import Term
from orchestrator.surrogates.targets import Standardised
from orchestrator.surrogates.transfer import Source, compared, log_density, read_source
from orchestrator.surrogates.trunks import MANY, TrunkOptions, Trunks


class GraphOptions(TrunkOptions, GaussianOptions):
    """Options of every graph surrogate."""

    start: InputPath | None = Field(
        default=None,
        description="folder of another graph surrogate's fit whose networks are started from, where that proves itself",
    )


class GraphSurrogate(GaussianSurrogate):
    """Gaussian head on the columns of trunks.

    Args:
        options: of the subclass.
    """

    head: ClassVar[pairs.HeadName]
    options: GraphOptions

    def __init__(self, options: GraphOptions) -> None:
        super().__init__()
        pairs.check(options.network, self.head)
        self.options = options
        self._trunks = Trunks(options)
        self._source: Source | None = None
        if options.start is not None and options.start.is_dir():  # elsewhere a stored fit is loaded without its source
            self.start_from(options.start)

    def start_from(self, folder: Path) -> None:
        """Take the networks' weights from another fit; see `Transfers`."""
        self._source = read_source(folder, self._trunks.architecture)

    def fit(self, dataset: Dataset, problem: Problem, seed: int) -> FitReport:
        """Train on a dataset; see `Surrogate.fit`.

        With a source this trains twice, from it and from nothing, and keeps what the held-out labels are likelier
        under; a warm start goes on from what was kept then.

        Raises:
            SurrogateError: the option 'start' names no folder.
        """
        if self._source is None and self.options.start is not None and not self._loaded:
            self.start_from(self.options.start)
        if self._source is None or self._loaded:
            self._trunks.carried = ()
            return super().fit(dataset, problem, seed)
        plain = type(self)(self.options.model_copy(update={"start": None}))
        without = plain.fit(dataset, problem, seed)
        self._trunks.carried = self._source.trunks
        report = super().fit(dataset, problem, seed)
        better = log_density(self.held_out()) >= log_density(plain.held_out())
        if not better:
            source = self._source
            self.__dict__.update(plain.__dict__ | {"options": self.options, "_source": source})
        return compared(self._source, report, without, better=better)

    def explain_network(self, candidates: Sequence[Candidate], name: str) -> tuple[Explanation, ...]:
        """Explain what the networks say by themselves; see `ExplainsItsNetwork`.

        Raises:
            SurrogateError: there is nothing to compare with, or gradients do not apply.
        """
        from orchestrator.surrogates.attributions import explain_network  # noqa: PLC0415  captum is rarely needed

        known = self._known(name)
        target = self._need().targets[known.problem.properties.index(name)]
        return explain_network(self._trunks, target, known, candidates, name)

    def supports(self) -> frozenset[Support]:
        """Name what it can learn from and answer."""
        return self._trunks.inputs | self._answers()

    def knows(self) -> frozenset[str]:
        """Name the pretrained knowledge inside the network."""
        source = frozenset() if self._source is None else frozenset({self._source.knowledge})
        return self._trunks.knows | source

    def forget(self) -> None:
        """Drop what was computed of candidates; see `Forgets`."""
        self._trunks.forget()

    def _device(self) -> str:
        return self._trunks.device_text

    def _metric(self) -> tuple[Term, ...]:
        return self._trunks.terms(len(self._trunks))

    def _encode(self, candidates: Sequence[Candidate]) -> Array:
        return self._trunks.encode(candidates)

    def _encoding_state(self) -> tuple[dict[str, npt.NDArray[Any]], JsonObject]:
        return self._trunks.state()

    def _load_encoding(self, arrays: Mapping[str, npt.NDArray[Any]], rest: Mapping[str, Any]) -> None:
        self._trunks.restore(arrays, rest)


class CrossFittedOptions(GraphOptions):
    """Options of graph surrogates whose trunks each leave one fold out."""

    folds: int | None = Field(
        default=None, ge=2, le=10, description="trunks, each without one fold of the labels; 2 below 150 labels, else 3"
    )


class CrossFitted(GraphSurrogate):
    """One head on several trunks, each of which has left one fold of the labels out.

    The hyperparameters are learned from labels as seen by the trunk that was not trained on them, so that the head
    leans on the network as far as the network has proved itself.
    """

    options: CrossFittedOptions

    def __init__(self, options: CrossFittedOptions) -> None:
        super().__init__(options)
        self._folds: npt.NDArray[np.int64] = np.zeros(0, np.int64)

    def _terms(self, count: int) -> tuple[Term, ...]:
        """Return the covariance over `count` trunks; the terms of a trunk come first, one trunk after the other."""
        return self._trunks.terms(count)

    def _make_head(self, terms: tuple[Term, ...], hyper: Hyperparameters, points: Points) -> Head:
        """Build the head on given hyperparameters."""
        return self._process(terms, hyper, points)

    def _learn(self, data: Standardised, seed: int, *, warm: bool) -> Design:
        count = self.options.folds or (2 if len(data) < MANY else 3)
        self._folds = fold_of_candidates(data, count)
        parts = [self._folds != k for k in range(count)]
        candidates = data.labels.candidates
        self.notes.append(self._trunks.train(candidates, data.y, parts, seed, warm=warm))
        return Design(self._trunks.scaling(self._trunks.encode(candidates)), self._terms(count))

    def _fit_head(
        self, design: Design, points: Points, start: Hyperparameters | None, rows: npt.NDArray[np.bool_]
    ) -> tuple[Head, tuple[Array, Array]]:
        count = len(self._trunks)
        views = [
            crossfit.View(Points(points.x[:, self._trunks.columns(k)], points.y, points.known), self._folds[rows] == k)
            for k in range(count)
        ]
        terms = self._terms(1)
        own = (len(design.terms) - len(terms)) // (count - 1)
        hyper = crossfit.learn(terms, views, _narrow(start, terms, own, count))
        head = self._make_head(design.terms, _widen(hyper, terms, own, count), points)
        return head, crossfit.held_out_residuals(terms, hyper, views, self._make_head)


def fold_of_candidates(data: Standardised, count: int) -> npt.NDArray[np.int64]:
    """Return the fold of each labelled trial.

    It is that of the first trial of its candidate: so it never changes, and a trunk that starts warm has still not seen
    the labels it is to be judged by.
    """
    first: dict[str, int] = {}
    for trial, candidate in zip(data.labels.trials, data.labels.candidates, strict=True):
        first.setdefault(candidate.id, trial)
    return np.array([first[candidate.id] % count for candidate in data.labels.candidates], dtype=np.int64)


def _widen(hyper: Hyperparameters, terms: tuple[Term, ...], own: int, count: int) -> Hyperparameters:
    """Share the first `own` terms, those of one view's trunk, among all trunks: the mean of their covariances."""
    scales = sum(term.lengthscales for term in terms[:own])
    return Hyperparameters(
        np.concatenate([np.tile(hyper.log_lengthscales[:scales], count), hyper.log_lengthscales[scales:]]),
        np.concatenate([np.tile(hyper.log_variances[:own] - math.log(count), count), hyper.log_variances[own:]]),
        hyper.log_noise,
        hyper.mean,
    )


def _narrow(hyper: Hyperparameters | None, terms: tuple[Term, ...], own: int, count: int) -> Hyperparameters | None:
    """Undo `_widen`."""
    if hyper is None:
        return None
    scales = sum(term.lengthscales for term in terms[:own])
    return Hyperparameters(
        hyper.log_lengthscales[scales * (count - 1) :],
        np.concatenate([hyper.log_variances[:own] + math.log(count), hyper.log_variances[own * count :]]),
        hyper.log_noise,
        hyper.mean,
    )
