"""The adapter host: an instrument in another process keeps the whole contract, and nothing is carried out twice."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from instruments import conformance
from instruments.conformance.orders import QuietEvents
from instruments.host import descriptions, tokens, wire
from instruments.host.hosted import build
from instruments.host.remote import Remote, RemoteOptions, SafeRemote
from instruments.self_described.commands import lab
from instruments.simulated.furnace import Furnace, FurnaceOptions
from orchestrator.domain import Absent, Finished, Order, Quantity, Recovery, Running, Unsure
from orchestrator.errors import (
    Aborted,
    BadData,
    Busy,
    Effect,
    Interlocked,
    NotConnected,
    PluginError,
    Rejected,
    TimedOut,
)
from orchestrator.protocols import SafeState
from tests.loopback_servers import Server, launch

TOKEN = "a-token-for-the-tests"  # noqa: S105  of no host that exists
ORDER = Order("key-1", "bake", {"temperature": Quantity(500.0, "degC")}, deadline_s=30.0)
CAMPAIGNS = Path(__file__).parent.parent / "campaigns"
HOST = [sys.executable, "-m", "flows.cli", "host"]


class Home:
    """A folder for hosts, with the file in which ovens leave their marks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.marks = folder / "marks"
        self.servers: list[Server] = []

    def host(self, driver: str = "Oven", *arguments: str, port: int = 0, **options: Any) -> Server:
        """Start a host around an oven."""
        content = json.dumps({"marks": str(self.marks), **options})
        what = f"oven=tests.hosted_drivers:{driver}"
        return self.serve(what, "--options", content, "--port", str(port), *arguments)

    def serve(self, *arguments: str) -> Server:
        """Start any host."""
        server = launch([*HOST, *arguments])
        self.servers.append(server)
        return server

    def marked(self) -> list[str]:
        """Read the marks."""
        return self.marks.read_text().splitlines() if self.marks.exists() else []

    async def marked_within(self, line: str, seconds: float = 10.0) -> None:
        """Wait for a mark."""
        until = time.monotonic() + seconds
        while line not in self.marked():
            assert time.monotonic() < until, self.marked()
            await asyncio.sleep(0.02)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """Keep hosts in a folder of their own, with a token in the environment, and end them."""
    monkeypatch.setenv("MATLOOP_HOME", str(tmp_path))
    monkeypatch.setenv(tokens.VARIABLE, TOKEN)
    home = Home(tmp_path)
    yield home
    for server in home.servers:
        server.kill()


def remote(server: Server | int, name: str = "oven", **options: Any) -> Remote:
    """Build the client of a host."""
    port = server if isinstance(server, int) else server.port
    return Remote(RemoteOptions(url=f"http://127.0.0.1:{port}/{name}", **options))


async def test_a_remote_furnace_keeps_the_contract(home: Home) -> None:
    """Every check of level 2 passes through a real host process around the simulated furnace."""
    server = home.serve("furnace=simulated_furnace", "--port", "0")
    url = f"http://127.0.0.1:{server.port}/furnace"
    file = home.folder / "furnace.json"
    descriptions.write(await asyncio.to_thread(descriptions.describe_host, url), file)
    driver = remote(server, "furnace", description=file)
    findings = await conformance.check(driver, level=2)
    assert not conformance.failures(findings)
    assert sum(finding.passed is True for finding in findings) > 30
    server.kill()
    assert (await remote(server, "furnace", description=file).describe()).recovery is Recovery.IDEMPOTENT


async def test_everything_of_a_result_arrives(home: Home) -> None:
    """Readings, set-points, files, notes, progress and identity are those of the driver in the other process."""
    driver, events = remote(home.host(seconds=0.3)), QuietEvents()
    identity = await driver.open()
    assert (identity.name, identity.serial, identity.firmware) == ("oven", "SN-7", "1.2")
    result = await driver.run(ORDER, events)
    assert [(r.property, r.value, r.unit) for r in result.readings] == [("strength", 50.0, "MPa")]
    assert result.applied == {"temperature": Quantity(500.0, "degC")}
    assert result.attachments[0].content.startswith(b"time,temperature\n0,20\n")
    assert result.notes == "baked"
    assert events.handles[0]["key"] == "key-1"
    assert len(events.fractions) > 2
    assert events.fractions == sorted(events.fractions)
    await driver.close()


async def test_a_number_that_is_none_travels(home: Home) -> None:
    """NaN crosses the wire as NaN: the guard of the campaign must see it."""
    driver = remote(home.host(nan=True))
    (reading,) = (await driver.run(ORDER, QuietEvents())).readings
    assert reading.value != reading.value
    await driver.close()


