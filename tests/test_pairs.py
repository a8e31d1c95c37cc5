"""Every shipped pair of network and uncertainty keeps contract and calibration; impossible pairs are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Element
from safetensors.numpy import load_file

from orchestrator import plugins
from orchestrator.abilities import GivesIntervals, KnowsItsDomain, PredictsSuccess
from orchestrator.domain import Candidate, Crystal, Dataset, Objective, Outcome, Problem, Row
from orchestrator.errors import IncompatibleError, MatloopError, PluginError
from orchestrator.networks.trunk import NETWORKS
from orchestrator.protocols import Surrogate
from orchestrator.surrogates import pairs, variational
from orchestrator.surrogates.gnn_laplace import GraphLaplaceOptions

PROBLEM = Problem((Objective("y", "eV", "minimize"),))
LABELLED, NOISE = 28, 0.1
CATIONS = ("Li", "Na", "K", "Rb", "Cs", "Be", "Mg", "Ca", "Sr", "Ba", "Ti", "V", "Mn", "Fe", "Co", "Ni", "Cu", "Zn")
ANIONS = ("F", "Cl", "Br", "I", "O", "S", "Se")
SHIPPED = [pair for pair in pairs.every_pair() if not pair.refused]
REFUSED = [pair for pair in pairs.every_pair() if pair.refused]
TINY: dict[str, dict[str, Any]] = {
    "gp": {"folds": 2},
    "laplace": {"folds": 2},
    "ensemble": {"members": 2},
}


def crystal(cation: str, anion: str) -> Candidate:
    """Return a primitive rock-salt cell."""
    a = 2.0 * (float(Element(cation).atomic_radius) + float(Element(anion).atomic_radius)) + 0.8
    content = {
        "lattice": [[0.0, a / 2, a / 2], [a / 2, 0.0, a / 2], [a / 2, a / 2, 0.0]],
        "species": [cation, anion],
        "frac_coords": [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]],
    }
    return Candidate.make(label=cation + anion, crystal=Crystal.from_json(content), crystal_key=cation + anion)


def truth(candidate: Candidate) -> float:
    """Return a smooth function of the two elements."""
    assert candidate.crystal is not None
    cation, anion = (Element(symbol) for symbol in candidate.crystal.species)
    return float(anion.X - cation.X) + 0.1 * cation.row + 0.3 * float(np.sin(anion.Z / 8))


ALL = [crystal(cation, anion) for cation in CATIONS for anion in ANIONS]
ORDER = np.random.default_rng(0).permutation(len(ALL))
CANDIDATES = [ALL[i] for i in ORDER]
LABELS = np.array([truth(c) for c in CANDIDATES]) + NOISE * np.random.default_rng(1).normal(size=len(ALL))


def dataset(count: int) -> Dataset:
    """Return labels of the first candidates."""
    return Dataset(
        tuple(
            Row(i + 1, candidate, {}, "y", float(value), None, Outcome.MEASURED, measurement=i)
            for i, (candidate, value) in enumerate(zip(CANDIDATES[:count], LABELS, strict=False))
        )
    )


def build(pair: pairs.Pair) -> Surrogate:
    """Build a pair that is trained in a second."""
    options = {"network": pair.network, "device": "cpu", "epochs": 1, **TINY[pair.head]}
    surrogate: Surrogate = plugins.build("surrogates", pair.surrogate, options)
    return surrogate


@pytest.mark.parametrize("pair", SHIPPED, ids=lambda pair: f"{pair.network}-{pair.head}")
def test_a_shipped_pair_keeps_the_contract_and_is_calibrated(pair: pairs.Pair, tmp_path: Path) -> None:
    """Draws are functions, updates absolute, a saved fit is the fit, and 90 % intervals cover 75 to 100 %."""
    surrogate = build(pair)
    report = surrogate.fit(dataset(LABELLED), PROBLEM, seed=3)
    assert report.labels == LABELLED
    asked, found = CANDIDATES[LABELLED:], LABELS[LABELLED:]
    prediction = surrogate.predict(asked)
    inside = np.abs(prediction.mean[:, 0] - found) < 1.645 * prediction.sd[:, 0]
    assert 0.75 <= inside.mean() <= 1.0
    assert np.median(prediction.sd[:, 0]) < 1.5 * LABELS.std()  # an interval of any width would cover
    assert isinstance(surrogate, GivesIntervals)
    low, high = surrogate.interval(asked, 0.9)
    assert 0.75 <= np.mean((low[:, 0] < found) & (found < high[:, 0])) <= 1.0

    few = asked[:9]
    draws = surrogate.draw(few, 4, seed=5)
    turned = np.random.default_rng(0).permutation(9)
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(surrogate.draw([few[i] for i in turned], 4, seed=5), draws[:, turned], **close)
    parts = [surrogate.draw(few[k : k + 4], 4, seed=5) for k in (0, 4, 8)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), draws, **close)
    assert isinstance(surrogate, PredictsSuccess)
    assert isinstance(surrogate, KnowsItsDomain)
    np.testing.assert_allclose(surrogate.success(few), (LABELLED + 1) / (LABELLED + 2))
    assert np.all(surrogate.outside(CANDIDATES[:3]) < 1e-3)
    assert np.all(surrogate.outside(few) > 0)

    before = surrogate.predict(few)
    surrogate.update(dataset(LABELLED + 12))
    assert not np.allclose(surrogate.predict(few).mean, before.mean)
    surrogate.save(tmp_path)
    surrogate.update(dataset(LABELLED))
    again = build(pair)
    again.load(tmp_path, PROBLEM)
    for other in (surrogate, again):
        np.testing.assert_allclose(other.predict(few).mean, before.mean, **close)
        np.testing.assert_allclose(other.predict(few).sd, before.sd, **close)
        np.testing.assert_allclose(other.draw(few, 2, seed=5), draws[:2], **close)


@pytest.mark.parametrize("head", ["gp", "ensemble"])
def test_pairs_go_on_with_many_labels(head: pairs.HeadName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above `exact_up_to` the processes are variational; predictions, a save and an update work as before."""
    monkeypatch.setattr(variational, "INDUCING", 12)
    pair = pairs.pair("cgcnn", head)
    surrogate = build(pair)
    small = surrogate.options.model_copy(update={"exact_up_to": 20})  # type: ignore[attr-defined]
    surrogate.options = small  # type: ignore[attr-defined]
    surrogate.fit(dataset(60), PROBLEM, seed=3)
    asked, found = CANDIDATES[60:], LABELS[60:]
    prediction = surrogate.predict(asked)
    assert 0.75 <= np.mean(np.abs(prediction.mean[:, 0] - found) < 1.645 * prediction.sd[:, 0]) <= 1.0
    surrogate.save(tmp_path)
    assert any("inducing" in name for name in load_file(tmp_path / "state.safetensors"))
    again = build(pair)
    again.load(tmp_path, PROBLEM)
    np.testing.assert_allclose(again.predict(asked).sd, prediction.sd, rtol=1e-4)
    np.testing.assert_allclose(again.draw(asked[:5], 3, seed=1), surrogate.draw(asked[:5], 3, seed=1), rtol=1e-4)
    surrogate.update(dataset(70))
    assert not np.allclose(surrogate.predict(asked).mean, prediction.mean)
    surrogate.update(dataset(60))
    np.testing.assert_allclose(surrogate.predict(asked).mean, prediction.mean, rtol=1e-4, atol=1e-5)


