"""The crash harness: SIGKILL at every labelled point, then ask the instrument's log and the database what happened.

One run: a campaign of two trials of two steps in a process that is killed at the h-th passing of a label; in half of
the runs the process that recovers is killed too; then one that may live; then the judge. In the blind class an operator
reads the instrument's log, answers each question, and the campaign goes on to its end. The judge compares the log
of the instrument, which is another process, with the database, and knows nothing else.

Children are forked from this process, which has imported everything and opened nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from orchestrator.domain import Quantity
from orchestrator.errors import Unanswered
from orchestrator.execution.answers import answer_done, answer_not_started, questions
from orchestrator.record.crash_points import install
from orchestrator.record.store import CampaignStore
from orchestrator.units import convert
from tests.crash.driver import DELIVERY_DELAYED_S, KILNS, OUTPUTS, PROCEDURE, Network
from tests.crash.mutants import executor_of
from tests.crash.world import NAME, config, new_store

LABELS = (
    "claim.before",
    "claim.in_txn",
    "claim.after",
    "intent.in_txn",
    "intent.after",
    "send.before",
    "send.after_bytes",
    "ack.before_commit",
    "ack.in_txn",
    "ack.after_commit",
    "poll.before",
    "result.received",
    "raw.tmp_written",
    "raw.fsynced",
    "raw.renamed",
    "measured.in_txn",
    "measured.after",
    "record.in_txn",
    "record.after",
)
CLASSES = ("idempotent", "queryable", "blind")
TEMPERATURES = (800.0, 900.0)
ORDERS = tuple(f"{NAME}-{trial}/{step}" for trial in (1, 2) for step in OUTPUTS)
CHILD_S = 30.0  # a child takes a fraction of a second; one that hangs is a finding
ROUNDS = 6  # operator and restart, until nothing is asked any more


@dataclass(frozen=True)
class Case:
    """One run.

    Args:
        label: where the first process is killed.
        recovery: class of the instrument.
        seed: chooses which passing of the label, slots, network and the second kill.
        mistake: seeded on purpose; empty for the product.
        network: what the network does: ``delayed``, ``late``, empty, or ``any``: the seed chooses.
    """

    label: str
    recovery: str
    seed: int
    mistake: str = ""
    network: str = "any"

    @property
    def name(self) -> str:
        """Name of the run's folder and device."""
        mistake = "".join(letter for letter in self.mistake if letter.isalnum())
        return f"{self.label}-{self.recovery}-{self.seed}-{self.network}-{mistake}"


@dataclass
class Finding:
    """What one run showed."""

    kills: int = 0
    unfired: int = 0
    executions: int = 0
    questions: int = 0
    violations: list[str] = field(default_factory=list)


