"""How long adapters wait for a virtual device, in seconds of the wall's clock."""

from __future__ import annotations

from instruments.virtual.device import Device

PATIENCE_S = 3.0
"""On top of what the virtual time says: computing and a busy computer take real time at any speed."""


def waits(device: Device) -> tuple[float, float, float]:
    """Return the typical and the longest duration of an order, and how often to ask, in seconds.

    Args:
        device: only its declarations and its world's speed are read.
    """
    capability, speed = device.capability(), device.world.speed
    typical = max(0.05, capability.typical_s / speed)
    longest = capability.longest_s / speed + PATIENCE_S
    return typical, longest, min(1.0, max(0.02, typical / 5))
