"""A SiLA 2 server is an instrument without driver code; tested against another implementation than our client's."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from instruments import conformance
from instruments.self_described import scans
from instruments.sila.driver import Sila
from instruments.sila.link import SilaOptions, Where
from instruments.sila.scanning import scan
from orchestrator.domain import Absent, Finished, Order, Quantity, Running, Unsure
from orchestrator.errors import (
    Aborted,
    BadData,
    Busy,
    ConfigError,
    Effect,
    Fault,
    InstrumentError,
    Interlocked,
    NotConnected,
    ProtocolDesync,
    Rejected,
    TimedOut,
)
from tests import loopback_servers

pytest.importorskip("sila")
pytest.importorskip("sila2")


class QuietEvents:
    """Events that remember what they were told."""

    def __init__(self) -> None:
        self.handles: list[dict[str, Any]] = []
        self.fractions: list[float] = []
        self.begun = asyncio.Event()
        self.moved = asyncio.Event()

    async def accepted(self, handle: dict[str, Any]) -> None:
        self.handles.append(handle)
        self.begun.set()

    def progress(self, fraction: float, text: str = "") -> None:
        self.fractions.append(fraction)
        self.moved.set()

    def abort_requested(self) -> bool:
        return False

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@pytest.fixture(scope="module")
def server() -> Iterator[loopback_servers.Server]:
    """Serve one furnace for all tests that do it no harm."""
    with loopback_servers.start("sila_furnace") as one:
        yield one


async def _scan_file(port: int, folder: Path, **where: Any) -> Path:
    path = folder / "furnace.json"
    scans.write(await scan(Where("127.0.0.1", port, **{"tls": False, **where})), path)
    return path


async def _furnace(port: int, folder: Path, **given: Any) -> Sila:
    path = await _scan_file(port, folder)
    return _driver(port, path, **given)


def _driver(port: int, path: Path, **given: Any) -> Sila:
    options = {"commands": ["anneal"], "typical_s": 1, "longest_s": 20, "abort_command": "stop", **given}
    return Sila(SilaOptions(host="127.0.0.1", port=port, tls=False, scan=path, **options))


def _order(key: str = "k1", temperature: float = 800.0, unit: str = "degC", **given: Any) -> Order:
    settings = {"target_temperature": Quantity(temperature, unit), "hold_time": Quantity(5.0, "minute")}
    return Order(key, "anneal", settings, {"atmosphere": "argon"}, **{"deadline_s": 10.0, **given})


async def test_the_features_become_capabilities(server: loopback_servers.Server, tmp_path: Path) -> None:
    """Units, bounds and choices come from the server, offline after the scan."""
    driver = await _furnace(server.port, tmp_path)
    (capability,) = (await driver.describe()).capabilities
    found = {p.name: (p.unit, p.low, p.high, p.choices) for p in capability.parameters}
    assert found == {
        "target_temperature": ("degC", 25.0, 1200.0, ()),
        "hold_time": ("minute", 1.0, 600.0, ()),
        "atmosphere": ("dimensionless", None, None, ("air", "argon", "nitrogen")),
    }
    assert {o.name: o.unit for o in capability.outputs} == {"final_temperature": "degC", "mass_loss": "percent"}


async def test_an_order_gives_readings_progress_and_what_was_applied(
    server: loopback_servers.Server, tmp_path: Path
) -> None:
    """Kelvin is converted, the set-points are read back, and the UUID is handed over while the furnace works."""
    driver, events = await _furnace(server.port, tmp_path), QuietEvents()
    result = await driver.run(_order(temperature=1073.15, unit="kelvin"), events)
    await driver.close()
    assert {r.property: r.unit for r in result.readings} == {"final_temperature": "degC", "mass_loss": "percent"}
    values = {r.property: r.value for r in result.readings}
    assert values == pytest.approx({"final_temperature": 799.5, "mass_loss": 3.15})
    assert result.applied["target_temperature"].value == pytest.approx(800.0)
    assert result.applied["target_temperature"].unit == "degC"
    assert result.applied_choices == {"atmosphere": "argon"}
    assert events.fractions[-1] == 1.0
    assert len(events.handles) == 1
    trace = json.loads(result.attachments[0].content)["trace"]
    assert trace[-1]["CurrentTemperature"] == pytest.approx(800.0, abs=200)


async def test_it_keeps_the_contract(server: loopback_servers.Server, tmp_path: Path) -> None:
    """Conformance level 2 against the server."""
    driver = await _furnace(server.port, tmp_path)
    failed = conformance.failures(await conformance.check(driver, level=2, send=True))
    assert not failed, "\n".join(map(str, failed))


async def test_an_unobservable_command_answers_at_once(server: loopback_servers.Server, tmp_path: Path) -> None:
    """A command without progress works too."""
    driver = await _furnace(server.port, tmp_path, commands=["weigh"])
    result = await driver.run(Order("w", "weigh", deadline_s=5.0), QuietEvents())
    await driver.close()
    assert [(r.property, r.value) for r in result.readings] == [("mass", 12.5)]


async def test_properties_and_intermediate_responses_can_be_outputs(
    server: loopback_servers.Server, tmp_path: Path
) -> None:
    """What is measured is chosen by name, from all that the server gives."""
    driver = await _furnace(server.port, tmp_path, outputs={"current_temperature": {}, "starts": {"min": 0}})
    result = await driver.run(_order(), QuietEvents())
    await driver.close()
    assert {r.property for r in result.readings} == {"current_temperature", "starts"}


async def test_a_second_order_is_busy_on_the_server_too(server: loopback_servers.Server, tmp_path: Path) -> None:
    """Somebody else's job makes the server refuse; nothing was started."""
    path = await _scan_file(server.port, tmp_path)
    one, other = _driver(server.port, path), _driver(server.port, path, state="state", busy=["Heating"])
    await other.open()
    events = QuietEvents()
    job = asyncio.create_task(one.run(_order("a"), events))
    await events.moved.wait()
    assert (await other.health()).state == "busy"
    with pytest.raises(Busy) as caught:
        await other.run(_order("b"), QuietEvents())
    assert caught.value.effect is Effect.NONE
    await job
    await one.close()
    await other.close()


