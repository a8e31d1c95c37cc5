"""On a CUDA device: the same answers as on a CPU up to its precision, and fits that move between the two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator import plugins
from orchestrator.domain import Array, Candidate, Crystal, Dataset, Objective, Outcome, Problem, Row
from orchestrator.materials.structures import crystal_key, formula
from orchestrator.networks import training
from orchestrator.networks.graphs import build_many
from orchestrator.networks.training import Schedule, train_noted
from orchestrator.networks.trunk import new_trunk, represent

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

PROBLEM = Problem((Objective("energy", "eV/atom", "minimize"),))
CATIONS, ANIONS = ("Li", "Na", "K", "Rb", "Cs", "Ag", "Mg", "Ca", "Sr", "Ba", "Zn", "Cd"), ("F", "Cl", "Br", "O", "S")
CUDA, CPU = torch.device("cuda"), torch.device("cpu")
LONG = Schedule(epochs=60, batch=16, rate=5e-3)


def cells() -> list[Crystal]:
    """Return 180 rock-salt cells: every pair of elements at three lattice constants."""
    made = []
    for i, cation in enumerate(CATIONS):
        for j, anion in enumerate(ANIONS):
            for k in range(3):
                h = (4.2 + 0.12 * i + 0.15 * j + 0.1 * k) / 2
                lattice = ((0.0, h, h), (h, 0.0, h), (h, h, 0.0))
                made.append(Crystal(lattice, (cation, anion), ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5))))
    return made


def energies(crystals: list[Crystal]) -> Array:
    """Return labels that follow from the elements and the volume."""
    rank = {symbol: i for i, symbol in enumerate((*CATIONS, *ANIONS))}
    return np.array([-0.1 * rank[c.species[0]] + 0.2 * rank[c.species[1]] + c.lattice[0][1] for c in crystals])


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Leave the random state as it was."""
    with torch.random.fork_rng(devices=[0]):
        yield


@pytest.mark.parametrize("network", ["cgcnn", "megnet", "tensornet"])
def test_training_on_cuda_learns_as_on_the_cpu(network: str) -> None:
    """bfloat16 on the device and single precision on the CPU end at about the same error on cells held out."""
    crystals = cells()
    items, y = build_many(crystals, 4.0), energies(crystals)
    scaled = ((y - y.mean()) / y.std())[:, None]
    held_out = np.arange(len(y)) % 5 == 0
    lost = {}
    for device in (CPU, CUDA):
        trunk = new_trunk(network, 1, 0, blocks=2)
        trained = train_noted(trunk, items, scaled, schedule=LONG, seed=1, device=device, held_out=held_out)
        assert trained.held_out is not None
        lost[device.type] = trained.held_out
        assert next(trained.trunk.parameters()).device == CPU
    assert lost["cuda"] < max(2.0 * lost["cpu"], 0.05)


def test_a_compiled_network_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile changes the time, not what is learned, and the report says that it was used."""
    monkeypatch.setattr(training, "COMPILE_FROM", 1)
    crystals = cells()
    items, y = build_many(crystals, 4.0), energies(crystals)
    scaled = ((y - y.mean()) / y.std())[:, None]
    held_out = np.arange(len(y)) % 5 == 0
    plain, fast = (
        train_noted(
            new_trunk("cgcnn", 1, 0, blocks=2),
            items,
            scaled,
            schedule=Schedule(epochs=60, batch=16, rate=5e-3, compiled=compiled),
            seed=1,
            device=CUDA,
            held_out=held_out,
        )
        for compiled in ("never", "auto")
    )
    assert any("compiled" in note for note in fast.notes)
    assert plain.held_out is not None
    assert fast.held_out is not None
    assert fast.held_out < max(2.0 * plain.held_out, 0.05)


def test_representations_agree_with_the_cpu() -> None:
    """What a network says of a crystal is the same on both devices to four digits."""
    items = build_many(cells()[:40], 4.0)
    trunk = new_trunk("cgcnn", 1, 0, blocks=2)
    np.testing.assert_allclose(represent(trunk, items, CUDA), represent(trunk, items, CPU), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["gnn_gp", "gnn_ensemble", "gnn_laplace"])
def test_a_fit_moves_from_the_device_to_the_cpu(name: str, tmp_path: Path) -> None:
    """A surrogate trained on the device says so, learns, and predicts the same where there is only a CPU."""
    crystals = cells()
    candidates = [
        Candidate.make(label=formula(c), composition=formula(c), crystal=c, crystal_key=crystal_key(c))
        for c in crystals
    ]
    y = energies(crystals)
    rows = tuple(
        Row(i, candidates[i], {}, "energy", float(y[i]), None, Outcome.MEASURED, measurement=i)
        for i in range(len(y))
        if i % 3
    )
    asked = [candidates[i] for i in range(0, len(y), 3)]
    quick = {"network": "cgcnn", "cutoff": 4.0}
    trained = plugins.build("surrogates", name, {**quick, "device": "auto"})
    report = trained.fit(Dataset(rows), PROBLEM, 1)
    assert report.device.startswith("cuda")
    first = trained.predict(asked)
    trained.save(tmp_path)
    read = plugins.build("surrogates", name, {**quick, "device": "cpu"})
    read.load(tmp_path, PROBLEM)
    read.update(Dataset(rows))
    again = read.predict(asked)
    wanted = y[::3]
    assert np.abs(first.mean[:, 0] - wanted).mean() < 0.5 * np.abs(wanted - wanted.mean()).mean()
    np.testing.assert_allclose(first.mean, again.mean, atol=0.02 * float(y.std()))
