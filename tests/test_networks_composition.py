"""The network on formulas: what it may depend on, what its attention means, and that it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from orchestrator.domain import Candidate, Crystal
from orchestrator.errors import MaterialError
from orchestrator.networks.composition_network import CompositionNetwork
from orchestrator.networks.formulas import Formula, formulas_of
from orchestrator.networks.training import Schedule, train
from orchestrator.networks.trunk import new_trunk, represent
from orchestrator.surrogates.trunks import TrunkOptions, Trunks

CPU = torch.device("cpu")
OXIDES = ("Fe2O3", "MgO", "LaMnO3", "Li7La3Zr2O12", "NaCl", "Si")


def read(*formulas: str) -> list[Formula]:
    """Return formulas."""
    return formulas_of([Candidate.make(label=text, composition=text) for text in formulas])


def network(outputs: int = 1, seed: int = 0) -> CompositionNetwork:
    """Return a network with random weights."""
    trunk = new_trunk("composition", outputs, seed)
    assert isinstance(trunk, CompositionNetwork)
    return trunk


def test_multiples_are_one_formula() -> None:
    """Fe2O4, FeO2 and O2Fe are the same numbers, bit for bit, and share a key; FeO is another."""
    same = read("Fe2O4", "FeO2", "O2Fe", "Fe(O)2")
    rows = represent(network(), same, CPU)
    assert all(np.array_equal(row, rows[0]) for row in rows)
    assert len({formula.key for formula in same}) == 1
    (other,) = represent(network(), read("FeO"), CPU)
    assert np.abs(other - rows[0]).max() > 1e-3


def test_crystal_and_formula_are_one() -> None:
    """A crystal is read as its composition."""
    salt = Crystal(((5.6, 0, 0), (0, 5.6, 0), (0, 0, 5.6)), ("Na", "Cl"), ((0, 0, 0), (0.5, 0.5, 0.5)))
    (formula,) = formulas_of([Candidate.make(label="x", crystal=salt, crystal_key="k")])
    assert formula.key == read("ClNa")[0].key


def test_rows_do_not_depend_on_the_batch() -> None:
    """A formula's row is bit for bit the same alone and padded to the longest formula of a batch."""
    trunk, formulas = network(), read(*OXIDES)
    whole = represent(trunk, formulas, CPU)
    assert whole.shape == (len(OXIDES), trunk.width + 1)
    for i, formula in enumerate(formulas):
        np.testing.assert_array_equal(represent(trunk, [formula], CPU)[0], whole[i])


def test_splitting_an_element_changes_nothing_but_what_it_is_told() -> None:
    """Attention is weighed by fractions: two halves of an element count as the whole, once no one tells them apart."""
    trunk = network().double()
    halves = Formula(np.array([10, 16, 16]), np.array([0.5, 0.25, 0.25]))
    batch = trunk.collate([Formula(np.array([10, 16]), np.array([0.5, 0.5])), halves], CPU, torch.float64)
    with torch.no_grad():
        trunk.embed.weight[:, -2:] = 0.0  # the columns by which an element is told its own fraction
        one, two = trunk.readout(batch)
    torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_attention_sums_to_one() -> None:
    """The weights of a formula's elements in the readout, and what each element looks at, sum to one."""
    trunk = network()
    batch = trunk.collate(read(*OXIDES), CPU, torch.float32)
    with torch.no_grad():
        total = torch.zeros(len(OXIDES)).index_add(0, trunk.segments(batch), trunk.attention(batch))
        pairs = trunk.pairs(batch)
    torch.testing.assert_close(total, torch.ones(len(OXIDES)))
    widest = max(len(formula.species) for formula in read(*OXIDES))
    assert pairs.shape == (2, len(OXIDES), 4, widest, widest)
    torch.testing.assert_close(pairs.sum(-1), torch.ones(pairs.shape[:-1]))
    assert float(pairs[:, -1, :, :, 1:].max()) == 0.0  # silicon has nothing else to look at


def test_it_learns_what_depends_on_pairs() -> None:
    """It fits a property of the pair of elements, and says the same for the same seed."""
    alkali, halogens = ("Li", "Na", "K", "Rb", "Cs"), ("F", "Cl", "Br", "I")
    formulas = read(*(one + two for one in alkali for two in halogens))
    y = np.array([[np.sin(i) * (1 if j % 2 else -1)] for i in range(5) for j in range(4)])
    y = (y - y.mean()) / y.std()
    schedule = Schedule(epochs=40, batch=10, rate=5e-3)
    trained = [train(network(), formulas, y, schedule=schedule, seed=3, device=CPU) for _ in range(2)]
    answers = [represent(trunk, formulas, CPU)[:, -1:] for trunk in trained]
    np.testing.assert_array_equal(answers[0], answers[1])
    assert np.mean((answers[0] - y) ** 2) < 0.3  # the variance is 1


def test_trunks_on_formulas() -> None:
    """As a surrogate's encoding it takes formulas, names what it needs, and comes back from its state."""
    candidates = [Candidate.make(label=text, composition=text) for text in OXIDES]
    trunks = Trunks(TrunkOptions(network="composition", epochs=1, device="cpu"))
    assert trunks.inputs == {"structure", "composition"}
    assert trunks.beside == ("composition",)
    part = np.ones(len(OXIDES), dtype=bool)
    note = trunks.train(candidates, np.linspace(-1, 1, len(OXIDES))[:, None], [part, part], 0, warm=False)
    assert "2 composition trunks" in note
    rows = trunks.encode(candidates)
    arrays, rest = trunks.state()
    other = Trunks(TrunkOptions(device="cpu"))
    other.restore(arrays, rest)
    np.testing.assert_array_equal(other.encode(candidates[::-1])[::-1], rows)
    with pytest.raises(MaterialError, match="neither a crystal nor a composition"):
        trunks.encode([Candidate.make(label="hot", parameters={"temperature": 900.0})])


def test_environments_need_crystals() -> None:
    """Asking for neighbourhood statistics beside it narrows what it learns from."""
    trunks = Trunks(TrunkOptions(network="composition", beside=("environments",), device="cpu"))
    assert trunks.inputs == {"structure"}
