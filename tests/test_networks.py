"""Graphs, element statistics, neighbourhoods, training and devices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.nn import CGConv

from orchestrator.domain import Candidate, Crystal
from orchestrator.errors import Diverged, MaterialError, SurrogateError
from orchestrator.networks import composition, devices, environments, graphs
from orchestrator.networks.cgcnn import CENTRES, CHANNELS, Convolution
from orchestrator.networks.training import Schedule, shrink_and_perturb, train
from orchestrator.networks.trunk import new_trunk, represent
from orchestrator.surrogates.trunks import TrunkOptions, Trunks

CPU = torch.device("cpu")


def cubic(a: float, species: tuple[str, ...], sites: tuple[tuple[float, float, float], ...]) -> Crystal:
    """Return a cubic cell."""
    return Crystal(((a, 0.0, 0.0), (0.0, a, 0.0), (0.0, 0.0, a)), species, sites)


def caesium_chloride(a: float = 4.1, one: str = "Cs", two: str = "Cl") -> Crystal:
    """Return a caesium-chloride cell."""
    return cubic(a, (one, two), ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5)))


PEROVSKITE_SITES = ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, 0.5, 0.0), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5))


def test_neighbours_of_caesium_chloride_are_counted() -> None:
    """8 neighbours at √3/2 a and 6 at a within 4.2 Å of each atom, and no atom is its own neighbour."""
    graph = graphs.build(caesium_chloride(), 4.2)
    assert graph.edges.shape == (2, 28)
    source, target = graph.edges
    distance = np.linalg.norm(graph.positions[target] + graph.shifts - graph.positions[source], axis=1)
    assert sorted(np.unique(distance.round(4))) == [round(4.1 * 3**0.5 / 2, 4), 4.1]
    assert list(graph.species) == [54, 16]


def test_edges_have_their_reverse() -> None:
    """Every edge occurs in both directions."""
    graph = graphs.build(cubic(4.0, ("Sr", "Ti", "O", "O", "O"), PEROVSKITE_SITES), 4.0)
    seen = {(int(a), int(b), *np.round(shift, 6)) for (a, b), shift in zip(graph.edges.T, graph.shifts, strict=True)}
    assert all((b, a, *np.round(-np.array(shift), 6) + 0.0) in seen for a, b, *shift in seen)


def test_a_lone_atom_gets_neighbours_farther_away() -> None:
    """The cutoff is widened where an atom has no neighbour within it, up to a limit that names the crystal."""
    assert graphs.build(cubic(7.0, ("Xe",), ((0.0, 0.0, 0.0),)), 4.0).edges.shape[1] == 6
    with pytest.raises(MaterialError, match="no neighbour within 30"):
        graphs.build(cubic(50.0, ("Xe",), ((0.0, 0.0, 0.0),)), 4.0)


@pytest.mark.parametrize(
    ("crystal", "words"),
    [
        (cubic(4.0, ("Na", "Na"), ((0.0, 0.0, 0.0), (0.0, 0.0, 0.001))), "apart"),
        (Crystal(((1, 0, 0), (0, 1, 0), (1, 1, 0)), ("Na",), ((0, 0, 0),)), "plane"),
        (cubic(4.0, ("Xx",), ((0.0, 0.0, 0.0),)), "no element"),
    ],
)
def test_impossible_crystals_are_named(crystal: Crystal, words: str) -> None:
    """Atoms on top of each other, flat cells and unknown elements are errors that say so."""
    with pytest.raises(MaterialError, match=words):
        graphs.build(crystal, 4.0)


def test_graphs_are_kept_and_forgotten() -> None:
    """The cache returns the same object, and forgets the least recently used one."""
    cache = graphs.GraphCache(4.0, most=2)
    crystals = [caesium_chloride(a) for a in (4.0, 4.1, 4.2)]
    (first,) = cache.get(crystals[:1])
    assert cache.get(crystals[:1])[0] is first
    cache.get(crystals[1:])
    assert cache.get(crystals[:1])[0] is not first


def test_batches_keep_graphs_apart() -> None:
    """Joined graphs have int64 indices, shifted by the atoms before, and belong to their own graph."""
    two = graphs.GraphCache(4.2).get([caesium_chloride(), caesium_chloride(4.0)])
    data = graphs.join(two, CPU, torch.float32)
    assert data.edge_index.dtype == torch.int64
    assert data.num_graphs == 2
    owner = data.batch[data.edge_index]
    assert torch.equal(owner[0], owner[1])
    assert data.pos.shape == (4, 3)


def test_statistics_of_a_formula() -> None:
    """Mean, deviation, extremes and norms follow from the fractions; formula and crystal of one thing agree."""
    formula = Candidate.make(label="x", composition="CsCl")
    crystal = Candidate.make(label="x", crystal=caesium_chloride(), crystal_key="k")
    rows = composition.statistics([formula, crystal])
    np.testing.assert_array_equal(rows[0], rows[1])
    properties = len(composition.PROPERTIES)
    assert rows[0, 0] == (55 + 17) / 2
    assert rows[0, properties] == (55 - 17) / 2
    assert (rows[0, 2 * properties], rows[0, 3 * properties], rows[0, 4 * properties]) == (17, 55, 38)
    assert rows[0, -len(composition.NORMS)] == 2
    assert composition.statistics([]).shape == (0, rows.shape[1])
    assert composition.spread().shape == (rows.shape[1],)


@pytest.mark.parametrize(("formula", "words"), [("Xy2O", "cannot be read|no element"), ("Q(", "cannot be read")])
def test_formulas_that_mean_nothing_are_named(formula: str, words: str) -> None:
    """A formula with unknown elements or broken brackets is an error that repeats it."""
    with pytest.raises(MaterialError, match=words):
        composition.statistics([Candidate.make(label=formula, composition=formula)])


@given(st.integers(0, 2**31), st.booleans())
@settings(max_examples=15, deadline=None)
def test_neighbourhoods_are_invariant(seed: int, repeat: bool) -> None:
    """Rotation, translation, order of the atoms and repetition change no neighbourhood statistic."""
    rng = np.random.default_rng(seed)
    lattice = np.diag(rng.uniform(3.8, 5.0, 3)) + rng.normal(scale=0.2, size=(3, 3))
    sites = np.array(PEROVSKITE_SITES) + rng.normal(scale=0.02, size=(5, 3))
    species = ["Sr", "Ti", "O", "O", "F"]
    turned = lattice @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    order = rng.permutation(5)
    moved = (sites + rng.uniform(size=3))[order]
    names = [species[i] for i in order]
    if repeat:
        turned = turned * np.array([[2.0], [1.0], [1.0]])
        half = moved * np.array([0.5, 1.0, 1.0])
        moved, names = np.vstack([half, np.add(half, (0.5, 0.0, 0.0))]), names * 2
    make = [
        Crystal(tuple(map(tuple, cell.tolist())), tuple(kinds), tuple(map(tuple, where.tolist())))
        for cell, kinds, where in ((lattice, species, sites), (turned, names, moved))
    ]
    one, two = environments.statistics(make)
    np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-8)


def test_neighbourhoods_tell_sites_apart() -> None:
    """Swapping the two cations of a perovskite changes the neighbourhoods, but not the composition."""
    here = cubic(4.0, ("Sr", "Ti", "O", "O", "O"), PEROVSKITE_SITES)
    there = cubic(4.0, ("Ti", "Sr", "O", "O", "O"), PEROVSKITE_SITES)
    one, two = environments.statistics([here, there])
    assert np.abs(one - two).max() > 0.1


def test_a_trunk_learns_and_averages() -> None:
    """Training lowers the error on the training labels, ignores absent ones, and depends on the seed alone."""
    crystals = [caesium_chloride(3.6 + 0.1 * i, one, "Cl") for i, one in enumerate(("Li", "Na", "K", "Rb", "Cs", "Tl"))]
    cache = graphs.GraphCache(4.5).get(crystals)
    y = np.column_stack([np.linspace(-1, 1, 6), [np.nan, 1.0, np.nan, 0.0, -1.0, 0.5]])
    before = new_trunk("megnet", 2, 0, cutoff=4.5, blocks=1)
    state = torch.random.get_rng_state()
    schedule = Schedule(epochs=30, batch=6, rate=1e-2)
    trained = [
        train(new_trunk("megnet", 2, 0, cutoff=4.5, blocks=1), cache, y, schedule=schedule, seed=1, device=CPU)
        for _ in range(2)
    ]
    assert torch.equal(state, torch.random.get_rng_state())
    answers = [represent(trunk, cache, CPU)[:, trunk.width :] for trunk in (before, *trained)]
    errors = [np.nanmean((answer - y) ** 2) for answer in answers]
    assert errors[1] < 0.5 * errors[0]
    np.testing.assert_array_equal(answers[1], answers[2])


def test_a_trunk_answers_alike_in_any_batch() -> None:
    """A row is bit for bit the same alone and among others."""
    cache = graphs.GraphCache(4.5).get([caesium_chloride(3.9 + 0.05 * i) for i in range(7)])
    trunk = new_trunk("megnet", 1, 0, cutoff=4.5, blocks=2)
    whole = represent(trunk, cache, CPU)
    assert whole.shape == (7, trunk.width + 1)
    for i in (0, 3, 6):
        np.testing.assert_array_equal(represent(trunk, cache[i : i + 1], CPU)[0], whole[i])


def test_a_warm_start_keeps_and_perturbs() -> None:
    """Matrices become half the old ones plus a tenth of fresh ones; the element table is kept whole."""
    old, fresh = (new_trunk("megnet", 1, seed, blocks=1) for seed in (0, 1))
    name = "head.0.weight"
    wanted = 0.5 * old.state_dict()[name] + 0.1 * fresh.state_dict()[name]
    mixed = shrink_and_perturb(old.state_dict(), fresh).state_dict()
    torch.testing.assert_close(mixed[name], wanted)
    table = "body.embedding.layer_node_embedding.weight"
    torch.testing.assert_close(mixed[table], old.state_dict()[table])


def test_the_fast_convolution_is_the_published_one() -> None:
    """Without weights of edges it gives what PyTorch Geometric's layer gives with the same parameters."""
    ours = Convolution()
    theirs = CGConv(CHANNELS, dim=CENTRES)
    theirs.load_state_dict(ours.state_dict())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, CHANNELS, generator=generator)
    edges = torch.randint(6, (2, 40), generator=generator)
    beside = torch.rand(40, CENTRES, generator=generator)
    torch.testing.assert_close(ours(x, edges, beside), theirs(x, edges, beside), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "epochs"), [("cgcnn", 15), ("tensornet", 40)])
