"""Candidates worth a closer look in a product of materials and parameters that is too large to list.

Sampled pairs are refined around the best: the same material under settings between good ones and others, the same
settings for other materials, and, where the surrogate is differentiable in the parameters, the settings at which a
promising material's expected improvement is largest (its gradient after Balandat et al., NeurIPS 2020,
arXiv:1910.06403).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from orchestrator.abilities import BotorchView, HasBotorchView
from orchestrator.acquisition.gains import utilities
from orchestrator.acquisition.marginal import marginal_scores, optimistic
from orchestrator.acquisition.open import blend
from orchestrator.acquisition.situation import Situation, predict
from orchestrator.domain import Array, Candidate, Prediction, Value
from orchestrator.errors import SpaceError
from orchestrator.protocols import Axis, ProductSpace

ROUNDS = 3
"""Refinements; each looks around the best of what is known by then."""
PARENTS = 16
"""Best pairs of each question that are looked around."""
PER_MATERIAL = 2
"""Of these pairs, how many may share a material."""
CHILDREN = 8
"""Settings, and materials, tried for each of them."""
CLIMBERS = 8
"""Materials whose settings are optimised with gradients."""
BETA = 2.0
"""Standard deviations of the optimistic question."""
STEPS = 40
"""Most evaluations of a gradient: a handful of parameters needs fewer."""


def promising(situation: Situation, space: ProductSpace, size: int) -> list[Candidate]:
    """Return different open candidates, sorted by id.

    Args:
        situation: without a surrogate the candidates are sampled only.
        space: the product.
        size: how many to sample first.
    """
    found: dict[str, Candidate] = {}
    _add(found, space.sample(size, situation.seed_for("sample")), situation.closed)
    if situation.surrogate is None or not found:
        return [found[key] for key in sorted(found)]
    known: dict[str, Array] = {}
    for number in range(ROUNDS):
        best = _parents(situation, [found[key] for key in sorted(found)], known)
        rng = np.random.default_rng(situation.seed_for(f"product {number}"))
        _add(found, _children(space, best, [found[key] for key in sorted(found)], rng), situation.closed)
    if isinstance(situation.surrogate, HasBotorchView) and _can_climb(situation):
        best = _parents(situation, [found[key] for key in sorted(found)], known)
        _add(found, _climbed(situation, space, best, situation.surrogate.to_botorch()), situation.closed)
    return [found[key] for key in sorted(found)]


def _add(found: dict[str, Candidate], more: Iterable[Candidate], closed: frozenset[str]) -> None:
    found.update({candidate.id: candidate for candidate in more if candidate.id not in closed})


def _parents(situation: Situation, candidates: Sequence[Candidate], known: dict[str, Array]) -> list[Candidate]:
    """Return the best candidates by each question, each once; what was predicted before is not predicted again."""
    new = [candidate for candidate in candidates if candidate.id not in known]
    if new:
        said = predict(situation.trained, new)
        for candidate, row in zip(new, np.stack([said.mean, said.epistemic, said.noise], axis=1), strict=True):
            known[candidate.id] = row
    rows = np.stack([known[candidate.id] for candidate in candidates])
    prediction = Prediction(rows[:, 0], rows[:, 1], rows[:, 2])
    chosen: dict[int, None] = {}
    for values in _questions(situation, prediction, candidates):
        chosen.update(dict.fromkeys(_first(values, candidates)))
    return [candidates[i] for i in chosen]


def _first(values: Array, candidates: Sequence[Candidate]) -> list[int]:
    """Return positions of the largest values, few of each material: the best one's blends would fill the list."""
    seen: Counter[str] = Counter()
    found: list[int] = []
    for i in np.argsort(-values, kind="stable"):
        material = _material(candidates[int(i)])
        seen[material] += 1
        if seen[material] <= PER_MATERIAL:
            found.append(int(i))
        if len(found) == PARENTS:
            break
    return found


def _material(candidate: Candidate) -> str:
    return str(candidate.attributes.get("material", candidate.id))


def _questions(situation: Situation, prediction: Prediction, candidates: Sequence[Candidate]) -> list[Array]:
    """Return what policies look for, n each, larger first: improvement, an optimistic bound, the mean, doubt."""
    doubt = np.asarray(prediction.epistemic / np.maximum(prediction.epistemic.std(axis=0), 1e-300)).sum(axis=1)
    if situation.problem.learns_only:
        return [doubt]
    mean = utilities(prediction.mean, situation.problem)
    spread = np.where(mean.std(axis=0) > 0, mean.std(axis=0), 1.0)
    bound = optimistic(situation, prediction, BETA)
    improvement = marginal_scores(situation, prediction, candidates)
    return [improvement, (bound / spread).sum(axis=1), (mean / spread).sum(axis=1), doubt]


