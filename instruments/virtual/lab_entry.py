"""What the lab file says of a virtual device that describes itself, whatever protocol it speaks."""

from __future__ import annotations

from typing import Any

from instruments.virtual.device import Device
from instruments.virtual.timing import waits


def self_described(device: Device, scan: str) -> dict[str, Any]:
    """Return the options that `use: sila` and `use: opcua` share.

    Args:
        device: only its declarations are read.
        scan: name of the scan file.
    """
    capability = device.capability()
    typical, longest, _ = waits(device)
    return {
        "scan": scan,
        "commands": [capability.name],
        "key_parameter": "order_key",
        "key_value": "last_order",
        "key_answer": "readings_of",
        "abort_command": "stop",
        "parameters": {
            p.name: {"resolution": p.resolution, **({} if p.default is None else {"default": p.default})}
            for p in capability.parameters
        },
        "outputs": {o.name: {"min": o.low, "max": o.high} for o in capability.outputs},
        "state": "state",
        "busy": ["Busy"],
        "interlocked": ["DoorOpen"],
        "typical_s": typical,
        "longest_s": longest,
        "cost": capability.cost,
    }
