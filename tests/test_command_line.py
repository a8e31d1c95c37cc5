"""A program as instrument: templates, outputs, exit codes, deadlines, and what is found after a crash."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from instruments import conformance
from instruments.conformance.orders import QuietEvents
from instruments.programs import output as program_output
from instruments.programs.command_line import CommandLine, CommandLineOptions
from instruments.programs.folders import JobFolder
from instruments.programs.output import OutputOptions
from orchestrator import loop
from orchestrator.campaign import Campaign
from orchestrator.config.check import check
from orchestrator.config.read import load_campaign
from orchestrator.domain import Absent, Finished, Order, Quantity, Recovery, Running, Unsure
from orchestrator.errors import Aborted, BadData, Busy, ConfigError, Effect, Fault, NotConnected, Rejected, TimedOut
from orchestrator.record.store import CampaignStore

CAMPAIGNS = Path(__file__).parent.parent / "campaigns"
PROGRAM = textwrap.dedent(
    """
    import json, sys, pathlib
    settings = json.loads(pathlib.Path("in.json").read_text())
    assert sys.argv[1] == settings["gas"], sys.argv
    print("warming up: energy = 7")
    print("energy =", settings["temperature"] / 100)
    pathlib.Path("out.json").write_text(json.dumps({"results": [{"density": 2.5}]}))
    pathlib.Path("table.csv").write_text("step,pressure\\n1,3.0\\n2,4.5\\n")
    """
)
BASIC: dict[str, Any] = {
    "program": [sys.executable, "program.py", "${gas}"],
    "inputs": {
        "program.py": {"text": PROGRAM, "fill": False},
        "in.json": {"text": '{"temperature": ${temperature}, "gas": "${gas}"}'},
    },
    "parameters": {
        "temperature": {"unit": "kelvin", "min": 100, "max": 900},
        "gas": {"choices": ["argon", "rm -rf $HOME; echo"]},
    },
    "outputs": {
        "energy": {"unit": "eV", "regex": r"energy = (\S+)"},
        "density": {"unit": "g/cm**3", "file": "out.json", "json_path": "results.0.density"},
        "pressure": {"unit": "GPa", "file": "table.csv", "csv": "pressure"},
    },
    "attach": ["table.csv", "not_there.txt"],
    "longest_s": 30.0,
    "typical_s": 0.1,
}


def program(folder: Path, **options: Any) -> CommandLine:
    """Build the driver."""
    return CommandLine(CommandLineOptions.model_validate({**BASIC, "folder": folder, **options}))


def script(folder: Path, text: str, **options: Any) -> CommandLine:
    """Build a driver around a few lines of Python."""
    return program(
        folder,
        program=[sys.executable, "-c", textwrap.dedent(text).replace("$", "$$")],
        inputs={},
        parameters={},
        outputs={"energy": {"unit": "eV", "regex": r"energy = (\S+)"}},
        **options,
    )


def order(key: str = "k1", **changes: Any) -> Order:
    """Ask for one computation."""
    given = {"settings": {"temperature": Quantity(26.85, "degC")}, "choices": {"gas": "argon"}, **changes}
    return Order(key, "compute", **given)


def names(folder: Path) -> list[str]:
    """List what is in a folder, at any depth."""
    return [path.name for path in folder.rglob("*")]


async def appears(path: Path) -> None:
    """Wait for a file."""
    for _ in range(2000):  # a busy computer starts Python in seconds
        if path.name in names(path.parent):
            return
        await asyncio.sleep(0.02)
    pytest.fail(f"{path} did not appear")


def gone(pid: int) -> bool:
    """Say whether a process has ended, waiting a moment; a zombie has."""
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


async def test_contract(tmp_path: Path) -> None:
    """It keeps the instrument contract, up to orders that work."""
    findings = await conformance.check(program(tmp_path, slots=2), level=2)
    assert conformance.failures(findings) == []
    assert len(findings) > 30


async def test_a_program_is_filled_in_started_and_read(tmp_path: Path) -> None:
    """Set-points reach files and arguments in the declared unit; numbers come from lines, JSON and columns."""
    driver = program(tmp_path, version=[sys.executable, "--version"])
    assert (await driver.open()).firmware.startswith("Python 3")
    result = await driver.run(order(), QuietEvents())
    assert {r.property: (r.value, r.unit) for r in result.readings} == {
        "energy": (pytest.approx(3.0), "eV"),
        "density": (2.5, "g/cm**3"),
        "pressure": (4.5, "GPa"),
    }
    assert result.applied["temperature"].value == pytest.approx(300.0)
    assert result.applied_choices == {"gas": "argon"}
    assert {a.name for a in result.attachments} == {"table.csv", "stdout.txt"}


async def test_no_shell_reads_anything(tmp_path: Path) -> None:
    """A choice full of shell characters reaches the program as one argument; no other variable does."""
    text = "import os, sys; print('energy = 1'); print(sys.argv[1:], sorted(os.environ))"
    driver = program(
        tmp_path,
        program=[sys.executable, "-c", text, "${gas}"],
        inputs={},
        outputs={"energy": {"unit": "eV", "regex": r"energy = (\S+)"}},
        pass_on=["PATH"],
        environment={"SEED": "7"},
    )
    result = await driver.run(order(choices={"gas": "rm -rf $HOME; echo"}), QuietEvents())
    said = next(a.content.decode() for a in result.attachments if a.name == "stdout.txt")
    assert "['rm -rf $HOME; echo']" in said
    variables = set(said.rpartition("[")[2].strip(" ]\n").replace("'", "").split(", "))
    assert variables - {"LC_CTYPE"} == {"PATH", "SEED"}  # Python itself adds LC_CTYPE


async def test_exit_codes_mean_what_the_options_say(tmp_path: Path) -> None:
    """A listed code is the named error, any other a fault; the last lines of the program stand in the message."""
    text = "import sys; print('did not converge', file=sys.stderr); sys.exit({})"
    with pytest.raises(BadData, match="did not converge"):
        await script(tmp_path, text.format(2), exit_codes={2: "bad_data"}).run(
            order("a", settings={}, choices={}), QuietEvents()
        )
    with pytest.raises(Fault, match="ended with code 3") as seen:
        await script(tmp_path, text.format(3), exit_codes={2: "bad_data"}).run(
            order("b", settings={}, choices={}), QuietEvents()
        )
    assert seen.value.effect is Effect.DONE
    with pytest.raises(Fault) as seen:
        await script(tmp_path, text.format(3), physical=True).run(order("c", settings={}, choices={}), QuietEvents())
    assert seen.value.effect is Effect.UNKNOWN


@pytest.mark.parametrize(
    ("where", "content", "says"),
    [
        ({"regex": r"energy = (\S+)"}, "nothing", "0 values"),
        ({"regex": r"energy = (\S+)", "pick": "only"}, "energy = 1\nenergy = 2", "2 values"),
        ({"regex": r"energy = (\S+)"}, "energy = ****", "no number"),
        ({"regex": r"energy = (\S+)"}, "energy = nan", "finite"),
        ({"json_path": "a.1"}, '{"a": [1]}', "nothing at"),
        ({"json_path": "a"}, '{"a": true}', "no number"),
        ({"json_path": "a"}, "{", "nothing at"),
        ({"csv": "x"}, "y\n1\n", "0 values"),
    ],
)
def test_what_is_no_number_is_bad_data(where: dict[str, Any], content: str, says: str) -> None:
    """Nothing is guessed: a missing, doubled, unreadable or infinite number is an error with its place."""
    with pytest.raises(BadData, match=says):
        program_output.number("energy", OutputOptions.model_validate(where), lambda _: content.encode())


def test_fortran_numbers_are_read() -> None:
    """Fortran writes its exponents with a D."""
    where = OutputOptions.model_validate({"regex": r"E=(\S+)", "pick": "first"})
    assert program_output.number("e", where, lambda _: b"E=-1.25D+02\nE=9") == -125.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"program": []},
        {"program": ["echo", "${pressure}"]},
        {"program": ["echo", "$"]},
        {"inputs": {"../x": {"text": "a"}}},
        {"inputs": {"x": {}}},
        {"outputs": {"e": {"regex": "x"}}},
        {"outputs": {"e": {"regex": "(x", "unit": "eV"}}},
        {"outputs": {"e": {"json_path": "a", "csv": "b"}}},
        {"parameters": {"temperature": {"min": 0, "max": 1, "write": "s"}}},
        {"shell": True},
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """A wrong option fails before anything is started."""
    with pytest.raises(ValidationError):
        program(tmp_path, **wrong)


async def test_a_program_that_is_not_there_is_not_connected(tmp_path: Path) -> None:
    """Nothing was started, so the effect is none."""
    with pytest.raises(NotConnected, match="not found") as seen:
        await program(tmp_path, program=["no-such-program-anywhere"]).open()
    assert seen.value.effect is Effect.NONE


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", deaf])
open("pids.part", "w").write(f"{os.getpid()} {child.pid}")
os.rename("pids.part", "pids")
time.sleep(60)
"""


