"""Transfer: weights of another fit are taken over where the labels say that they help, and left aside where not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.abilities import Transfers
from orchestrator.domain import Candidate, Crystal, Dataset, HeldOut, Objective, Outcome, Problem, Row
from orchestrator.errors import SurrogateError
from orchestrator.networks.trunk import new_trunk
from orchestrator.surrogates import graph_surrogate, transfer
from orchestrator.surrogates.gnn_gp import GraphGaussianProcess, GraphGaussianProcessOptions
from orchestrator.surrogates.potential_gp import PotentialGaussianProcess, PotentialGaussianProcessOptions

CATIONS = ("Li", "Na", "K", "Rb", "Cs", "Cu", "Ag", "Mg", "Ca", "Sr", "Ba", "Zn", "Cd", "Al", "Ga", "In", "Sc", "Y")
ANIONS = ("F", "Cl", "Br", "I", "O", "S", "Se", "N", "P")
SOURCE = Problem((Objective("energy", "eV", "minimize"),))
HERE = Problem((Objective("hardness", "GPa", "maximize"),))
OPTIONS = {"network": "cgcnn", "beside": (), "device": "cpu", "folds": 2}
"""Nothing beside the network: what it has learned elsewhere shows."""


def salts() -> list[Candidate]:
    """Return rock salts in a fixed random order, with sides of three kinds."""
    found = []
    for i, cation in enumerate(CATIONS):
        for j, anion in enumerate(ANIONS):
            a = 2.1 + 0.02 * i + 0.06 * j
            lattice = ((0.0, a, a), (a, 0.0, a), (a, a, 0.0))
            crystal = Crystal(lattice, (cation, anion), ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5)))
            found.append(Candidate.make(label=cation + anion, crystal=crystal, crystal_key=cation + anion))
    order = np.random.default_rng(5).permutation(len(found))
    return [found[i] for i in order]


SALTS = salts()


def truth(candidates: list[Candidate]) -> np.ndarray:
    """Return a property that depends on the elements in a way a network has to learn."""
    parts = [candidate.label for candidate in candidates]
    cation = np.array(
        [CATIONS.index(next(c for c in CATIONS if p.startswith(c) and p[len(c) :] in ANIONS)) for p in parts]
    )
    anion = np.array(
        [ANIONS.index(next(a for a in ANIONS if p.endswith(a) and p[: -len(a)] in CATIONS)) for p in parts]
    )
    return np.sin(1.3 * cation) + np.cos(1.7 * anion)


def dataset(candidates: list[Candidate], values: np.ndarray, name: str) -> Dataset:
    """Return labels."""
    rows = [
        Row(i + 1, c, {}, name, float(y), None, Outcome.MEASURED, measurement=i)
        for i, (c, y) in enumerate(zip(candidates, values, strict=True))
    ]
    return Dataset(tuple(rows))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on 90 labels of the source's property, once."""
    folder = tmp_path_factory.mktemp("source")
    surrogate = GraphGaussianProcess(GraphGaussianProcessOptions(**OPTIONS, epochs=40))
    surrogate.fit(dataset(SALTS[:90], truth(SALTS[:90]), "energy"), SOURCE, seed=1)
    surrogate.save(folder)
    return folder


def started(folder: Path | None, labels: int = 24) -> tuple[GraphGaussianProcess, Callable[[], float], tuple[str, ...]]:
    """Fit another property, a line in the source's, on some labels; return the surrogate, its error and its notes."""
    options = GraphGaussianProcessOptions(**OPTIONS, epochs=10, start=folder)
    surrogate = GraphGaussianProcess(options)
    mine = SALTS[80 : 80 + labels]
    report = surrogate.fit(dataset(mine, 5.0 - 2.0 * truth(mine), "hardness"), HERE, seed=2)

    def error() -> float:
        others = SALTS[110:]
        return float(np.abs(surrogate.predict(others).mean[:, 0] - 5.0 + 2.0 * truth(others)).mean())

    return surrogate, error, report.notes


def test_a_related_source_helps_and_the_report_shows_both_arms(source: Path) -> None:
    """With a source of a related property the error is clearly lower; both held-out errors stand in the report."""
    _, without, plain_notes = started(None)
    surrogate, error, notes = started(source)
    assert isinstance(surrogate, Transfers)
    assert error() < 0.8 * without()
    assert "was used" in notes[-1]
    assert not any("transfer" in note for note in plain_notes)
    assert surrogate.knows() == {transfer.read_source(source, {}).knowledge}


