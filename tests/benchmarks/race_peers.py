"""What the races compare with besides BayBE and Ax: botorch as its tutorials use it, and a forest with a bound.

Both see a pool as columns between 0 and 1, words as one column a word, and choose among the open candidates by their
place in a list. They owe nothing to the surrogates and scores that they are compared with.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.random import default_rng

from orchestrator.acquisition import outsiders
from orchestrator.acquisition.outsiders import Rows
from orchestrator.acquisition.policy import Pick, Policy, Situation
from orchestrator.domain import Array, Candidate
from orchestrator.protocols import FiniteSpace

TREES = 100
BETA = 2.0
"""Standard deviations of the forest's bound, as in PV-Lab's lower confidence bound."""
CHUNK = 256
"""Candidates whose acquisition function is evaluated at once: bounds memory."""


class Encoded(Policy):
    """Base: the pool as columns, and what is known as larger-is-better utilities."""

    def pick(self, situation: Situation) -> list[Pick]:
        """Choose q open candidates."""
        space = situation.space
        if not isinstance(space, FiniteSpace):
            message = f"{self.name} is a peer for pools"
            raise TypeError(message)
        rows = Rows.learn(space.candidates())
        open_ones = self.pool(situation, 1)
        known = outsiders.told(situation)
        utilities = np.stack(
            [o.utility(known.results[:, j]) for j, o in enumerate(situation.problem.objectives)], axis=1
        )
        with outsiders.quiet(situation.seed_for(self.name)):
            x, choices = encode(rows, known.candidates), encode(rows, tuple(open_ones))
            places = self.choose(x, utilities, choices, min(situation.q, len(open_ones)), situation.seed)
        return [Pick(open_ones[i], None, f"{self.name} chooses it") for i in places]

    def choose(self, x: Array, y: Array, choices: Array, q: int, seed: int) -> list[int]:
        """Return places among the choices.

        Args:
            x: n × d.
            y: utilities, n × k.
            choices: open candidates, c × d.
            q: how many.
            seed: for everything random.
        """
        raise NotImplementedError


def encode(rows: Rows, candidates: tuple[Candidate, ...]) -> Array:
    """Return columns between 0 and 1, n × d."""
    columns = []
    cells = [rows.row(c) for c in candidates]
    for i, values in enumerate(rows.values):
        if isinstance(values[0], str):
            columns += [np.array([float(row[i] == word) for row in cells]) for word in values]
        else:
            low, high = float(values[0]), float(values[-1])
            columns.append((np.array([float(row[i]) for row in cells]) - low) / (high - low))
    return np.stack(columns, axis=1)


class PlainBotorch(Encoded):
    """`SingleTaskGP` as it comes, log expected (hypervolume) improvement, `optimize_acqf_discrete`."""

    name = "botorch"

    def choose(self, x: Array, y: Array, choices: Array, q: int, seed: int) -> list[int]:
        """See `Encoded.choose`."""
        import torch  # noqa: PLC0415  the forest needs none of this
        from botorch.optim import optimize_acqf_discrete  # noqa: PLC0415  the same

        features, targets = torch.from_numpy(x), torch.from_numpy(y)
        function = _improvement(features, targets)
        table = torch.from_numpy(choices)
        found, _ = optimize_acqf_discrete(function, q=q, choices=table, max_batch_size=CHUNK, unique=True)
        places = []
        for row in found:  # rows come back as they were given, bit by bit
            same = torch.nonzero((table == row).all(dim=1)).flatten()
            places.append(next(int(i) for i in same if int(i) not in places))
        return places


def _improvement(features: Any, targets: Any) -> Any:
    from botorch.acquisition.logei import qLogExpectedImprovement  # noqa: PLC0415  slow to import
    from botorch.acquisition.multi_objective.logei import (  # noqa: PLC0415  the same
        qLogNoisyExpectedHypervolumeImprovement,
    )
    from botorch.fit import fit_gpytorch_mll  # noqa: PLC0415  the same
    from botorch.models import ModelListGP, SingleTaskGP  # noqa: PLC0415  the same
    from botorch.utils.multi_objective.hypervolume import infer_reference_point  # noqa: PLC0415  the same
    from botorch.utils.multi_objective.pareto import is_non_dominated  # noqa: PLC0415  the same
    from gpytorch.mlls import ExactMarginalLogLikelihood, SumMarginalLogLikelihood  # noqa: PLC0415  the same

    if targets.shape[1] == 1:
        single = SingleTaskGP(features, targets)
        fit_gpytorch_mll(ExactMarginalLogLikelihood(single.likelihood, single))
        return qLogExpectedImprovement(single, best_f=targets.max())
    models = ModelListGP(*[SingleTaskGP(features, targets[:, j : j + 1]) for j in range(targets.shape[1])])
    fit_gpytorch_mll(SumMarginalLogLikelihood(models.likelihood, models))
    corner = infer_reference_point(targets[is_non_dominated(targets)], scale=0.1)
    return qLogNoisyExpectedHypervolumeImprovement(models, ref_point=corner, X_baseline=features, prune_baseline=True)


class Forest(Encoded):
    """A random forest and the mean plus two standard deviations over its trees.

    Several objectives are weighed anew at random at each ask (augmented Chebyshev, as in ParEGO: Knowles, IEEE Trans.
    Evol. Comput. 10, 50 (2006), doi:10.1109/TEVC.2005.851274).
    """

    name = "forest"

    def choose(self, x: Array, y: Array, choices: Array, q: int, seed: int) -> list[int]:
        """See `Encoded.choose`."""
        from sklearn.ensemble import RandomForestRegressor  # noqa: PLC0415  a second that other arms spare

        target = y[:, 0]
        if y.shape[1] > 1:
            spread = np.where(np.ptp(y, axis=0) > 0, np.ptp(y, axis=0), 1.0)
            weighed = default_rng(seed).dirichlet(np.ones(y.shape[1])) * (y - y.max(axis=0)) / spread
            target = weighed.min(axis=1) + 0.05 * weighed.sum(axis=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            forest = RandomForestRegressor(TREES, random_state=seed % 2**32).fit(x, target)
        said = np.stack([tree.predict(choices) for tree in forest.estimators_])
        order = np.argsort(-(said.mean(axis=0) + BETA * said.std(axis=0)), kind="stable")
        return [int(i) for i in order[:q]]
