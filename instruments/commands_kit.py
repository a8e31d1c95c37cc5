"""`matloop instrument check | new | chaos`: the tools of driver authors.

Only click is imported here, so that help appears at once; everything else inside the commands.
"""

# ruff: noqa: PLC0415  the command line's help must not wait for numpy and pydantic

from __future__ import annotations

import asyncio
import json
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from instruments.conformance import Accidents, Finding, Report
    from instruments.conformance.orders import Window
    from instruments.simulated.wire import Chaos
    from orchestrator.domain import Description
    from orchestrator.protocols import Instrument

MARKS = {True: "ok  ", False: "FAIL", None: "skip"}
WINDOW = re.compile(
    r"^\s*(?P<name>[A-Za-z_]\w*)\s*=\s*(?P<low>[-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*\.\.\s*"
    r"(?P<high>[-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(?P<unit>.*?)\s*$"
)


@click.command()
@click.argument("name", required=False)
@click.option("--options", default="{}", help="The driver's options as JSON, or @FILE.")
@click.option(
    "--level", type=click.IntRange(0, 3), default=1, show_default=True, help="0 static, 1 link, 2 work, 3 accidents."
)
@click.option("--window", "windows", multiple=True, metavar="NAME=LOW..HIGH UNIT", help="What good orders may set.")
@click.option("--dead", default="", metavar="OPTIONS", help="Options as JSON with an address where nobody answers.")
@click.option("--yes", default="", metavar="NAME", help="Allow orders to this real instrument, without being asked.")
@click.option("--json", "target", type=click.Path(dir_okay=False), help="Write a report as JSON; '-' for the screen.")
@click.option("--all", "everything", is_flag=True, help="Show what passed, too.")
@click.option("--rules", is_flag=True, help="List the rules and the mistakes that they catch; check nothing.")
@click.option("--orders", default=200, show_default=True, help="Level 3: orders in a row.")
@click.option("--pid", default=0, help="Level 3: process of the device, to freeze and kill.")
@click.option("--restart-command", default="", help="Level 3: starts the device again, at the same address.")
@click.option("--wire", default="", metavar="HOST:PORT", help="Level 3: the device, to spoil its replies on the way.")
def check(*, name: str | None, options: str, level: int, target: str | None, **given: Any) -> None:
    """Check that a driver keeps the instrument contract.

    NAME is a name of 'matloop instrument list' or package.module:Class; modules of the current folder are found.
    Level 1 opens the link and sends orders that must be refused; level 2 sends orders from the middle and the edges of
    the bounds; level 3 makes accidents. A driver that does not refuse carries an order out, so real instruments get
    none before you typed their name (or gave it with --yes), and from level 2 on only inside a --window.
    """
    from instruments import conformance

    if given["rules"]:
        for rule in conformance.RULES.values():
            click.echo(f"{rule.level:d}  {rule.name}: {rule.catches}")
        return
    if not name:
        message = "name a driver; 'matloop instrument list' shows those that are installed"
        raise click.UsageError(message)
    driver = build(name, options)
    window = parse_windows(given["windows"])
    send = allowed(name, driver, level, window, given["yes"])
    report = asyncio.run(
        conformance.examine(
            driver,
            level=level,
            send=send,
            window=window,
            dead=build(name, given["dead"]) if given["dead"] else None,
            accidents=_accidents(name, options, given),
        )
    )
    _tell(name, report, target, everything=given["everything"])
    sys.exit(0 if report.passed else 1)


