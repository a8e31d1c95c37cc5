"""CHGNet: frozen features and their cache on disk, and the same network as a trunk that labels train further."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.domain import Candidate, Crystal, Dataset, Objective, Outcome, Problem, Row
from orchestrator.errors import IncompatibleError, MaterialError, SurrogateError
from orchestrator.networks import chgnet_trunk, feature_cache, pretrained
from orchestrator.networks.graphs import Graph, build
from orchestrator.networks.training import Schedule, shrink_and_perturb, train
from orchestrator.networks.trunk import Depth, Trunk, new_trunk, represent
from orchestrator.surrogates.gnn_ensemble import GraphEnsemble, GraphEnsembleOptions
from orchestrator.surrogates.gnn_gp import GraphGaussianProcess, GraphGaussianProcessOptions

SALT = Crystal(((0.0, 2.8, 2.8), (2.8, 0.0, 2.8), (2.8, 2.8, 0.0)), ("Na", "Cl"), ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5)))
OXIDE = Crystal(((0.0, 2.1, 2.1), (2.1, 0.0, 2.1), (2.1, 2.1, 0.0)), ("Mg", "O"), ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5)))


@pytest.fixture(scope="module")
def known() -> np.ndarray:
    """Compute two rows once."""
    return pretrained.cache_in(None).get([SALT, OXIDE])


def test_columns_mean_what_they_say(known: np.ndarray) -> None:
    """Scalars carry volume and density; the interaction energy of an ionic crystal is negative; pools are ordered."""
    assert known.shape == (2, pretrained.DIMENSION)
    scalars = dict(zip(pretrained.SCALARS, known[0, list(pretrained.scalar_columns())], strict=True))
    assert scalars["volume_per_atom"] == pytest.approx(2 * 2.8**3 / 2, rel=1e-5)
    assert scalars["density"] == pytest.approx(2.21, abs=0.02)
    assert scalars["interaction_energy"] < -0.5
    low, mean, high = (
        known[:, list(pretrained.columns(("readout",), (pool,)))] for pool in ("smallest", "mean", "largest")
    )
    assert np.all(low <= mean + 1e-6)
    assert np.all(mean <= high + 1e-6)


def test_files_are_read_again_without_the_network(
    known: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second process takes the features from disk; nothing but safetensors lies there."""
    pretrained.cache_in(tmp_path).get([SALT, OXIDE])
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors"}

    def absent() -> None:
        message = "the network was asked"
        raise AssertionError(message)

    monkeypatch.setattr(pretrained, "_network", absent)
    np.testing.assert_array_equal(pretrained.cache_in(tmp_path).get([OXIDE, SALT]), known[::-1])


