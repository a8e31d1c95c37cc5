"""MADSci nodes: their answers mean what they mean at a real node, and nothing is started twice.

With `MATLOOP_MADSCI_PYTHON` set to the Python of an environment that has madsci-node-module, the same tests run against
a real node, too.
"""

from __future__ import annotations

import asyncio
import os
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from instruments import conformance
from instruments.conformance.orders import QuietEvents
from instruments.host.hosted import build
from instruments.madsci.driver import MadsciNode, MadsciOptions
from orchestrator.domain import Absent, Finished, Order, Quantity, Running, Unsure
from orchestrator.errors import Aborted, Busy, Effect, Fault, Interlocked, NotConnected, Rejected
from tests.loopback_servers import FOLDER, Server, launch, start

REAL = os.environ.get("MATLOOP_MADSCI_PYTHON", "")
CAMPAIGNS = Path(__file__).parent.parent / "campaigns"
FIRE: dict[str, Any] = {
    "parameters": {
        "temperature": {"unit": "degC", "min": 20, "max": 1200, "read_back": "reached", "resolution": 1},
        "time": {"argument": "minutes", "unit": "minute", "min": 1, "max": 60, "default": 1, "resolution": 1},
        "gas": {"choices": ["air", "argon", "broken"], "default": "air"},
    },
    "outputs": {"density": {"unit": "percent", "min": 0, "max": 100}},
    "longest_s": 60,
    "fidelity": "simulated",
}
ORDER = Order("key-1", "fire", {"temperature": Quantity(500.4, "degC")}, deadline_s=30.0)


def launched(kind: str, port: int = 0) -> Server:
    """Start a node."""
    if kind == "real":
        return launch([REAL, str(FOLDER / "madsci_real_node.py"), "--port", str(port)])
    return start("madsci_node", port=port)


@pytest.fixture(
    scope="module",
    params=[
        "fake",
        pytest.param(
            "real", marks=[pytest.mark.slow, pytest.mark.skipif(not REAL, reason="needs MATLOOP_MADSCI_PYTHON")]
        ),
    ],
)
def kind(request: pytest.FixtureRequest) -> str:
    """Which node: the one that repeats a real one's answers, or a real one."""
    return str(request.param)


@pytest.fixture(scope="module")
def shared(kind: str) -> Iterator[Server]:
    """One node for the tests of this module."""
    with launched(kind) as server:
        yield server


@pytest.fixture
def node(shared: Server) -> Iterator[Server]:
    """A node that is ready."""
    yield shared
    for command in ("unlock", "reset"):
        admin(shared, command)


def admin(server: Server, command: str) -> None:
    """Send an administrative command."""
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}/admin/{command}", method="POST")
    urllib.request.urlopen(request, timeout=5).close()  # noqa: S310  our own


def driver(server: Server, seconds: float = 0.0, **changes: Any) -> MadsciNode:
    """Build the driver of a node."""
    fire = {**FIRE, "fixed": {"seconds": seconds}, **changes.pop("fire", {})}
    content = {"url": f"http://127.0.0.1:{server.port}", "actions": {"fire": fire}, "simulated": True, **changes}
    return MadsciNode(MadsciOptions.model_validate(content))


async def test_a_node_keeps_the_contract(node: Server) -> None:
    """Every check of level 2 passes against the node."""
    quiet = {"parameters": {**FIRE["parameters"], "gas": {"choices": ["air", "argon"]}}}
    findings = await conformance.check(driver(node, fire=quiet), level=2)
    assert not conformance.failures(findings)
    assert sum(finding.passed is True for finding in findings) > 30


async def test_everything_of_a_result_arrives(node: Server) -> None:
    """Numbers, what was read back (here rounded by the node), whole-number arguments and files arrive."""
    one, events = driver(node), QuietEvents()
    result = await one.run(ORDER, events)
    assert [(r.property, r.value, r.unit) for r in result.readings] == [("density", pytest.approx(65.004), "percent")]
    assert result.applied == {"temperature": Quantity(500.0, "degC"), "time": Quantity(1.0, "minute")}
    assert result.applied_choices == {"gas": "air"}
    assert "as sent" in result.notes
    assert "time" in result.notes
    assert [(a.name, a.content) for a in result.attachments] == [("trace.csv", b"time,temperature\n0,25\n")]
    (handle,) = events.handles
    where = await one.lookup("key-1", handle)
    assert isinstance(where, Finished)
    assert where.result.readings == result.readings
    await one.close()


@pytest.mark.parametrize(
    ("command", "error", "words"),
    [("lock", Interlocked, "locked"), (None, Busy, "ask again"), ("broken", Fault, "reset")],
)
async def test_not_ready_is_no_success(node: Server, command: str | None, error: type[Exception], words: str) -> None:
    """Locked, busy and errored nodes answer HTTP 200; each becomes the error it is, with effect none."""
    job: asyncio.Task[Any] | None = None
    if command == "lock":
        await asyncio.to_thread(admin, node, "lock")
    elif command == "broken":
        with pytest.raises(Fault, match="valve is stuck") as fault:
            await driver(node).run(Order("key-b", "fire", ORDER.settings, {"gas": "broken"}), QuietEvents())
        assert fault.value.effect is Effect.STARTED
    else:
        job = asyncio.create_task(driver(node, 2.0).run(ORDER, QuietEvents()))
        await asyncio.sleep(0.4)
    with pytest.raises(error, match=words) as refused:
        await driver(node).run(ORDER, QuietEvents())
    assert refused.value.effect is Effect.NONE  # type: ignore[attr-defined]
    if command != "broken":
        state = {"lock": "interlocked", None: "busy"}[command]
        assert (await driver(node).health()).state == state
    if job is not None:
        assert (await job).readings


