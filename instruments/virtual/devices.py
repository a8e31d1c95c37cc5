"""The four devices of the virtual lab: what they can do, how long it takes, and what they get wrong.

Numbers without a source are chosen as typical of bench equipment.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from instruments.virtual.chemistry import MOLAR_MASS, PHASES, Sample
from instruments.virtual.device import VIAL, Device, RefusedError
from orchestrator.domain import Capability, Output, Parameter

if TYPE_CHECKING:
    from orchestrator.materials.diffraction import Lines

LAST_VIAL = 9999.0
MINUTE, HOUR = 60.0, 3600.0
A_VIAL = Parameter(VIAL, "dimensionless", 1.0, LAST_VIAL, resolution=1.0)


class Dispenser(Device):
    """Doses barium carbonate and zirconia into a fresh vial, and presses a pellet.

    Dosing has a spread of 0.3 mg and 0.2 % of the dose; the balance reads to 0.1 mg and drifts. The hoppers hold
    100 g each; one that is nearly empty refuses until they are refilled (`matloop virtual-lab --refill`).
    """

    name = "dispenser"
    model = "VD-100"
    HOPPER = 100_000.0
    """mg"""

    def capability(self) -> Capability:
        """Declare `dispense`."""
        return Capability(
            "dispense",
            parameters=(
                Parameter("ratio", "dimensionless", 0.8, 1.4, resolution=0.001),
                Parameter("mass", "mg", 200.0, 3000.0, resolution=1.0, default=1000.0),
            ),
            outputs=(
                Output(VIAL, "dimensionless", 1.0, LAST_VIAL),
                Output("carbonate_mass", "mg", 0.0, 3500.0),
                Output("zirconia_mass", "mg", 0.0, 3500.0),
            ),
            typical_s=150.0,
            longest_s=600.0,
            cost=1.0,
        )

    def lasts(self, values: Mapping[str, float]) -> float:
        """Two minutes and a little for each dose."""
        return 120.0 + 0.03 * values["mass"]

    def refusal(self, values: Mapping[str, float]) -> RefusedError | None:
        """Refuse where a hopper is nearly empty."""
        refills = self.world.refills(self.name)
        if refills != self.state.get("refills", 0):
            self.state |= {"refills": refills, "levels": {}}
        for powder in ("BaCO3", "ZrO2"):
            if self.level(powder) < values["mass"]:
                return RefusedError(f"the hopper of {powder} is nearly empty; refill it: matloop virtual-lab --refill")
        return None

    def level(self, powder: str) -> float:
        """Return what is left in a hopper, in mg."""
        return float(self.state.setdefault("levels", {}).get(powder, self.HOPPER))

    def work(self, values: Mapping[str, float], share: float, rng: np.random.Generator) -> dict[str, float]:
        """Dose; a dose that was stopped is short of zirconia."""
        ratio, mass = values["ratio"], values["mass"]
        carbonate = ratio * MOLAR_MASS["BaCO3"]
        part = carbonate / (carbonate + MOLAR_MASS["ZrO2"])
        true = {}
        for powder, asked in (("BaCO3", part * mass), ("ZrO2", (1 - part) * mass * share)):
            true[powder] = max(0.0, asked + float(rng.normal(0.0, math.hypot(0.3, 0.002 * asked))))
            self.state["levels"][powder] = self.level(powder) - true[powder]
        drift = self.state["drift"] = self.state.get("drift", 0.0) + float(rng.normal(0.0, 0.02))
        vial = self.world.new_vial()
        sample = Sample.mixed(true["BaCO3"], true["ZrO2"])
        sample.spoiled = "" if share >= 1 else "the dose was cut short"
        self.world.keep(vial, sample)
        shown = {
            name: round(true[powder] + drift, 1)
            for name, powder in (("carbonate_mass", "BaCO3"), ("zirconia_mass", "ZrO2"))
        }
        return {VIAL: float(vial), **shown, "_carbonate_mass": true["BaCO3"], "_zirconia_mass": true["ZrO2"]}


class TubeFurnace(Device):
    """Fires a pellet: ramp, soak, natural cooling.

    The pellet follows the heater with a lag of four minutes (first order). The thermocouple is off by up to a few
    kelvin, and creeps with each firing. Without gas flow the interlock does not let the heater on.
    """

    name = "tube_furnace"
    model = "VF-1700"
    LAG = 4 * MINUTE
    COOLING = 5.0 / MINUTE
    """K/s"""
    COLD = 25.0
    STEP = 30.0
    """Virtual seconds."""
    LEAST_FLOW = 20.0

    def capability(self) -> Capability:
        """Declare `fire`."""
        return Capability(
            "fire",
            parameters=(
                A_VIAL,
                Parameter("temperature", "degC", 600.0, 1700.0, resolution=1.0),
                Parameter("soak", "hour", 0.1, 24.0, resolution=0.1),
                Parameter("ramp", "K/min", 1.0, 20.0, resolution=0.1, default=10.0),
                Parameter("gas_flow", "mL/min", 0.0, 500.0, resolution=1.0, default=100.0),
            ),
            outputs=(
                Output("peak_temperature", "degC", 0.0, 1800.0),
                Output("time_at_temperature", "hour", 0.0, 48.0),
            ),
            typical_s=12 * HOUR,
            longest_s=48 * HOUR,
            cost=5.0,
        )

    def refusal(self, values: Mapping[str, float]) -> RefusedError | None:
        """Refuse to heat without gas."""
        if values["gas_flow"] < self.LEAST_FLOW:
            message = f"the gas flow is {values['gas_flow']:g} mL/min; at least {self.LEAST_FLOW:g} were expected"
            return RefusedError(message, "interlocked")
        return super().refusal(values)

    def lasts(self, values: Mapping[str, float]) -> float:
        """Ramp, soak and cool down to the hand's warmth."""
        rise = values["temperature"] - self.COLD
        return rise / (values["ramp"] / MINUTE) + values["soak"] * HOUR + rise / self.COOLING

    def heater(self, values: Mapping[str, float]) -> Iterator[float]:
        """Yield the heater's temperature in degC, one for each step."""
        top, now = values["temperature"], self.COLD
        while now < top:
            now = min(top, now + values["ramp"] / MINUTE * self.STEP)
            yield now
        for _ in range(round(values["soak"] * HOUR / self.STEP)):
            yield top
        while now > self.COLD:
            now = max(self.COLD, now - self.COOLING * self.STEP)
            yield now

    def work(self, values: Mapping[str, float], share: float, rng: np.random.Generator) -> dict[str, float]:
        """Heat the pellet with what the heater really is; show what the thermocouple says."""
        creep = self.state.get("creep")
        creep = float(rng.normal(0.0, 2.0)) if creep is None else creep + float(rng.normal(0.0, 0.05))
        self.state["creep"] = creep
        plan = list(self.heater(values))
        pellet, peak, held = self.COLD, self.COLD, 0.0
        steps = []
        for heater in plan[: math.ceil(len(plan) * share)]:
            pellet += (heater + creep - pellet) * -math.expm1(-self.STEP / self.LAG)
            steps.append((self.STEP, pellet))
            peak = max(peak, pellet)
            held += self.STEP * (pellet - creep > values["temperature"] - 10.0)
        vial = round(values[VIAL])
        sample = self.world.sample(vial)
        sample.fire(steps)
        if share < 1:
            sample.spoiled = f"the firing was cut short at {share:.0%}"
        self.world.keep(vial, sample)
        shown = peak - creep + float(rng.normal(0.0, 0.3))
        truth = {f"_{phase}": fraction for phase, fraction in sample.weight_fractions().items()}
        return {
            "peak_temperature": round(shown, 1),
            "time_at_temperature": round(held / HOUR, 3),
            "_peak": peak,
            **truth,
        }


