"""Which fit proposes, what later results say of it, and what is done about that."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator import champion, fitting, loop
from orchestrator.campaign import Campaign
from orchestrator.champion import Learned, compare
from orchestrator.decisions import verify_decisions
from orchestrator.domain import Candidate, Dataset, HeldOut, Objective, Outcome, Problem, Row
from orchestrator.errors import Diverged
from orchestrator.prospective import Judged, alarms, drifted, factor, summary
from orchestrator.record.store import CampaignStore
from orchestrator.record.views import EventInfo, FitInfo
from orchestrator.surrogates.gaussian_process import GaussianProcess

CAMPAIGN = """
name: line
seed: 3
objectives: [{property: y, goal: maximize}]
space: {use: "tests.line_lab:Line", options: {points: 60}}
instruments:
  bench: {use: "tests.line_lab:bench"}
procedure: [{step: measure, instrument: bench}]
acquisition: {use: "tests.honesty_lab:Telling"}
initial: {use: "tests.line_lab:First", trials: 6}
parallel: 2
plan_when_free: 2
"""


def _write(folder: Path, *, trials: int, refit: str, **options: Any) -> Path:
    lines = [f"refit: {refit}", f"budget: {{trials: {trials}}}"]
    lines.append(f'surrogate: {{use: "tests.honesty_lab:Faulty", options: {json.dumps(options)}}}')
    (folder / "line.yaml").write_text(CAMPAIGN + "\n".join(lines) + "\n")
    (folder / "lab.yaml").write_text("allowed_modules: [tests.line_lab, tests.honesty_lab]\n")
    return folder / "line.yaml"


def _run(folder: Path, *, trials: int, refit: str, **options: Any) -> Campaign:
    file = _write(folder, trials=trials, refit=refit, **options)
    campaign = Campaign.create(file, store=CampaignStore.open(folder / "line.db"), actor="test")
    asyncio.run(loop.run(campaign))
    return campaign


def _fits(campaign: Campaign) -> list[FitInfo]:
    return campaign.store.fits(campaign.name)


def _notices(campaign: Campaign) -> list[EventInfo]:
    return [event for event in campaign.store.events(campaign.name) if event.kind == "notice"]


def _judged(errors: Any, sd: Any, widened: float = 1.0) -> Judged:
    n = len(errors)
    numbers = tuple(range(1, n + 1))
    wide = tuple(float(s) * widened for s in sd)
    return Judged("y", numbers, ("",) * n, (0.0,) * n, wide, tuple(float(e) for e in errors), (widened,) * n)


# --- the comparison -------------------------------------------------------------------------------------------------


def _pairs(values: Any) -> dict[tuple[str, int], float]:
    return {("y", i): float(value) for i, value in enumerate(values)}


def test_a_clearly_worse_challenger_is_not_promoted() -> None:
    """Worse on all labels together by more than a standard error, or on the newest results by more than two."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=40)
    worse = base + 0.5 + 0.3 * rng.normal(size=40)
    assert not compare(_pairs(base), {}, _pairs(worse), "fit 1").promoted
    newest = {key: value for key, value in _pairs(base).items() if key[1] >= 30}
    verdict = compare({}, newest, _pairs(worse), "fit 1")
    assert not verdict.promoted
    assert "fit 1" in verdict.reason
    assert "10 newest results" in verdict.reason
    older = {key: value + 9 for key, value in _pairs(base).items() if key[1] < 30}  # far better there
    assert not compare(older, newest, _pairs(worse), "fit 1").promoted
    slightly = base + 0.2 + 0.8 * rng.normal(size=40)
    assert not compare(_pairs(base), {}, _pairs(slightly), "fit 1").promoted


def test_a_lean_of_one_set_is_forgiven() -> None:
    """Better on one set, worse on the other (the newest by 1.5 standard errors, or the old by many): it proposes."""
    rng = np.random.default_rng(4)
    base, noise = rng.normal(size=30), rng.normal(size=10)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    mine = np.r_[base[:20] - 0.3, base[20:] + noise + 1.5 / np.sqrt(10)]
    theirs = _pairs(base)
    old = {key: value for key, value in theirs.items() if key[1] < 20}
    new = {key: value for key, value in theirs.items() if key[1] >= 20}
    assert compare(old, new, _pairs(mine), "fit 1").promoted
    assert not compare({}, new, _pairs(mine), "fit 1").promoted
    careful = np.r_[base[:20] + 0.3 + 0.01 * rng.normal(size=20), base[20:] - 0.6 + noise]
    assert compare(old, new, _pairs(careful), "fit 1").promoted
    assert not compare(old, {}, _pairs(careful), "fit 1").promoted