@pytest.mark.parametrize(
    ("trouble", "errors", "kind", "effect"),
    [
        ("door", {"DoorOpen": "interlocked"}, Interlocked, Effect.NONE),
        ("heater", {}, Fault, Effect.UNKNOWN),
    ],
)
async def test_declared_errors_mean_what_the_options_say(
    trouble: str, errors: dict[str, str], kind: type[InstrumentError], effect: Effect, tmp_path: Path
) -> None:
    """An error of the feature is known by its name; one that nobody explained has an unknown effect and says how to."""
    with loopback_servers.start("sila_furnace", "--trouble", trouble) as server:
        driver = await _furnace(server.port, tmp_path, errors=errors)
        with pytest.raises(kind) as caught:
            await driver.run(_order(), QuietEvents())
        await driver.close()
    assert type(caught.value) is kind
    assert caught.value.effect is effect
    assert ("errors: {HeaterFailed:" in str(caught.value)) is (kind is Fault)


async def test_a_frozen_server_is_a_time_out_of_unknown_effect(tmp_path: Path) -> None:
    """The other library's client blocks for ever here."""
    with loopback_servers.start("sila_furnace", "--seconds", "30") as server:
        driver = await _furnace(server.port, tmp_path)
        await driver.open()
        job = asyncio.create_task(driver.run(_order(), QuietEvents()))
        await asyncio.sleep(0.4)
        server.freeze()
        began = time.monotonic()
        assert (await driver.health()).state == "offline"
        assert time.monotonic() - began < 1.0
        with pytest.raises((TimedOut, NotConnected)) as caught:
            await job
        assert time.monotonic() - began < 8.0
        await driver.close()
    assert caught.value.effect is Effect.UNKNOWN


async def test_a_start_that_nobody_answers_has_an_unknown_effect(tmp_path: Path) -> None:
    """Whether the furnace heats, nobody knows."""
    with loopback_servers.start("sila_furnace") as server:
        driver = await _furnace(server.port, tmp_path)
        await driver.open()
        server.freeze()
        with pytest.raises(TimedOut) as caught:
            await driver.run(_order(), QuietEvents())
        assert caught.value.effect is Effect.UNKNOWN
        server.thaw()
        await asyncio.sleep(1.0)  # the furnace did get the order, and works on it now
        assert (await driver.run(_order("k2"), QuietEvents())).key == "k2"
        await driver.close()


async def test_a_killed_server_is_not_connected(tmp_path: Path) -> None:
    """During a job the effect is unknown; before one, nothing was sent."""
    with loopback_servers.start("sila_furnace", "--seconds", "30") as server:
        driver = await _furnace(server.port, tmp_path)
        job = asyncio.create_task(driver.run(_order(), QuietEvents()))
        await asyncio.sleep(0.6)
        server.kill()
        with pytest.raises((TimedOut, NotConnected)) as caught:
            await job
        assert caught.value.effect is Effect.UNKNOWN
        began = time.monotonic()
        with pytest.raises(NotConnected) as refused:
            await driver.run(_order(), QuietEvents())
        assert time.monotonic() - began < 2.0
        assert refused.value.effect is Effect.NONE
        await driver.close()