class Diffractometer(Device):
    """Measures a powder pattern, and refines the weight fractions of the known phases from it.

    Counting noise, a background that falls with the angle, a height error of each mount of 0.05 mm, and preferred
    orientation, which the refinement does not know. The tube loses 2 % of its brightness in a thousand scans.
    """

    name = "diffractometer"
    model = "VX-60"
    FIRST, LAST, STEP = 18.0, 72.0, 0.03
    RATE = 150.0
    """Counts for each minute of the scan at the strongest line."""

    def capability(self) -> Capability:
        """Declare `scan`."""
        fractions = [Output(name, "percent", 0.0, 100.0) for name in FRACTIONS.values()]
        errors = [Output(f"{name}_error", "percent", 0.0, 100.0) for name in ("zirconate",)]
        return Capability(
            "scan",
            parameters=(A_VIAL, Parameter("scan_time", "min", 2.0, 240.0, resolution=1.0, default=20.0)),
            outputs=(*fractions, *errors, Output("rwp", "percent", 0.0, 100.0)),
            typical_s=25 * MINUTE,
            longest_s=6 * HOUR,
            cost=1.0,
        )

    def lasts(self, values: Mapping[str, float]) -> float:
        """Mount, scan, dismount."""
        return (values["scan_time"] + 3.0) * MINUTE

    def known(self) -> dict[str, Lines]:
        """Return the lines of the known phases, computed once."""
        from instruments.virtual.crystals import structure  # noqa: PLC0415  pymatgen takes seconds to import
        from orchestrator.materials.diffraction import lines  # noqa: PLC0415  the same

        if not hasattr(self, "_known"):
            self._known = {phase: lines(structure(phase)) for phase in PHASES}
        return self._known

    def work(self, values: Mapping[str, float], share: float, rng: np.random.Generator) -> dict[str, float]:
        """Count, and refine."""
        from instruments.virtual.crystals import TEXTURE  # noqa: PLC0415  as above
        from orchestrator.materials.diffraction import Profile, phase_pattern, refine  # noqa: PLC0415

        sample = self.world.sample(round(values[VIAL]))
        true = sample.weight_fractions()
        truth = {f"_{FRACTIONS[phase]}": 100 * fraction for phase, fraction in true.items()}
        if share < 1:
            return truth
        grid, profile, known = np.arange(self.FIRST, self.LAST, self.STEP), Profile(), self.known()
        height = float(rng.normal(0.0, 0.05))
        pattern = np.zeros_like(grid)
        for phase, fraction in true.items():
            pattern += fraction * phase_pattern(
                grid, known[phase], profile, displacement_mm=height, texture=TEXTURE[phase]
            )
        bright = self.RATE * values["scan_time"] * 0.98 ** (self.state["acts"] / 1000)
        brightest = float(np.max(phase_pattern(grid, known["BaZrO3"], profile)))
        background = 0.02 + 0.05 * np.exp(-(grid - self.FIRST) / 15.0)
        counts = rng.poisson(bright * (pattern / brightest + background)).astype(float)
        np.savetxt(
            self.world.folder / f"scan_{self.state['acts']:04d}.xy", np.column_stack([grid, counts]), fmt="%.3f %d"
        )
        found = refine(grid, counts, known, profile)
        shown = {FRACTIONS[phase]: round(100 * fraction, 3) for phase, fraction in found.fractions.items()}
        shown["zirconate_error"] = round(100 * found.std_errors["BaZrO3"], 3)
        return {**shown, "rwp": round(100 * found.rwp, 3), **truth}