def test_the_table_is_whole() -> None:
    """Every network has an entry for every head, and each network goes with the default head at least."""
    table = list(pairs.every_pair())
    assert len(table) == len(NETWORKS) * len(pairs.HEADS)
    assert {pair.network for pair in SHIPPED if pair.head == "gp"} == set(NETWORKS)
    assert set(pairs.HEADS.values()) <= set(plugins.available("surrogates"))


@pytest.mark.parametrize("pair", REFUSED, ids=lambda pair: f"{pair.network}-{pair.head}")
def test_impossible_pairs_are_refused_when_they_are_built(pair: pairs.Pair) -> None:
    """The message names both and the reason; nothing has to be trained to hear it."""
    with pytest.raises(IncompatibleError, match=rf"'{pair.network}' does not go with '{pair.surrogate}': .{{20,}}"):
        build(pair)


def test_options_that_contradict_the_head_are_refused() -> None:
    """A last layer has no kernel; a variational head below its size is no gain; both say what to write instead."""
    with pytest.raises(PluginError, match="last layer is linear and has no kernel"):
        plugins.build("surrogates", "gnn_laplace", {"kernel": "rbf"})
    with pytest.raises(PluginError, match="below 600 labels the exact one is both faster and better"):
        plugins.build("surrogates", "gnn_gp", {"exact_up_to": 50})
    with pytest.raises(ValueError, match="has no kernel"):
        GraphLaplaceOptions(kernel="rbf")


def test_a_network_says_what_it_reads() -> None:
    """A network of formulas learns from crystals and formulas; one of graphs refuses a formula by name."""
    formulas = plugins.build("surrogates", "gnn_laplace", {"network": "composition"})
    graphs = plugins.build("surrogates", "gnn_laplace", {"network": "cgcnn", "epochs": 1})
    assert {"structure", "composition"} <= formulas.supports()
    assert "composition" not in graphs.supports()
    graphs.fit(dataset(6), PROBLEM, seed=0)
    with pytest.raises(MatloopError, match="formula only"):
        graphs.predict([Candidate.make(label="formula only", composition="NaCl")])