async def test_a_key_is_carried_out_once(home: Home) -> None:
    """The same order again gives the kept result and touches nothing; another order under the key is refused."""
    server = home.host()
    driver = remote(server)
    first = await driver.run(ORDER, QuietEvents())
    assert await driver.run(ORDER, QuietEvents()) == first
    assert home.marked() == ["key-1"]
    with pytest.raises(Rejected, match="another order"):
        await driver.run(replace(ORDER, settings={"temperature": Quantity(501.0, "degC")}), QuietEvents())
    await driver.close()
    server.kill()
    again = remote(home.host())
    assert await again.lookup("key-1", None) == Finished(first)
    assert await again.run(ORDER, QuietEvents()) == first
    assert home.marked() == ["key-1"]
    await again.close()


async def test_errors_keep_their_effect(home: Home) -> None:
    """What the driver raises arrives as the same class with the same effect."""
    driver = remote(home.host())
    with pytest.raises(BadData, match="melted") as melted:
        await driver.run(replace(ORDER, settings={"temperature": Quantity(795.0, "degC")}), QuietEvents())
    assert melted.value.effect is Effect.DONE
    await driver.close()
    home.servers.pop().kill()
    locked = remote(home.host(interlocked=True))
    for _ in range(2):  # nothing happened, so the same key may come again
        with pytest.raises(Interlocked, match="close it"):
            await locked.run(replace(ORDER, key="key-2"), QuietEvents())
    await locked.close()


async def test_the_host_keeps_the_bounds_of_its_lab_file(home: Home) -> None:
    """The envelope at the host narrows what it declares, and an order past it is refused there, too."""
    lab = home.folder / "lab.yaml"
    lab.write_text("instruments: {kiln: {use: simulated_furnace, envelope: {temperature: {max: 1000}}}}\n")
    driver = remote(home.serve(f"{lab}#kiln", "--port", "0"), "kiln")
    (capability,) = (await driver.describe()).capabilities
    assert capability.parameters[0].high == 1000.0
    hot = {
        "temperature": Quantity(1001.0, "degC"),
        "time": Quantity(1.0, "hour"),
        "excess": Quantity(0.1, "g"),
    }
    with pytest.raises(Rejected, match="1000"):
        await driver.run(Order("k", "fire", hot), QuietEvents())
    way = driver._way()
    with pytest.raises(Rejected, match="1000"):
        await way.say("POST", "/orders", Order("k", "fire", hot).to_json())
    await driver.close()


async def test_one_slot_is_one_order(home: Home) -> None:
    """A second order is Busy without any effect while the first is at work, and health says so within a second."""
    driver = remote(home.host(seconds=2.0))
    job = asyncio.create_task(driver.run(ORDER, QuietEvents()))
    await home.marked_within("key-1")
    began = time.monotonic()
    assert (await driver.health()).state == "busy"
    assert time.monotonic() - began < 1.0
    with pytest.raises(Busy) as busy:
        await remote(home.servers[0]).run(replace(ORDER, key="key-2"), QuietEvents())
    assert busy.value.effect is Effect.NONE
    await job
    assert home.marked() == ["key-1"]
    await driver.close()


async def test_an_abort_goes_past_the_job(home: Home) -> None:
    """An abort reaches the driver while its order is at work, and ends it within a second or so."""
    driver, events = remote(home.host(seconds=30.0)), QuietEvents()
    job = asyncio.create_task(driver.run(ORDER, events))
    await home.marked_within("key-1")
    began = time.monotonic()
    events.abort = True
    await driver.abort("STOP was pressed")
    with pytest.raises(Aborted) as aborted:
        await job
    assert aborted.value.effect is Effect.STARTED
    assert time.monotonic() - began < 1.5
    assert "stopped: STOP was pressed" in home.marked()
    await driver.close()


async def test_a_dead_host_is_known_at_once(home: Home) -> None:
    """Where nobody listens, `open` and `run` say NotConnected within two seconds and health says offline."""
    server = home.host()
    await asyncio.to_thread(server.kill)
    driver, began = remote(server), time.monotonic()
    with pytest.raises(NotConnected, match="nobody answers"):
        await driver.open()
    with pytest.raises(NotConnected) as gone:
        await driver.run(ORDER, QuietEvents())
    assert gone.value.effect is Effect.NONE
    assert (await driver.health()).state == "offline"
    assert time.monotonic() - began < 2.0
    assert isinstance(await driver.lookup("key-1", None), Unsure)
    await driver.close()