async def test_a_deadline_ends_the_whole_group(tmp_path: Path) -> None:
    """A program that ignores SIGTERM, and what it started, are gone when the order ends as timed out."""
    driver = script(tmp_path, STUBBORN, longest_s=2.0, grace_s=0.1)
    with pytest.raises(TimedOut) as seen:
        await driver.run(order(settings={}, choices={}), QuietEvents())
    assert seen.value.effect is Effect.STARTED
    assert all(gone(int(pid)) for pid in (tmp_path / "k1/work/pids").read_text().split())
    await driver.close()


async def test_an_abort_ends_the_program(tmp_path: Path) -> None:
    """Within a second or two, and the slot is free again."""
    driver = script(tmp_path, STUBBORN, grace_s=0.1)
    job = asyncio.create_task(driver.run(order(settings={}, choices={}), QuietEvents()))
    await appears(tmp_path / "k1/work/pids")
    assert (await driver.health()).state == "busy"
    with pytest.raises(Busy):
        await driver.run(order("k2", settings={}, choices={}), QuietEvents())
    await driver.abort("enough")
    with pytest.raises(Aborted):
        await asyncio.wait_for(job, 5)
    assert all(gone(int(pid)) for pid in (tmp_path / "k1/work/pids").read_text().split())
    assert (await driver.health()).state == "ready"


