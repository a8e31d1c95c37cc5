"""Seeded draws of simulated instruments: fixed by the seed and by what is asked, never by the time."""

from __future__ import annotations

import numpy as np

from orchestrator.domain import JsonObject, Order, canonical_json, sha256


def content(order: Order) -> JsonObject:
    """Return what identifies the question of an order: not its key, which is new for each attempt.

    Args:
        order: what is asked.

    Returns:
        Capability, set-points, structure and, where there is neither, the label.
    """
    asked = order.to_json()
    kept: JsonObject = {name: asked[name] for name in ("capability", "settings", "choices", "crystal")}
    if not (order.settings or order.choices or order.crystal):
        kept["label"] = order.label
    return kept


def generator(seed: int, order: Order, purpose: str) -> np.random.Generator:
    """Return the random numbers for one purpose of one question.

    Args:
        seed: of the simulated instrument.
        order: what is asked.
        purpose: such as ``noise/energy``; different purposes draw independently.

    Returns:
        A generator; the same arguments give the same numbers.
    """
    return np.random.default_rng(int(sha256(canonical_json([seed, content(order), purpose]))[:15], 16))