def test_every_network_learns(name: str, epochs: int) -> None:
    """Training lowers the error, and the same seed gives the same weights, bit for bit."""
    crystals = [caesium_chloride(3.6 + 0.1 * i, one, "Cl") for i, one in enumerate(("Li", "Na", "K", "Rb", "Cs", "Tl"))]
    items = graphs.GraphCache(4.0).get(crystals)
    y = np.linspace(-1, 1, 6)[:, None]
    schedule = Schedule(epochs=epochs, batch=6, rate=5e-3)
    trained = [train(new_trunk(name, 1, 0), items, y, schedule=schedule, seed=1, device=CPU) for _ in range(2)]
    before, *after = (represent(trunk, items, CPU)[:, -1:] for trunk in (new_trunk(name, 1, 0), *trained))
    np.testing.assert_array_equal(*after)
    assert np.mean((after[0] - y) ** 2) < 0.5 * np.mean((before - y) ** 2)


def test_a_network_that_is_not_there_is_named() -> None:
    """An unknown network is an error that lists the known ones."""
    with pytest.raises(SurrogateError, match=r"'schnet'.*megnet, cgcnn"):
        new_trunk("schnet", 1, 0)


def test_fits_from_before_the_choice_are_megnets() -> None:
    """A stored fit that names no network is restored as MEGNet, whatever the options say now."""
    crystals = [caesium_chloride(3.9), caesium_chloride(4.1, "K")]
    candidates = [Candidate.make(label=str(i), crystal=one, crystal_key=str(i)) for i, one in enumerate(crystals)]
    old = Trunks(TrunkOptions(epochs=1, device="cpu"))
    old.train(candidates, np.array([[0.0], [1.0]]), [np.ones(2, dtype=bool)], 0, warm=False)
    arrays, rest = old.state()
    del rest["options"]["network"]
    new = Trunks(TrunkOptions(network="cgcnn", device="cpu"))
    new.restore(arrays, rest)
    assert new.kind.name == "megnet"
    np.testing.assert_array_equal(new.encode(candidates), old.encode(candidates))


def test_training_that_explodes_is_an_error() -> None:
    """A learning rate without bounds ends in a named error, not in weights of NaN."""
    cache = graphs.GraphCache(4.5).get([caesium_chloride(4.0), caesium_chloride(4.2)])
    with pytest.raises(Diverged, match="2 crystals"):
        train(
            new_trunk("megnet", 1, 0, cutoff=4.5, blocks=1),
            cache,
            np.array([[1.0], [0.0]]),
            schedule=Schedule(epochs=20, batch=2, rate=1e30),
            seed=0,
            device=CPU,
        )


def test_a_device_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """`cuda` without CUDA is refused with what to do; `auto` says what it chose."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SurrogateError, match="device: auto"):
        devices.choose("cuda")
    device, text = devices.choose("auto")
    assert device.type == "cpu"
    assert "no CUDA device" in text
    assert devices.choose("cpu") == (CPU, "cpu")