async def test_a_failure_is_told(node: Server) -> None:
    """An action that fails is a fault after its start, with the node's words; the node goes on."""
    one = driver(node)
    with pytest.raises(Fault, match="melted") as fault:
        await one.run(Order("key-2", "fire", {"temperature": Quantity(1195.0, "degC")}), QuietEvents())
    assert fault.value.effect is Effect.STARTED
    assert (await one.run(ORDER, QuietEvents())).readings
    await one.close()


async def test_an_abort_cancels(node: Server) -> None:
    """An abort sends the node's cancel past the job, which ends as aborted within seconds."""
    one, events = driver(node, 30.0), QuietEvents()
    job = asyncio.create_task(one.run(ORDER, events))
    await asyncio.sleep(1.0)
    events.abort = True
    began = time.monotonic()
    await one.abort("STOP")
    with pytest.raises(Aborted, match="stopped") as aborted:
        await job
    assert aborted.value.effect is Effect.STARTED
    assert time.monotonic() - began < 3.0
    await one.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fixed": {"secnds": 1.0}}, "no argument 'secnds'"),
        ({"parameters": {"gas": FIRE["parameters"]["gas"]}}, "needs temperature"),
        ({"parameters": {**FIRE["parameters"], "gas": {"min": 0, "max": 1}}}, "is a str"),
    ],
)
async def test_a_node_of_other_arguments_is_not_opened(node: Server, change: dict[str, Any], words: str) -> None:
    """A misspelt argument, which the node would ignore, a missing one, and one of another kind are found by `open`."""
    one = driver(node, fire=change)
    with pytest.raises(NotConnected, match=words):
        await one.open()
    await one.close()


async def test_whole_numbers_are_rounded_and_said(node: Server) -> None:
    """Where the node takes whole minutes, 1.7 become 2, and the result says that 2 were applied."""
    order = Order("key-3", "fire", {**ORDER.settings, "time": Quantity(1.7, "minute")})
    assert (await driver(node).run(order, QuietEvents())).applied["time"] == Quantity(2.0, "minute")
    narrow = {**FIRE["parameters"], "time": {**FIRE["parameters"]["time"], "min": 1.2, "max": 1.8, "default": 1.5}}
    with pytest.raises(Rejected, match="whole"):
        await driver(node, fire={"parameters": narrow}).run(ORDER, QuietEvents())


async def test_what_was_not_started_is_known(node: Server) -> None:
    """Without a committed id nothing was started; an id that the node does not know leaves it open."""
    one = driver(node)
    assert await one.lookup("key-9", None) == Absent()
    where = await one.lookup("key-9", {"action": "fire", "id": "01M831QZSD3Y6NK5YGPA565N44"})
    assert isinstance(where, Unsure)
    assert "never started" in where.why
    await one.close()


async def test_a_killed_and_a_frozen_node(kind: str) -> None:
    """A frozen node's job is found again; a killed one's is unknown; a dead node is known at once."""
    with launched(kind) as server:
        one, events = driver(server, 2.5, patience_s=0.5), QuietEvents()
        job = asyncio.create_task(one.run(ORDER, events))
        await asyncio.sleep(1.2)  # a start is answered half a second after the action began
        server.freeze()
        assert (await one.health()).state == "offline"
        with pytest.raises(Exception, match=r"may|not known") as frozen:
            await job
        assert frozen.value.effect is Effect.UNKNOWN  # type: ignore[attr-defined]
        server.thaw()
        where = await one.lookup("key-1", events.handles[0])
        assert isinstance(where, Running | Finished)
        assert (await one.attach(events.handles[0], QuietEvents())).readings
        await asyncio.to_thread(server.kill)
        began = time.monotonic()
        assert isinstance(await one.lookup("key-1", events.handles[0]), Unsure)
        with pytest.raises(NotConnected) as dead:
            await driver(server).open()
        assert dead.value.effect is Effect.NONE
        assert time.monotonic() - began < 2.0
        with launched(kind, server.port):
            again = await one.lookup("key-1", events.handles[0])
            assert isinstance(again, Unsure)
            assert "restarted" in again.why
        await one.close()


async def test_a_rate_limit_is_no_failure() -> None:
    """A node that takes no more questions is busy, without any effect."""
    with start("madsci_node", "--limit", "1") as server:
        one = driver(server)
        await one.open()
        with pytest.raises(Busy, match="rate limit") as busy:
            await one.run(ORDER, QuietEvents())
        assert busy.value.effect is Effect.NONE
        assert (await one.health()).state == "unknown"
        await one.close()


async def test_the_example_lab_builds() -> None:
    """The lab file of the examples builds, offline."""
    (hosted,) = build(str(CAMPAIGNS / "lab_madsci.yaml"), {})
    (capability,) = (await hosted.instrument.describe()).capabilities
    assert capability.name == "fire"
