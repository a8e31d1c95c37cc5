"""Crystal graph network with a Gaussian-process head: a deep kernel that is honest about what it has not seen.

A few trunks of one network each leave one fold of the labels out. The head is one exact Gaussian process whose covariance adds
the trunks' readouts and answers, the neighbourhood statistics of `networks.environments` and composition statistics.
Its hyperparameters are learned from labels as seen by the trunk that was not trained on them (`surrogates.crossfit`),
so the head leans on the network as far as the network has proved itself: hardly at twenty labels, more with each.
Networks' features under a Gaussian process: Tran et al., Mach. Learn.: Sci. Technol. 1, 025006 (2020),
doi:10.1088/2632-2153/ab7e1a. Nothing in it is pretrained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from orchestrator.domain import Array, Candidate, JsonObject
from orchestrator.protocols import Support
from orchestrator.surrogates import crossfit
from orchestrator.surrogates.gaussian import Design, WithBotorch
from orchestrator.surrogates.heads import GaussianHead
from orchestrator.surrogates.hyper import Hyperparameters, Points
from orchestrator.surrogates.targets import Standardised
from orchestrator.surrogates.trunks import MANY, TrunkOptions, Trunks

OWN = 2
"""Terms of one trunk; see `Trunks.terms`."""


class GraphGaussianProcessOptions(TrunkOptions):
    """Options of `gnn_gp`."""

    folds: int | None = Field(
        default=None, ge=2, le=10, description="trunks, each without one fold of the labels; 2 below 150 labels, else 3"
    )


class GraphGaussianProcess(WithBotorch):
    """Gaussian process on cross-fitted trunks.

    Args:
        options: see `GraphGaussianProcessOptions`.
    """

    Options = GraphGaussianProcessOptions
    kind = "gnn_gp"

    def __init__(self, options: GraphGaussianProcessOptions | None = None) -> None:
        super().__init__()
        self.options = options or GraphGaussianProcessOptions()
        self._trunks = Trunks(self.options)
        self._folds: npt.NDArray[np.int64] = np.zeros(0, np.int64)

    def supports(self) -> frozenset[Support]:
        """Name what it can learn from and answer."""
        return self._trunks.inputs | {"uncertainty", "draws", "botorch"}

    def knows(self) -> frozenset[str]:
        """Name the pretrained knowledge inside the network."""
        return self._trunks.knows

    def _device(self) -> str:
        return self._trunks.device_text

    def _learn(self, data: Standardised, seed: int, *, warm: bool) -> Design:
        count = self.options.folds or (2 if len(data) < MANY else 3)
        self._folds = _folds(data, count)
        parts = [self._folds != k for k in range(count)]
        candidates = data.labels.candidates
        self.notes.append(self._trunks.train(candidates, data.y, parts, seed, warm=warm))
        return Design(self._trunks.scaling(self._trunks.encode(candidates)), self._trunks.terms(count))

    def _fit_head(
        self, design: Design, points: Points, start: Hyperparameters | None, rows: npt.NDArray[np.bool_]
    ) -> tuple[GaussianHead, tuple[Array, Array]]:
        count = len(self._trunks)
        views = [
            crossfit.View(Points(points.x[:, self._trunks.columns(k)], points.y, points.known), self._folds[rows] == k)
            for k in range(count)
        ]
        terms = self._trunks.terms(1)
        hyper = crossfit.learn(terms, views, _narrow(start, count))
        head = GaussianHead(design.terms, _widen(hyper, count), points)
        return head, crossfit.held_out_residuals(terms, hyper, views)

    def _encode(self, candidates: Sequence[Candidate]) -> Array:
        return self._trunks.encode(candidates)

    def _encoding_state(self) -> tuple[dict[str, npt.NDArray[Any]], JsonObject]:
        return self._trunks.state()

    def _load_encoding(self, arrays: Mapping[str, npt.NDArray[Any]], rest: Mapping[str, Any]) -> None:
        self._trunks.restore(arrays, rest)


def _folds(data: Standardised, count: int) -> npt.NDArray[np.int64]:
    """Return the fold of each labelled trial.

    It is that of the first trial of its candidate: so it never changes, and a trunk that starts warm has still not seen
    the labels it is to be judged by.
    """
    first: dict[str, int] = {}
    for trial, candidate in zip(data.labels.trials, data.labels.candidates, strict=True):
        first.setdefault(candidate.id, trial)
    return np.array([first[candidate.id] % count for candidate in data.labels.candidates], dtype=np.int64)


def _widen(hyper: Hyperparameters, count: int) -> Hyperparameters:
    """Share the trunk terms of one view among all trunks: the mean of their covariances."""
    own = np.tile(hyper.log_variances[:OWN] - math.log(count), count)
    return Hyperparameters(
        np.concatenate([np.repeat(hyper.log_lengthscales[:1], count), hyper.log_lengthscales[1:]]),
        np.concatenate([own, hyper.log_variances[OWN:]]),
        hyper.log_noise,
        hyper.mean,
    )


def _narrow(hyper: Hyperparameters | None, count: int) -> Hyperparameters | None:
    """Undo `_widen`."""
    if hyper is None:
        return None
    return Hyperparameters(
        hyper.log_lengthscales[count - 1 :],
        np.concatenate([hyper.log_variances[:OWN] + math.log(count), hyper.log_variances[OWN * count :]]),
        hyper.log_noise,
        hyper.mean,
    )