def test_a_damaged_file_is_computed_again(known: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A cache file cut short is named in a warning, and the features are right all the same."""
    pretrained.cache_in(tmp_path).get([SALT])
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(pretrained.cache_in(tmp_path).get([SALT]), known[:1])
    assert path.name in caplog.text


def test_many_files_become_one(known: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files beyond a number are merged, and nothing is lost."""
    monkeypatch.setattr(feature_cache, "FEW_FILES", 1)
    pretrained.cache_in(tmp_path).get([SALT])
    other = pretrained.cache_in(tmp_path)
    other._read = True
    other.get([OXIDE])
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    np.testing.assert_array_equal(pretrained.cache_in(tmp_path).get([SALT, OXIDE]), known)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_a_cache_that_cannot_be_written_is_no_error(known: np.ndarray, tmp_path: Path) -> None:
    """Where the folder cannot be made, features are computed and kept in memory."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    np.testing.assert_array_equal(pretrained.cache_in(blocked / "cache").get([SALT]), known[:1])


def test_a_crystal_that_chgnet_cannot_read_is_named() -> None:
    """An isolated atom gives an error with formula and volume."""
    lonely = Crystal(((30.0, 0.0, 0.0), (0.0, 30.0, 0.0), (0.0, 0.0, 30.0)), ("Xe",), ((0.0, 0.0, 0.0),))
    with pytest.raises(MaterialError, match=r"Xe .*27000"):
        pretrained.cache_in(None).get([lonely])


CPU = torch.device("cpu")
CATIONS = ("Li", "Na", "K", "Rb")
SALTS = [
    Crystal(
        ((0.0, half, half), (half, 0.0, half), (half, half, 0.0)), (cation, anion), ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5))
    )
    for i, cation in enumerate(CATIONS)
    for anion, half in (("F", 2.1 + 0.3 * i), ("Cl", 2.6 + 0.3 * i))
]
LABELS = np.linspace(-1.5, 1.5, len(SALTS))[:, None]


def graphs_of(crystals: list[Crystal]) -> list[Graph]:
    """Return graphs with CHGNet's reach."""
    return [build(crystal, chgnet_trunk.CUTOFF) for crystal in crystals]


def trunk_of(depth: Depth) -> Trunk:
    """Return CHGNet with a fresh head."""
    trunk = new_trunk("chgnet", 1, seed=3)
    trunk.learn(depth)
    return trunk


def trained(depth: Depth, epochs: int = 3) -> tuple[Trunk, dict[str, torch.Tensor]]:
    """Train a few steps on eight salts; return the trunk and the weights before."""
    trunk = trunk_of(depth)
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    schedule = Schedule(epochs=epochs, batch=8, rate=5e-3)
    return train(trunk, graphs_of(SALTS), LABELS, schedule=schedule, seed=0, device=CPU), before


def changed(trunk: Trunk, before: dict[str, torch.Tensor]) -> set[str]:
    """Name the weights that are no longer bit for bit what they were."""
    return {name for name, value in trunk.state_dict().items() if not torch.equal(value, before[name])}


def test_the_trunk_says_what_chgnet_says(known: np.ndarray) -> None:
    """Mean and spread after every layer are those of CHGNet's own forward pass, from graphs built here."""
    rows = represent(trunk_of("full"), graphs_of([SALT, OXIDE]), CPU)
    layers = rows[:, : chgnet_trunk.READOUT].reshape(2, len(pretrained.LAYERS), chgnet_trunk.MOMENTS, pretrained.WIDTH)
    for i, layer in enumerate(pretrained.LAYERS):
        for j, pool in enumerate(("mean", "spread")):
            expected = known[:, list(pretrained.columns((layer,), (pool,)))]
            np.testing.assert_allclose(layers[:, i, j], expected, atol=1e-4)  # theirs is in single precision


def test_frozen_trains_the_head_only_and_goes_through_the_network_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretrained weights stay bit for bit; a graph goes through them once, however many epochs there are."""
    calls: list[int] = []
    through = chgnet_trunk.ChgnetTrunk._layers

    def counted(self: chgnet_trunk.ChgnetTrunk, batch: object, x: torch.Tensor) -> object:
        calls.append(batch.num_graphs)  # type: ignore[attr-defined]
        return through(self, batch, x)

    monkeypatch.setattr(chgnet_trunk.ChgnetTrunk, "_layers", counted)
    trunk, before = trained("frozen")
    assert {name.partition(".")[0] for name in changed(trunk, before)} == {"head"}
    assert sum(calls) == len(SALTS)
    whole = represent(trunk_of("full"), graphs_of(SALTS[:3]), CPU)
    alone = represent(trunk_of("frozen"), graphs_of(SALTS[:3]), CPU)
    np.testing.assert_array_equal(alone[:, : chgnet_trunk.READOUT], whole[:, : chgnet_trunk.READOUT])


def test_last_trains_the_last_convolution_besides() -> None:
    """Nothing before the last layer changes, and it does change."""
    trunk, before = trained("last")
    names = {name for name in changed(trunk, before) if not name.startswith("head.")}
    assert any(name.startswith("body.atom_conv_layers.3.") for name in names)
    assert all(name.startswith(("body.atom_conv_layers.3.", "body.readout_norm.")) for name in names)


def test_full_lowers_the_loss_and_moves_pretrained_weights_less_than_the_head() -> None:
    """A few steps on eight salts halve the error; a pretrained weight moves far less than one of the head."""
    trunk, before = trained("full", epochs=12)
    graphs = graphs_of(SALTS)

    def error(one: Trunk) -> float:
        answers = represent(one, graphs, CPU)[:, chgnet_trunk.READOUT :]
        return float(((answers - LABELS) ** 2).mean())

    assert error(trunk) < 0.5 * error(trunk_of("full"))
    moved = {name: float((value - before[name]).abs().max()) for name, value in trunk.state_dict().items()}
    body = max(size for name, size in moved.items() if name.startswith("body."))
    assert 0.0 < body < 0.2 * max(size for name, size in moved.items() if name.startswith("head."))
    assert moved["body.composition_model.fc.weight"] == 0.0


def test_a_warm_start_keeps_what_was_pretrained() -> None:
    """Shrinking would destroy it: the head is shrunk and perturbed, the rest is taken as it is."""
    old = trunk_of("frozen")
    with torch.no_grad():
        old.get_parameter("body.readout_norm.weight").add_(0.125)
    warm = shrink_and_perturb(old.state_dict(), trunk_of("frozen"))
    names = changed(warm, dict(old.state_dict()))
    assert names
    assert all(name.startswith("head.") for name in names)


def test_an_edge_without_its_reverse_is_refused() -> None:
    """CHGNet's bonds are pairs of edges; a graph limited to the nearest neighbours has none for some."""
    graph = build(SALTS[0], chgnet_trunk.CUTOFF)
    broken = Graph(graph.species, graph.positions, graph.edges[:, 1:], graph.shifts[1:])
    with pytest.raises(MaterialError, match="1 edges without their reverse"):
        chgnet_trunk.bonds(broken)


def test_an_element_beyond_plutonium_is_named() -> None:
    """CHGNet was never told of americium."""
    heavy = Crystal(SALT.lattice, ("Am", "N"), SALT.frac_coords)
    with pytest.raises(MaterialError, match="element 95"):
        represent(trunk_of("frozen"), graphs_of([heavy]), CPU)


def test_options_that_do_not_go_with_the_network_are_refused() -> None:
    """Another cutoff, a network that starts from nothing, and an ensemble of equal members are named."""
    with pytest.raises(SurrogateError, match="6 Å and 4 blocks"):
        new_trunk("chgnet", 1, seed=0, cutoff=5.0)
    with pytest.raises(ValueError, match="megnet starts from nothing"):
        GraphGaussianProcessOptions(finetune="last")
    with pytest.raises(SurrogateError, match="starts from nothing"):
        new_trunk("cgcnn", 1, seed=0).learn("frozen")
    with pytest.raises(IncompatibleError, match="'chgnet' does not go with 'gnn_ensemble'"):
        GraphEnsemble(GraphEnsembleOptions(network="chgnet"))


def test_a_surrogate_stands_on_the_trunk(tmp_path: Path) -> None:
    """gnn_gp learns on CHGNet, says what it knows, and answers the same after saving and loading."""
    options = GraphGaussianProcessOptions(network="chgnet", finetune="last", epochs=2, device="cpu")
    surrogate = GraphGaussianProcess(options)
    assert surrogate.knows() == {"chgnet-0.3.0"}
    candidates = [Candidate.make(label=str(i), crystal=c, crystal_key=str(i)) for i, c in enumerate(SALTS)]
    rows = [
        Row(i + 1, c, {}, "energy", float(y), None, Outcome.MEASURED, measurement=i)
        for i, (c, y) in enumerate(zip(candidates[:6], LABELS[:6, 0], strict=True))
    ]
    problem = Problem((Objective("energy", "eV", "minimize"),))
    surrogate.fit(Dataset(tuple(rows)), problem, seed=1)
    before = surrogate.predict(candidates)
    assert np.all(np.isfinite(before.mean))
    surrogate.save(tmp_path)
    loaded = GraphGaussianProcess(options)
    loaded.load(tmp_path, problem)
    np.testing.assert_array_equal(loaded.predict(candidates).mean, before.mean)
