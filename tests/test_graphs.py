"""Graphs of crystals: neighbours, limits on their number, angles, many at once, kept on disk."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from orchestrator.domain import Crystal
from orchestrator.errors import MaterialError
from orchestrator.networks import graphs
from orchestrator.networks.feature_cache import CACHE_VARIABLE
from orchestrator.networks.graph_store import GraphStore

SITES = ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, 0.5, 0.0), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5))
FLOOR = 1000.0
"""Structures a second on any computer; the benchmark `speed` states what one really reaches."""


def perovskite(i: int, a: float = 3.9) -> Crystal:
    """Return one of many slightly different, skewed perovskite cells."""
    rng = np.random.default_rng(i)
    lattice = np.diag(rng.uniform(a - 0.2, a + 0.4, 3)) + rng.normal(scale=0.1, size=(3, 3))
    sites = np.array(SITES) + rng.normal(scale=0.01, size=(5, 3))
    species = (("Ca", "Sr", "Ba")[i % 3], ("Ti", "Zr")[i % 2], "O", "O", "O")
    return Crystal(tuple(map(tuple, lattice.tolist())), species, tuple(map(tuple, sites.tolist())))


def cube(a: float = 4.0) -> Crystal:
    """Return a cubic perovskite cell."""
    return Crystal(((a, 0.0, 0.0), (0.0, a, 0.0), (0.0, 0.0, a)), ("Sr", "Ti", "O", "O", "O"), SITES)


def same(one: graphs.Graph, two: graphs.Graph) -> None:
    """Compare two graphs bit for bit."""
    for name in ("species", "positions", "edges", "shifts"):
        first, second = getattr(one, name), getattr(two, name)
        assert first.dtype == second.dtype
        np.testing.assert_array_equal(first, second)


def lengths(graph: graphs.Graph) -> np.ndarray:
    """Return the length of each edge."""
    source, target = graph.edges
    return np.linalg.norm(graph.positions[target] + graph.shifts - graph.positions[source], axis=1)


def test_a_limit_keeps_whole_shells_of_the_nearest() -> None:
    """At most k neighbours an atom, but a shell of equal distances is never cut, and what is kept is the nearest."""
    crystal = cube()
    whole, few = graphs.build(crystal, 6.0), graphs.build(crystal, 6.0, nearest=6)
    titanium = 1
    assert (few.edges[0] == titanium).sum() == 6  # the octahedron
    strontium = 0
    assert (few.edges[0] == strontium).sum() == 12  # six would tear the shell of twelve
    longest = np.array([lengths(few)[few.edges[0] == i].max() for i in range(5)])
    left_out = lengths(whole) > longest[whole.edges[0]] + graphs.SAME_SHELL
    assert few.edges.shape[1] == (~left_out).sum()
    same(graphs.build(crystal, 6.0, nearest=10_000), whole)


def test_a_limit_does_not_depend_on_the_order_of_the_atoms() -> None:
    """Reordered atoms have the same neighbours, so a limit breaks no symmetry."""
    crystal, order = perovskite(3), [4, 2, 0, 3, 1]
    turned = Crystal(
        crystal.lattice,
        tuple(crystal.species[i] for i in order),
        tuple(crystal.frac_coords[i] for i in order),
    )
    one, two = (graphs.build(c, 5.0, nearest=8) for c in (crystal, turned))
    for new, old in enumerate(order):
        np.testing.assert_allclose(
            np.sort(lengths(two)[two.edges[0] == new]), np.sort(lengths(one)[one.edges[0] == old]), atol=1e-12
        )


def test_triplets_are_all_pairs_of_edges_with_one_source() -> None:
    """They are those of a plain double loop; the octahedron has 24 right angles and 6 straight ones."""
    graph = graphs.build(perovskite(1), 3.5)
    source = graph.edges[0]
    plain = {(i, j) for i in range(len(source)) for j in range(len(source)) if i != j and source[i] == source[j]}
    found = graphs.triplets(graph)
    assert {tuple(pair) for pair in found.T.tolist()} == plain
    assert found.shape == (2, len(plain))

    octahedron = graphs.build(cube(), 2.1)
    pairs = graphs.triplets(octahedron)
    around = octahedron.edges[0][pairs[0]] == 1
    degrees = np.degrees(graphs.angles(octahedron, pairs))[around].round(6)
    assert dict(zip(*np.unique(degrees, return_counts=True), strict=True)) == {90.0: 24, 180.0: 6}


def test_many_at_once_are_the_same_in_their_order() -> None:
    """Two processes give bit for bit what one gives, in the order asked."""
    crystals = [perovskite(i) for i in range(40)]
    for one, two in zip(
        graphs.build_many(crystals, 4.0, workers=1), graphs.build_many(crystals, 4.0, workers=2), strict=True
    ):
        same(one, two)


def test_an_impossible_crystal_among_many_is_named() -> None:
    """An error in another process comes back as what it was."""
    bad = Crystal(cube().lattice, ("Na", "Na"), ((0.0, 0.0, 0.0), (0.0, 0.0, 0.001)))
    with pytest.raises(MaterialError, match=r"NaNa: two atoms are 0\.004 Å apart"):
        graphs.build_many([perovskite(0), bad, perovskite(1)], 4.0, workers=2)


def test_small_structures_are_fast() -> None:
    """Well over a thousand small cells a second, on one core and without any cache."""
    crystals = [perovskite(i) for i in range(300)]
    graphs.build_many(crystals[:2], 4.0, workers=1)
    best = min(_seconds(crystals) for _ in range(3))
    assert len(crystals) / best > FLOOR


def _seconds(crystals: list[Crystal]) -> float:
    begun = time.perf_counter()
    graphs.build_many(crystals, 4.0, workers=1)
    return time.perf_counter() - begun


def test_what_builds_graphs_starts_without_torch() -> None:
    """A process that builds graphs does not pay for torch."""
    code = "import sys, orchestrator.networks.graph_store; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_store_gives_back_what_was_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs from disk are bit for bit those that were built; only what is missing is built."""
    crystals = [perovskite(i) for i in range(12)]
    built = graphs.build_many(crystals, 4.0, nearest=12)
    GraphStore(4.0, nearest=12, folder=tmp_path).get(crystals[:8])
    asked: list[int] = []

    def counting(some: list[Crystal], *args: object, **more: object) -> list[graphs.Graph]:
        asked.append(len(some))
        return graphs.build_many(some, 4.0, nearest=12)

    monkeypatch.setattr("orchestrator.networks.graph_store.build_many", counting)
    for _ in range(2):
        again = GraphStore(4.0, nearest=12, folder=tmp_path).get([*crystals, crystals[0]])
        for one, two in zip(again, [*built, built[0]], strict=True):
            same(one, two)
    assert asked == [4]
    GraphStore(5.0, folder=tmp_path).get(crystals[:2])
    assert asked == [4, 2]


