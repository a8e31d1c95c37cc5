"""The contract of `orchestrator.protocols.Surrogate`, asked of every registered surrogate on a dozen tiny crystals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from orchestrator import plugins
from orchestrator.abilities import HasBotorchView
from orchestrator.domain import Candidate, Crystal, Dataset, Objective, Outcome, Problem, Row
from orchestrator.errors import IncompatibleError, MaterialError, NotEnoughData, SurrogateError
from orchestrator.protocols import Surrogate
from orchestrator.surrogates import targets

NAMES = tuple(name for name in plugins.available("surrogates") if name != "phase_classifier")  # test_phases.py
GRAPHS = ("gnn_gp", "gnn_ensemble", "gnn_laplace", "potential_gp")
TINY: dict[str, dict[str, Any]] = {
    "gnn_gp": {"epochs": 2, "device": "cpu"},
    "gnn_laplace": {"epochs": 2, "device": "cpu"},
    "gnn_ensemble": {"epochs": 2, "members": 2, "device": "cpu"},
    "composition_forest": {"trees": 30},
    "multi_fidelity": {"surrogate": "composition_gp"},
    "stacked": {"members": [{"use": "gnn_gp", "options": {"epochs": 2, "device": "cpu"}}, "composition_gp"]},
}
PROBLEM = Problem((Objective("energy", "eV", "minimize"), Objective("gap", "eV", "maximize")))
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Keep feature caches out of the user's folder."""
    from orchestrator.networks import feature_cache, pretrained  # noqa: PLC0415  imports torch, which collection should not

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(feature_cache.CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        pretrained._cache.cache_clear()
        yield
        pretrained._cache.cache_clear()


def crystal_of(structure: Structure) -> Crystal:
    """Return a pymatgen structure as a domain value."""
    return Crystal.from_json(
        {
            "lattice": structure.lattice.matrix.tolist(),
            "species": [site.specie.symbol for site in structure],
            "frac_coords": structure.frac_coords.tolist(),
        }
    )


def candidate_of(structure: Structure, key: str) -> Candidate:
    """Return a candidate; the key stands for the real crystal key."""
    formula = structure.composition.reduced_formula
    return Candidate.make(label=formula, crystal=crystal_of(structure), crystal_key=f"{formula}/{key}")


def rock_salt(cation: str, anion: str, a: float) -> Structure:
    """Return a primitive rock-salt cell."""
    lattice = Lattice([[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]])
    return Structure(lattice, [cation, anion], [[0, 0, 0], [0.5, 0.5, 0.5]])


STRUCTURES = [
    rock_salt(cation, anion, a)
    for cation, anion, a in (
        ("Na", "Cl", 5.6),
        ("K", "Cl", 6.3),
        ("Li", "F", 4.0),
        ("Na", "F", 4.6),
        ("Mg", "O", 4.2),
        ("Ca", "O", 4.8),
        ("Sr", "O", 5.1),
        ("Li", "Cl", 5.1),
        ("K", "F", 5.3),
        ("Ba", "O", 5.5),
        ("K", "Br", 6.6),
        ("Na", "Br", 6.0),
    )
]
CRYSTALS = [candidate_of(structure, "a") for structure in STRUCTURES]
SETTINGS = [
    Candidate.make(
        label=str(i), parameters={"temperature": 300.0 + 50 * ((5 * i) % 12), "time": 1.0 + i, "gas": "NO"[i % 2]}
    )
    for i in range(12)
]


def candidates_for(name: str) -> list[Candidate]:
    """Return what a surrogate is asked about here."""
    return SETTINGS if name == "gaussian_process" else CRYSTALS


def dataset_of(candidates: list[Candidate], count: int = 9, shift: float = 0.0) -> Dataset:
    """Return labels of the first candidates; every third has no gap."""
    rows = []
    for i, candidate in enumerate(candidates[:count]):
        energy = -3.0 + 0.3 * i + (0.5 if i % 2 else 0.0) + shift
        rows.append(
            Row(i + 1, candidate, candidate.parameters, "energy", energy, None, Outcome.MEASURED, measurement=2 * i)
        )
        if i % 3:
            gap = 5.0 - 0.2 * i
            rows.append(
                Row(i + 1, candidate, candidate.parameters, "gap", gap, 0.05, Outcome.MEASURED, measurement=2 * i + 1)
            )
    return Dataset(tuple(rows))


def build(name: str) -> Surrogate:
    """Build a surrogate with options that make it quick."""
    surrogate: Surrogate = plugins.build("surrogates", name, TINY.get(name, {}))
    return surrogate


@pytest.fixture(scope="module")
def trained() -> dict[str, Surrogate]:
    """Train each surrogate once; tests that change one train their own."""
    found = {}
    for name in NAMES:
        surrogate = build(name)
        surrogate.fit(dataset_of(candidates_for(name)), PROBLEM, seed=3)
        found[name] = surrogate
    return found


def same(one: Any, two: Any) -> None:
    """Compare two predictions."""
    for part in ("mean", "epistemic", "noise"):
        np.testing.assert_allclose(getattr(one, part), getattr(two, part), **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_answers_have_shape_and_positive_spread(name: str, trained: dict[str, Surrogate]) -> None:
    """Predictions are n × m, draws s × n × m, everything is finite and every sd is positive."""
    candidates = candidates_for(name)
    prediction = trained[name].predict(candidates)
    assert prediction.mean.shape == prediction.epistemic.shape == prediction.noise.shape == (12, 2)
    assert prediction.mean.dtype == np.float64
    assert np.all(np.isfinite(prediction.mean))
    assert np.all(prediction.sd > 0)
    assert np.all(prediction.epistemic > 0)
    draws = trained[name].draw(candidates, 7, seed=1)
    assert draws.shape == (7, 12, 2)
    assert np.all(np.isfinite(draws))
    assert trained[name].predict([]).mean.shape == (0, 2)
    assert trained[name].draw([], 2, seed=1).shape == (2, 0, 2)


@pytest.mark.parametrize("name", NAMES)
def test_values_do_not_depend_on_the_company(name: str, trained: dict[str, Surrogate]) -> None:
    """A value is the same alone, in chunks and permuted; draws of fewer functions begin like draws of more."""
    surrogate, candidates = trained[name], candidates_for(name)
    order = np.random.default_rng(0).permutation(12)
    whole, draws = surrogate.predict(candidates), surrogate.draw(candidates, 5, seed=11)
    shuffled = surrogate.predict([candidates[i] for i in order])
    np.testing.assert_allclose(shuffled.mean, whole.mean[order], **CLOSE)
    np.testing.assert_allclose(shuffled.sd, whole.sd[order], **CLOSE)
    np.testing.assert_allclose(
        surrogate.draw([candidates[i] for i in order], 5, seed=11), draws[:, order], rtol=1e-4, atol=1e-5
    )
    parts = [surrogate.draw(candidates[k : k + 5], 5, seed=11) for k in (0, 5, 10)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), draws, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(surrogate.draw(candidates[3:4], 2, seed=11), draws[:2, 3:4], rtol=1e-4, atol=1e-5)
    assert not np.allclose(surrogate.draw(candidates, 5, seed=12), draws)


@pytest.mark.parametrize("name", NAMES)
def test_draws_have_the_predicted_moments(name: str, trained: dict[str, Surrogate]) -> None:
    """Mean and sd over many draws are the predicted mean and epistemic sd."""
    surrogate, candidates = trained[name], candidates_for(name)
    prediction = surrogate.predict(candidates)
    draws = surrogate.draw(candidates, 600, seed=5)
    np.testing.assert_allclose(draws.mean(0), prediction.mean, atol=0.25 * float(prediction.epistemic.max()))
    np.testing.assert_allclose(draws.std(0) / prediction.epistemic, 1.0, atol=0.25)


@pytest.mark.parametrize("name", NAMES)
def test_saved_state_is_the_fit(name: str, trained: dict[str, Surrogate], tmp_path: Path) -> None:
    """A loaded surrogate answers like the fit, also when the saved one was updated before; files hold no pickle."""
    surrogate, candidates = trained[name], candidates_for(name)
    before = surrogate.predict(candidates)
    surrogate.update(dataset_of(candidates, 12))
    surrogate.save(tmp_path)
    surrogate.update(dataset_of(candidates))
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} <= {".safetensors", ".json"}
    loaded = build(name)
    loaded.load(tmp_path, PROBLEM)
    same(loaded.predict(candidates), before)
    np.testing.assert_allclose(loaded.draw(candidates, 3, seed=2), surrogate.draw(candidates, 3, seed=2), rtol=1e-4)
    other = Problem((Objective("hardness", "GPa", "maximize"),))
    with pytest.raises(SurrogateError, match="properties"):
        build(name).load(tmp_path, other)


@pytest.mark.parametrize("name", NAMES)
def test_update_is_absolute(name: str, trained: dict[str, Surrogate]) -> None:
    """After an update the state depends on fit and dataset alone, and labels move the prediction."""
    surrogate, candidates = trained[name], candidates_for(name)
    before = surrogate.predict(candidates)
    surrogate.update(dataset_of(candidates, 12, shift=0.7))
    assert not np.allclose(surrogate.predict(candidates).mean, before.mean)
    surrogate.update(dataset_of(candidates))
    same(surrogate.predict(candidates), before)


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_state(name: str, trained: dict[str, Surrogate]) -> None:
    """The same dataset and seed train the same state; the global generators are neither read nor moved."""
    candidates = candidates_for(name)
    np.random.default_rng()
    again = build(name)
    report = again.fit(dataset_of(candidates), PROBLEM, seed=3)
    first, second = trained[name].predict(candidates), again.predict(candidates)
    np.testing.assert_array_equal(first.mean, second.mean)
    np.testing.assert_array_equal(first.sd, second.sd)
    assert report.labels == 9
    assert report.data_sha256 == dataset_of(candidates).sha256
    assert not report.warm
    assert set(report.metrics) == {"energy", "gap"}
    assert report.metrics["energy"]["held_out"] == 9
    assert report.metrics["gap"]["held_out"] == 6
    assert {"0.5", "0.8", "0.9", "0.95", "sd_factor"} == set(report.calibration["energy"])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "composition_forest"])
