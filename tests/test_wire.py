"""The chaos proxy does to a reply what it says, only to the reply that it should, and the same for the same seed."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from instruments.simulated.wire import FAULTS, Chaos, WireFault


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """Run a device that answers each line with the same line."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def ask(chaos: Chaos, *lines: bytes, wait_s: float = 0.15) -> list[bytes]:
    """Ask line by line on one connection; return what came within `wait_s` of each."""
    reader, writer = await asyncio.open_connection("127.0.0.1", chaos.port)
    replies = []
    for line in lines:
        writer.write(line)
        reply, until = b"", time.monotonic() + wait_s
        while (left := until - time.monotonic()) > 0:
            try:
                piece = await asyncio.wait_for(reader.read(100), left)
            except (TimeoutError, ConnectionError):
                break
            if not piece:
                reply += b"<end>"
                break
            reply += piece
        replies.append(reply)
    writer.close()
    return replies


EXPECTED: dict[WireFault, tuple[bytes, bytes]] = {
    "delay": (b"", b"first\nsecond\n"),
    "trickle": (b"first\n", b"second\n"),
    "half": (b"fir", b"second\n"),
    "duplicate": (b"first\nfirst\n", b"second\n"),
    "drop": (b"", b"second\n"),
    "cut": (b"fir<end>", b"<end>"),
    "freeze": (b"", b"first\nsecond\n"),
}


@pytest.mark.parametrize("fault", EXPECTED)
async def test_one_fault_hits_one_reply(fault: WireFault) -> None:
    """The armed fault spoils the next reply as its name says; the reply after it is sound."""
    async with echo() as port, Chaos("127.0.0.1", port, delay_s=0.2, freeze_s=0.2) as chaos:
        chaos.arm(fault)
        first, second = await ask(chaos, b"first\n", b"second\n")
        assert (first, second) == EXPECTED[fault]
        assert [(one.fault, one.size) for one in chaos.injected] == [(fault, 6)]


async def test_a_flip_is_one_bit() -> None:
    """Exactly one bit of the reply differs."""
    async with echo() as port, Chaos("127.0.0.1", port, faults=["flip"], at=[1]) as chaos:
        sound, spoiled, after = await ask(chaos, b"first\n", b"second\n", b"third\n")
    assert (sound, after) == (b"first\n", b"third\n")
    assert sum((a ^ b).bit_count() for a, b in zip(spoiled, b"second\n", strict=True)) == 1


async def test_the_seed_fixes_the_faults() -> None:
    """The same seed hits the same replies with the same faults, another one others, at about the rate that is asked."""
    chosen = {seed: [Chaos("", 0, rate=0.1, seed=seed)._choose(n) for n in range(2000)] for seed in (1, 2)}
    assert chosen[1] == [Chaos("", 0, rate=0.1, seed=1)._choose(n) for n in range(2000)]
    assert chosen[1] != chosen[2]
    assert 150 < sum(fault is not None for fault in chosen[1]) < 250
    assert set(chosen[1]) == {None, *FAULTS}
    assert all(Chaos("", 0, rate=1.0, grace=3)._choose(n) is None for n in range(3))


async def test_a_dead_device_ends_the_connection_and_nothing_is_left() -> None:
    """Where the device refuses, the client sees the end at once; a closed proxy refuses."""
    async with echo() as port:
        pass
    async with Chaos("127.0.0.1", port) as chaos:
        dead = chaos.port
        assert await ask(chaos, b"first\n") == [b"<end>"]
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", dead)
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


def test_wrong_options_are_refused() -> None:
    """An unknown fault and a rate that is no probability are named."""
    with pytest.raises(ValueError, match="gremlin"):
        Chaos("", 0, faults=["gremlin"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="rate is 2"):
        Chaos("", 0, rate=2)


async def test_the_command_serves_and_ends_with_its_signal() -> None:
    """`matloop instrument chaos` says READY and its port, spoils what it is asked to, and ends on SIGINT."""
    async with echo() as port:
        command = ["-m", "flows.cli", "instrument", "chaos", "--to", f"127.0.0.1:{port}", "--rate", "1"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, "--faults", "drop", stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        word, listening = (await asyncio.wait_for(process.stdout.readline(), 30)).split()
        assert word == b"READY"
        reader, writer = await asyncio.open_connection("127.0.0.1", int(listening))
        writer.write(b"line\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)
        writer.close()
        process.send_signal(signal.SIGINT)
        assert b"1 replies, 1 spoiled" in (await process.communicate())[0]
        assert process.returncode == 0