def test_noise_a_hair_and_too_few_labels_do_not_block() -> None:
    """Within a standard error, within a fiftieth of a nat, or on four labels: the challenger proposes."""
    rng = np.random.default_rng(1)
    base, noise = rng.normal(size=40), rng.normal(size=40)
    assert compare(_pairs(base), {}, _pairs(base + noise - noise.mean() + 0.1), "fit 1").promoted
    assert compare(_pairs(base), {}, _pairs(base + 0.01), "fit 1").promoted
    assert compare(_pairs(base[:4]), {}, _pairs(base[:4] + 9), "fit 1").promoted
    better = compare(_pairs(base), _pairs(base), _pairs(base - 1), "fit 1")
    assert better.promoted
    assert "\N{MINUS SIGN}1.00" in better.reason


def test_a_prediction_that_is_no_number_is_very_bad() -> None:
    """A challenger with NaN among its held-out predictions has an infinite loss there, cut to a large one."""
    held = HeldOut(np.array([0.0, np.nan]), np.array([1.0, np.nan]), np.zeros(2), (1, 2))
    losses = champion.losses_held_out({"y": held})
    assert losses["y", 1] < 2
    assert losses["y", 2] == champion.NO_NUMBER


def _line_dataset(values: Any) -> Dataset:
    return Dataset(
        tuple(
            Row(i, Candidate.make(label=str(i), parameters={"x": float(i)}), {}, "y", float(v), None, Outcome.MEASURED)
            for i, v in enumerate(values, 1)
        )
    )


def test_the_champion_predicts_each_new_result_from_all_others() -> None:
    """It is conditioned on everything but the result it predicts: its own value changes its error, not its forecast."""
    problem = Problem(objectives=(Objective("y", "eV", "minimize"),))
    y = np.sin(np.arange(14) / 3.0)
    surrogate = GaussianProcess()
    surrogate.fit(_line_dataset(y[:10]), problem, 1)
    learned = Learned(frozenset(range(1, 11)), surrogate.held_out())
    losses = champion.losses_since(surrogate, _line_dataset(y), learned, ("y",), {})
    assert sorted(losses) == [("y", 11), ("y", 12), ("y", 13), ("y", 14)]
    everything = _line_dataset(y)
    surrogate.update(Dataset(tuple(row for row in everything.rows if row.trial != 12)))
    told = surrogate.predict([everything.rows[11].candidate])
    z = (y[11] - told.mean[0, 0]) / told.sd[0, 0]
    assert losses["y", 12] == pytest.approx(0.5 * z**2 + np.log(told.sd[0, 0] * np.sqrt(2 * np.pi)))
    wide = champion.losses_since(surrogate, everything, learned, ("y",), {"y": 2.0})
    assert wide["y", 12] == pytest.approx(2 * z**2 + np.log(told.sd[0, 0] / 2 * np.sqrt(2 * np.pi)))


def test_widening_is_part_of_the_state(tmp_path: Path) -> None:
    """Means stay; epistemic sd, noise and the draws' spread are multiplied, and are so after save and load."""
    problem = Problem(objectives=(Objective("y", "eV", "minimize"),))
    dataset = _line_dataset(np.sin(np.arange(9)))
    asked = [Candidate.make(label="a", parameters={"x": 4.6})]
    surrogate = GaussianProcess()
    surrogate.fit(dataset, problem, 1)
    before, drawn = surrogate.predict(asked), surrogate.draw(asked, 5, 3)
    surrogate.widen({"y": 1.5})
    after = surrogate.predict(asked)
    np.testing.assert_array_equal(after.mean, before.mean)
    np.testing.assert_allclose([after.epistemic, after.noise], [1.5 * before.epistemic, 1.5 * before.noise])
    np.testing.assert_allclose(surrogate.draw(asked, 5, 3) - before.mean, 1.5 * (drawn - before.mean), atol=1e-9)
    surrogate.save(tmp_path)
    again = GaussianProcess()
    again.load(tmp_path, problem)
    np.testing.assert_allclose(again.predict(asked).sd, after.sd)


