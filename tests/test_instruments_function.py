"""Python functions as instruments."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import Any

import pytest

from instruments import conformance
from instruments.conformance.orders import QuietEvents, good_order
from instruments.examples import oven
from instruments.function import FunctionInstrument, instrument
from instruments.sync import Job
from orchestrator import plugins
from orchestrator.domain import Order, Output, Parameter, Quantity, Reading, Recovery, Result
from orchestrator.errors import Aborted, BadData, PluginError, Rejected, UnitError
from orchestrator.protocols import Options


class BakeOptions(Options):
    """Options of the functions below."""

    gain: float = 2.0


@instrument(
    outputs={"strength": ("MPa", 0.0, 5000.0)},
    parameters={"temperature": ("degC", 20, 800), "gas": ["air", "argon"]},
    options=BakeOptions,
    simulated=True,
)
def bake(temperature: float, gas: str, options: BakeOptions, job: Job) -> tuple[float, float]:
    """Bake."""
    job.progress(0.5)
    return options.gain * temperature + (1.0 if gas == "argon" else 0.0), 0.5


@instrument(outputs={"mass": "g", "height": Output("height", "mm")}, recovery="idempotent", simulated=True)
async def weigh() -> dict[str, Any]:
    """Weigh without settings."""
    await asyncio.sleep(0.001)
    return {"mass": 1.5, "height": (2.0, 0.1)}


async def run(driver: type[FunctionInstrument], options: Options | None = None, **settings: Any) -> Result:
    """Run one order."""
    built = driver(options or driver.Options())
    order = Order(
        "k",
        built.description().capabilities[0].name,
        settings={name: q for name, q in settings.items() if isinstance(q, Quantity)},
        choices={name: q for name, q in settings.items() if isinstance(q, str)},
    )
    try:
        return await built.run(order, QuietEvents())
    finally:
        await built.close()


@pytest.mark.parametrize("driver", [bake, weigh])
async def test_functions_keep_the_contract(driver: type[FunctionInstrument]) -> None:
    """A decorated function, plain or async, passes every level."""
    findings = await conformance.check(driver(driver.Options()), level=2)
    assert not [finding for finding in findings if not finding.passed]


async def test_arguments_come_by_name_in_declared_units() -> None:
    """Numbers are converted, choices are text, options and job are passed where asked for."""
    result = await run(bake, BakeOptions(gain=3.0), temperature=Quantity(373.15, "kelvin"), gas="argon")
    assert result.readings == (Reading("strength", pytest.approx(301.0), "MPa", 0.5),)
    assert result.applied["temperature"].value == pytest.approx(100.0)
    assert result.applied_choices == {"gas": "argon"}


async def test_an_async_function_gives_several_outputs() -> None:
    """A dict of numbers and (number, error) pairs becomes readings in the declared units."""
    result = await run(weigh)
    assert {r.property: (r.value, r.unit, r.std_error) for r in result.readings} == {
        "mass": (1.5, "g", None),
        "height": (2.0, "mm", 0.1),
    }


async def test_the_example_function_keeps_the_contract() -> None:
    """What `campaigns/lab_function.yaml` shows passes as it stands."""
    assert not conformance.failures(await conformance.check(oven.bake(oven.bake.Options()), level=2))


def test_a_decorated_function_is_a_plug_in() -> None:
    """The dotted path of a campaign file finds it, and its options are checked."""
    name = f"{__name__}:bake"
    import sys  # noqa: PLC0415  pytest's importlib mode does not put this module where imports look

    sys.modules.setdefault(__name__, sys.modules[bake.__module__])
    built = plugins.build("instruments", name, {"gain": 4}, allowed_modules=[__name__])
    assert built.options.gain == 4
    with pytest.raises(PluginError, match="gian"):
        plugins.build("instruments", name, {"gian": 4}, allowed_modules=[__name__])
    assert bake.function(10.0, "air", BakeOptions(), _NoJob()) == (20.0, 0.5)


class _NoJob:
    def progress(self, fraction: float, text: str = "") -> None:
        """Ignore."""


@pytest.mark.parametrize("returned", [None, "much", {"strength": 1.0, "colour": 2.0}, {}, (1.0, "x")])
async def test_wrong_answers_are_bad_data(returned: Any) -> None:
    """A function that returns something else than declared gives no row, and the message says what was expected."""
    odd = instrument(outputs={"strength": "MPa"}, simulated=True)(_giving(returned))
    with pytest.raises(BadData, match=r"strength|odd"):
        await run(odd)


async def test_nan_is_passed_on_for_the_guard() -> None:
    """A NaN is no number to refuse here: the guard around every instrument marks it."""
    odd = instrument(outputs={"strength": "MPa"}, simulated=True)(_giving(math.nan))
    assert math.isnan((await run(odd)).readings[0].value)


def _giving(value: Any) -> Any:
    def odd() -> Any:
        return value

    return odd


def test_declarations_are_checked_when_the_function_is_decorated() -> None:
    """Arguments and parameters must agree; units must be known."""

    def bake_at(temperature: float) -> float:
        return temperature

    with pytest.raises(PluginError, match="takes temperature"):
        instrument(outputs={"strength": "MPa"})(bake_at)
    with pytest.raises(PluginError, match="declares pressure"):
        instrument(outputs={"strength": "MPa"}, parameters={"temperature": ("degC", 0, 1), "pressure": ("Pa", 0, 1)})(
            bake_at
        )
    with pytest.raises(UnitError, match="degC"):
        instrument(outputs={"strength": "MPa"}, parameters={"temperature": ("C", 0, 1)})(bake_at)


async def test_an_async_function_is_cancelled_by_an_abort() -> None:
    """A long await ends when the campaign wants it."""

    @instrument(outputs={"strength": "MPa"})
    async def slow() -> float:
        await asyncio.sleep(60)
        return 1.0

    driver = slow(Options())
    job = asyncio.create_task(driver.run(good_order(driver.description().capabilities[0]), QuietEvents()))
    await asyncio.sleep(0.05)
    await driver.abort("enough")
    with pytest.raises(Aborted):
        await asyncio.wait_for(job, 5)
    await driver.close()


async def test_a_whole_result_may_be_returned() -> None:
    """Who reads back set-points returns the result as it is."""

    @instrument(outputs={"strength": "MPa"}, parameters={"temperature": Parameter("temperature", "degC", 0.0, 9.0)})
    def reads_back(temperature: float, job: Job) -> Result:
        reached = {"temperature": Quantity(temperature - 0.5, "degC")}
        return Result(job.order.key, (Reading("strength", 1.0, "MPa"),), applied=reached)

    result = await run(reads_back, temperature=Quantity(5.0, "degC"))
    assert result.applied["temperature"].value == 4.5
    assert reads_back(Options()).description().recovery is Recovery.BLIND


async def test_required_settings_are_required() -> None:
    """A missing set-point is refused by name, in the unit to give it in."""
    with pytest.raises(Rejected, match="temperature is missing; give it in degC"):
        await run(bake, gas="air")


async def test_functions_do_not_block_the_event_loop() -> None:
    """While a function blocks, other work goes on."""
    gate = threading.Event()

    @instrument(outputs={"strength": "MPa"})
    def blocks() -> float:
        return 1.0 if gate.wait(10) else 0.0

    job = asyncio.create_task(run(blocks))
    await asyncio.sleep(0.05)
    assert not job.done()
    gate.set()
    assert (await job).readings[0].value == 1.0
