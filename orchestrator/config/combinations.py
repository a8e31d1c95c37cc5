"""Which plug-ins go together: what to name where a file combines two that do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator import plugins
from orchestrator.protocols import AcquisitionPolicy, Support, Surrogate

INPUTS: frozenset[Support] = frozenset({"structure", "composition", "parameters"})
"""What a space offers and a surrogate can learn from; the rest of `Support` is what it can answer."""


def surrogates_for(
    offers: frozenset[str], needs: frozenset[Support], usual: str, allowed_modules: Sequence[str] = ()
) -> list[str]:
    """Name the installed surrogates that can learn from a space and answer what a policy asks.

    Args:
        offers: what the space's candidates carry.
        needs: what the policy needs.
        usual: the surrogate that is used where a file names none; it comes first where it is one of them.
        allowed_modules: see `plugins.load`.

    Returns:
        Names of those that work with their default options.
    """
    found = []
    for name in plugins.available("surrogates"):
        made: Surrogate | None = _built("surrogates", name, allowed_modules)
        supports = made.supports() if made is not None else frozenset[Support]()
        takes = supports & INPUTS
        sees = bool(takes & offers) and ("parameters" not in offers or "parameters" in takes)
        if sees and needs <= supports:
            found.append(name)
    return sorted(found, key=lambda name: (name != usual, name))


def policies_for(supports: frozenset[Support]) -> list[str]:
    """Name the installed learning policies that a surrogate of these abilities can serve."""
    found = []
    for name in plugins.available("acquisition"):
        policy: AcquisitionPolicy | None = _built("acquisition", name)
        needs = policy.needs() if policy is not None else frozenset[Support]()
        if needs and needs <= supports:
            found.append(name)
    return found


def _built(kind: str, name: str, allowed_modules: Sequence[str] = ()) -> Any:
    """Build a plug-in with its default options; None where it has to be told more, or is not complete here."""
    try:
        return plugins.build(kind, name, {}, allowed_modules=allowed_modules)
    except Exception:  # noqa: BLE001  a plug-in that cannot be built is no suggestion, whatever its reason
        return None
