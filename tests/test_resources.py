"""Resources over crashes: whatever is killed where, a stock is never overdrawn and nothing of it is lost."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from orchestrator.config.resources import ResourceConfig
from orchestrator.errors import Effect, Fault, StoreError, Unanswered
from orchestrator.execution.answers import answer_discard, answer_not_started
from orchestrator.record.crash_points import install
from orchestrator.record.states import AttemptState, CampaignState
from orchestrator.record.store import CampaignStore
from tests.bench_lab import NAME, Device, carry, config_of, executor_of, store_of

LAB = {"argon": {"stock": 7, "unit": "L", "capacity": 20}, "crucible": {"places": 2}}
POINTS = (
    "claim.in_txn",
    "claim.after",
    "intent.in_txn",
    "intent.after",
    "result.received",
    "raw.renamed",
    "measured.in_txn",
    "measured.after",
    "record.in_txn",
    "record.after",
    "end.in_txn",
    "end.after",
    "rest.in_txn",
    "rest.after",
    "skip.in_txn",
    "skip.after",
    "declare.in_txn",
    "declare.after",
    "refill.in_txn",
    "refill.after",
)
STEPS = [
    {"step": "fire", "instrument": "kiln", "needs": {"argon": "2 L", "crucible": 1}, "wait": {"seconds": 5}},
    {"step": "again", "instrument": "kiln", "when": {"from": "fire.mass", "above": 2}, "needs": {"argon": "0.5 L"}},
    {"step": "test", "instrument": "press", "needs": {"crucible": 1}},
]


class Killed(BaseException):
    """Stands for SIGKILL: no handler of ours may catch it, and what is not committed is gone."""


def sums_agree(store: CampaignStore) -> None:
    """Nothing is negative, nothing above its limits, and supplies, holds and levels add up."""
    assert store.verify() == []
    for one in store.resources():
        assert 0 <= one.reserved <= one.level
    argon, crucible = store.resources()
    spent = sum(
        (2.0 if attempt.step == "fire" else 0.5)
        for attempt in store.attempts(NAME)
        if attempt.step in {"fire", "again"}
        and (
            attempt.state is AttemptState.RECORDED
            or (attempt.state is AttemptState.FAILED and attempt.effect != "none")
        )
    )
    with store._db.read() as connection:
        supplied = connection.exec_driver_sql(
            "SELECT SUM(amount) FROM supply WHERE resource_id IN (SELECT id FROM resource WHERE name = 'argon')"
        ).scalar_one()
    assert argon.level == pytest.approx(supplied / 1e6 - spent)
    assert crucible.level == 2.0


@settings(
    deadline=None, max_examples=8, phases=(Phase.explicit, Phase.generate), derandomize=True
)  # a store takes seconds to shrink over
@example(
    kills=[("raw.renamed", 0), ("rest.in_txn", 0)], spoilt={2}
)  # all places held by trials that a person must settle
@example(  # recovery itself ends in a question, with nothing else at work
    kills=[("intent.after", 3), ("rest.in_txn", 0), ("end.after", 1), ("intent.after", 1), ("claim.after", 2)],
    spoilt={4},
)
@given(
    kills=st.lists(st.tuples(st.sampled_from(POINTS), st.integers(0, 3)), min_size=1, max_size=5),
    spoilt=st.sets(st.integers(0, 8), max_size=3),
)
def test_random_kills_neither_lose_nor_repeat(kills: list[tuple[str, int]], spoilt: set[int]) -> None:
    """Kill, reopen, resume, answer, refill, until all trials have ended: after each crash the sums agree."""

    def answer(_order: object, n: int) -> float:
        if n in spoilt:
            message = "the heater broke"
            raise Fault(message, effect=Effect.STARTED)
        return float(1 + n % 4)

    config = config_of(STEPS)
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / "c.db"
        store_of(where, config, [1.0, 2.0, 3.0]).close()
        devices = {"kiln": Device("mass", answer, slots=2), "press": Device("strength")}
        plan = list(kills)
        for _ in range(30):
            left = plan.pop(0) if plan else None
            done = _live(where, config, devices, left)
            if done:
                break
        assert done


def _live(where: Path, config: object, devices: dict[str, Device], kill: tuple[str, int] | None) -> bool:
    """Live one process's life: until it is killed, or nothing can go on; say whether all trials have ended."""
    store = CampaignStore.open(where)
    seen = 0

    def hook(label: str) -> None:
        nonlocal seen
        if kill is not None and label == kill[0]:
            seen += 1
            if seen > kill[1]:
                raise Killed

    remove = install(hook)
    try:
        for asked in store.open_attempts(NAME):
            if asked.state is not AttemptState.UNKNOWN:
                continue
            tell = answer_not_started if asked.id % 2 else answer_discard
            tell(store, asked.id, who="Ada", reason="looked at the kiln")
        if store.campaign(NAME).state is CampaignState.PAUSED:
            store.refill("argon", 4, actor="Ada")
            store.set_state(NAME, CampaignState.ACTIVE, actor="Ada", reason="refilled")
        trials = [trial.number for trial in store.trials(NAME) if trial.ended_at is None]
        made = executor_of(store, config, devices, LAB)  # type: ignore[arg-type]  # a campaign's configuration
        carry(made, *trials)
    except (Killed, Unanswered):  # the next life begins with Ada's answers
        pass
    finally:
        remove()
        store.close()
    after = CampaignStore.open(where)
    if len(after.resources()) == len(LAB):
        sums_agree(after)
    ended = all(trial.ended_at is not None for trial in after.trials(NAME))
    after.close()
    return ended


def test_the_lab_file_may_change(tmp_path: Path) -> None:
    """Places follow the file, unless they are taken; a stock keeps what was counted; a kind never changes."""
    store = CampaignStore.open(tmp_path / "c.db")

    def declare(**one: object) -> None:
        store.declare_resources({"it": ResourceConfig.model_validate(one)})

    declare(places=2)
    declare(places=5)
    assert store.resources()[0].free == 5
    declare(places=1)
    assert store.resources()[0].free == 1
    with pytest.raises(StoreError, match="give the new one another name"):
        declare(stock=3, unit="L")
    store.declare_resources({"gas": ResourceConfig(stock=3, unit="L", capacity=10)})
    store.refill("gas", 2000, "mL", actor="Ada")
    store.declare_resources({"gas": ResourceConfig(stock=3, unit="L", capacity=6, alarm=5.5)})
    assert "LOW" in str(store.resources()[0])
    assert store.resources()[0].level == pytest.approx(5.0)
    with pytest.raises(StoreError, match="say who"):
        store.refill("gas", 1, actor=" ")
    assert store.verify() == []
    store.close()
