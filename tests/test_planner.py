"""The planner: initial design, refit rule, purity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.base import Use
from orchestrator.config.schema import CampaignConfig
from orchestrator.domain import Dataset, Outcome, Row
from orchestrator.errors import NotEnoughData
from orchestrator.planner import Parts, Planner
from tests.fakes import BestMean, InOrder, ListSpace, Nearest, point


class _Parts(Parts):
    def new_surrogate(self) -> Any:
        return Nearest()


def _planner(**changes: Any) -> Planner:
    config = CampaignConfig.model_validate(
        {
            "name": "line",
            "objectives": [{"property": "y", "goal": "maximize"}],
            "space": {"use": "pool"},
            "initial": {"use": "random", "trials": 3},
            "refit": {"every": 4},
            "budget": {"trials": 10},
            **changes,
        }
    )
    parts = _Parts(
        space=ListSpace([point(float(x)) for x in range(20)]),  # type: ignore[arg-type]
        surrogate=Use(use="nearest"),
        policy=BestMean(),  # type: ignore[arg-type]
        initial=InOrder(),  # type: ignore[arg-type]
        stopping={},
        derived={},
        base=None,
        allowed_modules=(),
    )
    return Planner(config, parts)


def _measured(*xs: float) -> Dataset:
    return Dataset(
        tuple(
            Row(i, point(x), {"x": x}, "y", -abs(x - 12), None, Outcome.MEASURED, measurement=i)
            for i, x in enumerate(xs, 1)
        )
    )


def _choose(planner: Planner, dataset: Dataset, **changes: Any) -> list[str]:
    surrogate, _, _ = planner.train(1, dataset, None)
    arguments: dict[str, Any] = {
        "q": 3,
        "initial": False,
        "dataset": dataset,
        "pending": (),
        "closed": frozenset(),
        "surrogate": surrogate,
        **changes,
    }
    return [p.candidate.label for p in planner.choose(1, **arguments).proposals]


def test_initial_design_lasts_until_its_trials_are_planned_and_there_is_a_label() -> None:
    """A learning policy never chooses before there is something to learn from."""
    planner = _planner()
    assert planner.is_initial(2, _measured(1.0))
    assert not planner.is_initial(3, _measured(1.0))
    assert planner.is_initial(3, Dataset())


def test_an_imported_table_replaces_the_initial_design() -> None:
    """With `initial: {use: table}` the policy chooses at once, unless the table has no label."""
    planner = _planner(initial={"use": "table"})
    assert not planner.is_initial(0, _measured(1.0))
    assert planner.is_initial(0, Dataset())


def test_a_full_training_is_due_at_first_and_then_after_as_many_labels_as_the_file_says() -> None:
    """`refit.every: 4` counts labels, not trials or decisions."""
    planner = _planner()
    assert planner.refit_due(_measured(1.0), None)
    assert not planner.refit_due(_measured(1.0, 2.0, 3.0, 4.0), 1)
    assert planner.refit_due(_measured(1.0, 2.0, 3.0, 4.0, 5.0), 1)


def test_a_training_from_scratch_is_due_when_labels_grew_by_the_files_factor() -> None:
    """By half where the file says nothing; at once where there was none from scratch."""
    planner = _planner()
    assert not planner.cold_due(11, 8)
    assert planner.cold_due(12, 8)
    assert planner.cold_due(1, 0)
    assert not _planner(refit={"every": 4, "cold_growth": 3}).cold_due(23, 8)


def test_a_training_that_fails_leaves_nothing_half_held(tmp_path: Path) -> None:
    """After a training that raised, the stored fit is read again instead of asking what the failure left behind."""
    planner = _planner()
    fitted, _, _ = planner.train(1, _measured(3.0, 11.0), None)
    fitted.save(tmp_path)
    assert planner.restore(tmp_path) is planner.restore(tmp_path)
    with pytest.raises(NotEnoughData):
        planner.train(2, Dataset(), tmp_path)
    told = planner.restore(tmp_path).predict([point(11.0)])
    assert told.mean[0, 0] == -1.0


def test_a_failed_trial_is_no_label() -> None:
    """Failures are evidence for feasibility, and do not hasten a refit."""
    failed = Row(9, point(9.0), {}, "", None, None, Outcome.FAILED, reason="melted")
    planner = _planner()
    assert planner.labels(Dataset((*_measured(1.0).rows, failed))) == 1


def test_choosing_depends_on_its_arguments_alone() -> None:
    """Another planner, asked the same, chooses the same; pending and closed candidates are not proposed."""
    dataset = _measured(3.0, 11.0, 18.0)
    first = _choose(_planner(), dataset)
    assert first == _choose(_planner(), dataset)
    left_out = _choose(_planner(), dataset, pending=(point(11.0),), closed=frozenset({point(10.0).id}))
    assert not {"x=11", "x=10"} & set(left_out)


def test_the_surrogate_is_brought_up_to_date_before_it_is_asked() -> None:
    """A result that came after the fit changes the choice."""
    planner = _planner()
    surrogate, _, _ = planner.train(1, _measured(0.0), None)
    chosen = planner.choose(
        2, q=1, initial=False, dataset=_measured(0.0, 19.0), pending=(), closed=frozenset(), surrogate=surrogate
    )
    assert chosen.proposals[0].candidate.parameters["x"] >= 10