async def test_a_job_is_found_again_by_its_uuid(tmp_path: Path) -> None:
    """Another process, after a crash, finds the running job and then its result; the furnace heated once."""
    with loopback_servers.start("sila_furnace", "--seconds", "1.5") as server:
        path, events = await _scan_file(server.port, tmp_path), QuietEvents()
        dead, heir = _driver(server.port, path), _driver(server.port, path)
        job = asyncio.create_task(dead.run(_order(), events))
        await events.begun.wait()
        where = await heir.lookup("k1", events.handles[0])
        assert isinstance(where, Running)
        result = await heir.attach(where.handle, QuietEvents())
        assert {r.property: r.value for r in result.readings}["mass_loss"] == 3.15
        again = await heir.lookup("k1", events.handles[0])
        assert isinstance(again, Finished)
        assert again.result.key == "k1"
        lost = await heir.lookup("k1", {**events.handles[0], "uuid": "6f1d7a52-0000-4c1e-9a3b-8d1f0c2b7e55"})
        assert isinstance(lost, Unsure)
        assert isinstance(await heir.lookup("k1", None), Unsure)
        await job
        starts = await heir._value(next(v for v in heir.scanned.values if v.name == "starts"))
        await dead.close()
        await heir.close()
    assert starts.value == 1


async def test_a_key_that_the_server_keeps_proves_that_nothing_began(tmp_path: Path) -> None:
    """With our key in a parameter and a property, a lost reply is no riddle."""
    with loopback_servers.start("sila_furnace", "--keyed") as server:
        driver = await _furnace(server.port, tmp_path, key_parameter="order_key", key_value="last_order")
        assert isinstance(await driver.lookup("k1", None), Absent)
        await driver.run(_order("k1"), QuietEvents())
        assert isinstance(await driver.lookup("k1", None), Unsure)
        assert isinstance(await driver.lookup("k2", None), Absent)
        await driver.close()


@pytest.mark.parametrize("way", ["standard", "named", "none"])
async def test_an_abort_ends_the_job_where_the_server_can(way: str, tmp_path: Path) -> None:
    """By the standard's CancelController or a named command; without either, that is said."""
    arguments = ["--cancel"] if way == "standard" else []
    with loopback_servers.start("sila_furnace", "--seconds", "3", *arguments) as server:
        driver = await _furnace(server.port, tmp_path, abort_command="stop" if way == "named" else "")
        events = QuietEvents()
        job = asyncio.create_task(driver.run(_order(), events))
        await events.moved.wait()
        if way == "none":
            with pytest.raises(Fault, match="abort_command"):
                await driver.abort("stop")
            await job
        else:
            began = time.monotonic()
            await driver.abort("stop")
            with pytest.raises(Aborted):
                await job
            assert time.monotonic() - began < 1.0
        await driver.close()


async def test_tls_with_the_servers_own_certificate(tmp_path: Path) -> None:
    """A self-signed server is trusted by its certificate; without it, or in the clear, it is not reached."""
    pem = tmp_path / "server.pem"
    with loopback_servers.start("sila_furnace", "--tls", str(pem)) as server:
        path = await _scan_file(server.port, tmp_path, tls=True, root_certificates=pem)
        given = {"host": "127.0.0.1", "port": server.port, "scan": path, "commands": ["weigh"]}
        driver = Sila(SilaOptions(**given, root_certificates=pem))
        assert (await driver.open()).name == "Furnace"
        assert (await driver.run(Order("w", "weigh", deadline_s=5.0), QuietEvents())).readings[0].value == 12.5
        await driver.close()
        for untrusted in ({}, {"tls": False}):
            with pytest.raises(NotConnected):
                await Sila(SilaOptions(**given, **untrusted)).open()


def test_a_plain_link_to_another_computer_must_be_wanted(tmp_path: Path) -> None:
    """Without TLS only this computer, or with a word of the site."""
    with pytest.raises(ValueError, match="insecure: true"):
        SilaOptions(host="10.0.0.7", port=50052, tls=False, scan=tmp_path / "s.json")
    assert SilaOptions(host="10.0.0.7", port=50052, tls=False, insecure=True, scan=tmp_path / "s.json")


async def test_a_device_that_changed_is_refused_by_name(server: loopback_servers.Server, tmp_path: Path) -> None:
    """What differs is named, nothing is sent, and the way out is said."""
    path = await _scan_file(server.port, tmp_path)
    with loopback_servers.start("sila_furnace", "--highest", "1100") as other:
        driver = _driver(other.port, path)
        with pytest.raises(Fault, match=r"anneal\.target_temperature\.high: 1200 → 1100.*lab scan") as caught:
            await driver.run(_order(), QuietEvents())
        await driver.close()
    assert caught.value.effect is Effect.NONE


async def test_a_scan_that_was_changed_by_hand_is_refused(server: loopback_servers.Server, tmp_path: Path) -> None:
    """Bounds of a site stand in its lab file."""
    path = await _scan_file(server.port, tmp_path)
    path.write_text(path.read_text().replace("1200.0", "1400.0"))
    with pytest.raises(ConfigError, match="changed by hand"):
        await _driver(server.port, path).describe()