async def test_a_frozen_host_ends_as_unknown(home: Home) -> None:
    """A host that accepts and never answers: the order under way ends with effect unknown; thawed, it is found."""
    server = home.host(seconds=1.0)
    driver = remote(server, patience_s=1.0)
    job = asyncio.create_task(driver.run(ORDER, QuietEvents()))
    await home.marked_within("key-1")
    server.freeze()
    assert (await driver.health()).state == "offline"
    with pytest.raises(TimedOut, match=r"may go on|not known") as gone:
        await job
    assert gone.value.effect is Effect.UNKNOWN
    with pytest.raises(TimedOut) as refused:
        await remote(server).open()
    assert refused.value.effect is Effect.NONE
    server.thaw()
    where = await driver.lookup("key-1", None)
    assert isinstance(where, Running | Finished)
    if isinstance(where, Running):
        assert (await driver.attach(where.handle, QuietEvents())).readings
    assert home.marked() == ["key-1"]
    await driver.close()


@pytest.mark.parametrize("recovery", ["blind", "idempotent"])
async def test_a_killed_host_remembers(home: Home, recovery: str) -> None:
    """After kill -9 in mid-job the journal knows the key: a blind driver's job is unsure, a computation comes again."""
    server = home.host(seconds=5.0, recovery=recovery)
    driver = remote(server)
    job = asyncio.create_task(driver.run(ORDER, QuietEvents()))
    await home.marked_within("key-1")
    await asyncio.to_thread(server.kill)
    home.host(port=server.port, recovery=recovery)
    with pytest.raises(NotConnected, match="cut off") as cut:  # it waited for the host to come back
        await job
    assert cut.value.effect is Effect.UNKNOWN
    where = await driver.lookup("key-1", None)
    assert isinstance(where, Unsure), where
    assert await driver.lookup("key-never-seen", None) == Absent()
    if recovery == "idempotent":
        again = remote(server)
        assert (await again.run(ORDER, QuietEvents())).readings[0].value == 50.0
        assert home.marked() == ["key-1", "key-1"]
        await again.close()
    else:
        with pytest.raises(NotConnected, match="cut off"):
            await driver.run(ORDER, QuietEvents())
        assert home.marked() == ["key-1"]
    await driver.close()


async def test_a_driver_that_remembers_is_asked(home: Home) -> None:
    """After kill -9 the host asks a driver that can look jobs up, and the first firing's result comes back."""
    server = home.host("SafeOven", seconds=5.0, recovery="queryable")
    driver = remote(server)
    job = asyncio.create_task(driver.run(ORDER, QuietEvents()))
    await home.marked_within("key-1")
    await asyncio.to_thread(server.kill)
    home.host("SafeOven", port=server.port, recovery="queryable")
    with pytest.raises(NotConnected):
        await job
    where = await driver.lookup("key-1", None)
    assert isinstance(where, Running)
    assert (await driver.attach(where.handle, QuietEvents())).notes == "found again"
    assert home.marked() == ["key-1"]
    await driver.close()


async def test_what_was_only_created_never_starts(home: Home) -> None:
    """A lookup after the sender's death withdraws its order: a start that arrives late is refused."""
    driver = remote(home.host())
    await driver.open()
    way = driver._way()
    created = await way.say("POST", "/orders", ORDER.to_json())
    assert await driver.lookup("key-1", None) == Absent()
    with pytest.raises(Rejected, match="withdrawn"):
        await way.say("POST", f"/jobs/{created['job']}/start")
    assert home.marked() == []
    assert (await driver.run(ORDER, QuietEvents())).key == "key-1"
    with pytest.raises(Rejected):  # the old job's start, later still
        await way.say("POST", f"/jobs/{created['job']}/start")
    assert home.marked() == ["key-1"]
    await driver.close()


async def test_a_safe_state_and_a_sign_of_life_pass_through(home: Home) -> None:
    """The client offers a safe state where the driver has one; without a heartbeat the host stops and makes safe."""
    server = home.host("SafeOven", seconds=30.0)
    file = home.folder / "oven.json"
    url = f"http://127.0.0.1:{server.port}/oven"
    descriptions.write(await asyncio.to_thread(descriptions.describe_host, url), file)
    driver = remote(server, description=file)
    assert isinstance(driver, SafeRemote)
    assert isinstance(driver, SafeState)
    assert not isinstance(remote(server), SafeState)
    await driver.make_safe()
    assert home.marked() == ["made safe"]
    job = asyncio.create_task(driver.run(ORDER, QuietEvents()))
    await home.marked_within("key-1")
    await driver.heartbeat(0.3)
    with pytest.raises(Aborted):
        await job
    await home.marked_within("made safe")
    assert any("no sign of life" in line for line in home.marked())
    await driver.close()