async def test_the_same_key_is_computed_once(tmp_path: Path) -> None:
    """Sending an order again gives the result that is there; a driver built later finds it too."""
    text = "open('../../count', 'a').write('x'); print('energy = 4')"
    first = await script(tmp_path, text).run(order(settings={}, choices={}), QuietEvents())
    later = script(tmp_path, text)
    assert (await later.run(order(settings={}, choices={}), QuietEvents())).readings == first.readings
    where = await later.lookup("k1", None)
    assert isinstance(where, Finished)
    assert where.result.readings == first.readings
    assert isinstance(await later.lookup("k2", None), Absent)
    assert (tmp_path / "count").read_text() == "x"


async def test_two_drivers_start_one_program(tmp_path: Path) -> None:
    """The mark is made by one runner only; both drivers get its result."""
    text = "import time; open('../../count', 'a').write('x'); time.sleep(0.3); print('energy = 4')"
    one, two = script(tmp_path, text), script(tmp_path, text)
    results = await asyncio.gather(
        *(driver.run(order(settings={}, choices={}), QuietEvents()) for driver in (one, two))
    )
    assert results[0].readings == results[1].readings
    assert (tmp_path / "count").read_text() == "x"


CAMPAIGN = """
import asyncio, sys
from instruments.programs.command_line import CommandLine, CommandLineOptions
from instruments.conformance.orders import QuietEvents
from orchestrator.domain import Order
text = "import time; open('../../count', 'a').write('x'); time.sleep(1.5); print('energy = 4')"
options = {
    "folder": sys.argv[1],
    "program": [sys.executable, "-c", text],
    "outputs": {"energy": {"unit": "eV", "regex": r"energy = (\\S+)"}},
    "physical": True,
}
driver = CommandLine(CommandLineOptions.model_validate(options))
asyncio.run(driver.run(Order("k1", "compute"), QuietEvents()))
"""


def campaign_in(folder: Path) -> subprocess.Popen[bytes]:
    """Start a campaign of one order in a process of its own."""
    return subprocess.Popen([sys.executable, "-c", CAMPAIGN, str(folder)], cwd=Path(__file__).parent.parent)


async def test_a_job_outlives_the_campaign(tmp_path: Path) -> None:
    """After SIGKILL of the campaign the program goes on; its job is found running, waited for, and read once."""
    campaign = campaign_in(tmp_path)
    try:
        await appears(tmp_path / "count")
    finally:
        campaign.send_signal(signal.SIGKILL)
        campaign.wait()
    driver = script(tmp_path, "raise SystemExit('must not be started')", physical=True)
    where = await driver.lookup("k1", None)
    assert isinstance(where, Running)
    result = await driver.attach(where.handle, QuietEvents())
    assert result.readings[0].value == 4.0
    assert isinstance(await driver.lookup("k1", None), Finished)
    assert (tmp_path / "count").read_text() == "x"