@click.command()
@click.option("--to", required=True, metavar="HOST:PORT", help="The device.")
@click.option("--listen", default=0, show_default=True, help="Port on 127.0.0.1 to listen on; 0 takes a free one.")
@click.option("--faults", default="", help="Comma-separated; default: all of them.")
@click.option("--rate", default=0.02, show_default=True, help="Probability that a reply meets a fault.")
@click.option("--seed", default=0, show_default=True, help="Fixes which replies meet which fault.")
@click.option("--delay", default=0.3, show_default=True, help="Seconds that a delayed reply is late.")
@click.option("--freeze", default=1.0, show_default=True, help="Seconds that a frozen line stands still.")
@click.option("--grace", default=0, show_default=True, help="So many replies pass first, such as a handshake's.")
def chaos(
    *, to: str, listen: int, faults: str, rate: float, seed: int, delay: float, freeze: float, grace: int
) -> None:
    """Stand between an adapter and a TCP device, and spoil replies.

    Prints READY and the port. The faults are: delay, trickle, half, duplicate, flip, drop, cut, freeze. Ctrl-C ends it.
    """
    from instruments.simulated.wire import FAULTS, Chaos

    host, _, port = to.rpartition(":")
    if not (host and port.isdigit()):
        message = f"--to is {to!r}; write HOST:PORT, such as 127.0.0.1:5025"
        raise click.UsageError(message)
    chosen = [name.strip() for name in faults.split(",") if name.strip()] or list(FAULTS)
    try:
        proxy = Chaos(
            host,
            int(port),
            faults=chosen,  # type: ignore[arg-type]  # Chaos refuses a wrong name, and says which there are
            rate=rate,
            seed=seed,
            delay_s=delay,
            freeze_s=freeze,
            grace=grace,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(proxy, listen))
    click.echo(f"{proxy.replies} replies, {len(proxy.injected)} spoiled")


async def _serve(proxy: Chaos, listen: int) -> None:
    click.echo(f"READY {await proxy.start(listen)}")
    await proxy.serve_forever()


@click.command()
@click.argument("name")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="To make; default: NAME-driver here.")
def new(name: str, folder: Path | None) -> None:
    """Write a driver package to begin with.

    Driver, simulator, and a test of the contract that passes as written. The package is called NAME-driver.
    """
    from instruments.conformance import new_driver
    from orchestrator.errors import PluginError

    where = folder or Path(f"{name.replace('_', '-')}-driver")
    try:
        written = new_driver.write(name, where)
    except PluginError as error:
        raise click.UsageError(str(error)) from error
    for path in written:
        click.echo(path)
    click.echo(f"next: cd {where} && pip install -e '.[dev]' && pytest")


TOOLS = (check, new, chaos)


def build(name: str, options: str) -> Instrument:
    """Build a driver from what the command line says.

    Args:
        name: of an installed driver, or ``package.module:Class``.
        options: JSON, or ``@FILE``.
    """
    from orchestrator import plugins

    text = Path(options[1:]).read_text(encoding="utf-8") if options.startswith("@") else options
    try:
        content = json.loads(text)
    except ValueError as error:
        message = f"--options is no JSON: {error}; write such as '{{\"port\": 5025}}'"
        raise click.UsageError(message) from error
    module = name.partition(":")[0]
    if ":" in name and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # the author runs this beside the driver that is being written
    driver: Instrument = plugins.build("instruments", name, content, base=str(Path.cwd()), allowed_modules=[module])
    return driver


def parse_windows(texts: Sequence[str]) -> Window:
    """Read windows such as ``temperature=25..40degC``.

    Args:
        texts: of the command line.

    Returns:
        Parameter → lowest and highest value.
    """
    from orchestrator.domain import Quantity
    from orchestrator.errors import UnitError
    from orchestrator.units import check_unit

    window = {}
    for text in texts:
        found = WINDOW.match(text)
        try:
            if found is None or not float(found["low"]) < float(found["high"]):
                message = f"{text!r} is no window; write NAME=LOW..HIGH UNIT, such as 'temperature=25..40degC'"
                raise click.UsageError(message)
            unit = check_unit(found["unit"] or "dimensionless")
            window[found["name"]] = (Quantity(float(found["low"]), unit), Quantity(float(found["high"]), unit))
        except (ValueError, UnitError) as error:
            message = f"--window {text!r}: {error}"
            raise click.UsageError(message) from error
    return window