class Harness:
    """Runs cases in one folder.

    Args:
        folder: empty; on a memory file system where there is one, as fsync plays no part in the death of a process.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._device: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Start the instrument, prepare the campaign that every run begins with, and warm up."""
        self._device = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("device.py")), str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._device.stdout is not None
        assert self._device.stdout.readline() == "READY\n"
        heavy = [name for name in ("torch", "prefect") if name in sys.modules]
        assert not heavy, f"execution imported {heavy}"
        code = _child(lambda: new_store(self._folder / "template.db", PROCEDURE, TEMPERATURES).close())
        assert code == 0, f"the campaign could not be prepared: {code}"
        convert(1.0, "degC", "kelvin")  # pint is slow to import, and every child needs it
        gc.collect()
        gc.freeze()
        return self

    def __exit__(self, *_: object) -> None:
        """End the instrument."""
        assert self._device is not None
        self._device.communicate()  # closes its standard input, at which it ends

    def run(self, case: Case) -> Finding:
        """Carry out one case and judge it."""
        folder = self._folder / case.name
        folder.mkdir()
        shutil.copy(self._folder / "template.db", folder / "c.db")
        finding = Finding()
        chance = random.Random(f"{case.name} kills")
        self._kill(case, folder, finding, _at_passing(case.label, chance.choice((1, 2))))
        if chance.random() < 0.5 and not case.mistake:
            # On a blind instrument recovery may have only two points to pass: to write UNKNOWN, and to go on.
            most = 2 if case.recovery == "blind" else 6
            self._kill(case, folder, finding, _at_any(chance.randint(1, most)))
        self._live(case, folder, finding)
        self._judge(case, folder, finding)
        if case.recovery == "blind" and not finding.violations:
            self._operate(case, folder, finding)
        shutil.rmtree(folder)
        (self._folder / f"{case.name}.log").unlink(missing_ok=True)
        return finding

    # --- the processes --------------------------------------------------------------------------------------------

    def _kill(self, case: Case, folder: Path, finding: Finding, hook: Callable[[str], None]) -> None:
        def doomed() -> None:
            install(hook)
            self._campaign(case, folder)

        code = _child(doomed, folder / "error")
        if code == -signal.SIGKILL:
            finding.kills += 1
        else:
            finding.unfired += 1
            if code != 0:
                finding.violations.append(f"stuck before its kill: {_error(folder, code)}")

    def _live(self, case: Case, folder: Path, finding: Finding) -> None:
        code = _child(lambda: self._campaign(case, folder), folder / "error")
        if code != 0:
            finding.violations.append(f"stuck: {_error(folder, code)}")

    def _campaign(self, case: Case, folder: Path) -> None:
        """Recover and carry out what is left; in the child process."""
        chance = random.Random(f"{case.seed} {case.label}")
        slots = chance.choice((1, 2))
        what = case.network if case.network != "any" else chance.choice(("", "", "delayed", "late"))
        network = Network(
            delayed=frozenset(ORDERS) if what == "delayed" else frozenset(),
            late=frozenset(ORDERS[-1:]) if what == "late" else frozenset(),
        )
        kiln = KILNS[case.recovery](self._folder, case.name, slots, network)
        store = CampaignStore.open(folder / "c.db", create=False)
        executor = executor_of(case.mistake)(store, NAME, {"kiln": kiln}, config(PROCEDURE).procedure)

        async def main() -> None:
            await executor.open()
            asked = {question.trial for question in await executor.recover()}
            free = [trial.number for trial in store.trials(NAME) if trial.number not in asked]
            if slots == 1:
                for number in free:
                    with contextlib.suppress(Unanswered):
                        await executor.carry_out(number)
            else:
                for ended in await asyncio.gather(*map(executor.carry_out, free), return_exceptions=True):
                    if isinstance(ended, BaseException) and not isinstance(ended, Unanswered):
                        raise ended
            await executor.close()

        with store.hold(NAME):
            asyncio.run(main())
        damage = store.verify()
        assert not damage, damage
        store.close()

    def _operate(self, case: Case, folder: Path, finding: Finding) -> None:
        """Answer each question as an honest operator would, restart, and expect the campaign to end."""
        for _ in range(ROUNDS):
            if not _seen(folder)["unknown"]:
                break
            code = _child(lambda: self._answer(case, folder), folder / "error")
            if code != 0:
                finding.violations.append(f"an answer was refused: {_error(folder, code)}")
                return
            self._live(case, folder, finding)
        log = self._log(case)
        finding.executions = len(log)
        finding.violations += judge(log, _seen(folder), blind=True, last=True)

    def _answer(self, case: Case, folder: Path) -> None:
        time.sleep(DELIVERY_DELAYED_S)  # an operator looks when nothing is under way any more
        store = CampaignStore.open(folder / "c.db", create=False)
        log = self._log(case)
        kiln = KILNS[case.recovery](self._folder, case.name, 1, Network())
        description = asyncio.run(kiln.describe())
        for question in questions(store, NAME):
            attempt = store.attempt(question.attempt)
            done = [line for line in log if line["key"] == attempt.key]
            if not done:
                answer_not_started(store, attempt.id, who="Ada", reason="not in the device's log")
                continue
            values = {OUTPUTS[attempt.step]: Quantity(float(done[0]["value"]), "dimensionless")}
            capability = description.capability(attempt.step)
            answer_done(store, attempt.id, values, capability=capability, who="Ada", reason="from the device's log")
        store.close()

    # --- the judge ------------------------------------------------------------------------------------------------

    def _judge(self, case: Case, folder: Path, finding: Finding) -> None:
        seen = _seen(folder)
        log = self._log(case)
        finding.executions = len(log)
        finding.questions = len(seen["unknown"])
        blind = case.recovery == "blind"
        finding.violations += judge(log, seen, blind=blind, last=not blind)

    def _log(self, case: Case) -> list[dict[str, Any]]:
        path = self._folder / f"{case.name}.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _seen(folder: Path) -> dict[str, Any]:
    """Read what the database says, without the product's code."""
    connection = sqlite3.connect(f"file:{folder / 'c.db'}?mode=ro", uri=True)
    try:
        attempts = connection.execute("SELECT dispatch_key, state FROM attempt").fetchall()
        ended = ("RECORDED", "FAILED", "NOT_STARTED", "UNKNOWN")
        return {
            "values": [value for (value,) in connection.execute("SELECT value FROM measurement")],
            "unknown": [key for key, state in attempts if state == "UNKNOWN"],
            "other": [f"{key[:8]} {state}" for key, state in attempts if state not in ended],
            "unfinished": [
                number
                for (number,) in connection.execute(
                    "SELECT DISTINCT number FROM trial JOIN step ON step.trial_id = trial.id "
                    "WHERE step.state != 'RECORDED'"
                )
            ],
        }
    finally:
        connection.close()


