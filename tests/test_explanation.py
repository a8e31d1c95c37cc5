"""Explanations: they add up, find what is known to matter, follow the labels, and name neighbours and substitutes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest

from orchestrator import plugins
from orchestrator.abilities import Explains, ExplainsItsNetwork
from orchestrator.domain import (
    Candidate,
    Constraint,
    Crystal,
    Dataset,
    Explanation,
    Objective,
    Outcome,
    Prediction,
    Problem,
    Row,
)
from orchestrator.errors import SurrogateError
from orchestrator.surrogates.coalitions import Background, site_groups, without
from orchestrator.surrogates.explanation import Known, explain_by_asking
from orchestrator.surrogates.substitutes import alike, charges, substituted
from tests.benchmarks.explanation import STAND_INS, area, ranked, worths

PROBLEM = Problem((Objective("energy", "eV", "minimize"),), (Constraint("gap", "eV", low=1.0),))
A, B, X = ("Ca", "Sr", "Ba", "Pb"), ("Ti", "Zr", "Hf", "Sn"), ("O", "S")
WORTH = {"Ca": -1.0, "Sr": 0.0, "Ba": 1.0, "Pb": 2.5, "Ti": -0.5, "Zr": 0.5, "Hf": 0.0, "Sn": 0.2, "O": -1.0, "S": 1.0}
TINY: dict[str, dict[str, Any]] = {
    "composition_forest": {"trees": 60},
    "gnn_gp": {"epochs": 3, "device": "cpu", "network": "cgcnn"},
    "gaussian_process": {"features": "composition"},
}


def perovskite(a: str, b: str, x: str, edge: float = 4.0) -> Candidate:
    """Make an ideal cubic perovskite."""
    sites = ((0.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, 0.5, 0.0), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5))
    crystal = Crystal(((edge, 0, 0), (0, edge, 0), (0, 0, edge)), (a, b, x, x, x), sites)
    return Candidate.make(label=f"{a}{b}{x}3", crystal=crystal, crystal_key=f"{a}{b}{x}{edge}")


POOL = [perovskite(a, b, x) for x in X for b in B for a in A]


def worth(candidate: Candidate) -> float:
    """Return a made-up energy that is a plain sum over the atoms."""
    assert candidate.crystal is not None
    return sum(WORTH.get(symbol, 0.0) for symbol in candidate.crystal.species)


def labelled(values: Sequence[float], candidates: Sequence[Candidate] = POOL) -> Dataset:
    """Return a dataset with an energy and a gap for each candidate."""
    rows = []
    for i, (candidate, value) in enumerate(zip(candidates, values, strict=True)):
        for k, (name, label) in enumerate((("energy", value), ("gap", 2.0 - 0.1 * value))):
            rows.append(
                Row(i + 1, candidate, candidate.parameters, name, label, None, Outcome.MEASURED, measurement=2 * i + k)
            )
    return Dataset(tuple(rows))


@cache
def usual(name: str) -> Any:
    """Return a surrogate trained on the whole pool; asking changes nothing in it."""
    return trained(name, labelled([worth(c) for c in POOL]))


def trained(name: str, dataset: Dataset) -> Any:
    """Return a surrogate trained on a dataset."""
    surrogate = plugins.build("surrogates", name, TINY.get(name, {}))
    surrogate.fit(dataset, PROBLEM, 1)
    return surrogate


def known(columns: Any = None) -> Known:
    """Return what an explanation of an outside surrogate needs."""
    labels = labelled([worth(c) for c in POOL]).labels(PROBLEM.properties)
    return Known(PROBLEM, labels, columns or (lambda candidates: np.zeros((len(candidates), 1))))


def additive(candidates: Sequence[Candidate]) -> Prediction:
    """Predict the made-up energy exactly, and a gap of nothing."""
    mean = np.array([[worth(candidate), 0.0] for candidate in candidates])
    return Prediction(mean, np.full_like(mean, 0.1), np.zeros_like(mean))


def value(explanation: Explanation, name: str) -> float:
    """Return the contribution of one part."""
    return next(part.value for part in explanation.parts if part.name == name)


@pytest.mark.parametrize(
    ("name", "target"), [("composition_forest", "gap"), ("gnn_gp", "energy"), ("gaussian_process", "gap")]
)
def test_contributions_add_up_to_the_prediction(name: str, target: str) -> None:
    """Completeness: baseline and contributions give what `predict` gives, atoms give their elements."""
    surrogate = usual(name)
    assert isinstance(surrogate, Explains)
    asked = [POOL[0], perovskite("Mg", "Ge", "Se", 4.4)]
    predicted = surrogate.predict(asked)
    for i, one in enumerate(surrogate.explain(asked, target)):
        j = PROBLEM.properties.index(target)
        assert one.mean == pytest.approx(predicted.mean[i, j], abs=1e-9)
        assert one.sd == pytest.approx(predicted.sd[i, j], abs=1e-9)
        total = one.baseline + sum(part.value for part in one.parts)
        assert total == pytest.approx(one.mean, abs=1e-9 + 0.01 * abs(one.mean - one.baseline))
        assert [atom.site for atom in one.atoms] == list(range(5))
        assert sum(atom.value for atom in one.atoms) == pytest.approx(sum(part.value for part in one.elements))
        assert (one.property, one.unit) == (target, "eV")


def test_a_plain_sum_is_taken_apart_exactly() -> None:
    """Where the truth is a sum over atoms, each contribution is the atom's worth minus its stand-ins' mean worth."""
    candidate = perovskite("Pb", "Ti", "O")
    (one,) = explain_by_asking(additive, known(), [candidate], "energy")
    parts = Background(POOL).divide(candidate)
    for part in parts:
        usual = np.mean([WORTH[str(symbol)] for symbol in part.stand_ins])
        assert value(one, part.name) == pytest.approx(len(part.sites) * (WORTH[part.name] - usual))
    assert value(one, "Pb") > 0 > value(one, "O")
    assert one.atoms[2].value == pytest.approx(one.atoms[4].value)


def test_many_parts_are_drawn_and_still_add_up() -> None:
    """With more parts than can be combined, drawn orders give the same values for a plain sum."""
    sites = tuple((i / 8, 0.0, 0.0) for i in range(8))
    species = ("Ca", "Sr", "Ba", "Pb", "Ti", "Zr", "O", "S")
    crystal = Crystal(((16.0, 0, 0), (0, 4, 0), (0, 0, 4)), species, sites)
    candidate = Candidate.make(label="many", crystal=crystal, crystal_key="many")
    (one,) = explain_by_asking(additive, known(), [candidate], "energy")
    assert "drawn orders" in one.method
    assert one.baseline + sum(part.value for part in one.parts) == pytest.approx(one.mean)
    assert max(one.parts, key=lambda part: part.value).name == "Pb"


def test_what_never_matters_contributes_nothing() -> None:
    """A part that the prediction ignores has contribution zero; settings are explained like elements."""
    settings = [
        Candidate.make(label=str(i), parameters={"heat": 300.0 + i, "time": float(i % 3), "gas": "NO"[i % 2]})
        for i in range(12)
    ]

    def predict(candidates: Sequence[Candidate]) -> Prediction:
        mean = np.array([[2 * float(c.parameters["heat"]) + 5 * (c.parameters["gas"] == "O"), 0] for c in candidates])
        return Prediction(mean, np.ones_like(mean), np.zeros_like(mean))

    labels = labelled([0.0] * 12, settings).labels(PROBLEM.properties)
    facts = Known(PROBLEM, labels, lambda candidates: np.array([[float(c.parameters["heat"])] for c in candidates]))
    (one,) = explain_by_asking(predict, facts, [settings[11]], "energy")
    assert value(one, "time") == pytest.approx(0.0, abs=1e-9)
    assert value(one, "heat") > 5
    assert value(one, "gas") > 0
    assert one.elements == one.atoms == one.substitutions == ()
    assert [neighbour.label for neighbour in one.neighbours[:3]] == ["11", "10", "9"]


def test_a_formula_is_explained_without_a_crystal() -> None:
    """Compositions have elements but no atoms, and substitutes with the same stoichiometry."""
    pool = [Candidate.make(label=c.label, composition=c.label) for c in POOL]
    surrogate = trained("composition_forest", labelled([worth(c) for c in POOL], pool))
    (one,) = surrogate.explain([pool[0]], "energy")
    assert one.atoms == ()
    assert {part.name for part in one.elements} == {"Ca", "Ti", "O"}
    assert one.baseline + sum(part.value for part in one.parts) == pytest.approx(one.mean)
    assert "SrTiO3" in {swap.label for swap in one.substitutions}


@pytest.mark.parametrize("name", ["composition_forest", "gaussian_process"])
def test_explanations_find_what_the_labels_were_made_from(name: str) -> None:
    """Trained on a sum over atoms, the surrogate is explained by about that sum: right signs, right order."""
    surrogate = usual(name)
    one, other = surrogate.explain([perovskite("Pb", "Ti", "O"), perovskite("Ca", "Ti", "S")], "energy")
    assert value(one, "Pb") > max(value(one, "Ti"), 0.0) > value(one, "O")
    assert value(other, "S") > 0 > value(other, "Ca")


def test_shuffled_labels_change_the_explanation() -> None:
    """Model randomisation (Adebayo et al. 2018): a surrogate of shuffled labels does not give the same explanation."""
    truth = [worth(c) for c in POOL]
    shuffled = list(np.random.default_rng(0).permutation(truth))
    said = []
    for values in (truth, shuffled):
        explained = trained("composition_forest", labelled(values)).explain(POOL[::3], "energy")
        said.append([atom.value for one in explained for atom in one.atoms])
    same = trained("composition_forest", labelled(truth)).explain(POOL[::3], "energy")
    assert said[0] == [atom.value for one in same for atom in one.atoms]
    assert abs(float(np.corrcoef(said[0], said[1])[0, 1])) < 0.5


def test_neighbours_are_the_nearest_in_the_surrogates_eyes() -> None:
    """The candidate itself comes first with similarity 1, no candidate twice, with its measured value."""
    surrogate = usual("gaussian_process")
    (one,) = surrogate.explain([POOL[5]], "energy")
    assert one.neighbours[0].candidate_id == POOL[5].id
    assert one.neighbours[0].similarity == pytest.approx(1.0)
    assert one.neighbours[0].value == pytest.approx(worth(POOL[5]))
    similarities = [neighbour.similarity for neighbour in one.neighbours]
    assert similarities == sorted(similarities, reverse=True)
    assert len({neighbour.candidate_id for neighbour in one.neighbours}) == len(one.neighbours) == 5


def test_substitutions_are_real_predictions_in_the_order_of_the_goal() -> None:
    """For a minimised property the lowest comes first; for a constrained one the largest change."""
    surrogate = usual("gaussian_process")
    candidate = POOL[0]
    (one,) = surrogate.explain([candidate], "energy")
    means = [swap.mean for swap in one.substitutions]
    assert means == sorted(means)
    made = {(old, new): changed for old, new, changed in substituted(candidate)}
    for swap in one.substitutions[:3]:
        assert surrogate.predict([made[swap.old, swap.new]]).mean[0, 0] == pytest.approx(swap.mean)
    (gap,) = surrogate.explain([candidate], "gap")
    changes = [abs(swap.mean - gap.mean) for swap in gap.substitutions]
    assert changes == sorted(changes, reverse=True)


def test_similar_elements_carry_the_same_charge() -> None:
    """Charges balance the formula where they can; substitutes are those that a chemist would try first."""
    assert charges({"Ba": 1, "Ti": 1, "O": 3}) == {"Ba": 2, "Ti": 4, "O": -2}
    assert charges({"Fe": 2, "O": 3})["Fe"] == 3
    assert alike("Ba", 2)[0] == "Sr"
    assert alike("Ti", 4)[:2] == ("Zr", "Hf")
    assert alike("I", -1)[0] == "Br"
    assert alike("Ar", None) == ()
    assert "Li" in alike("H", 1), "Shannon gives the proton a negative radius"
    swapped = substituted(perovskite("Ba", "Ti", "O"))
    assert all(old in {"Ba", "Ti", "O"} and new not in {"Ba", "Ti", "O"} for old, new, _ in swapped)
    assert {candidate.label for _, _, candidate in swapped} >= {"SrTiO3", "BaZrO3"}


def test_equivalent_sites_are_one_part() -> None:
    """Three equivalent oxygens are one part; inequivalent ones are parts of their own."""
    cubic = perovskite("Ba", "Ti", "O").crystal
    assert cubic is not None
    assert site_groups(cubic) == (("Ba", (0,)), ("O", (2, 3, 4)), ("Ti", (1,)))
    stretched = Crystal(((4.0, 0, 0), (0, 4.0, 0), (0, 0, 4.3)), cubic.species, cubic.frac_coords)
    assert site_groups(stretched) == (("Ba", (0,)), ("O", (2,)), ("O", (3, 4)), ("Ti", (1,)))


def test_parts_are_left_out_one_by_one() -> None:
    """What is kept stays as it is; anions are replaced by anions, and the cell never changes."""
    candidate = perovskite("Ba", "Ti", "O")
    parts = Background(POOL).divide(candidate)
    kept = [part.name != "O" for part in parts]
    for reference in range(len(parts[0].stand_ins)):
        changed = without(candidate, parts, kept, reference).crystal
        assert changed is not None
        assert changed.species[:2] == ("Ba", "Ti")
        assert set(changed.species[2:]) <= {"O", "S"}
        assert len(set(changed.species[2:])) == 1
        assert candidate.crystal is not None
        assert changed.lattice == candidate.crystal.lattice
    assert without(candidate, parts, [True] * 3, 0) is candidate


def test_wrong_questions_are_refused_with_what_to_do() -> None:
    """An unknown property, and a surrogate without labels, are errors that say what to do next."""
    surrogate = usual("gaussian_process")
    with pytest.raises(SurrogateError, match="energy, gap"):
        surrogate.explain(POOL[:1], "density")
    assert surrogate.explain([], "energy") == ()
    new = plugins.build("surrogates", "gaussian_process", {})
    with pytest.raises(SurrogateError, match="fit"):
        new.explain(POOL[:1], "energy")


def test_a_stored_fit_explains_as_before(tmp_path: Any) -> None:
    """After load and update the explanation is that of the surrogate which was saved."""
    dataset = labelled([worth(c) for c in POOL])
    surrogate = trained("gaussian_process", dataset)
    surrogate.save(tmp_path)
    again = plugins.build("surrogates", "gaussian_process", TINY["gaussian_process"])
    again.load(tmp_path, PROBLEM)
    with pytest.raises(SurrogateError, match="update"):
        again.explain(POOL[:1], "energy")
    again.update(dataset)
    one, other = surrogate.explain(POOL[:1], "energy")[0], again.explain(POOL[:1], "energy")[0]
    assert [part.value for part in one.parts] == pytest.approx([part.value for part in other.parts], abs=1e-6)
    assert one.neighbours == other.neighbours


@pytest.mark.parametrize(("network", "share"), [("megnet", 0.01), ("cgcnn", 0.05)])
def test_gradients_along_embeddings_add_up_to_the_networks_answer(network: str, share: float) -> None:
    """Integrated gradients add up, equivalent atoms are alike, and the trunk is left as it was.

    CGCNN pools by the maximum: its answer has kinks along the line, so that the rule converges more slowly.
    """
    surrogate = plugins.build("surrogates", "gnn_gp", {"epochs": 2, "device": "cpu", "network": network})
    surrogate.fit(labelled([worth(c) for c in POOL[::4]], POOL[::4]), PROBLEM, 1)
    before = surrogate.predict(POOL[:1]).mean
    assert isinstance(surrogate, ExplainsItsNetwork)
    (one,) = surrogate.explain_network(POOL[:1], "energy")
    total = one.baseline + sum(atom.value for atom in one.atoms)
    assert total == pytest.approx(one.mean, abs=share * sum(abs(atom.value) for atom in one.atoms))
    assert one.atoms[2].value == pytest.approx(one.atoms[4].value, abs=1e-6 + 0.01 * abs(one.atoms[4].value))
    assert "integrated gradients" in one.method
    surrogate._trunks.forget()
    assert np.array_equal(surrogate.predict(POOL[:1]).mean, before)


def test_the_benchmarks_curve_rewards_the_true_order() -> None:
    """Of all orders of deletion, that by true contributions has the largest area, and the reverse the smallest."""
    candidate = perovskite("Pb", "Zr", "S")
    parts = Background(POOL, references=STAND_INS, seed=3).divide(candidate)
    worth_of = worths(lambda asked: additive(asked).mean[:, 0], candidate, parts)
    (one,) = explain_by_asking(additive, known(), [candidate], "energy")
    order = ranked(parts, one, 1.0)
    areas = [area(worth_of, list(other)) for other in itertools.permutations(range(len(parts)))]
    assert area(worth_of, order) == pytest.approx(max(areas))
    assert area(worth_of, order[::-1]) == pytest.approx(min(areas))
    assert max(areas) > np.mean(areas) > min(areas)