# --- prospective ----------------------------------------------------------------------------------------------------


def test_honest_predictions_raise_no_alarm_and_are_not_widened() -> None:
    """Over 100 honest campaigns of 40 results hardly any alarm of width is given, and no factor in most."""
    rng = np.random.default_rng(2)
    widths = factors = 0
    for _ in range(100):
        sd = np.exp(rng.normal(size=40))
        judged = _judged(sd * rng.normal(size=40), sd)
        widths += any(alarm.kind != "uninformative" for alarm in alarms(judged))
        factors += factor(judged) > 1
    assert widths <= 8
    assert factors <= 12


def test_too_small_standard_deviations_are_seen_and_mended() -> None:
    """Half the true sd: the alarm says how many of how many, and the factor nearly mends it, however it was widened."""
    rng = np.random.default_rng(3)
    sd = np.exp(rng.normal(size=60))
    errors = 2 * sd * rng.normal(size=60)
    [alarm] = [a for a in alarms(_judged(errors, sd)) if a.kind == "too_sure"]
    assert "of the last 24 results of y lie inside their 90% intervals" in alarm.text
    mended = factor(_judged(errors, sd))
    assert 1.6 < mended < 2.2
    # once widened the alarm is silent, and the factor stays what it was: it is about the predictions as trained
    assert not [a for a in alarms(_judged(errors, sd, widened=2.0)) if a.kind == "too_sure"]
    assert factor(_judged(errors, sd, widened=2.0)) == pytest.approx(mended)


def test_an_uninformative_sd_is_named() -> None:
    """Errors that fall where the sd rises: the sentence says so, with the number; below 16 results nothing is said."""
    sd = np.linspace(1.0, 2.0, 24)
    errors = np.where(np.arange(24) % 2, 1, -1) * (3.0 - sd)
    [alarm] = alarms(_judged(errors, sd), "eV")
    assert alarm.kind == "uninformative"
    assert "sd of y says nothing about the error (rank correlation \N{MINUS SIGN}1.00 over 24 results)" in alarm.text
    assert alarms(_judged(errors[:12], sd[:12])) == ()
    assert summary(_judged(errors, sd))["alarm_uninformative"] == 1.0


def test_drift_needs_what_chance_does_not_explain() -> None:
    """Four of five new results outside are drift; one of five is not, nor are two, nor what the fit has seen."""
    errors = np.array([0.0] * 10 + [5.0, 5.0, 5.0, 5.0, 0.0])
    assert "4 of the 5 results of y since the last training" in drifted(_judged(errors, np.ones(15)), range(1, 11))
    assert drifted(_judged(errors, np.ones(15)), range(1, 16)) == ""
    assert drifted(_judged(np.array([5.0, 0, 0, 0, 0]), np.ones(5)), ()) == ""
    assert drifted(_judged(np.array([5.0, 5.0]), np.ones(2)), ()) == ""


# --- in a campaign --------------------------------------------------------------------------------------------------


def test_a_training_that_went_wrong_is_kept_and_does_not_propose(tmp_path: Path) -> None:
    """The broken fit is stored and said to lose; the champion goes on; the next one starts from scratch and wins."""
    campaign = _run(tmp_path, trials=24, refit="{every: 4, cold_growth: 3, drift: false}", broken_at=[14])
    fits = _fits(campaign)
    assert [fit.report.labels for fit in fits] == [6, 10, 14, 18, 22]
    assert [fit.report.promoted for fit in fits] == [True, True, False, True, True]
    assert [fit.report.champion for fit in fits] == [None, fits[0].id, fits[1].id, fits[1].id, fits[3].id]
    assert [fit.parent for fit in fits] == [None, fits[0].id, fits[1].id, None, fits[3].id]
    assert "worse than fit 2" in fits[2].report.reason
    assert any("fit 3 is kept but does not propose" in event.note for event in _notices(campaign))
    assert any("fit 3 was worse than fit 2" in note for note in fits[3].report.notes)
    used = [decision.fit for decision in campaign.store.decisions("line") if decision.fit is not None]
    assert fits[2].id not in used
    assert {fits[1].id, fits[3].id} <= set(used)
    assert verify_decisions(campaign) == []


