"""The virtual lab's chemistry keeps its balances and has its best pellet inside the furnace's range."""

from __future__ import annotations

import pytest

from instruments.virtual.chemistry import GREEN, MOLAR_MASS, PHASES, POOR, Sample, effective_medium


def fired(ratio: float, celsius: float, hours: float, minutes: float = 1.0) -> Sample:
    """Return a pellet of a barium to zirconium ratio after a firing."""
    sample = Sample.mixed(ratio * MOLAR_MASS["BaCO3"], MOLAR_MASS["ZrO2"])
    sample.fire([(60 * minutes, celsius)] * round(hours * 60 / minutes))
    return sample


def test_zirconium_is_conserved_and_barium_is_only_lost() -> None:
    """No firing makes atoms."""
    for celsius in (900, 1200, 1500, 1650):
        n = fired(1.1, celsius, 8).moles
        assert n["ZrO2"] + n["BaZrO3"] + n["Ba2ZrO4"] == pytest.approx(1.0)
        barium = n["BaCO3"] + n["BaZrO3"] + 2 * n["Ba2ZrO4"]
        assert barium <= 1.1 + 1e-9
        assert min(n.values()) >= 0
    assert barium < 0.9  # the hottest one lost a lot


def test_carbonate_reacts_as_measured() -> None:
    """95 % within four hours at 1150 degC, and 294 kJ/mol between 1000 and 1050 degC."""
    left = 1 - fired(1.0, 1150, 4).moles["ZrO2"]
    assert left > 0.9
    slow, fast = (1 - fired(1.0, celsius, 0.5).moles["ZrO2"] ** (1 / 3) for celsius in (1000, 1050))
    assert fast / slow == pytest.approx(2.86, rel=0.03)  # exp(294e3/8.314·(1/1273.15 - 1/1323.15))


def test_the_best_pellet_has_barium_in_excess_and_lies_inside_the_range() -> None:
    """Too cold is porous, too hot or too long loses barium, too little and too much barium are both worse."""
    best = fired(1.08, 1600, 4).conductivity(600)
    assert best > 6e-3
    for ratio, celsius, hours in ((1.05, 1300, 5), (1.05, 1650, 12), (0.95, 1600, 5), (1.3, 1600, 2)):
        assert fired(ratio, celsius, hours).conductivity(600) < 0.95 * best


def test_steps_of_the_integration_do_not_matter() -> None:
    """Steps of 30 s and of 2 minutes give the same within 2 %."""
    fine, coarse = (fired(1.08, 1500, 6, minutes).weight_fractions() for minutes in (0.5, 2.0))
    assert all(fine[phase] == pytest.approx(coarse[phase], abs=0.02) for phase in PHASES)


def test_a_pellet_conducts_between_its_parts() -> None:
    """The effective medium ends at the pure substances, and grows in between; Arrhenius over temperature."""
    assert effective_medium(0.0, 1e-2, POOR) == pytest.approx(POOR, rel=1e-3)
    assert effective_medium(1.0, 1e-2, POOR) == pytest.approx(1e-2, rel=1e-3)
    values = [effective_medium(share / 20, 1e-2, POOR) for share in range(21)]
    assert values == sorted(values)
    sample = fired(1.05, 1600, 5)
    assert sample.conductivity(400) < sample.conductivity(600)


def test_a_state_survives_its_file() -> None:
    """JSON and back."""
    sample = fired(1.0, 1200, 1)
    assert Sample.from_json(sample.to_json()) == sample
    assert Sample().density == GREEN