def test_a_loaded_surrogate_starts_warm(name: str, trained: dict[str, Surrogate], tmp_path: Path) -> None:
    """A fit after a load says that it started warm; the next one on the same instance is cold again."""
    candidates = candidates_for(name)
    trained[name].save(tmp_path)
    loaded = build(name)
    loaded.load(tmp_path, PROBLEM)
    assert loaded.fit(dataset_of(candidates, 10), PROBLEM, seed=4).warm
    assert np.all(np.isfinite(loaded.predict(candidates).mean))


@pytest.mark.parametrize("name", GRAPHS)
def test_symmetry_operations_change_nothing(name: str, trained: dict[str, Surrogate]) -> None:
    """Rotated, shifted, reordered and repeated cells have the prediction of the original."""
    structure = STRUCTURES[4]
    rotated = Structure(
        Lattice(structure.lattice.matrix @ np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]),
        structure.species,
        structure.frac_coords,
    )
    shifted = Structure(structure.lattice, structure.species, np.add(structure.frac_coords, (0.13, 0.4, -0.2)))
    reordered = Structure(structure.lattice, structure.species[::-1], structure.frac_coords[::-1])
    repeated = structure * (2, 1, 2)
    variants = [candidate_of(s, str(i)) for i, s in enumerate((structure, rotated, shifted, reordered, repeated))]
    mean = trained[name].predict(variants).mean
    np.testing.assert_allclose(mean, np.broadcast_to(mean[:1], mean.shape), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_hard_labels_give_finite_answers_or_a_named_error(name: str) -> None:
    """Two labels are refused with their number; equal labels, repeats and an absurd outlier are trained and noted."""
    candidates = candidates_for(name)
    problem = Problem(PROBLEM.objectives[:1])
    with pytest.raises(NotEnoughData, match=r"'energy' has 2 labels"):
        build(name).fit(dataset_of(candidates, 2), problem, seed=0)

    rows = [row for row in dataset_of(candidates).rows if row.property == "energy"]
    equal = Dataset(tuple(replace(row, value=1.0) for row in rows[:4]))
    repeats = Dataset(tuple(replace(rows[i % 3], trial=i + 1, value=1.0 + 0.1 * (i % 2)) for i in range(6)))
    absurd = Dataset((*rows[:8], replace(rows[8], value=1e6)))
    for dataset, word in ((equal, "equal"), (repeats, ""), (absurd, "far outside")):
        surrogate = build(name)
        report = surrogate.fit(dataset, problem, seed=0)
        prediction = surrogate.predict(candidates)
        assert np.all(np.isfinite(prediction.mean))
        assert np.all(np.isfinite(prediction.sd))
        assert any(word in note for note in report.notes) or not word
        assert np.abs(prediction.mean).max() < 100
    assert targets.FAR > 10


@pytest.mark.parametrize("name", NAMES)
def test_asking_too_early_or_for_the_wrong_thing_is_named(name: str, trained: dict[str, Surrogate]) -> None:
    """An untrained surrogate says so; a candidate without what the surrogate reads is named."""
    with pytest.raises(SurrogateError, match="before it was trained"):
        build(name).predict(candidates_for(name))
    wrong = CRYSTALS[0] if name == "gaussian_process" else SETTINGS[0]
    with pytest.raises((SurrogateError, MaterialError), match=wrong.label):
        trained[name].predict([wrong])


@pytest.mark.parametrize("name", GRAPHS)
def test_elements_never_seen_give_finite_answers(name: str, trained: dict[str, Surrogate]) -> None:
    """A crystal of other elements is answered, with a wider spread than a labelled one."""
    stranger = candidate_of(rock_salt("La", "N", 5.3), "x")
    prediction = trained[name].predict([stranger, CRYSTALS[0]])
    assert np.all(np.isfinite(prediction.mean))
    assert prediction.epistemic[0, 0] > prediction.epistemic[1, 0]


@pytest.mark.parametrize("name", NAMES)
def test_capabilities_are_declared(name: str, trained: dict[str, Surrogate]) -> None:
    """Every surrogate gives uncertainty and draws; the botorch view says the same where declared, and else refuses."""
    surrogate = trained[name]
    assert {"uncertainty", "draws"} <= surrogate.supports()
    assert bool(surrogate.knows()) == (name == "potential_gp")
    declared = "botorch" in surrogate.supports()
    if isinstance(surrogate, HasBotorchView) and not declared:  # some have one on boxes only; see test_fidelity_box
        assert name == "multi_fidelity"
        with pytest.raises(IncompatibleError):
            surrogate.to_botorch()
        return
    assert declared == isinstance(surrogate, HasBotorchView)
    if isinstance(surrogate, HasBotorchView):
        import torch  # noqa: PLC0415  collection should not import it

        candidates = candidates_for(name)
        view = surrogate.to_botorch()
        posterior = view.model.posterior(torch.from_numpy(view.encode(candidates)))
        prediction = surrogate.predict(candidates)
        np.testing.assert_allclose(posterior.mean.detach().numpy(), prediction.mean, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(posterior.variance.detach().sqrt().numpy(), prediction.epistemic, rtol=2e-2)
        numeric = (0, 1) if name == "gaussian_process" else ()
        assert view.differentiable == numeric
