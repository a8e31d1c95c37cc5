"""An ensemble of crystal graph networks, each on a bootstrap sample, each with a Bayesian last layer.

Members disagree where the labels do not decide (Lakshminarayanan et al., NeurIPS 2017, doi:10.48550/arXiv.1612.01474);
the last layer, an exact Gaussian process on the member's readout, adds what a member does not know itself. Its
hyperparameters and the calibration come from the labels that a member's bootstrap sample left out, about a third.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from pydantic import Field

from orchestrator.abilities import PoolScores
from orchestrator.domain import Array, Candidate
from orchestrator.surrogates import crossfit
from orchestrator.surrogates.gaussian import Design
from orchestrator.surrogates.graph_surrogate import GraphOptions, GraphSurrogate
from orchestrator.surrogates.heads import GaussianHead
from orchestrator.surrogates.hyper import Hyperparameters, Points
from orchestrator.surrogates.kernels import Term
from orchestrator.surrogates.mixture import MixtureHead, seen
from orchestrator.surrogates.targets import Standardised
from orchestrator.surrogates.variational import VariationalHead


class GraphEnsembleOptions(GraphOptions):
    """Options of `gnn_ensemble`."""

    members: int = Field(default=5, ge=2, le=50)


class GraphEnsemble(GraphSurrogate):
    """Bootstrap ensemble of trunks with Bayesian last layers.

    Args:
        options: see `GraphEnsembleOptions`.
    """

    Options = GraphEnsembleOptions
    kind = "gnn_ensemble"
    head = "ensemble"
    options: GraphEnsembleOptions

    def __init__(self, options: GraphEnsembleOptions | None = None) -> None:
        super().__init__(options or GraphEnsembleOptions())
        self._parts: list[npt.NDArray[np.bool_]] = []

    def score_pool(self, pool: Any, start: int, stop: int) -> PoolScores:
        """Score a stretch of a large pool, with what each member says of it; see `ScoresPool`."""
        candidates = pool.take(range(start, stop))
        said = self.predict(candidates)
        members = np.zeros((len(self._trunks), *said.mean.shape), dtype=np.float32)
        for first, x in self._chunks(candidates):
            for j, (head, target) in enumerate(zip(self._current, self._need().targets, strict=True)):
                members[:, first : first + len(x), j] = target.back(cast("MixtureHead", head).centres(x))
        return PoolScores(said.mean.astype(np.float32), said.epistemic.astype(np.float32), members)

    def _learn(self, data: Standardised, seed: int, *, warm: bool) -> Design:
        candidates = data.labels.candidates
        self._parts = [_bootstrap(candidates, k) for k in range(self.options.members)]
        self.notes.append(self._trunks.train(candidates, data.y, self._parts, seed, warm=warm))
        return Design(self._trunks.scaling(self._trunks.encode(candidates)), self._trunks.terms(1))

    def _fit_head(
        self, design: Design, points: Points, start: Hyperparameters | None, rows: npt.NDArray[np.bool_]
    ) -> tuple[MixtureHead, tuple[Array, Array]]:
        columns = [self._trunks.columns(k) for k in range(len(self._trunks))]
        views = [crossfit.View(seen(points, own), ~part[rows]) for own, part in zip(columns, self._parts, strict=True)]
        hyper = crossfit.learn(design.terms, views, start)
        members = [self._process(design.terms, hyper, view.data) for view in views]
        return MixtureHead(members, points, columns), crossfit.held_out_residuals(
            design.terms, hyper, views, self._process
        )

    def _head_from(self, terms: tuple[Term, ...], arrays: Mapping[str, Array], sd_scale: float) -> MixtureHead:
        data = Points(arrays["x"], arrays["y"], arrays["known"])
        columns = [self._trunks.columns(k) for k in range(len(self._trunks))]
        members = []
        for k, own in enumerate(columns):
            parts = {**arrays, "x": data.x[:, own]}
            if f"inducing.{k}" in arrays:
                parts["inducing"] = arrays[f"inducing.{k}"]
            kind = VariationalHead if "inducing" in parts else GaussianHead
            members.append(kind.from_arrays(terms, parts, sd_scale))
        return MixtureHead(members, data, columns)


LEFT_OUT = 0.37
"""Share of the labels that a bootstrap sample of their own number misses: 1/e."""


def _bootstrap(candidates: Sequence[Candidate], member: int) -> npt.NDArray[np.bool_]:
    """Return the labels that a member is trained on.

    Chance decides, by candidate and member alone: so a member that starts warm has still not seen the labels that it
    left out before, and replicates stay together. (Labels count once, unlike in the textbook's bootstrap.)
    """
    chances = np.array(
        [np.random.default_rng([int(candidate.id[:15], 16), member]).random() for candidate in candidates]
    )
    part: npt.NDArray[np.bool_] = chances >= LEFT_OUT
    return part