def test_a_training_without_a_finite_state_leaves_the_champion(tmp_path: Path) -> None:
    """The history says so, the champion proposes, the next training goes well; the first one has none to leave."""
    campaign = _run(tmp_path, trials=18, refit="{every: 4, drift: false}", diverges_at=[10])
    assert [fit.report.labels for fit in _fits(campaign)] == [6, 12, 16]
    assert any("no fit: no finite optimum; fit 1 goes on" in event.note for event in _notices(campaign))
    assert verify_decisions(campaign) == []
    (tmp_path / "first").mkdir()
    with pytest.raises(Diverged):
        _run(tmp_path / "first", trials=18, refit="{every: 4}", diverges_at=[6])


def test_another_surrogate_begins_anew(tmp_path: Path) -> None:
    """After an amendment of its options no earlier fit proposes or is compared with, even if none would be due."""
    campaign = _run(tmp_path, trials=12, refit="{every: 40, drift: false}")
    campaign.amend(_write(tmp_path, trials=16, refit="{every: 40, drift: false}", stated=2.0), actor="test")
    asyncio.run(loop.run(campaign))
    first, second = _fits(campaign)
    assert (second.parent, second.report.champion, second.report.labels) == (None, None, 12)
    assert [d.fit for d in campaign.store.decisions("line")][-1] == second.id != first.id
    assert verify_decisions(campaign) == []


def test_labels_that_grew_by_half_train_from_scratch(tmp_path: Path) -> None:
    """Trained from scratch at 6, 9 → 10, 15 → 16 … labels; warm from the champion in between."""
    campaign = _run(tmp_path, trials=22, refit="{every: 2, drift: false}")
    cold = [fit.report.labels for fit in _fits(campaign) if not fit.report.warm]
    assert cold == [6, 10, 16]
    assert all((fit.parent is None) == (not fit.report.warm) for fit in _fits(campaign))


def test_a_too_sure_surrogate_is_widened_and_the_record_says_so(tmp_path: Path) -> None:
    """Intervals twenty times too narrow: a notice, wider proposals from the next fit on, and the same choices again."""
    campaign = _run(tmp_path, trials=44, refit="{every: 4, drift: false}", stated=0.2)
    fits = _fits(campaign)
    wide = [fit.report.prospective.get("y", {}).get("widened", 1.0) for fit in fits]
    assert wide[0] == 1.0
    assert wide[-1] > 2.0
    assert wide[-1] <= 4.0
    notices = [event.note for event in _notices(campaign)]
    assert any("its sd is too small" in note and "its sd is widened by" in note for note in notices), notices
    assert any("results within 90 %" in e.note for e in campaign.store.events("line") if e.kind == "decision")
    first = fitting.judged(campaign.standing(), campaign.planner)["y"]
    assert first.as_trained().coverage(0.9) < 0.5 < first.last(10).coverage(0.9)
    assert verify_decisions(campaign) == []


def test_drift_trains_before_its_time(tmp_path: Path) -> None:
    """With a fit due only after 40 labels, results that contradict the first one bring it forward, from scratch."""
    campaign = _run(tmp_path, trials=30, refit="{every: 40}", stated=0.05)
    fits = _fits(campaign)
    assert len(fits) > 1
    assert fits[1].report.labels < 15
    assert not fits[1].report.warm
    assert any("since the last training lie outside" in note for note in fits[1].report.notes)
    (tmp_path / "calm").mkdir()
    calm = _run(tmp_path / "calm", trials=30, refit="{every: 40, drift: false}", stated=0.05)
    assert len(_fits(calm)) == 1


def test_a_fit_from_before_champions_is_simply_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stored fit without the file of what it learned cannot be compared: its successor proposes."""
    monkeypatch.setattr(champion, "read", lambda folder: Learned())
    campaign = _run(tmp_path, trials=16, refit="{every: 4}", broken_at=[10])
    assert all(fit.report.promoted for fit in _fits(campaign))
    assert "no held-out predictions" in _fits(campaign)[1].report.reason
