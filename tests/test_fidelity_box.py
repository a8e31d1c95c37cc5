"""Several fidelities on a box: the target as a sum of processes, searched along gradients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator import plugins
from orchestrator.acquisition.box_posterior import BoxPosterior, Sum
from orchestrator.acquisition.encoding import Encoding
from orchestrator.domain import TARGET, Candidate, Dataset, Fidelity, Objective, Outcome, Problem, Row
from orchestrator.errors import IncompatibleError
from orchestrator.spaces.box import Box
from orchestrator.surrogates.fidelity import FidelityOptions, MultiFidelity

TWO = (Objective("a", "percent", "maximize"), Objective("b", "percent", "minimize"))
FIDELITIES = (Fidelity("rough", 0.2), Fidelity())
SPACE = Box(
    Box.Options.model_validate(
        {"parameters": {"x": {"min": 0, "max": 1}, "y": {"min": 0, "max": 2}, "kind": {"choices": ["p", "q"]}}}
    )
)


def told(candidate: Candidate, fidelity: str) -> dict[str, float]:
    """Return two properties; the rough way knows most of the first and a multiple of the second."""
    x, y = float(candidate.parameters["x"]), float(candidate.parameters["y"])
    shift = 0.3 if candidate.parameters["kind"] == "p" else 0.0
    a = 10 * math.sin(4 * x + shift) - (y - 1.1) ** 2
    b = x * y + math.cos(3 * y) + shift
    return {"a": a, "b": b} if fidelity == TARGET else {"a": a + 0.5 * x, "b": 2 * b}


def rows(count: int, fidelity: str, seed: int, names: tuple[str, ...]) -> list[Row]:
    """Measure sampled points."""
    start = 1 if fidelity == TARGET else 1000
    return [
        Row(start + i, c, {}, name, told(c, fidelity)[name], None, Outcome.MEASURED, fidelity, measurement=i * 10 + j)
        for i, c in enumerate(SPACE.sample(count, seed))
        for j, name in enumerate(names)
    ]


def trained(problem: Problem, target: int = 14) -> tuple[MultiFidelity, Dataset]:
    """Train on target labels and four times as many rough ones."""
    names = problem.properties
    dataset = Dataset((*rows(4 * target, "rough", 5, names), *rows(target, TARGET, 6, names)))
    surrogate = MultiFidelity(FidelityOptions(surrogate="gaussian_process"))
    surrogate.look_at(SPACE)
    surrogate.fit(dataset, problem, 0)
    surrogate.update(dataset)
    return surrogate, dataset


@pytest.mark.parametrize("objectives", [TWO[:1], TWO])
def test_the_botorch_view_says_what_is_predicted(objectives: tuple[Objective, ...]) -> None:
    """Means, variances and, between points, covariances of the target are those of the levels together."""
    surrogate, _ = trained(Problem(objectives, fidelities=FIDELITIES))
    assert "botorch" in surrogate.supports()
    view = surrogate.to_botorch()
    assert any(len(summands) == 2 for summands in view.summands)
    asked = SPACE.sample(30, 9)
    x = torch.from_numpy(view.encode(asked))
    said, wanted = view.model.posterior(x.unsqueeze(-2)), surrogate.predict(asked)
    np.testing.assert_allclose(said.mean[:, 0].detach(), wanted.mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(said.variance[:, 0].detach().sqrt(), wanted.epistemic, rtol=1e-3, atol=1e-5)
    encoding = Encoding.find(SPACE.axes(), view, asked[:16], set())
    assert encoding is not None
    posterior = BoxPosterior.find(view, encoding, encoding.coordinates(asked[:16]))
    assert posterior is not None
    assert any(isinstance(process, Sum) for process in posterior.processes)
    joint = view.model.posterior(x, output_indices=[0]).distribution.covariance_matrix.detach()
    points = torch.from_numpy(encoding.coordinates(asked))
    with torch.no_grad():
        _, variance, half, inputs = posterior.processes[0].ask(points)
        between = posterior.processes[0].between(half, inputs, half, inputs)
    np.testing.assert_allclose(between, joint, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(between.diagonal(), variance, rtol=1e-4, atol=1e-6)


def test_candidates_are_found_along_gradients() -> None:
    """With several fidelities the box's search is that with gradients, and goes to the best point; twice the same."""
    problem = Problem(TWO[:1], fidelities=FIDELITIES)
    surrogate, dataset = trained(problem)
    policy: Any = plugins.build("acquisition", "fidelity_choice", {})
    closed = frozenset(row.candidate.id for row in dataset.rows if row.fidelity == TARGET)
    known = {"problem": problem, "pending": (), "costs": {"rough": 0.2, TARGET: 1.0}, "seed": 3}
    (made,) = policy.select(surrogate, SPACE, q=1, dataset=dataset, closed=closed, **known)
    assert "in the box" in made.reason
    assert made.details["polished"] is True
    assert told(made.candidate, TARGET)["a"] > 9.9  # of 10
    assert policy.select(surrogate, SPACE, q=1, dataset=dataset, closed=closed, **known)[0].candidate == made.candidate


def test_no_view_where_the_target_is_but_a_constant_or_nothing_names_the_columns() -> None:
    """Few labels of the target, or a space that is no box: draws only, and the view is refused with what to do."""
    few = MultiFidelity(FidelityOptions(surrogate="gaussian_process"))
    few.look_at(SPACE)
    anywhere = MultiFidelity(FidelityOptions(surrogate="gaussian_process"))
    assert "botorch" not in anywhere.supports()
    problem = Problem(TWO[:1], fidelities=FIDELITIES)
    names = problem.properties
    few.fit(Dataset((*rows(20, "rough", 5, names), *rows(2, TARGET, 6, names))), problem, 0)
    assert "botorch" not in few.supports()
    with pytest.raises(IncompatibleError, match="choose a policy that uses draws"):
        few.to_botorch()