def judge(log: list[dict[str, Any]], seen: dict[str, Any], *, blind: bool, last: bool) -> list[str]:
    """Compare the instrument's log with the database.

    Args:
        log: every physical execution.
        seen: measured values, keys of UNKNOWN attempts, other open attempts, unfinished trials.
        blind: whether questions are the right end.
        last: whether the campaign should have ended.

    Returns:
        Violations, one sentence each.
    """
    times = Counter(line["what"] for line in log)
    wrong = [f"repeated: {what} was carried out {n} times" for what, n in sorted(times.items()) if n > 1]
    for line in log:
        recorded = seen["values"].count(float(line["value"]))
        asked = seen["unknown"].count(line["key"])
        if recorded != 1 and not (recorded == 0 and asked == 1 and blind and not last):
            wrong.append(f"lost: {line['what']} is recorded {recorded} times, with {asked} questions")
    known = {float(line["value"]) for line in log}
    wrong += [f"invented: {value}" for value in seen["values"] if value not in known]
    if seen["unknown"] and (last or not blind):
        wrong.append(f"needless: {len(seen['unknown'])} questions although the instrument can say it")
    if len(set(seen["unknown"])) != len(seen["unknown"]):
        wrong.append("asked twice about one attempt")
    wrong += [f"left open: {what}" for what in seen["other"]]
    if seen["unfinished"] and not seen["unknown"]:
        wrong.append(f"stuck: trials {seen['unfinished']} are unfinished and nobody is asked")
    return wrong


# --- processes ------------------------------------------------------------------------------------------------------


def _child(act: Callable[[], object], error: Path | None = None) -> int:
    """Run an act in a forked process; return its exit code, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
        except BaseException:  # noqa: BLE001  the parent learns of it by the exit code
            if error is not None:
                error.write_text(traceback.format_exc())
            os._exit(1)
        os._exit(0)
    until = time.monotonic() + CHILD_S
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return HUNG


HUNG = 99
"""Exit code given to a child that had to be ended."""


def _error(folder: Path, code: int) -> str:
    path = folder / "error"
    if code == HUNG:
        return f"no end within {CHILD_S:g} s"
    return path.read_text().strip().splitlines()[-1] if path.exists() else f"exit code {code}"


def _at_passing(label: str, passing: int) -> Callable[[str], None]:
    left = [passing]

    def hook(reached: str) -> None:
        if reached == label:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


def _at_any(passing: int) -> Callable[[str], None]:
    left = [passing]

    def hook(_: str) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def cases(seeds: range, *, labels: tuple[str, ...] = LABELS, classes: tuple[str, ...] = CLASSES) -> Iterator[Case]:
    """Give every combination."""
    return (Case(label, recovery, seed) for seed in seeds for recovery in classes for label in labels)


def main() -> None:
    """Run the cases given as JSON lines on standard input, and write a finding for each to standard output."""
    folder = Path(sys.argv[1])
    with Harness(folder) as harness:
        for line in sys.stdin:
            case = Case(**json.loads(line))
            sys.stdout.write(json.dumps({"case": asdict(case), "finding": asdict(harness.run(case))}) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