@pytest.mark.parametrize("damage", ["cut", "flipped", "text"])
def test_a_damaged_shard_is_built_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    """A shard that was cut off or changed is named in a warning and replaced; the answer is right all the same."""
    crystals = [perovskite(i) for i in range(5)]
    store = GraphStore(4.0, folder=tmp_path)
    built = store.get(crystals)
    (shard,) = store.folder.glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes({"cut": shard.read_bytes()[:-9], "flipped": bytes(content), "text": b"no shard"}[damage])
    with caplog.at_level(logging.WARNING):
        again = store.get(crystals)
    assert shard.name in caplog.text
    for one, two in zip(again, built, strict=True):
        same(one, two)
    caplog.clear()
    store.get(crystals)
    assert not caplog.text


def test_the_store_forgets_the_oldest(tmp_path: Path) -> None:
    """The disk space is bounded: old shards go, the newest stays."""
    store = GraphStore(4.0, folder=tmp_path, most_bytes=1)
    store.get([perovskite(0)])
    assert not list(store.folder.glob("*"))
    whole = GraphStore(4.0, folder=tmp_path)
    whole.get([perovskite(0)])
    (first,) = whole.folder.glob("*.safetensors")
    size = first.stat().st_size
    small = GraphStore(4.0, folder=tmp_path, most_bytes=int(1.5 * size))
    small.get([perovskite(1)])
    (left,) = whole.folder.glob("*.safetensors")
    assert left != first


def test_a_full_disk_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the folder cannot be written, graphs are built and a warning says so."""
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    found = GraphStore(4.0, folder=blocked).get([perovskite(0)])
    same(found[0], graphs.build(perovskite(0), 4.0))
    assert "cannot be cached" in caplog.text


def test_many_atoms_go_through_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory cache asks the disk for large pools only, and both give the same graphs."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    crystals = [perovskite(i) for i in range(4)]
    few = graphs.GraphCache(4.0).get(crystals)
    assert not list(tmp_path.rglob("*.safetensors"))
    monkeypatch.setattr(graphs, "ATOMS_FOR_DISK", 10)
    many = graphs.GraphCache(4.0).get(crystals)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    for one, two in zip(few, many, strict=True):
        same(one, two)


def test_elements_never_seen_are_named() -> None:
    """Elements that training lacked are listed with the number of crystals that hold them."""
    crystals = [perovskite(i) for i in range(6)]
    assert graphs.unseen(crystals, frozenset({"O", "Ti", "Sr"})) == {"Ba": 2, "Ca": 2, "Zr": 3}
    assert graphs.unseen(crystals, frozenset({"O", "Ti", "Sr", "Ca", "Ba", "Zr"})) == {}
