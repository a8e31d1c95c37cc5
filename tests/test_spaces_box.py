"""Boxes of process parameters with constraints."""

import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import PluginError, SpaceError
from orchestrator.plugins import build
from orchestrator.protocols import BoxSpace
from orchestrator.spaces.polytope import Polytope

FURNACE = {
    "temperature": {"unit": "degC", "min": 300, "max": 900, "resolution": 5},
    "time": {"unit": "hour", "min": 0.1, "max": 100, "log": True},
    "layers": {"kind": "integer", "min": 1, "max": 4},
    "gas": {"choices": ["air", "argon"]},
}
MIXTURE = {name: {"min": 0, "max": 1, "resolution": 0.05} for name in "abc"}
SIMPLEX = [{"sum": {"a": 1, "b": 1, "c": 1}, "equals": 1}]


def box(parameters: dict[str, Any], constraints: list[dict[str, Any]] | None = None) -> Any:
    """Build a box."""
    return build("spaces", "box", {"parameters": parameters, "constraints": constraints or []})


def test_axes_say_what_the_file_says() -> None:
    """Axes must carry names, kinds, units, bounds, log scale, resolution and choices."""
    space = box(FURNACE)
    assert isinstance(space, BoxSpace)
    temperature, time, layers, gas = space.axes()
    assert (temperature.unit, temperature.low, temperature.high, temperature.resolution) == ("degC", 300, 900, 5)
    assert time.log
    assert (layers.kind, layers.resolution) == ("integer", 1)
    assert (gas.kind, gas.choices) == ("categorical", ("air", "argon"))
    assert space.offers() == {"parameters"}


def test_points_are_rounded_and_identified_by_what_is_left() -> None:
    """Values within a step are one candidate; numbers carry no dust of binary fractions."""
    space = box(FURNACE)
    one = space.make({"temperature": 502.4, "time": 1.0, "layers": 2.2, "gas": "air"})
    assert one == space.make({"temperature": 498, "time": 1, "layers": 2, "gas": "air"})
    assert dict(one.parameters) == {"temperature": 500.0, "time": 1.0, "layers": 2, "gas": "air"}
    assert one.label == "temperature=500, time=1, layers=2, gas=air"
    tenths = box({"x": {"min": 0.1, "max": 0.7, "resolution": 0.1}})
    assert tenths.make({"x": 0.31}).parameters["x"] == 0.3


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"temperature": 950}, "temperature is 950 degC; the box goes from 300 to 900"),
        ({"gas": "helium"}, "gas is 'helium'; allowed: air, argon"),
        ({"time": "long"}, "time is 'long'; a number in hour was expected"),
        ({"time": math.nan}, "a number in hour was expected"),
        ({"colour": "red"}, "the box has the parameters temperature, time, layers, gas"),
    ],
)
def test_points_outside_are_refused(values: dict[str, Any], words: str) -> None:
    """A point outside the box must be refused with what was seen and what is allowed."""
    good = {"temperature": 500, "time": 1, "layers": 2, "gas": "air"}
    with pytest.raises(SpaceError, match=words):
        box(FURNACE).make({**good, **values})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=3, max_size=3))
def test_rounded_mixtures_still_add_up(parts: list[float]) -> None:
    """Rounding must keep a mixture at its sum, and move no part by more than one step and a half."""
    total = sum(parts)
    wanted = {name: part / total for name, part in zip("abc", parts, strict=True)}
    found = box(MIXTURE, SIMPLEX).make(wanted).parameters
    assert sum(found.values()) == pytest.approx(1.0, abs=1e-9)
    assert all(abs(found[name] - wanted[name]) < 0.0751 for name in "abc")
    assert all(found[name] == pytest.approx(round(found[name] / 0.05) * 0.05) for name in "abc")


def test_rounding_with_unequal_coefficients_asks_the_solver() -> None:
    """Where single steps cannot repair a sum, the closest grid point that meets it must be found."""
    polytope = Polytope(
        low=np.zeros(2),
        high=np.full(2, 10.0),
        steps=np.ones(2),
        matrix=np.array([[3.0, 5.0]]),
        equal=np.array([True]),
        bounds=np.array([31.0]),
    )
    assert polytope.rounded(np.array([2.4, 4.76])).tolist() == [2.0, 5.0]
    assert polytope.rounded(np.array([6.2, 2.4])).tolist() == [7.0, 2.0]


def test_points_that_break_a_constraint_are_refused_by_name() -> None:
    """A point off a constraint must be refused with the constraint in words."""
    with pytest.raises(SpaceError, match=r"a=0.9, b=0.9, c=0.1 breaks the constraint 'a \+ b \+ c = 1'"):
        box(MIXTURE, SIMPLEX).make({"a": 0.9, "b": 0.9, "c": 0.1})


def test_samples_are_seeded_different_and_inside() -> None:
    """Samples must be different points, the same for the same seed, spread over every axis."""
    space = box(FURNACE)
    found = space.sample(64, 3)
    assert found == space.sample(64, 3) != space.sample(64, 4)
    assert len({candidate.id for candidate in found}) == 64
    times = np.array([candidate.parameters["time"] for candidate in found])
    assert 0.2 < (times < math.sqrt(10)).mean() < 0.8  # the middle of the logarithm
    for name, values in (("gas", {"air", "argon"}), ("layers", {1, 2, 3, 4})):
        assert {candidate.parameters[name] for candidate in found} == values


