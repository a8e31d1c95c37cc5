"""A person as instrument: cards, answers, refusals, and what is found after a crash."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from instruments import conformance
from instruments.commands import instrument
from instruments.conformance.orders import QuietEvents
from instruments.people import tasks
from instruments.people.operator import Operator, OperatorOptions
from orchestrator.domain import Absent, Finished, Order, Quantity, Running, Unsure
from orchestrator.errors import Aborted, Effect, Fault, Rejected, TimedOut
from orchestrator.protocols import Recoverable

KEY = "3fa9" + "0" * 60


def operator(folder: Path, **options: Any) -> Operator:
    """Build an operator who measures strength."""
    given_options = {
        "outputs": {"strength": "MPa"},
        "parameters": {"temperature": {"unit": "degC", "min": 20, "max": 800}, "gas": {"choices": ["air", "argon"]}},
        "instructions": "Bake, let cool, break.",
        "folder": folder,
        "poll_s": 0.01,
        **options,
    }
    return Operator(OperatorOptions.model_validate(given_options))


def order(key: str = KEY, *, deadline_s: float = 20.0) -> Order:
    """Ask for one measurement."""
    settings = {"temperature": Quantity(573.15, "kelvin")}
    return Order(key, "measure", settings, {"gas": "argon"}, sample="S7", label="tile 7", deadline_s=deadline_s)


def answer(key: str = KEY, **changes: Any) -> dict[str, Any]:
    """Answer it."""
    return {
        "key": key,
        "by": "Ada",
        "at": datetime.now(UTC).isoformat(),
        "values": {"strength": {"value": 12.5, "unit": "MPa"}},
        **changes,
    }


async def appears(path: Path) -> None:
    """Wait for a file."""
    for _ in range(500):
        if await asyncio.to_thread(path.exists):
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"{path} did not appear")


async def asked(driver: Operator, **changes: Any) -> asyncio.Task[Any]:
    """Send an order and wait for its card."""
    job = asyncio.create_task(driver.run(order(**changes), QuietEvents()))
    await appears(driver.folder / "outbox" / f"{KEY}.json")
    return job


async def test_the_contract(tmp_path: Path) -> None:
    """The operator keeps the contract; a person gets no orders from a check."""
    findings = await conformance.check(operator(tmp_path), level=2)
    assert not conformance.failures(findings)
    assert not tasks.waiting(tmp_path)
    assert not conformance.failures(await conformance.check(operator(tmp_path), level=1, send=True))
    assert isinstance(operator(tmp_path), Recoverable)


async def test_a_card_and_its_answer(tmp_path: Path) -> None:
    """The card shows settings in declared units; the answer becomes a reading with name, time and raw file."""
    driver, events = operator(tmp_path), QuietEvents()
    job = asyncio.create_task(driver.run(order(), events))
    await appears(tmp_path / "outbox" / f"{KEY}.json")
    card = tasks.waiting(tmp_path)[0]
    assert card["settings"]["temperature"] == {"value": pytest.approx(300.0), "unit": "degC"}
    assert (card["choices"], card["sample"], card["answer_with"]) == ({"gas": "argon"}, "S7", {"strength": "MPa"})
    at = datetime.now(UTC)
    given_answer = answer(
        at=at.isoformat(),
        values={"strength": {"value": 12500, "unit": "kPa", "std_error": 400}},
        applied={"temperature": {"value": 301, "unit": "degC"}},
        notes="a crack",
    )
    tasks.answer(tmp_path, given_answer)
    result = await asyncio.wait_for(job, 5)
    reading = result.readings[0]
    assert (reading.value, reading.unit, reading.std_error) == (12500, "kPa", 400)
    assert reading.measured_at == pytest.approx(at.timestamp() * 1e6, abs=1)
    assert result.applied["temperature"] == Quantity(301.0, "degC")
    assert result.applied_choices == {"gas": "argon"}
    assert result.notes == "measured by Ada: a crack"
    assert json.loads(result.attachments[0].content)["by"] == "Ada"
    assert events.handles == [{"key": KEY}]
    assert not tasks.waiting(tmp_path)


async def test_crash_and_recovery(tmp_path: Path) -> None:
    """Whatever the moment of the crash, a new process finds by the key what there is, and never asks twice."""
    assert await operator(tmp_path).lookup(KEY, None) == Absent()
    job = await asked(operator(tmp_path))
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    again = operator(tmp_path)
    assert await again.lookup(KEY, None) == Running({"key": KEY})
    waiting = asyncio.create_task(again.attach({"key": KEY}, QuietEvents()))
    await asyncio.sleep(0.03)
    tasks.answer(tmp_path, answer())
    result = await asyncio.wait_for(waiting, 5)
    found = await operator(tmp_path).lookup(KEY, {"key": KEY})
    assert isinstance(found, Finished)
    assert found.result == result
    assert (await operator(tmp_path).run(order(), QuietEvents())) == result
    assert len(list((tmp_path / "outbox").glob("*.json"))) == 1


async def test_half_written_and_duplicate_answers_are_left_alone(tmp_path: Path) -> None:
    """An answer counts when it is complete; the first one stands."""
    job = await asked(operator(tmp_path))
    text = json.dumps(answer())
    path = tmp_path / "inbox" / f"{KEY}.json"
    path.write_text(text[: len(text) // 2], encoding="utf-8")
    await asyncio.sleep(0.05)
    assert not job.done()
    path.write_text(text, encoding="utf-8")
    assert (await asyncio.wait_for(job, 5)).readings[0].value == 12.5
    with pytest.raises(tasks.AnswerError, match="answered already"):
        tasks.answer(tmp_path, answer(values={"strength": {"value": 99, "unit": "MPa"}}))
    assert json.loads(path.read_text(encoding="utf-8"))["values"]["strength"]["value"] == 12.5


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"values": {"strength": {"value": 12.5, "unit": "degC"}}}, "the card expects MPa"),
        ({"values": {"strength": {"value": 12.5, "unit": ""}}}, "the card expects MPa"),
        ({"values": {"strength": {"value": float("nan"), "unit": "MPa"}}}, "finite"),
        ({"values": {"strength": 12.5}}, "a value with its unit"),
        ({"values": {"weight": {"value": 1, "unit": "g"}}}, "the card expects strength in MPa"),
        ({"values": {}}, "the card expects strength in MPa"),
        ({"by": " "}, "name of the person"),
        ({"at": "yesterday"}, "2026-05-01"),
        ({"at": "2020-05-01T14:30:00+02:00"}, "when the card was made"),
        ({"at": "2999-05-01T14:30:00+02:00"}, "when the card was made"),
        ({"at": "2026-05-01T12:00:00"}, "time zone"),
        ({"applied": {"pressure": {"value": 1, "unit": "bar"}}}, "temperature"),
    ],
)
async def test_wrong_answers_are_refused_with_what_is_expected(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    """The command refuses; a file that was dropped by hand is moved aside with the reason, and the card stays."""
    job = await asked(operator(tmp_path))
    with pytest.raises(tasks.AnswerError, match=says):
        tasks.answer(tmp_path, answer(**changes))
    (tmp_path / "inbox" / f"{KEY}.json").write_text(json.dumps(answer(**changes)), encoding="utf-8")
    await appears(tmp_path / "refused" / f"{KEY}.1.json")
    refused = json.loads((tmp_path / "refused" / f"{KEY}.1.json").read_text(encoding="utf-8"))
    assert says in refused["refused_because"]
    assert len(tasks.waiting(tmp_path)) == 1
    tasks.answer(tmp_path, answer())
    assert (await asyncio.wait_for(job, 5)).readings[0].value == 12.5


async def test_failures_are_told_apart(tmp_path: Path) -> None:
    """Not begun is a refusal without effect; done without result is a fault after the act; a restart says the same."""
    job = await asked(operator(tmp_path))
    tasks.answer(tmp_path, answer(failed="it broke"))
    with pytest.raises(Fault, match="it broke") as caught:
        await asyncio.wait_for(job, 5)
    assert caught.value.effect is Effect.DONE
    assert await operator(tmp_path).lookup(KEY, None) == Running({"key": KEY})
    with pytest.raises(Fault, match="it broke"):
        await operator(tmp_path).attach({"key": KEY}, QuietEvents())
    other = tmp_path / "other"
    job = await asked(operator(other))
    tasks.answer(other, answer(not_started="no powder"))
    with pytest.raises(Rejected, match="no powder"):
        await asyncio.wait_for(job, 5)


async def test_an_abort_withdraws_the_card(tmp_path: Path) -> None:
    """Nobody begins work that the campaign no longer wants; what was begun meanwhile is a question, not a guess."""
    driver = operator(tmp_path)
    job = await asked(driver)
    await driver.abort("budget spent")
    with pytest.raises(Aborted, match="budget spent"):
        await asyncio.wait_for(job, 5)
    assert not tasks.waiting(tmp_path)
    assert isinstance(await driver.lookup(KEY, None), Unsure)
    with pytest.raises(tasks.AnswerError, match="no card"):
        tasks.answer(tmp_path, answer())


async def test_nobody_answers(tmp_path: Path) -> None:
    """After the deadline the effect is unknown, and the card still lies there."""
    with pytest.raises(TimedOut) as caught:
        await operator(tmp_path).run(order(deadline_s=0.05), QuietEvents())
    assert caught.value.effect is Effect.UNKNOWN
    assert len(tasks.waiting(tmp_path)) == 1


async def test_keys_cannot_leave_the_folder(tmp_path: Path) -> None:
    """A key becomes a file name, so that it may not be a path."""
    for key in ("../evil", "a/b", "", ".hidden"):
        with pytest.raises(Rejected, match="no file name"):
            await operator(tmp_path / "cards").run(order(key), QuietEvents())
    written = await asyncio.to_thread(lambda: list(tmp_path.rglob("*.json")))
    assert not written


@given(
    value=st.floats(allow_nan=False, allow_infinity=False),
    unit=st.sampled_from(["MPa", "GPa", "Pa", "kelvin", "C", "", "nonsense", "percent"]),
    std_error=st.one_of(st.none(), st.floats()),
)
def test_only_finite_pressures_pass(value: float, unit: str, std_error: float | None) -> None:
    """Whatever is typed, what passes the check is a finite pressure with a finite standard error."""
    issued = datetime.now(UTC).isoformat(timespec="seconds")
    card = {"key": KEY, "answer_with": {"strength": "MPa"}, "settings": {}, "issued_at": issued}
    given_answer = answer(values={"strength": {"value": value, "unit": unit, "std_error": std_error}})
    fine = unit in {"MPa", "GPa", "Pa"} and (std_error is None or 0 <= std_error < float("inf"))
    if fine:
        tasks.check(card, given_answer)
    else:
        with pytest.raises(tasks.AnswerError, match=r"expected|expects"):
            tasks.check(card, given_answer)


def call(folder: Path, *arguments: str) -> Any:
    """Call `matloop instrument …`."""
    return CliRunner().invoke(instrument, [*arguments, "--folder", str(folder)])


def test_the_command_line_shows_and_answers(tmp_path: Path) -> None:
    """`tasks` says what to do and what to type; typing it answers the card, once."""
    driver = operator(tmp_path)
    capability = driver.description().capabilities[0]
    card = tasks.card(order(), capability, {"temperature": 300.0}, {"gas": "argon"}, "Bake.")
    tasks.issue(tmp_path, card)
    shown = call(tmp_path, "tasks").output
    for part in ("tile 7", "Bake.", "sample S7", "set temperature to 300 degC", "set gas to argon", 'strength=… MPa"'):
        assert part in shown
    wrong = call(tmp_path, "answer", "3fa9", "strength=12.3 degC", "--by", "Ada")
    assert wrong.exit_code == 2
    assert "the card expects MPa" in wrong.output
    now = datetime.now(UTC).isoformat()
    done = call(
        tmp_path, "answer", "3fa9", "strength=-1.2e1 kPa", "--by", "Ada", "--error", "strength=0.4", "--at", now,
        "--applied", "temperature=299 degC", "--notes", "fine",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    result = tasks.take(tmp_path, card)
    assert result is not None
    assert (result.readings[0].value, result.readings[0].unit, result.readings[0].std_error) == (-12.0, "kPa", 0.4)
    assert result.applied["temperature"].value == 299.0
    twice = call(tmp_path, "answer", "3fa9", "strength=1 MPa", "--by", "Bo")
    assert twice.exit_code == 2
    assert "answered already, by Ada" in twice.output
    assert "no task waits" in call(tmp_path, "tasks").output
    assert "exactly one was expected" in call(tmp_path, "answer", "ffff", "strength=1 MPa", "--by", "Bo").output


def test_the_default_folder_follows_matloop_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cards lie beside the store unless an option says otherwise."""
    monkeypatch.setenv("MATLOOP_HOME", str(tmp_path))
    assert Operator(OperatorOptions(outputs={"strength": "MPa"})).folder == tmp_path / "operator"


def test_importing_the_commands_is_light() -> None:
    """The help of the command line must not wait for numpy or pydantic."""
    import subprocess  # noqa: PLC0415  only here

    code = "import sys, instruments.commands; sys.exit(', '.join({'numpy', 'pydantic'} & set(sys.modules)) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