async def test_missing_bounds_are_refused_when_the_file_is_checked(tmp_path: Path) -> None:
    """A parameter that nobody bounds is refused; the options may bound it, and never widen what the server says."""
    with loopback_servers.start("sila_furnace", "--unbounded") as server:
        path = await _scan_file(server.port, tmp_path)
    with pytest.raises(ConfigError, match=r"ramp takes rate in K/min.*min and max") as caught:
        await _driver(server.port, path, commands=["ramp"]).describe()
    assert caught.value.key == "options.parameters.rate"
    bounded = _driver(server.port, path, commands=["ramp"], parameters={"rate": {"min": 1, "max": 20}})
    (parameter,) = (await bounded.describe()).capabilities[0].parameters
    assert (parameter.unit, parameter.low, parameter.high) == ("K/min", 1.0, 20.0)
    wider = _driver(server.port, path, parameters={"target_temperature": {"max": 1500}})
    assert (await wider.describe()).capabilities[0].parameters[0].high == 1200.0


async def test_what_the_device_does_not_have_is_named(server: loopback_servers.Server, tmp_path: Path) -> None:
    """A misspelt command or output says what was meant."""
    path = await _scan_file(server.port, tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'anneal'"):
        await _driver(server.port, path, commands=["aneal"]).describe()
    with pytest.raises(ConfigError, match="did you mean 'mass_loss'"):
        await _driver(server.port, path, outputs={"mas_loss": {}}).describe()


async def test_one_feature_of_several_can_be_named(server: loopback_servers.Server, tmp_path: Path) -> None:
    """The feature narrows what is offered; one that the scan does not hold is refused, with those that it holds."""
    path = await _scan_file(server.port, tmp_path)
    assert (await _driver(server.port, path, feature="Furnace").describe()).capability("anneal")
    with pytest.raises(ConfigError, match="there are: Furnace"):
        await _driver(server.port, path, feature="Oven").describe()


async def test_what_was_done_is_read_again_over_a_new_link(
    server: loopback_servers.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that breaks between the answer and the read-back costs no result, and starts nothing a second time."""
    driver = await _furnace(server.port, tmp_path)
    await driver.open()
    starts = next(value for value in driver.scanned.values if value.name == "starts")
    before = (await driver._value(starts)).value
    value, broken = driver._value, []

    async def once_broken(described: Any, *, output: bool = False) -> Any:
        if not broken:
            broken.append(described)
            raise NotConnected("cut")  # noqa: EM101
        return await value(described, output=output)

    monkeypatch.setattr(driver, "_value", once_broken)
    result = await driver.run(_order(), QuietEvents())
    assert broken
    assert set(result.applied) == {"target_temperature", "hold_time"}
    assert (await value(starts)).value == before + 1
    await driver.close()


@pytest.mark.parametrize(
    ("reply", "forever"),
    [("subscribe_status", ProtocolDesync), ("get_responses", BadData)],
)
async def test_a_reply_that_cannot_be_read_does_not_say_that_the_work_has_ended(
    reply: str, forever: type[InstrumentError], server: loopback_servers.Server, tmp_path: Path, monkeypatch: Any
) -> None:
    """It is asked for again over a new link; without an answer, only work that was seen to end counts as done."""
    from sila.client import CommandExecution, DecodeError  # noqa: PLC0415  optional

    driver = await _furnace(server.port, tmp_path)
    await driver.open()
    ask, times = getattr(CommandExecution, reply), {"spoiled": 1}

    async def spoiled(self: Any, **more: Any) -> Any:
        if times["spoiled"]:
            times["spoiled"] -= 1
            raise DecodeError("spoiled", 3)  # noqa: EM101
        return await ask(self, **more)

    monkeypatch.setattr(CommandExecution, reply, spoiled)
    result = await driver.run(_order("once"), QuietEvents())
    assert {r.property: r.value for r in result.readings}["final_temperature"] == pytest.approx(799.5)
    assert times["spoiled"] == 0
    times["spoiled"] = 9
    with pytest.raises(forever, match="not what the feature declares") as ended:
        await driver.run(_order("always"), QuietEvents())
    assert type(ended.value) is forever
    assert ended.value.effect is (Effect.DONE if forever is BadData else Effect.UNKNOWN)
    await driver.close()


async def test_out_of_range_is_refused_before_anything_is_sent(server: loopback_servers.Server, tmp_path: Path) -> None:
    """Refused, never clamped."""
    driver = await _furnace(server.port, tmp_path)
    with pytest.raises(Rejected, match="1300"):
        await driver.run(_order(temperature=1300.0), QuietEvents())
    await driver.close()
