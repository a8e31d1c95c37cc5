"""The command line: `matloop --help`.

Commands live in `flows/commands_*.py` and are imported when they are called for, so that help appears at once. Other
packages add commands through the entry-point group ``matloop.commands``.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points, version
from typing import IO, Any

import click

from orchestrator.errors import (
    ConfigError,
    IncompatibleError,
    MaterialError,
    MatloopError,
    PluginError,
    SpaceError,
    UnitError,
)

GROUP = "matloop.commands"
BAD_INPUT = (ConfigError, PluginError, IncompatibleError, UnitError, MaterialError, SpaceError)
"""What the user's files can be wrong about: exit code 2, as for a wrong option. Everything else ends with 1."""

INTERRUPTED = 130
"""128 + SIGINT, as shells expect."""

SECTIONS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "Campaigns": {
        "flows.commands_run": ("run", "resume", "pause", "stop", "amend"),
        "flows.commands_look": ("status", "why", "report", "export"),
        "flows.commands_people": ("ask", "tell", "veto"),
        "flows.commands_answer": ("answer", "questions"),
        "flows.commands_service": ("service",),
    },
    "Before a campaign": {
        "flows.commands_files": ("validate", "plugins"),
        "flows.commands_forecast": ("simulate",),
        "flows.commands_replay": ("replay",),
        "flows.commands_surrogate": ("surrogate",),
    },
    "What was learned": {
        "flows.commands_predict": ("predict",),
        "flows.commands_fits": ("fits",),
        "flows.commands_explain": ("explain",),
        "flows.commands_benchmark": ("benchmark",),
    },
    "The record": {
        "flows.commands_check": ("verify",),
        "flows.commands_materials": ("samples", "resources", "refill"),
    },
    "The Prefect UI": {
        "flows.commands_server": ("up", "down"),
    },
}
"""Heading in the help → module → its commands."""


class Refusal(click.ClickException):
    """An error for people: one readable message on stderr, no traceback. The exit code is 1."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the message to stderr."""
        click.secho("error: ", fg="red", bold=True, nl=False, err=file is None, file=file)
        click.echo(self.format_message(), err=file is None, file=file)


class BadInput(Refusal):
    """A refusal because of what the user wrote; the exit code is 2."""

    exit_code = 2


class LazyGroup(click.Group):
    """A click group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """Name the commands, ours first."""
        own = [name for modules in SECTIONS.values() for names in modules.values() for name in names]
        return own + [point.name for point in _foreign() if point.name not in own]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  click's signature
        """Import the module of a command and return the command."""
        for modules in SECTIONS.values():
            for module, names in modules.items():
                if cmd_name in names:
                    command: click.Command = getattr(importlib.import_module(module), cmd_name)
                    return command
        for point in _foreign():
            if point.name == cmd_name:
                return _load(point)
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands under their headings; other packages' commands are named without importing them."""
        width = formatter.width - 6 - max(len(name) for name in self.list_commands(ctx))
        for heading, modules in SECTIONS.items():
            rows = []
            for names in modules.values():
                for name in names:
                    command = self.get_command(ctx, name)
                    if command is not None:
                        rows.append((name, command.get_short_help_str(width)))
            with formatter.section(heading):
                formatter.write_dl(rows)
        if foreign := _foreign():
            with formatter.section("From packages"):
                formatter.write_dl([(point.name, _foreign_help(point)) for point in foreign])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; an error that Matloop raises on purpose becomes one message."""
        try:
            return super().invoke(ctx)
        except MatloopError as error:
            if ctx.params.get("debug"):
                raise
            kind = BadInput if isinstance(error, BAD_INPUT) else Refusal
            raise kind(str(error)) from error
        except OSError as error:
            if ctx.params.get("debug") or error.errno in {errno.EPIPE, None}:  # click ends quietly when a pipe closes
                raise
            raise Refusal(_os_error(error)) from error
        except KeyboardInterrupt:
            click.echo("interrupted; nothing that was recorded is lost", err=True)
            ctx.exit(INTERRUPTED)


def _os_error(error: OSError) -> str:
    what = error.strerror or str(error)
    where = f": {error.filename}" if error.filename else ""
    after = {
        errno.ENOSPC: "free some space, then 'matloop resume'; what was recorded is safe",
        errno.EDQUOT: "free some space, then 'matloop resume'; what was recorded is safe",
        errno.EACCES: "check who owns the file or folder",
        errno.EROFS: "give another place with --store",
    }.get(error.errno or 0)
    return f"{what}{where}" + (f" ({after})" if after else "")


def _foreign() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda point: point.name)


def _foreign_help(point: EntryPoint) -> str:
    source = point.dist.name if point.dist else "?"
    if source == "matloop":  # our own room loads fast; a stranger's package may not, so it is only named
        try:
            return _load(point).get_short_help_str(60)
        except PluginError as error:
            return str(error)
    return f"commands of the package {source}"


def _load(point: EntryPoint) -> click.Command:
    try:
        loaded = point.load()
    except Exception as error:
        message = f"the command {point.name!r} ({point.value}) cannot be imported: {error}"
        raise PluginError(message) from error
    if not isinstance(loaded, click.Command):
        message = f"the command {point.name!r} ({point.value}) is {loaded!r}; a click command was expected"
        raise PluginError(message)
    return loaded


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(version("matloop"), prog_name="matloop")
@click.option("--debug", is_flag=True, help="Show Python's traceback with an error.")
@click.pass_context
def main(ctx: click.Context, *, debug: bool) -> None:
    """Run self-driving-lab campaigns for materials.

    \b
    matloop validate FILE      check a campaign file
    matloop run FILE           run it, watched in the Prefect UI
    matloop status             see every campaign in the database
    """  # noqa: D301  \b tells click to keep the lines
    ctx.obj = {"debug": debug}
    if "COLUMNS" not in os.environ and not ctx.terminal_width and not sys.stdout.isatty():
        os.environ["COLUMNS"] = "120"  # rich would wrap tables at 80 columns where a pipe takes them


if __name__ == "__main__":
    main()
