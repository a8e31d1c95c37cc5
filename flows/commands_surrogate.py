"""`matloop surrogate list|check`: for whoever writes a surrogate."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

MARKS = {True: "ok  ", False: "FAIL", None: "skip"}


@click.group()
def surrogate() -> None:
    """List surrogates, and check that one keeps the contract."""


@surrogate.command("list")
def list_() -> None:
    """List the surrogates that are installed."""
    from orchestrator import plugins  # noqa: PLC0415  pydantic is not needed by --help

    listings = plugins.available("surrogates").values()
    width = max((len(one.name) for one in listings), default=0)
    for one in listings:
        click.echo(f"{one.name:<{width}}  {one.distribution} {one.version}  {one.path}")


@surrogate.command()
@click.argument("name")
@click.option("--options", default="{}", help="The surrogate's options as JSON, or @FILE; quick ones are best.")
@click.option(
    "--reads",
    type=click.Choice(["structure", "composition", "parameters"]),
    help="What the made-up candidates carry; default: the first that the surrogate reads.",
)
@click.option("--json", "as_json", is_flag=True, help="Write the findings as JSON.")
@click.option("--all", "everything", is_flag=True, help="Show what passed, too.")
def check(name: str, *, options: str, reads: str | None, as_json: bool, everything: bool) -> None:
    """Check that a surrogate keeps the contract.

    NAME is a name of 'matloop surrogate list' or package.module:Class; modules of the current folder are found. It is
    trained several times on a dozen made-up materials.
    """
    from orchestrator import plugins  # noqa: PLC0415  pydantic is not needed by --help

    text = Path(options[1:]).read_text(encoding="utf-8") if options.startswith("@") else options
    try:
        content = json.loads(text)
    except ValueError as error:
        message = f"--options is no JSON: {error}; write such as '{{\"epochs\": 2}}'"
        raise click.UsageError(message) from error
    if ":" in name:
        sys.path.insert(0, str(Path.cwd()))  # the author runs this beside the surrogate that is being written
    allowed = [name.partition(":")[0]]
    findings = plugins.conformance("surrogates")(
        lambda: plugins.build("surrogates", name, content, base=str(Path.cwd()), allowed_modules=allowed),
        reads=reads,
    )
    failed = [finding for finding in findings if finding.passed is False]
    if as_json:
        rows = [{"check": f.check, "passed": f.passed, "detail": f.detail} for f in findings]
        report = {"surrogate": name, "passed": not failed, "findings": rows}
        click.echo(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        for finding in findings:
            if everything or not finding.passed:
                detail = f": {finding.detail}" if finding.detail else ""
                click.echo(f"{MARKS[finding.passed]}  {finding.check}{detail}")
        skipped = sum(finding.passed is None for finding in findings)
        click.echo(f"{len(findings) - skipped} checks, {len(failed)} failed, {skipped} not tried")
    sys.exit(1 if failed else 0)
