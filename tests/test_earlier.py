"""Earlier campaigns: their results are taken over once, in this campaign's units, and used where they help."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import loop
from orchestrator.campaign import Campaign
from orchestrator.config.read import load_campaign
from orchestrator.config.schema import CampaignConfig
from orchestrator.decisions import verify_decisions
from orchestrator.domain import TARGET, Candidate, Dataset, Objective, Outcome, Problem, Row
from orchestrator.errors import ConfigError
from orchestrator.record.store import CampaignStore
from orchestrator.surrogates.fidelity import FidelityOptions, MultiFidelity

CAMPAIGNS = Path(__file__).parents[1] / "campaigns"
FIRST, SECOND = CAMPAIGNS / "first_campaign.yaml", CAMPAIGNS / "second_campaign.yaml"


@pytest.fixture
def store(tmp_path: Path) -> CampaignStore:
    """Return a database in which the first campaign was run."""
    made = CampaignStore.open(tmp_path / "lab.db")
    asyncio.run(loop.run(Campaign.create(FIRST, store=made, actor="Ada"), threaded=False))
    return made


def begun(store: CampaignStore, **changes: Any) -> Campaign:
    """Begin the second campaign with top-level keys replaced."""
    found = load_campaign(SECOND)
    config = CampaignConfig.model_validate({**found.config.snapshot(), **changes})
    return Campaign.begin(replace(found, config=config), store=store, actor="Ada")


def test_the_example_starts_from_the_first_campaign(store: CampaignStore, tmp_path: Path) -> None:
    """Values come in this campaign's units, count as nobody's results here, and are reported to help."""
    campaign = begun(store, budget={"trials": 6})
    theirs = {row.trial: row for row in store.dataset("first-campaign").rows if row.property == "conductivity"}
    taken = {row.trial: row for row in campaign.dataset().rows}
    assert len(taken) == len(theirs) == 16
    for (_, here), (_, there) in zip(sorted(taken.items(), reverse=True), sorted(theirs.items()), strict=True):
        assert here.trial < 0
        assert here.fidelity == "earlier:first-campaign"
        assert here.value == pytest.approx(1000 * float(there.value or 0.0))  # S/cm to mS/cm
        kelvin = float(there.candidate.parameters["temperature"])
        assert here.candidate.parameters["temperature"] == pytest.approx(kelvin - 273.15)
        assert (here.std_error or 0.0) > 0  # a weight below 1 gives one
    assert campaign.best() == []
    assert len(campaign.dataset().labels(["conductivity"])) == 0

    asyncio.run(loop.run(campaign, threaded=False))
    fits = store.fits(campaign.name)
    assert {fit.surrogate for fit in fits} == {"multi_fidelity"}
    assert fits[-1].report.labels == 5
    assert "earlier campaign first-campaign helps" in fits[-1].report.notes
    assert any("held-out error" in note and "earlier:first-campaign" in note for note in fits[-1].report.notes)
    assert len(campaign.best()) == 6
    assert campaign.info.spent.trials == 6
    assert verify_decisions(campaign) == []
    assert store.verify() == []


def test_what_was_taken_is_frozen(store: CampaignStore) -> None:
    """The other campaign grows, and this one's dataset and decisions stay what they were; so after a restart."""
    campaign = begun(store, initial={"use": "diverse", "trials": 0}, budget={"trials": 3})
    (first,) = campaign.plan(1).trials  # chosen from the earlier results alone
    assert first.proposal.policy == "log_expected_improvement"
    assert "a constant, which nothing judges yet" in " ".join(store.fits(campaign.name)[0].report.notes)
    before = campaign.dataset().sha256

    other = Campaign.open("first-campaign", store=store)
    store.amend(
        "first-campaign",
        CampaignConfig.model_validate({**other.config.snapshot(), "budget": {"trials": 18}}),
        actor="Ada",
    )
    again = Campaign.open("first-campaign", store=store)
    from orchestrator.record.states import CampaignState  # noqa: PLC0415  only here

    store.set_state("first-campaign", CampaignState.ACTIVE, actor="Ada", reason="more")
    asyncio.run(loop.run(again, threaded=False))
    assert len(store.trials("first-campaign")) == 18
    reopened = Campaign.open(campaign.name, store=store)
    assert reopened.dataset().sha256 == before
    assert verify_decisions(reopened) == []


def test_the_weight_scales_the_standard_errors(store: CampaignStore) -> None:
    """A quarter of the weight doubles the standard errors; full weight leaves values without one as they are."""
    half, quarter = (
        begun(store, name=name, earlier=[{"campaign": "first-campaign", "weight": weight}]).dataset().rows
        for name, weight in (("one", 1 / 4), ("two", 1 / 16))
    )
    assert [row.std_error for row in quarter] == pytest.approx([2 * float(row.std_error or 0) for row in half])
    full = begun(store, name="three", earlier=[{"campaign": "first-campaign"}]).dataset().rows
    assert {row.std_error for row in full} == {None}