def test_what_is_left_aside_leaves_no_trace(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where held-out labels are likelier without, the surrogate is exactly the one that began from nothing."""
    likelihoods = iter([-1.0, 0.0])  # with the source, then without
    monkeypatch.setattr(graph_surrogate, "log_density", lambda _: next(likelihoods))
    surrogate, error, notes = started(source)
    plain, without, _ = started(None)
    assert "left aside" in notes[-1]
    assert error() == without()
    np.testing.assert_array_equal(surrogate.predict(SALTS).sd, plain.predict(SALTS).sd)


def test_shuffled_labels_in_the_source_do_no_harm(tmp_path: Path) -> None:
    """A source trained on shuffled labels ends no more than a tenth behind a start from nothing."""
    values = np.random.default_rng(3).permutation(truth(SALTS[:90]))
    shuffled = GraphGaussianProcess(GraphGaussianProcessOptions(**OPTIONS, epochs=40))
    shuffled.fit(dataset(SALTS[:90], values, "energy"), SOURCE, seed=1)
    shuffled.save(tmp_path)
    _, error, notes = started(tmp_path)
    _, without, _ = started(None)
    assert "without" in notes[-1]
    assert error() <= 1.1 * without()


def test_metrics_hold_both_arms_and_the_better_one_is_kept(source: Path) -> None:
    """The report's likelihoods decide, and nothing else."""
    surrogate = GraphGaussianProcess(GraphGaussianProcessOptions(**OPTIONS, epochs=2, start=source))
    mine = SALTS[:12]
    report = surrogate.fit(dataset(mine, truth(mine), "hardness"), HERE, seed=2)
    own = report.metrics["hardness"]
    assert {f"{m}_{arm}_transfer" for m in ("mae", "nll") for arm in ("with", "without")} <= set(own)
    kept = "with" if "was used" in report.notes[-1] else "without"
    assert own["mae"] == own[f"mae_{kept}_transfer"]
    assert own["nll"] == own[f"nll_{kept}_transfer"]
    assert own[f"nll_{kept}_transfer"] == min(own["nll_with_transfer"], own["nll_without_transfer"])


def test_a_stored_fit_is_loaded_and_goes_on_warm_without_its_source(source: Path, tmp_path: Path) -> None:
    """On another machine the source's folder may be gone: asking and fitting warm still work; a cold fit names it."""
    surrogate, _, _ = started(source, labels=12)
    surrogate.save(tmp_path)
    gone = GraphGaussianProcessOptions(**OPTIONS, epochs=2, start=tmp_path / "gone")
    loaded = GraphGaussianProcess(gone)
    loaded.load(tmp_path, HERE)
    np.testing.assert_array_equal(loaded.predict(SALTS[:5]).mean, surrogate.predict(SALTS[:5]).mean)
    labels = dataset(SALTS[80:94], truth(SALTS[80:94]), "hardness")
    assert loaded.fit(labels, HERE, seed=3).warm
    with pytest.raises(SurrogateError, match=r"'start' names .*gone"):
        GraphGaussianProcess(gone).fit(labels, HERE, seed=3)


def test_what_cannot_be_started_from_is_refused(source: Path, tmp_path: Path) -> None:
    """Another network, another reach, a surrogate without networks, and a damaged file are named when it is built."""
    with pytest.raises(SurrogateError, match="network 'cgcnn', this surrogate has 'megnet'"):
        GraphGaussianProcess(GraphGaussianProcessOptions(device="cpu", start=source))
    with pytest.raises(SurrogateError, match=r"cutoff 4\.0, this surrogate has 5.0"):
        GraphGaussianProcess(GraphGaussianProcessOptions(**OPTIONS, cutoff=5.0, start=source))

    plain = PotentialGaussianProcess(PotentialGaussianProcessOptions(features=("composition",)))
    plain.fit(dataset(SALTS[:6], truth(SALTS[:6]), "energy"), SOURCE, seed=0)
    plain.save(tmp_path)
    with pytest.raises(SurrogateError, match="'potential_gp', which has no networks"):
        GraphGaussianProcess(GraphGaussianProcessOptions(**OPTIONS, start=tmp_path))

    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    arrays = bytearray((tmp_path / "state.safetensors").read_bytes())
    arrays[-1] ^= 1
    (tmp_path / "state.safetensors").write_bytes(bytes(arrays))
    with pytest.raises(SurrogateError, match="SHA-256"):
        GraphGaussianProcess(GraphGaussianProcessOptions(**OPTIONS, start=tmp_path))


def test_a_head_for_more_properties_starts_from_the_old_answers(source: Path) -> None:
    """Three properties start from one: body weights are taken as they are, each answer is the old one."""
    (weights, *_) = transfer.read_source(source, {}).trunks
    trunk = transfer.carry(weights, new_trunk("cgcnn", 3, seed=0))
    state = trunk.state_dict()
    assert all(torch.equal(state[name], value) for name, value in weights.items() if not name.startswith("head."))
    last = state["head.2.weight"]
    assert torch.equal(last, weights["head.2.weight"].expand(3, -1))
    assert trunk.rate_of("embed.weight") == transfer.CARRIED_RATE
    assert trunk.rate_of("head.2.weight") == 1.0


def test_likelihood_is_that_of_a_normal_distribution() -> None:
    """The mean log density of standardised labels, over properties; it does not depend on the unit."""
    one = HeldOut(np.array([0.1, -0.2]), np.array([0.2, 0.2]), np.array([0.0, 2.0]), (1, 2))
    other = HeldOut(one.residuals * 1000, one.sd * 1000, one.labels * 1000, (1, 2))
    expected = -0.5 * np.log(2 * np.pi) - np.log(0.2) - 0.5 * (0.25 + 1.0) / 2
    assert transfer.log_density({"a": one}) == pytest.approx(expected)
    assert transfer.log_density({"a": one, "b": other}) == pytest.approx(expected)


def test_fits_of_before_there_was_a_choice_are_megnets(source: Path, tmp_path: Path) -> None:
    """A state that names no network counts as MEGNet's, as in loading."""
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = json.loads((tmp_path / "state.json").read_text())
    del content["rest"]["encoding"]["options"]["network"]
    (tmp_path / "state.json").write_text(json.dumps(content))
    with pytest.raises(SurrogateError, match="network 'megnet'"):
        transfer.read_source(tmp_path, {"network": "cgcnn"})