async def test_an_attached_job_can_be_aborted(tmp_path: Path) -> None:
    """The runner of another process hears the abort too."""
    first = script(tmp_path, STUBBORN, grace_s=0.1)
    job = asyncio.create_task(first.run(order(settings={}, choices={}), QuietEvents()))
    await appears(tmp_path / "k1/work/pids")
    second = script(tmp_path, STUBBORN, grace_s=0.1)
    attached = asyncio.create_task(second.attach({"key": "k1"}, QuietEvents()))
    await asyncio.sleep(0.1)
    await second.abort("enough")
    with pytest.raises(Aborted):
        await asyncio.wait_for(attached, 5)
    with pytest.raises(Aborted):
        await asyncio.wait_for(job, 5)


async def test_a_job_that_was_cut_off(tmp_path: Path) -> None:
    """A computation is done anew under the same key; of a physical act nobody knows."""
    for physical in (False, True):
        folder = JobFolder(tmp_path, f"cut{physical}")
        folder.work.mkdir(parents=True)
        (folder.path / "started.json").write_text(json.dumps({"runner": 1, "host": os.uname().nodename}))
        driver = script(tmp_path, "print('energy = 5')", physical=physical)
        assert isinstance(await driver.lookup(f"cut{physical}", None), Unsure)
        job = driver.run(order(f"cut{physical}", settings={}, choices={}), QuietEvents())
        if physical:
            with pytest.raises(Fault, match="cut off"):
                await job
        else:
            assert (await job).readings[0].value == 5.0
    assert driver.description().recovery is Recovery.QUERYABLE


@pytest.mark.parametrize("key", ["../outside", "a/b", "", ".", "..", "a\0b", "x" * 200])
async def test_a_key_is_never_a_path(tmp_path: Path, key: str) -> None:
    """Keys that are no file name are refused before anything is written."""
    with pytest.raises(Rejected, match="no folder name"):
        await script(tmp_path / "jobs", "print('energy = 5')").run(order(key, settings={}, choices={}), QuietEvents())
    assert names(tmp_path) == ["jobs"]


async def test_what_is_no_plain_file_is_not_read(tmp_path: Path) -> None:
    """Neither a folder nor a pipe, which would hold the reader for ever."""
    for number, text in enumerate(("import os; os.mkdir('out')", "import os; os.mkfifo('out')")):
        driver = script(tmp_path, f"{text}; print('energy = 1')", attach=["out"])
        with pytest.raises(Fault, match="plain file"):
            await driver.run(order(f"k{number}", settings={}, choices={}), QuietEvents())


async def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A program cannot have a file attached that lies elsewhere."""
    secret = tmp_path / "secret"
    secret.write_text("energy = 1")
    driver = script(
        tmp_path / "jobs", f"import os; os.symlink({str(secret)!r}, 'out'); print('energy = 1')", attach=["out"]
    )
    with pytest.raises(Fault, match="plain file"):
        await driver.run(order(settings={}, choices={}), QuietEvents())


def test_the_example_runs(tmp_path: Path) -> None:
    """A whole campaign over a program finds the optimum that is written in it: 850 degC, some twenty minutes."""
    store = CampaignStore.open(tmp_path / "store.db")
    campaign = Campaign.create(
        CAMPAIGNS / "command_line.yaml", lab=CAMPAIGNS / "lab_command_line.yaml", store=store, actor="test"
    )
    assert "budget" in asyncio.run(loop.run(campaign))
    best = campaign.best(1)[0]
    assert best.values["hardness"] > 8.5
    assert len(store.trials("command-line")) == 12


def test_a_campaign_file_brings_no_program(tmp_path: Path) -> None:
    """The same options in a campaign file are refused, also inside another instrument."""
    text = (CAMPAIGNS / "command_line.yaml").read_text()
    options = "{program: [awk, '1'], outputs: {hardness: {unit: GPa, regex: '(x)'}}}"
    inner = f"{{use: command_line, options: {options}}}"
    for use in (inner, f"{{use: simulated, options: {{instrument: {inner}}}}}"):
        file = tmp_path / "c.yaml"
        file.write_text(text.replace("procedure:", f"instruments: {{quench: {use}}}\nprocedure:"))
        with pytest.raises(ConfigError, match="lab file only"):
            check(load_campaign(file))
