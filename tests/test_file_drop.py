"""Files as instrument: another program reads orders and writes results, well and badly."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from instruments import conformance
from instruments.conformance.orders import QuietEvents
from instruments.people.drop_folder import DropFolder, Habits
from instruments.people.file_drop import FileDrop, FileDropOptions
from instruments.people.tasks import AnswerError
from orchestrator.domain import Absent, Finished, Order, Quantity, Running, Unsure
from orchestrator.errors import Aborted, Effect, Fault, Rejected
from orchestrator.protocols import AsksPeople

KEY = "3fa9" + "0" * 60


def drop(folder: Path, **options: Any) -> FileDrop:
    """Build the driver."""
    content = {
        "folder": folder,
        "capability": "bake",
        "outputs": {"strength": "MPa"},
        "parameters": {"temperature": {"unit": "degC", "min": 20, "max": 800}, "gas": {"choices": ["air", "argon"]}},
        "poll_s": 0.01,
        "settle_s": 0.05,
        "longest_s": 20.0,
        **options,
    }
    return FileDrop(FileDropOptions.model_validate(content))


def order(key: str = KEY) -> Order:
    """Ask for one bake, in another unit than declared."""
    return Order(key, "bake", {"temperature": Quantity(573.15, "kelvin")}, {"gas": "argon"}, sample="S7")


def listed(folder: Path) -> list[str]:
    """List the names in a folder."""
    return sorted(path.name for path in folder.glob("*")) if folder.is_dir() else []


async def appears(folder: Path, name: str) -> Path:
    """Wait for a file."""
    for _ in range(1000):
        if name in listed(folder):
            return folder / name
        await asyncio.sleep(0.01)
    pytest.fail(f"{name} did not appear in {folder}")


def rows(path: Path) -> list[list[str]]:
    """Read a CSV file."""
    return list(csv.reader(path.read_text().splitlines()))


def put(path: Path, text: str) -> None:
    """Write a file as careless programs do: in place."""
    path.write_text(text)


RIGHT = "strength,strength_std_error,temperature\nMPa,MPa,degC\n12.5,0.5,298.0\n"


@contextlib.asynccontextmanager
async def robot(folder: Path) -> AsyncIterator[list[str]]:
    """Be the other program: move each order to running, then write its result."""
    done: list[str] = []

    async def work() -> None:
        while True:
            for name in listed(folder / "outbox"):
                if name.endswith(".csv"):
                    with contextlib.suppress(FileNotFoundError):
                        (folder / "outbox" / name).rename(folder / "running" / name)
                        strength = 10 + float(rows(folder / "running" / name)[2][3]) / 100
                        put(folder / "inbox" / name, f"strength\nMPa\n{strength}\n")
                        done.append(name)
            await asyncio.sleep(0.01)

    task = asyncio.create_task(work())
    yield done
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_contract(tmp_path: Path) -> None:
    """It keeps the instrument contract against a program that answers."""
    async with robot(tmp_path):
        findings = await conformance.check(drop(tmp_path), level=2, send=True)
    assert conformance.failures(findings) == []


async def test_an_order_and_its_result(tmp_path: Path) -> None:
    """Three rows out, three rows in; what was applied and its error are taken over."""
    job = asyncio.create_task(drop(tmp_path).run(order(), QuietEvents()))
    path = await appears(tmp_path / "outbox", f"{KEY}.csv")
    assert rows(path) == [
        ["key", "task", "sample", "temperature", "gas"],
        ["", "", "", "degC", ""],
        [KEY, "bake", "S7", "300.0", "argon"],
    ]
    put(tmp_path / "inbox" / f"{KEY}.csv", RIGHT)
    result = await job
    assert [(r.property, r.value, r.unit, r.std_error) for r in result.readings] == [("strength", 12.5, "MPa", 0.5)]
    assert result.applied["temperature"] == Quantity(298.0, "degC")
    assert result.applied_choices == {"gas": "argon"}
    assert "file drop" in result.notes


async def test_a_file_that_is_still_written_is_left_alone(tmp_path: Path) -> None:
    """Half a row is no result, however often it is looked at."""
    job = asyncio.create_task(drop(tmp_path).run(order(), QuietEvents()))
    await appears(tmp_path / "outbox", f"{KEY}.csv")
    inbox = tmp_path / "inbox" / f"{KEY}.csv"
    for end in (10, 40, len(RIGHT) - 3, len(RIGHT) - 1):
        put(inbox, RIGHT[:end])
        await asyncio.sleep(0.12)
        assert not job.done()
    put(inbox, RIGHT)
    assert (await job).readings[0].value == 12.5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("strength\n12.5\n", None),  # the row of units is missing
        ("strength\n\n12.5\n", "no unit"),
        ("strength\nK\n12.5\n", "MPa"),
        ("strength,gas\nMPa,\nnan,argon\n", "finite"),
        ("weight\nmg\n12.5\n", "expects strength in MPa"),
        ("strength,temperature\nMPa,\n12.5,300\n", "no unit"),
        ("strength,strength_std_error\nMPa,kPa\n12.5,1\n", "was expected"),
        ("strength\nMPa\n12.5\n13.5\n", "three rows"),
        ("key,strength\n,MPa\nother,12.5\n", "speaks of the key"),
        ("strength,at\nMPa,\n12.5,2001-01-01T00:00:00+00:00\n", "after"),
    ],
)
async def test_a_wrong_result_is_moved_aside(tmp_path: Path, text: str, says: str | None) -> None:
    """It lies in refused with its reason, and a right one is still taken."""
    driver = drop(tmp_path, patience_s=0.2)
    job = asyncio.create_task(driver.run(order(), QuietEvents()))
    await appears(tmp_path / "outbox", f"{KEY}.csv")
    put(tmp_path / "inbox" / f"{KEY}.csv", text)
    reason = await appears(tmp_path / "refused", f"{KEY}.1.txt")
    assert (says or "not whole") in reason.read_text()
    assert listed(tmp_path / "refused") == [f"{KEY}.1.csv", f"{KEY}.1.txt"]
    put(tmp_path / "inbox" / f"{KEY}.csv", RIGHT)
    assert (await job).readings[0].value == 12.5


async def test_json_with_marker_and_pattern(tmp_path: Path) -> None:
    """With a marker nothing is taken before it is there; the files beside the result come with it."""
    driver = drop(tmp_path, format="json", done=".done", attach=[".xy"])
    job = asyncio.create_task(driver.run(order(), QuietEvents()))
    card = json.loads((await appears(tmp_path / "outbox", f"{KEY}.json")).read_text())
    assert card["settings"] == {"temperature": {"value": pytest.approx(300.0), "unit": "degC"}}
    put(tmp_path / "inbox" / f"{KEY}.json", json.dumps({"values": {"strength": {"value": 3, "unit": "GPa"}}}))
    put(tmp_path / "inbox" / f"{KEY}.xy", "10 200\n")
    await asyncio.sleep(0.2)
    assert not job.done()
    put(tmp_path / "inbox" / f"{KEY}.done", "")
    result = await job
    assert (result.readings[0].value, result.readings[0].unit) == (3.0, "GPa")
    assert result.attachments[-1].content == b"10 200\n"


async def test_the_program_reports_a_failure(tmp_path: Path) -> None:
    """Failed means done without a result; not started means that nothing happened."""
    for word, error, effect in (("failed", Fault, Effect.DONE), ("not_started", Rejected, Effect.NONE)):
        key = f"k{word}"
        job = asyncio.create_task(drop(tmp_path).run(order(key), QuietEvents()))
        await appears(tmp_path / "outbox", f"{key}.csv")
        put(tmp_path / "inbox" / f"{key}.csv", f"{word}\n\nvial broke\n")
        with pytest.raises(error, match="vial broke") as seen:
            await job
        assert seen.value.effect is effect


async def test_what_is_found_after_a_crash(tmp_path: Path) -> None:
    """A key is absent, running or finished; the first result stands, whatever the program writes later."""
    driver = drop(tmp_path)
    assert isinstance(await driver.lookup(KEY, None), Absent)
    job = asyncio.create_task(driver.run(order(), QuietEvents()))
    path = await appears(tmp_path / "outbox", f"{KEY}.csv")
    job.cancel()
    later = drop(tmp_path)
    where = await later.lookup(KEY, None)
    assert isinstance(where, Running)
    path.rename(tmp_path / "running" / path.name)
    put(tmp_path / "inbox" / f"{KEY}.csv", RIGHT)
    result = await later.attach(where.handle, QuietEvents())
    put(tmp_path / "inbox" / f"{KEY}.csv", RIGHT.replace("12.5", "99.9"))
    found = await drop(tmp_path).lookup(KEY, None)
    assert isinstance(found, Finished)
    assert found.result.readings == result.readings
    (tmp_path / "cards" / "half.json").write_text((tmp_path / "cards" / f"{KEY}.json").read_text().replace(KEY, "half"))
    assert isinstance(await driver.lookup("half", None), Unsure)


async def test_an_abort_before_and_after_it_began(tmp_path: Path) -> None:
    """An order that still lay in the outbox never began; of another one nobody can say that."""
    for begun in (False, True):
        key = f"begun{begun}"
        driver = drop(tmp_path)
        job = asyncio.create_task(driver.run(order(key), QuietEvents()))
        path = await appears(tmp_path / "outbox", f"{key}.csv")
        await appears(tmp_path / "cards", f"{key}.issued")
        if begun:
            path.rename(tmp_path / "running" / path.name)
        await driver.abort("enough")
        with pytest.raises(Aborted) as seen:
            await job
        assert seen.value.effect is (Effect.STARTED if begun else Effect.NONE)
        assert listed(tmp_path / "outbox") == []


async def test_a_link_in_the_inbox_is_refused(tmp_path: Path) -> None:
    """The other program cannot have a file of ours read."""
    secret = tmp_path / "secret"
    put(secret, RIGHT)
    job = asyncio.create_task(drop(tmp_path / "share").run(order(), QuietEvents()))
    await appears(tmp_path / "share/outbox", f"{KEY}.csv")
    (tmp_path / "share/inbox" / f"{KEY}.csv").symlink_to(secret)
    reason = await appears(tmp_path / "share/refused", f"{KEY}.1.txt")
    assert "no link" in reason.read_text()
    assert secret.read_text() == RIGHT
    put(tmp_path / "share/inbox" / f"{KEY}.csv", RIGHT)
    await job


@pytest.mark.parametrize("key", ["../up", "a/b", "", ".", "x" * 200, "a\0", "*"])
async def test_a_key_is_never_a_path(tmp_path: Path, key: str) -> None:
    """It is refused before anything is written."""
    with pytest.raises(Rejected, match="no file name"):
        await drop(tmp_path / "share").run(order(key), QuietEvents())
    assert listed(tmp_path) in ([], ["share"])
    assert listed(tmp_path / "share" / "outbox") == []


@settings(deadline=None, max_examples=50)  # it syncs files, which a busy disk takes its time for
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_wait(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    """Whatever stands in the inbox, nothing but the errors of the desk comes out."""
    folder = DropFolder(tmp_path_factory.mktemp("drop"), Habits(settle_s=0.0), "robot")
    folder.prepare()
    card = {
        "key": "k",
        "answer_with": {"y": "MPa"},
        "settings": {},
        "choices": {},
        "issued_at": "2020-01-01T00:00:00+00:00",
    }
    for form in ("csv", "json"):
        path = folder.folder / "inbox" / f"k.{form}"
        path.write_bytes(raw)
        folder.take(card)
        assert folder.take(card) is None
    assert issubclass(AnswerError, Exception)


def test_options(tmp_path: Path) -> None:
    """The folder must be named: it is shared with somebody; and its orders are no cards for people."""
    assert not isinstance(drop(tmp_path), AsksPeople)
    with pytest.raises(ValidationError, match="folder"):
        FileDropOptions.model_validate({"outputs": {"y": "MPa"}})
    with pytest.raises(ValidationError, match="done"):
        drop(tmp_path, done="/etc")