async def test_a_wrong_token_opens_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """With another token, or none, the host says nothing, and the client names the variable to set."""
    server = home.host()
    monkeypatch.setenv(tokens.VARIABLE, "another-token-of-somebody")
    with pytest.raises(NotConnected, match=tokens.VARIABLE) as refused:
        await remote(server).open()
    assert refused.value.effect is Effect.NONE
    assert TOKEN not in str(refused.value)
    monkeypatch.delenv(tokens.VARIABLE)
    with pytest.raises(NotConnected, match=tokens.VARIABLE):
        await remote(server).run(ORDER, QuietEvents())
    assert home.marked() == []


def test_a_token_is_nobody_elses(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token file that others can read is refused; a made one is the owner's alone, and found again."""
    monkeypatch.delenv(tokens.VARIABLE)
    assert tokens.find() is None
    made = tokens.make()
    assert tokens.own().stat().st_mode & 0o777 == 0o600
    assert tokens.find() == made
    tokens.own().chmod(0o644)
    with pytest.raises(NotConnected, match="chmod 600"):
        tokens.find()
    monkeypatch.setenv(tokens.VARIABLE, "short")
    with pytest.raises(NotConnected, match="characters"):
        tokens.find()


def test_other_computers_need_a_token_and_tls() -> None:
    """An address that others can reach is refused without a token, a key and a certificate."""
    told = subprocess.run(
        [*HOST, "simulated_furnace", "--bind", "0.0.0.0", "--port", "0"],  # noqa: S104  refused
        env={**os.environ, tokens.VARIABLE: TOKEN},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert told.returncode == 2
    assert "TLS" in told.stderr


async def test_a_description_that_changed_is_refused(home: Home) -> None:
    """A file that was changed by hand is refused; so is a host that offers something else than the file says."""
    server = home.host()
    file = home.folder / "oven.json"
    described = await asyncio.to_thread(descriptions.describe_host, f"http://127.0.0.1:{server.port}/oven")
    descriptions.write(described, file)
    assert descriptions.load(file) == described
    content = json.loads(file.read_text())
    content["description"]["capabilities"][0]["parameters"][0]["high"] = 9000.0
    file.write_text(json.dumps(content))
    with pytest.raises(PluginError, match="was changed"):
        await remote(server, description=file).describe()
    content["sha256"] = wire.fingerprint(content["description"])
    file.write_text(json.dumps(content))
    with pytest.raises(NotConnected, match="not as described"):
        await remote(server, description=file).open()


def test_two_hosts_share_no_journal(home: Home) -> None:
    """A second host of the same instruments is refused: each would think the device its own."""
    home.host()
    told = subprocess.run(
        [*HOST, "oven=tests.hosted_drivers:Oven", "--port", "0", "--options", json.dumps({"marks": str(home.marks)})],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert told.returncode == 1
    assert "journal" in told.stderr


async def test_a_plain_factory_is_served(home: Home) -> None:
    """A function that returns an instrument will do."""
    server = home.serve("tests.hosted_drivers:oven", "--options", json.dumps({"marks": str(home.marks)}), "--port", "0")
    driver = remote(server)
    assert (await driver.run(ORDER, QuietEvents())).readings
    await driver.close()


async def test_the_example_lab_is_checked_with_the_host_off() -> None:
    """The lab file of the examples builds, and its description file says what the simulated furnace says."""
    (hosted,) = build(str(CAMPAIGNS / "lab_remote.yaml"), {})
    assert hosted.name == "furnace"
    described, furnace = await hosted.instrument.describe(), Furnace(FurnaceOptions())
    assert described.capabilities == (await furnace.describe()).capabilities
    assert hosted.envelope["temperature"].high == 1300.0


def test_a_scan_writes_the_description(home: Home) -> None:
    """`matloop lab scan` shows bounds and units of an instrument behind a host, and keeps its description."""
    server = home.host()
    file = home.folder / "scans" / "oven.json"
    url = f"http://127.0.0.1:{server.port}/oven"
    told = CliRunner().invoke(lab, ["scan", url, "--write", str(file)])
    assert told.exit_code == 0, told.output
    assert "temperature: 20 to 800 degC" in told.stdout
    assert f"options: {{url: {url}, description: {file.as_posix()}}}" in told.stdout
    assert descriptions.load(file).description.capabilities[0].name == "bake"
    assert CliRunner().invoke(lab, ["scan", f"http://127.0.0.1:{server.port}/kiln"]).exit_code == 1


def test_a_host_needs_few_libraries() -> None:
    """The host loads neither torch nor the database, Prefect or pandas: it runs beside a vendor's libraries."""
    code = (
        "import sys, instruments.host.server, instruments.host.hosted, instruments.host.commands, uvicorn;"
        "print(sorted({'torch', 'sqlalchemy', 'prefect', 'pandas', 'pymatgen', 'ase', 'scipy'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout.strip() == "[]"