FRACTIONS = {"BaCO3": "carbonate", "ZrO2": "zirconia", "BaZrO3": "zirconate", "Ba2ZrO4": "dizirconate"}
"""Phase → name of the output with its weight fraction."""


class Probe(Device):
    """Measures the conductivity of a pellet between two contacts at a temperature.

    The contacts add up to a few ohm, which matters for good pellets; the gain drifts by 0.05 % each time; below
    1e-9 S/cm the meter shows its floor, above 0.1 S/cm its ceiling.
    """

    name = "probe"
    model = "VP-2"
    FLOOR, CEILING = 1e-9, 0.1
    CELL = 1.2
    """Thickness over area of the pellet, 1/cm."""

    def capability(self) -> Capability:
        """Declare `measure`."""
        return Capability(
            "measure",
            parameters=(A_VIAL, Parameter("probe_temperature", "degC", 100.0, 800.0, resolution=1.0, default=600.0)),
            outputs=(Output("conductivity", "S/cm", 0.0, 1.0), Output("conductivity_error", "S/cm", 0.0, 1.0)),
            typical_s=30 * MINUTE,
            longest_s=3 * HOUR,
            cost=2.0,
        )

    def lasts(self, values: Mapping[str, float]) -> float:
        """Warm up, settle, measure."""
        return 10 * MINUTE + 2.0 * values["probe_temperature"]

    def work(self, values: Mapping[str, float], share: float, rng: np.random.Generator) -> dict[str, float]:
        """Measure resistance in series with the contacts."""
        true = self.world.sample(round(values[VIAL])).conductivity(values["probe_temperature"])
        if share < 1:
            return {"_conductivity": true}
        gain = self.state["gain"] = self.state.get("gain", 1.0) * (1 + float(rng.normal(0.0, 0.0005)))
        contact = float(rng.lognormal(math.log(0.5), 0.5))
        resistance = self.CELL / true + contact
        seen = gain * self.CELL / resistance * (1 + float(rng.normal(0.0, 0.01)))
        shown = float(f"{min(self.CEILING, max(self.FLOOR, seen)):.5g}")
        return {"conductivity": shown, "conductivity_error": float(f"{0.015 * shown:.3g}"), "_conductivity": true}


DEVICES: dict[str, type[Device]] = {one.name: one for one in (Dispenser, TubeFurnace, Diffractometer, Probe)}