def test_without_earlier_results_it_is_the_other_arm(store: CampaignStore) -> None:
    """``earlier: []`` is the same campaign without them: a plain surrogate, the same first design."""
    campaign = begun(store, earlier=[])
    assert campaign.dataset().rows == ()
    assert campaign.planner.parts.surrogate.use == "gaussian_process"


def test_what_cannot_be_taken_over_is_refused(store: CampaignStore, tmp_path: Path) -> None:
    """An unknown campaign, another dimension, nothing to take, an unknown property: each is said, and nothing begun."""
    before = [info.name for info in store.campaigns()]
    for earlier, message in (
        ({"campaign": "first-campain"}, "there is no campaign 'first-campain'"),
        ({"campaign": "first-campaign", "properties": {"conductivity": "density"}}, "they|no result"),
        ({"campaign": "first-campaign", "properties": {"conductivity": "colour"}}, "has no result of colour"),
        ({"campaign": "first-campaign", "properties": {"colour": "density"}}, "'colour' is no property of this"),
        ({"campaign": "second-campaign"}, "cannot start from its own results"),
    ):
        with pytest.raises((ConfigError, ValueError), match=message):
            begun(store, earlier=[earlier])
    assert [info.name for info in store.campaigns()] == before


def test_a_campaign_keeps_what_it_started_from(store: CampaignStore, tmp_path: Path) -> None:
    """The list of earlier campaigns cannot be amended."""
    folder = tmp_path / "files"
    shutil.copytree(CAMPAIGNS, folder)
    file = folder / SECOND.name
    campaign = Campaign.create(file, store=store, actor="Ada")
    file.write_text(file.read_text().replace("weight: 0.5", "weight: 0.25"))
    with pytest.raises(ConfigError, match="a campaign keeps what it started from"):
        campaign.amend(file, actor="Ada")


# --- several of them, and few labels ----------------------------------------------------------------------------------

PROBLEM = Problem((Objective("y", "dimensionless", "maximize"),))


def at(x: float) -> Candidate:
    """Return a candidate of one parameter."""
    return Candidate.make(label=f"{x:.3f}", parameters={"x": float(x)})


def rows(x: np.ndarray, values: np.ndarray, fidelity: str, first: int) -> list[Row]:
    """Return measured rows."""
    return [
        Row(first + i, at(one), {}, "y", float(y), None, Outcome.MEASURED, fidelity=fidelity, measurement=first + i)
        for i, (one, y) in enumerate(zip(x, values, strict=True))
    ]


def truth(x: np.ndarray) -> np.ndarray:
    """Return the property, which turns more often than a few labels can show."""
    return np.sin(11 * x) + x


def fitted(target: int) -> tuple[MultiFidelity, tuple[str, ...]]:
    """Fit with one earlier campaign that is related and one that is noise; return the notes too."""
    x, z = np.linspace(0.02, 0.97, target), np.linspace(0.0, 1.0, 30)
    noise = np.random.default_rng(2).normal(size=30)
    dataset = Dataset(
        (
            *rows(z, 2.0 * truth(z) + 3.0, "earlier:related", -1000),
            *rows(z, noise, "earlier:noise", -2000),
            *rows(x, truth(x), TARGET, 1),
        )
    )
    surrogate = MultiFidelity(FidelityOptions(surrogate="gaussian_process"))  # type: ignore[arg-type]
    report = surrogate.fit(dataset, PROBLEM, seed=0)
    surrogate.update(dataset)
    return surrogate, report.notes


@pytest.mark.parametrize("target", [0, 1, 2, 3, 5, 8])
def test_few_labels_of_its_own(target: int, tmp_path: Path) -> None:
    """From no label on it answers finitely, draws functions with the predicted spread, and comes back from a file."""
    surrogate, notes = fitted(target)
    points = [at(x) for x in (0.1, 0.45, 0.8)]
    told = surrogate.predict(points)
    assert np.isfinite(told.mean).all()
    assert (told.epistemic > 0).all()
    draws = surrogate.draw(points, 400, seed=1)
    np.testing.assert_allclose(draws.std(axis=0) / told.epistemic, 1.0, atol=0.2)
    np.testing.assert_allclose(surrogate.draw(points[1:2], 400, seed=1)[:, 0], draws[:, 1], rtol=1e-6, atol=1e-6)
    surrogate.save(tmp_path)
    again = MultiFidelity(FidelityOptions(surrogate="gaussian_process"))  # type: ignore[arg-type]
    again.load(tmp_path, PROBLEM)
    assert any("earlier campaign related" in note for note in notes)
    assert len([note for note in notes if "earlier campaign" in note]) == 2


def test_the_related_one_helps_and_the_noise_does_not() -> None:
    """With eight labels the target stands on the related campaign alone, and both verdicts are in the notes."""
    surrogate, notes = fitted(8)
    assert "earlier campaign related helps" in notes
    assert "earlier campaign noise does not help" in notes
    x = np.linspace(0.0, 1.0, 41)
    error = np.abs(surrogate.predict([at(one) for one in x]).mean[:, 0] - truth(x)).mean()
    assert error < 0.1