def allowed(name: str, driver: Instrument, level: int, window: Window, yes: str, *, ask: bool = True) -> bool:
    """Say whether orders may be sent; ask the person where a real instrument is to work.

    Args:
        name: of the driver, as it was given.
        driver: built.
        level: of the checks.
        window: what may be set.
        yes: the name, where the person gave it beforehand.
        ask: whether there is a person to ask.
    """
    from instruments.conformance import Level

    if level < Level.PASSIVE:
        return False
    try:
        described = asyncio.run(driver.describe())
    except Exception:  # noqa: BLE001  a driver may raise anything; level 0 reports it
        return False
    _check_window(described, window)
    if described.simulated:
        return True
    if yes and yes != name:
        message = f"--yes says {yes!r}, and the instrument is {name!r}; give its name to allow orders to it"
        raise click.UsageError(message)
    if level < Level.ACTIVE:
        return bool(yes)
    free = {p.name: p for c in described.capabilities for p in c.parameters if not p.choices and p.name not in window}
    if free:
        asked = " ".join(f"--window '{one}={p.low:g}..{p.high:g}{p.unit}'" for one, p in sorted(free.items()))
        message = f"{name} is real and would move: say how far, within its bounds or narrower: {asked}"
        raise click.UsageError(message)
    if not yes and not ask:
        message = f"{name} is real and would move; allow it with its name"
        raise click.UsageError(message)
    if not yes and click.prompt(f"{name} is real and will move. Stand beside it and type its name") != name:
        message = "that is not its name; nothing was sent"
        raise click.UsageError(message)
    return True


def _check_window(described: Description, window: Window) -> None:
    from orchestrator.errors import UnitError
    from orchestrator.units import convert

    bounds = {p.name: p for c in described.capabilities for p in c.parameters if not p.choices}
    for name, edges in window.items():
        if name not in bounds:
            message = f"--window names {name!r}; the numbers to set are: {', '.join(bounds) or 'none'}"
            raise click.UsageError(message)
        p = bounds[name]
        try:
            low, high = (convert(edge.value, edge.unit, p.unit) for edge in edges)
        except UnitError as error:
            message = f"--window {name}: {error}"
            raise click.UsageError(message) from error
        if p.low is None or p.high is None or low < p.low or high > p.high:
            message = f"--window {name} goes from {low:g} to {high:g} {p.unit}; {p.low} to {p.high} is declared"
            raise click.UsageError(message)


def _accidents(name: str, options: str, given: dict[str, Any]) -> Accidents:
    from instruments.conformance import Accidents

    if given["restart_command"] and not given["pid"]:
        message = "--restart-command needs --pid: the process that is killed before"
        raise click.UsageError(message)
    device, through = None, None
    if given["wire"]:
        host, _, port = given["wire"].rpartition(":")
        if not (host and port.isdigit() and re.search(rf"\b{port}\b", options)):
            message = f"--wire is {given['wire']!r}; write HOST:PORT of the device, with the port that --options names"
            raise click.UsageError(message)
        device, through = (host, int(port)), _at_port(name, options, port)
    return Accidents(
        orders=given["orders"], pid=given["pid"], restart=given["restart_command"], device=device, through=through
    )


def _at_port(name: str, options: str, port: str) -> Callable[[int], Instrument]:
    return lambda other: build(name, re.sub(rf"\b{port}\b", str(other), options))


def _tell(name: str, report: Report, target: str | None, *, everything: bool) -> None:
    if target:
        text = json.dumps({"name": name, **report.to_json()}, indent=2, ensure_ascii=False)
        if target == "-":
            click.echo(text)
            return
        Path(target).write_text(text + "\n", encoding="utf-8")
    _show(report.findings, everything=everything)
    failed = sum(finding.passed is False for finding in report.findings)
    skipped = sum(finding.passed is None for finding in report.findings)
    tried = len(report.findings) - skipped
    click.echo(f"{tried} checks in {report.seconds:.1f} s, {failed} failed, {skipped} not tried")


def _show(findings: Sequence[Finding], *, everything: bool) -> None:
    for finding in findings:
        if everything or not finding.passed:
            detail = f": {finding.detail}" if finding.detail else ""
            click.echo(f"{MARKS[finding.passed]}  {finding.check}{detail}")
