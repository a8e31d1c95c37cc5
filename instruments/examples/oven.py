"""A Python function as an instrument: how most labs begin. It stands in for one that drives a real oven."""

import math

from instruments.function import instrument


@instrument(
    outputs={"strength": ("MPa", 0, 200)},
    parameters={"temperature": ("degC", 20, 800), "gas": ["air", "argon"]},
    fidelity="simulated",
    recovery="idempotent",
    simulated=True,
)
def bake(temperature: float, gas: str) -> float:
    """Bake a bar and press it until it breaks: strongest at 640 degC, under argon."""
    return (90.0 if gas == "argon" else 75.0) * math.exp(-(((temperature - 640.0) / 180.0) ** 2))
