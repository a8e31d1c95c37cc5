"""One door to the plans: the plain one, or CP-SAT's."""

from __future__ import annotations

from typing import Literal

from orchestrator.schedule import cp_sat, plain
from orchestrator.schedule.shop import Plan, Shop


def plan(shop: Shop, *, use: Literal["plain", "cp_sat"] = "plain", seconds: float = 5.0, seed: int = 0) -> Plan:
    """Plan a batch.

    Args:
        shop: the batch and its machines.
        use: what plans.
        seconds: time for CP-SAT.
        seed: of the search.

    Returns:
        Start times.

    Raises:
        PluginError: CP-SAT is wanted, and OR-tools is not installed.
    """
    return cp_sat.plan(shop, seconds=seconds, seed=seed) if use == "cp_sat" else plain.plan(shop, seed=seed)
