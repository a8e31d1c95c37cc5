"""`matloop instrument …`: list and check drivers; see and answer the task cards of people.

Only click is imported here, so that help appears at once; everything else inside the commands.
"""

# ruff: noqa: PLC0415  the command line's help must not wait for numpy and pydantic

from __future__ import annotations

import os
import re
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from instruments import commands_kit
from instruments.scpi import commands as scpi_commands

FOLDER = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the task cards; default: in Matloop's data folder.",
)
VALUE = re.compile(r"^\s*(?P<name>[A-Za-z]\w*)\s*=\s*(?P<number>[-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(?P<unit>.*?)\s*$")


@click.group()
def instrument() -> None:
    """List and check instrument drivers; answer tasks for people."""


for tool in commands_kit.TOOLS:
    instrument.add_command(tool)
instrument.add_command(scpi_commands.serve)


@instrument.command("list")
def list_() -> None:
    """List the instrument drivers that are installed."""
    from orchestrator import plugins

    listings = plugins.available("instruments").values()
    width = max((len(one.name) for one in listings), default=0)
    for one in listings:
        click.echo(f"{one.name:<{width}}  {one.distribution} {one.version}  {one.path}")


@instrument.command()
@FOLDER
def tasks(folder: Path | None) -> None:
    """Show the task cards that wait for a person."""
    from instruments.people import tasks as cards

    where = folder or cards.default_folder()
    waiting = cards.waiting(where)
    if not waiting:
        click.echo(f"no task waits in {where}")
    for card in waiting:
        _show_card(card)


@instrument.command()
@click.argument("key")
@click.argument("values", nargs=-1)
@click.option(
    "--by", default=lambda: os.environ.get("MATLOOP_OPERATOR", ""), help="Who measured; or $MATLOOP_OPERATOR."
)
@click.option(
    "--error", "errors", multiple=True, metavar="PROPERTY=NUMBER", help="Standard error, in the value's unit."
)
@click.option("--applied", multiple=True, metavar="NAME=NUMBER UNIT", help="A setting that was other than asked.")
@click.option("--at", default="", help="When it was measured, such as 2026-05-01T14:30:00+02:00; default: now.")
@click.option("--notes", default="", help="What is worth keeping.")
@click.option("--failed", default="", help="The work was done and gave no result: why.")
@click.option("--not-started", default="", help="The work was not begun: why.")
@FOLDER
def answer(key: str, values: tuple[str, ...], folder: Path | None, **given: Any) -> None:
    """Answer a task card.

    KEY is the beginning of the card's key; VALUES are like "strength=12.3 MPa". What is missing is asked for.
    """
    from instruments.people import tasks as cards

    where = folder or cards.default_folder()
    try:
        card = cards.find(where, key)
        content = _answer(card, values, given)
        path = cards.answer(where, content)
    except cards.AnswerError as error:
        raise click.UsageError(str(error)) from error
    click.echo(f"taken: {path}")


def _show_card(card: dict[str, Any]) -> None:
    click.secho(f"{card['key'][:12]}  {card['task']}  {card['label']}", bold=True)
    for line in (card["instructions"], f"sample {card['sample']}" if card["sample"] else ""):
        if line:
            click.echo(f"  {line}")
    for name, quantity in card["settings"].items():
        click.echo(f"  set {name} to {quantity['value']:g} {quantity['unit']}")
    for name, choice in card["choices"].items():
        click.echo(f"  set {name} to {choice}")
    wanted = " ".join(f'"{name}=… {unit}"' for name, unit in card["answer_with"].items())
    click.echo(f"  answer with: matloop instrument answer {card['key'][:12]} {wanted} --by NAME")


def _answer(card: dict[str, Any], values: tuple[str, ...], given: dict[str, Any]) -> dict[str, Any]:
    ask = sys.stdin.isatty()
    content: dict[str, Any] = {
        "key": card["key"],
        "by": given["by"] or (click.prompt("Who measured") if ask else ""),
        "at": given["at"] or datetime.now().astimezone().isoformat(timespec="seconds"),
        "notes": given["notes"],
        "failed": given["failed"],
        "not_started": given["not_started"],
        "applied": dict(map(_value, given["applied"])),
        "values": dict(map(_value, values)),
    }
    if ask and not (given["failed"] or given["not_started"]):
        for name, unit in card["answer_with"].items():
            if name not in content["values"]:
                content["values"].update([_value(f"{name}={click.prompt(f'{name}, with its unit ({unit})')}")])
    for text in given["errors"]:
        name, quantity = _value(text)
        if name not in content["values"]:
            message = f"--error names {name!r}, which is none of the values: {', '.join(content['values'])}"
            raise click.UsageError(message)
        content["values"][name]["std_error"] = quantity["value"]
    return content


def _value(text: str) -> tuple[str, dict[str, Any]]:
    found = VALUE.match(text)
    if found is None:
        message = f"{text!r} is no value; write the name, a number and the unit, such as 'strength=12.3 MPa'"
        raise click.UsageError(message)
    try:
        number = float(found["number"])
    except ValueError as error:
        message = f"{found['number']!r} in {text!r} is no number"
        raise click.UsageError(message) from error
    return found["name"], {"value": number, "unit": found["unit"]}
