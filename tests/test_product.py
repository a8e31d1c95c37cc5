"""Materials under process parameters: candidates carry both, and the best pair is found, not the best of each alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from orchestrator.acquisition.confidence import UpperConfidenceBound
from orchestrator.acquisition.designs import Diverse, Random
from orchestrator.acquisition.greedy import Greedy
from orchestrator.acquisition.improvement import LogExpectedImprovement
from orchestrator.acquisition.product_search import promising
from orchestrator.acquisition.situation import Situation
from orchestrator.acquisition.thompson import Thompson
from orchestrator.config.defaults import default_surrogate
from orchestrator.config.past_results import TableOptions, read_table
from orchestrator.config.procedure import offered
from orchestrator.domain import Budget, Candidate, Dataset, Objective, Outcome, Problem, Row
from orchestrator.errors import MatloopError, SpaceError
from orchestrator.protocols import BoxSpace, FiniteSpace, ProductSpace
from orchestrator.spaces.product import Product
from orchestrator.surrogates.gaussian_process import GaussianProcess

PROBLEM = Problem((Objective("y", "MPa", "maximize"),), budget=Budget(trials=9))
METALS = ("Li", "Na", "K", "Rb", "Cs")
BOX = {
    "temperature": {"unit": "degC", "min": 500, "max": 1000},
    "gas": {"choices": ["argon", "air"]},
}


def compounds(folder: Path) -> dict[str, Any]:
    """Return a pool of ten chlorides and bromides."""
    lines = [f"{metal}{halide}" for metal in METALS for halide in ("Cl", "Br")]
    (folder / "compounds.csv").write_text("\n".join(["formula", *lines]), encoding="utf-8")
    return {"use": "pool", "options": {"path": "compounds.csv", "composition_column": "formula"}}


def product(folder: Path, parameters: dict[str, Any] | None = None, **more: Any) -> Any:
    """Return compounds under temperature and gas."""
    box = {"use": "box", "options": {"parameters": parameters or BOX, **more}}
    content = {"of": compounds(folder), "with": box}
    return Product(Product.Options.model_validate(content, context={"base": str(folder)}))


def strength(candidate: Candidate) -> float:
    """Return a strength whose best temperature depends on the compound: heavier metals want less heat."""
    metal = next(m for m in METALS if str(candidate.composition).startswith(m))
    best = 950.0 - 100.0 * METALS.index(metal)
    gas = 0.0 if candidate.parameters["gas"] == "argon" else -3.0
    return 10.0 - METALS.index(metal) + gas - ((float(candidate.parameters["temperature"]) - best) / 60.0) ** 2


def measured(candidates: list[Candidate]) -> Dataset:
    """Return a dataset with the strength of candidates."""
    made = [
        Row(i + 1, c, c.parameters, "y", strength(c), None, Outcome.MEASURED, measurement=i + 1)
        for i, c in enumerate(candidates)
    ]
    return Dataset(tuple(made))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, GaussianProcess, Dataset]:
    """Return a product, and a Gaussian process that has seen sixty pairs of it."""
    space = product(tmp_path_factory.mktemp("product"))
    dataset = measured(space.sample(60, seed=1))
    surrogate = GaussianProcess()
    surrogate.look_at(space)
    surrogate.fit(dataset, PROBLEM, seed=0)
    return space, surrogate, dataset


def test_candidates_carry_both(tmp_path: Path) -> None:
    """A pair has the composition of one factor and the parameters of the other, and is taken apart again."""
    space = product(tmp_path)
    assert isinstance(space, ProductSpace)
    assert not isinstance(space, FiniteSpace | BoxSpace)
    assert space.offers() == {"composition", "parameters"}
    assert default_surrogate(space).use == "gaussian_process"
    drawn = space.sample(200, seed=4)
    assert len({candidate.id for candidate in drawn}) == 200
    assert len({candidate.composition for candidate in drawn}) == 10
    for candidate in drawn[:20]:
        material, settings = space.split(candidate)
        assert material.composition == candidate.composition
        assert space.join(material, settings) == candidate
    assert [c.id for c in space.sample(20, seed=4)] == [c.id for c in space.sample(20, seed=4)]


def test_few_combinations_are_a_list(tmp_path: Path) -> None:
    """With steps of temperature the product is finite: every allowed pair once, found by its id."""
    stepped = {**BOX, "temperature": {"unit": "degC", "min": 500, "max": 1000, "resolution": 100}}
    space = product(tmp_path, stepped)
    assert isinstance(space, FiniteSpace)
    assert len(space.candidates()) == 10 * 6 * 2
    assert space.summary()["candidates"] == 120
    for candidate in space.candidates()[::17]:
        assert space.get(candidate.id) == candidate
    bounded = product(tmp_path, stepped, constraints=[{"sum": {"temperature": 1.0}, "at_most": 700}])
    assert len(bounded.candidates()) == 10 * 3 * 2


def test_structures_under_parameters(tmp_path: Path) -> None:
    """Prototypes bring crystals: candidates have crystal, composition and parameters, and ids tell settings apart."""
    del tmp_path
    sites = {"A": ["Sr", "Ba"], "B": ["Ti"], "X": ["O"]}
    of = {"use": "prototypes", "options": {"prototype": "perovskite", "sites": sites}}
    steps = {"temperature": {"min": 0, "max": 10, "resolution": 5}}
    space = Product(
        Product.Options.model_validate({"of": of, "with": {"use": "box", "options": {"parameters": steps}}})
    )
    assert space.offers() == {"structure", "composition", "parameters"}
    assert isinstance(space, FiniteSpace)
    assert len({candidate.id for candidate in space.candidates()}) == 6
    assert all(candidate.crystal is not None for candidate in space.candidates())


def test_wrong_factors_are_refused(tmp_path: Path) -> None:
    """Errors name the factor and what is allowed; a parameter cannot stand in both."""
    box = {"use": "box", "options": {"parameters": BOX}}
    with pytest.raises(ValidationError, match="'bux' cannot be a factor here; write one of box"):
        Product.Options.model_validate({"of": compounds(tmp_path), "with": {**box, "use": "bux"}})
    with pytest.raises(ValidationError, match="option 'path' of pool: Field required"):
        Product.Options.model_validate({"of": {"use": "pool"}, "with": box})
    (tmp_path / "hot.csv").write_text("formula,temperature\nNaCl,3\n", encoding="utf-8")
    of = {"use": "pool", "options": {"path": str(tmp_path / "hot.csv"), "parameters": {"temperature": {}}}}
    with pytest.raises(SpaceError, match="'temperature' stands in both factors"):
        Product(Product.Options.model_validate({"of": of, "with": box}))
    watched = compounds(tmp_path)
    watched["options"]["watch"] = True
    with pytest.raises(SpaceError, match="take 'watch' out"):
        Product(Product.Options.model_validate({"of": watched, "with": box}, context={"base": str(tmp_path)}))


def test_past_results_name_material_and_settings(tmp_path: Path) -> None:
    """A row of a table becomes the pair that it names; a temperature outside of the box is refused."""
    space = product(tmp_path)
    table = tmp_path / "past.csv"
    table.write_text("salt,T,gas,y\nNaCl,700,air,3.5\nKBr,810.5,argon,4\n", encoding="utf-8")
    mapping = {"candidate": "salt", "temperature": {"column": "T", "unit": "degC"}}
    options = TableOptions.model_validate({"file": table, "mapping": mapping})
    first, second = read_table(options, space, PROBLEM).rows
    assert (first.candidate.composition, dict(first.candidate.parameters)) == (
        "NaCl",
        {"temperature": 700, "gas": "air"},
    )
    assert space.split(second.candidate)[1].parameters["temperature"] == 810.5
    table.write_text("salt,T,gas,y\nNaCl,1700,air,3.5\n", encoding="utf-8")
    with pytest.raises(MatloopError, match="temperature is 1700 degC; the box goes from 500 to 1000"):
        read_table(options, space, PROBLEM)


def test_steps_are_checked_against_both_factors(tmp_path: Path) -> None:
    """What an instrument may be asked for comes from the box with its unit and range, and from the materials."""
    parameters = offered(product(tmp_path))
    assert set(parameters) == {"temperature", "gas"}
    assert (parameters["temperature"].unit, parameters["temperature"].high) == ("degC", 1000.0)


def test_interaction_is_learned(learned: tuple[Any, GaussianProcess, Dataset]) -> None:
    """The best temperature of each compound is predicted, although it moves by 400 degrees between them."""
    space, surrogate, _ = learned
    box = space.settings()
    at = [box.make({"temperature": t, "gas": "argon"}) for t in range(500, 1001, 10)]
    errors = []
    for material in space.materials().candidates():
        pairs = [space.join(material, settings) for settings in at]
        said = surrogate.predict(pairs).mean[:, 0]
        best = at[int(np.argmax(said))].parameters["temperature"]
        truly = at[int(np.argmax([strength(pair) for pair in pairs]))].parameters["temperature"]
        errors.append(abs(float(best) - float(truly)))
    assert float(np.median(errors)) <= 30.0


@pytest.mark.parametrize(
    "policy", [LogExpectedImprovement(), UpperConfidenceBound(), Thompson(), Greedy(), Random(), Diverse()]
)
def test_every_policy_chooses_pairs(policy: Any, learned: tuple[Any, GaussianProcess, Dataset]) -> None:
    """Proposals are new, different pairs of the space; the same seed gives the same ones; learners choose good ones."""
    space, surrogate, dataset = learned
    arguments: dict[str, Any] = {"q": 3, "problem": PROBLEM, "dataset": dataset, "pending": (), "costs": {}}
    chosen = policy.select(surrogate, space, closed=frozenset(), seed=5, **arguments)
    again = policy.select(surrogate, space, closed=frozenset(), seed=5, **arguments)
    ids = [proposal.candidate.id for proposal in chosen]
    assert ids == [proposal.candidate.id for proposal in again]
    assert len(set(ids) - {row.candidate.id for row in dataset.rows}) == 3
    for proposal in chosen:
        assert space.join(*space.split(proposal.candidate)).id == proposal.candidate.id
    if policy.needs():
        assert max(strength(proposal.candidate) for proposal in chosen) > 8.0


def test_search_beats_sampling(learned: tuple[Any, GaussianProcess, Dataset]) -> None:
    """From few samples the search finds a pair as good as the best of thirty times as many, and no closed one."""
    space, surrogate, dataset = learned
    closed = frozenset(row.candidate.id for row in dataset.rows)
    situation = Situation(surrogate, space, 1, PROBLEM, dataset, (), closed, seed=2)
    found = promising(situation, space, 32)
    assert [candidate.id for candidate in found] == sorted({candidate.id for candidate in found})
    assert not {candidate.id for candidate in found} & closed
    best = surrogate.predict(found).mean.max()
    assert best > surrogate.predict(space.sample(960, seed=2)).mean.max() - 0.02
    assert best > surrogate.predict(space.sample(32, seed=2)).mean.max() + 0.5