def _children(
    space: ProductSpace, best: Sequence[Candidate], others: Sequence[Candidate], rng: np.random.Generator
) -> list[Candidate]:
    """Change the settings of good pairs, or their material."""
    box = space.settings()
    around = [space.split(others[int(i)])[1] for i in rng.integers(len(others), size=2 * PARENTS)]
    good = [space.split(candidate) for candidate in best]
    around += [settings for _, settings in good]
    made: list[Candidate] = []
    fresh = space.materials().sample(CHILDREN * len(good), int(rng.integers(2**31)))
    for i, (material, settings) in enumerate(good):
        seed = int(rng.integers(2**31))
        between = blend(box, [settings], around, frozenset(), size=CHILDREN, seed=seed)
        made += [space.join(material, other) for other in between]
        swapped = [one for one, _ in good[:CHILDREN]] + fresh[i * CHILDREN : (i + 1) * CHILDREN]
        made += [space.join(other, settings) for other in swapped]
    return made


# --- gradients ----------------------------------------------------------------------------------------------------


def _can_climb(situation: Situation) -> bool:
    """Say whether the expected improvement is the analytic one: a single property to be made large or small."""
    problem = situation.problem
    plain = len(problem.properties) == 1 and problem.objectives[0].goal in {"maximize", "minimize"}
    return plain and "botorch" in situation.trained.supports() and len(situation.labels()) > 0


def _climbed(
    situation: Situation, space: ProductSpace, best: Sequence[Candidate], view: BotorchView
) -> list[Candidate]:
    """Move the numeric settings of the best pairs, one a material, to where the expected improvement is largest."""
    first: dict[str, Candidate] = {}
    for candidate in best:  # those that promise the largest improvement come first
        first.setdefault(_material(candidate), candidate)
    starts = list(first.values())[:CLIMBERS]
    numeric = [axis for axis in space.settings().axes() if axis.kind != "categorical"]
    columns = _columns_of(view, starts[0], numeric)
    if not columns:
        return []
    moved = _ascend(situation, view, np.asarray(view.encode(starts), dtype=np.float64), columns)
    made = []
    for start, row in zip(starts, moved, strict=True):
        material, settings = space.split(start)
        values: dict[str, Value] = dict(settings.parameters)
        for axis, column in columns.items():
            values[axis.name] = round(float(row[column])) if axis.kind == "integer" else float(row[column])
        try:
            made.append(space.join(material, space.settings().make(values)))
        except SpaceError:
            continue  # a linear constraint: blends of feasible points serve there
    return made


def _columns_of(view: BotorchView, candidate: Candidate, axes: Sequence[Axis]) -> Mapping[Axis, int]:
    """Find the differentiable columns that hold raw values of axes, by changing one axis at a time."""
    found: dict[Axis, int] = {}
    for axis in axes:
        probes = []
        for value in (axis.low, axis.high):
            changed = {**candidate.parameters, axis.name: value}
            probes.append(Candidate("probe", "probe", changed, candidate.composition, candidate.crystal))
        low, high = np.asarray(view.encode(probes), dtype=np.float64)
        places = [j for j in view.differentiable if low[j] == axis.low and high[j] == axis.high]
        if len(places) == 1 and np.count_nonzero(low != high) == 1:
            found[axis] = places[0]
    return found


def _ascend(situation: Situation, view: BotorchView, encoded: Array, columns: Mapping[Axis, int]) -> Array:
    """Return encodings, k × d, with some columns moved uphill from where they are, inside their bounds."""
    import torch  # noqa: PLC0415  a second that only differentiable surrogates pay
    from botorch.acquisition import LogExpectedImprovement  # noqa: PLC0415  the same
    from scipy.optimize import minimize  # noqa: PLC0415  the same

    objective = situation.problem.objectives[0]
    labels = situation.labels()
    seen = situation.trained.predict(labels.candidates).mean[:, 0]
    best = float(seen.max() if objective.goal == "maximize" else seen.min())
    function = LogExpectedImprovement(view.model, best_f=best, maximize=objective.goal == "maximize")
    base = torch.from_numpy(encoded)
    places = list(columns.values())
    low = np.array([axis.low for axis in columns])
    high = np.array([axis.high for axis in columns])
    unit = (encoded[:, places] - low) / (high - low)

    def downhill(flat: Array) -> tuple[float, Array]:
        at = torch.from_numpy(flat.reshape(unit.shape)).requires_grad_()
        points = base.clone()
        points[:, places] = torch.from_numpy(low) + at * torch.from_numpy(high - low)
        loss = -function(points.unsqueeze(1)).sum()  # pairs do not touch each other: one search for all
        (slope,) = torch.autograd.grad(loss, at)
        return float(loss.detach()), slope.numpy().ravel()

    bounds = [(0.0, 1.0)] * unit.size
    answer: Any = minimize(
        downhill, unit.ravel(), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxfun": STEPS}
    )
    moved = encoded.copy()
    if np.isfinite(answer.x).all():
        moved[:, places] = low + answer.x.reshape(unit.shape) * (high - low)
    return moved