def test_mixtures_are_sampled_evenly() -> None:
    """Points of a simplex must add up and have a mean in its middle, other axes keeping their own spread."""
    space = box({**MIXTURE, "time": FURNACE["time"]}, SIMPLEX)
    found = space.sample(200, 5)
    parts = np.array([[candidate.parameters[name] for name in "abc"] for candidate in found])
    assert parts.sum(axis=1) == pytest.approx(np.ones(len(found)))
    assert parts.mean(axis=0) == pytest.approx(np.full(3, 1 / 3), abs=0.06)
    times = np.array([candidate.parameters["time"] for candidate in found])
    assert 0.3 < (times < math.sqrt(10)).mean() < 0.7


def test_small_grids_give_what_there_is() -> None:
    """Asking for more points than the grid has must give each of them once."""
    found = box({"x": {"kind": "integer", "min": 1, "max": 3}, "gas": {"choices": ["air", "argon"]}}).sample(50, 0)
    assert len(found) == len({candidate.id for candidate in found}) == 6


@pytest.mark.parametrize(
    ("constraints", "words"),
    [
        ([{"sum": {"a": 1, "b": 1}, "at_least": 2.5}], r"'a \+ b >= 2.5' cannot hold with a from 0 to 1"),
        (
            [
                {"sum": {"a": 1, "b": 1}, "at_most": 0.5},
                {"sum": {"c": 1}, "at_most": 0.5},
                {"sum": {"a": 1}, "at_least": 0.6},
            ],
            r"'a \+ b <= 0.5' and 'a >= 0.6' cannot hold together",
        ),
        ([{"sum": {"a": 1, "b": 1}, "equals": 1.01}], r"'a \+ b = 1.01' cannot hold with .* in steps of 0.05"),
    ],
)
def test_contradictions_are_named(constraints: list[dict[str, Any]], words: str) -> None:
    """A box without candidates must name the constraints that contradict each other, and no others."""
    with pytest.raises(SpaceError, match=words) as caught:
        box(MIXTURE, constraints)
    assert "'c <= 0.5'" not in str(caught.value)


@pytest.mark.parametrize(
    ("parameters", "constraints", "words"),
    [
        ({"x": {"min": 2, "max": 1}}, [], "needs 'min' below 'max'"),
        ({"x": {}}, [], "needs 'min' below 'max'"),
        ({"x": {"min": 0, "max": 1, "log": True}}, [], "needs 'min' above zero"),
        ({"x": {"min": 0, "max": 1, "resolution": 2}}, [], "larger than the range"),
        ({"x": {"min": 0.5, "max": 2, "kind": "integer"}}, [], "an integer needs whole"),
        ({"x": {"choices": ["one"]}}, [], "at least two different"),
        ({"x": {"choices": ["one", "two"], "min": 3}}, [], "there is no kind, min"),
        ({"x": {"min": 0, "max": 1, "unit": "C"}}, [], "ambiguous"),
        ({"x": {"min": 0, "max": 1}}, [{"sum": {"y": 1}, "at_most": 1}], "names 'y'; parameters are: x"),
        ({"x": {"min": 0, "max": 1}}, [{"sum": {"x": 1}}], "exactly one of 'at_most'"),
        ({"x": {"choices": ["u", "v"]}}, [{"sum": {"x": 1}, "at_most": 1}], "is a choice and no number"),
        ({"bad name": {"min": 0, "max": 1}}, [], "parameters"),
    ],
)
def test_wrong_options_are_refused(parameters: dict[str, Any], constraints: list[dict[str, Any]], words: str) -> None:
    """Options that mean nothing must be refused with what was expected."""
    with pytest.raises(PluginError, match=words):
        box(parameters, constraints)


def test_asking_for_more_than_there_is_is_fast() -> None:
    """A small grid under a constraint must be listed, not drawn from again and again; all of it, in a seeded order."""
    space = box(MIXTURE, SIMPLEX)
    begun = time.perf_counter()
    found = space.sample(4000, 0)
    assert time.perf_counter() - begun < 2.0
    assert len(found) == len({candidate.id for candidate in found}) == 231  # (20 + 2 over 2) mixtures in steps of 0.05
    assert found == space.sample(4000, 0) != space.sample(4000, 1)


def test_logarithms_are_kept_under_narrow_constraints() -> None:
    """A trace component of a mixture, declared in the logarithm, must be spread over its decades, not near the top."""
    parts = {"a": {"min": 1e-4, "max": 1, "log": True}, "b": {"min": 0, "max": 1}, "c": {"min": 0, "max": 1}}
    found = box(parts, SIMPLEX).sample(256, 0)
    decades = np.log10([candidate.parameters["a"] for candidate in found])
    assert 0.15 < (decades < -3).mean() < 0.45
    assert 0.15 < ((decades >= -3) & (decades < -2)).mean() < 0.45
    assert all(sum(candidate.parameters.values()) == pytest.approx(1.0) for candidate in found)
