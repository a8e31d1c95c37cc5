"""The command that checks the record: verify."""

from __future__ import annotations

import sys

import click

from flows.session import campaign_of, opened, resolve, store_option


@click.command()
@click.argument("campaign", required=False)
@click.option("--decisions", is_flag=True, help="Also choose again for every decision, and compare; takes its time.")
@store_option
def verify(*, campaign: str | None, store: str | None, decisions: bool) -> None:
    """Check the record.

    Hashes, history, raw files and fits; exit code 1 if something is wrong.
    """
    with opened(store) as records:
        name = resolve(records, campaign) if campaign else None
        problems = records.verify(name)
        names = [name] if name else [info.name for info in records.campaigns()]
        if decisions:
            from orchestrator.decisions import verify_decisions  # noqa: PLC0415  builds the campaign's plug-ins

            for each in names:
                found = campaign_of(records, each)
                with click.progressbar(length=1, label=f"decisions of {each}", file=sys.stderr) as bar:

                    def show(done: int, total: int, bar: object = bar) -> None:
                        bar.length = total  # type: ignore[attr-defined]
                        bar.update(done - bar.pos)  # type: ignore[attr-defined]

                    problems += [f"{each}: {problem}" for problem in verify_decisions(found, progress=show)]
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        click.echo(f"{len(problems)} problem{'s' if len(problems) != 1 else ''} found", err=True)
        sys.exit(1)
    also = ", and every decision is reproduced" if decisions else ""
    click.echo(f"{', '.join(names) or 'the empty database'}: hashes, history, raw files and fits agree{also}")
