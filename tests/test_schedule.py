"""Plans: no slot and no place is used twice, the order of steps is kept, and they are short."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import PluginError
from orchestrator.schedule import cp_sat, plain
from orchestrator.schedule.planning import plan
from orchestrator.schedule.shop import Job, Operation, Plan, Shop, violations

MACHINES = {"balance": 1, "furnace": 2, "xrd": 1}
PLACES = {"crucible": 3}


@st.composite
def shops(draw: st.DrawFn) -> Shop:
    """Small batches: re-entrant routes, waits, places, machines that are busy."""
    operation = st.builds(
        Operation,
        name=st.just("step"),
        machine=st.sampled_from(sorted(MACHINES)),
        seconds=st.integers(0, 90).map(float),
        wait_s=st.sampled_from([0.0, 0.0, 30.0]),
        places=st.sampled_from([{}, {}, {"crucible": 1}, {"crucible": 2}]),
    )
    routes = draw(st.lists(st.lists(operation, max_size=5), min_size=1, max_size=6))
    ready = draw(st.lists(st.integers(0, 50), min_size=len(routes), max_size=len(routes)))
    jobs = tuple(
        Job(f"trial {i}", tuple(route), float(r), place=i)
        for i, (route, r) in enumerate(zip(routes, ready, strict=True))
    )
    busy = {"furnace": draw(st.lists(st.integers(1, 60).map(float), max_size=2))}
    return Shop(jobs, MACHINES, PLACES, busy, transport_s=draw(st.sampled_from([0.0, 7.0])))


@settings(deadline=None, max_examples=60)
@given(shops())
def test_plain_plans_are_sound(shop: Shop) -> None:
    """Whatever the batch: nothing is used twice, the order is kept, and no plan is shorter than the bound."""
    found = plain.plan(shop, looks=60)
    assert list(violations(shop, found)) == []
    assert found.makespan_s >= found.bound_s - 1e-6
    assert found == plain.plan(shop, looks=60)


@settings(deadline=None, max_examples=15)
@given(shops())
def test_cp_sat_plans_are_sound_and_not_longer(shop: Shop) -> None:
    """The solver's plan is as sound as the plain one, and never longer."""
    found = cp_sat.plan(shop, seconds=1.0)
    assert list(violations(shop, found)) == []
    assert found.makespan_s <= plain.plan(shop).makespan_s + 1e-6
    assert found.bound_s <= found.makespan_s + 1e-6


def test_violations_are_found() -> None:
    """The judge of the other tests is not blind: each kind of mistake has its sentence."""
    jobs = tuple(Job(n, (Operation("fire", "xrd", 10.0, wait_s=5.0), Operation("look", "balance", 5.0))) for n in "ab")
    shop = Shop(jobs, MACHINES)
    good = {("a", 0): 0.0, ("a", 1): 15.0, ("b", 0): 10.0, ("b", 1): 25.0}
    assert list(violations(shop, Plan(good, 30.0))) == []
    for change, said in (
        ({("b", 0): 5.0}, "2 operations hold machine xrd"),
        ({("a", 1): 12.0}, "begins at 12, before 15"),
        ({("b", 1): 40.0}, "ends at 45"),
    ):
        assert any(said in one for one in violations(shop, Plan({**good, **change}, 30.0)))
    del good["a", 0]
    assert any("is not planned" in one for one in violations(shop, Plan(good, 30.0)))


def test_a_flow_shop_is_pipelined() -> None:
    """Johnson's example: two machines, five jobs, an optimal makespan of 24 that first come, first served misses."""
    times = ((3, 6), (5, 2), (1, 2), (6, 6), (7, 5))
    jobs = tuple(
        Job(f"j{i}", (Operation("a", "balance", float(a)), Operation("b", "xrd", float(b))), place=i)
        for i, (a, b) in enumerate(times)
    )
    found = plan(Shop(jobs, MACHINES))
    assert found.makespan_s == pytest.approx(24.0)
    assert plan(Shop(jobs, MACHINES), use="cp_sat").bound_s == pytest.approx(24.0)


def test_a_busy_machine_is_waited_for() -> None:
    """What runs now is part of the plan."""
    shop = Shop((Job("a", (Operation("fire", "furnace", 10.0),)),), MACHINES, busy={"furnace": (30.0, 20.0)})
    assert plan(shop).starts["a", 0] == pytest.approx(20.0)
    assert plan(replace(shop, busy={"furnace": (30.0,)})).starts["a", 0] == 0.0


def test_without_or_tools_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """CP-SAT is an extra."""
    monkeypatch.setattr(cp_sat, "find_spec", lambda _name: None)
    with pytest.raises(PluginError, match=r"matloop\[schedule\]"):
        plan(Shop((), MACHINES), use="cp_sat")
    assert "ortools" in sys.modules  # the tests above used it
