"""The command line itself: it starts fast, loads commands late, and turns errors into one readable message."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from importlib.metadata import EntryPoint

import click
import pytest
from click.testing import CliRunner

from flows import cli
from orchestrator.errors import ConfigError, Held, PluginError

HEAVY = ("torch", "prefect", "pymatgen", "sqlalchemy", "numpy", "matplotlib", "pandas", "ase")
NAMES = [name for modules in cli.SECTIONS.values() for names in modules.values() for name in names]


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["plugins", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    """Help and version must not import what takes its time: people type them most."""
    code = (
        "import sys\nfrom flows.cli import main\n"
        f"main({arguments!r}, standalone_mode=False)\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    told = _python(code)
    assert told.returncode == 0, told.stderr
    assert told.stdout.rstrip().endswith("LOADED []")


def test_help_is_there_in_a_second() -> None:
    """`matloop --help` takes under a second; the fastest of three counts, since the computer may be busy."""
    code = "from flows.cli import main\nmain(['--help'])"
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        assert _python(code).returncode == 0
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 1.0


def test_help_names_every_command_with_what_it_does() -> None:
    """The help lists each command once with a sentence that is not cut off."""
    text = CliRunner().invoke(cli.main, ["--help"], terminal_width=100).output
    for name in NAMES:
        line = next(line for line in text.splitlines() if line.split()[:1] == [name])
        assert len(line.split()) > 2
        assert not line.endswith("...")


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help(name: str) -> None:
    """Each command's own help works and has a sentence."""
    told = CliRunner().invoke(cli.main, [name, "--help"])
    assert told.exit_code == 0
    assert "Usage:" in told.output


def test_unknown_command_is_refused_with_exit_code_2() -> None:
    """A command that does not exist is a usage error."""
    told = CliRunner().invoke(cli.main, ["rnu"])
    assert told.exit_code == 2
    assert "rnu" in told.output


def _failing(error: BaseException) -> cli.LazyGroup:
    @click.group(cls=cli.LazyGroup)
    @click.option("--debug", is_flag=True)
    def group(*, debug: bool) -> None:
        del debug

    @group.command()
    def fail() -> None:
        raise error

    group.get_command = lambda _ctx, name: fail if name == "fail" else None  # type: ignore[method-assign]
    assert isinstance(group, cli.LazyGroup)
    return group


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ConfigError("budget: give one", file="a.yaml", line=3, key="budget"), 2, "a.yaml:3: budget: "),
        (PluginError("no plug-in 'poool'"), 2, "poool"),
        (Held("campaign 'x' is held by process 12"), 1, "process 12"),
        (OSError(errno.ENOSPC, "No space left on device", "/data/x.db"), 1, "free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "/data/x.db"), 1, "/data/x.db"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_are_one_message(error: BaseException, code: int, words: str) -> None:
    """An expected error becomes one message without a traceback, with 2 for wrong input and 130 for Ctrl-C."""
    told = CliRunner().invoke(_failing(error), ["fail"])
    assert told.exit_code == code
    assert words in told.stderr
    assert "Traceback" not in told.output


def test_debug_shows_the_error_itself() -> None:
    """With --debug the exception goes through, so that Python shows where it came from."""
    told = CliRunner().invoke(_failing(ConfigError("no")), ["--debug", "fail"])
    assert isinstance(told.exception, ConfigError)


def test_a_bug_is_not_disguised() -> None:
    """An error that nobody meant keeps its traceback: it is a bug to be reported."""
    told = CliRunner().invoke(_failing(ZeroDivisionError("bug")), ["fail"])
    assert isinstance(told.exception, ZeroDivisionError)


def test_commands_of_packages_are_listed_unloaded_and_refused_readably(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package's command appears in the help without being imported; one that cannot be imported says so."""
    point = EntryPoint("lims", "a_package_that_is_not_there.commands:lims", cli.GROUP)
    monkeypatch.setattr(cli, "entry_points", lambda group: [point] if group == cli.GROUP else [])
    text = CliRunner().invoke(cli.main, ["--help"]).output
    assert "lims" in text
    told = CliRunner().invoke(cli.main, ["lims"])
    assert told.exit_code == 2
    assert "a_package_that_is_not_there" in told.stderr


def test_a_package_must_bring_a_click_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point that is no click command is refused by name."""
    point = EntryPoint("odd", "json:dumps", cli.GROUP)
    monkeypatch.setattr(cli, "entry_points", lambda group: [point] if group == cli.GROUP else [])
    told = CliRunner().invoke(cli.main, ["odd"])
    assert told.exit_code == 2
    assert "click command was expected" in told.stderr
