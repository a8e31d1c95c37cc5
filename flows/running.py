"""Run a campaign in this process, with or without Prefect, and end well when the user interrupts."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from flows.beginning import refuse_by_hand
from flows.cli import INTERRUPTED
from flows.notify import told
from flows.overview import Overview
from flows.screen import Screen
from flows.session import STORE_VARIABLE, actor
from orchestrator import loop
from orchestrator.record.states import CampaignState

if TYPE_CHECKING:
    from orchestrator.campaign import Campaign

LEAVE_S = 15.0
"""How long a second Ctrl-C waits: the executor takes up to 12 s to leave its steps in a legal state."""


def wake(campaign: Campaign) -> bool:
    """Make a campaign active again where the states allow it.

    Args:
        campaign: paused, stopped or interrupted.

    Returns:
        Whether it can be run; a finished one cannot, and the user is told why and what to do.

    Raises:
        ConfigError: people measure it.
    """
    refuse_by_hand(campaign.config)
    info = campaign.info
    if info.state is CampaignState.DONE:
        click.echo(f"{info.name} is done: {info.state_reason}")
        click.echo("to go on, raise its budget or loosen its stopping rules in the file: matloop amend FILE")
        return False
    if info.state is not CampaignState.ACTIVE:
        campaign.store.set_state(info.name, CampaignState.ACTIVE, actor=actor(), reason="")
    return True


def carry_on(campaign: Campaign, *, where: str | None, plain: bool) -> None:
    """Run a campaign until it stops, showing it in the terminal, and say how it ended.

    Args:
        campaign: to be run.
        where: the store as the user named it.
        plain: without Prefect.
    """
    console = Console()
    name = campaign.name
    server = None
    if not plain:
        from flows.server import ensure_server  # noqa: PLC0415  not needed by the plain loop

        with console.status("looking for a Prefect server") as line:
            server = ensure_server(line.update)
        server.use()
        if where:
            os.environ[STORE_VARIABLE] = where  # the flow's parameters are shown on the page; an address has a password
    interrupts = Interrupts(campaign, console)
    with Screen(campaign.store, name, console) as screen:
        if server is None:
            run = partial(loop.run, campaign, hooks=screen, who=actor())
            work: Callable[[], Coroutine[Any, Any, str]] = lambda: screen.watching(told(campaign, run()))  # noqa: E731
        else:
            from flows.campaign import lent  # noqa: PLC0415  Prefect takes two seconds to import

            console.print(f"watch it: {server.ui}")
            work = lambda: screen.watching(lent(campaign, screen))  # noqa: E731  a coroutine is made inside the event loop
        reason = asyncio.run(interrupts.watch(work))
    _farewell(campaign, console, reason)
    if interrupts.count:
        sys.exit(INTERRUPTED)


def _farewell(campaign: Campaign, console: Console, reason: str) -> None:
    view = Overview.of(campaign.store, campaign.name)
    state = view.info.state.value.lower()
    said = reason if reason.startswith(state) else f"{state}: {reason}"
    console.print(f"[bold]{campaign.name}[/] {said}", soft_wrap=True)
    if view.ranked and not view.problem.learns_only:
        console.print(f"best so far: {view.ranked[0].trial.candidate.label} ({view.best_value()})")
    broken = sum(not best.feasible for best in view.ranked)
    if campaign.problem.constraints:
        console.print(
            f"{broken} of {len(view.ranked)} results break a constraint ({broken / max(1, len(view.ranked)):.0%})"
        )
    if view.info.state is CampaignState.DONE:
        console.print(f"report: matloop report {campaign.name}")
    else:
        console.print(f"go on:  matloop resume {campaign.name}")


class Interrupts:
    """Ctrl-C and SIGTERM: the first pauses the campaign, the second leaves at once.

    Args:
        campaign: that is run.
        console: where to tell the user.
    """

    def __init__(self, campaign: Campaign, console: Console) -> None:
        self.campaign = campaign
        self.console = console
        self.count = 0

    async def watch(self, work: Callable[[], Coroutine[Any, Any, str]]) -> str:
        """Await the work; return why it ended."""
        task = asyncio.ensure_future(work())
        events = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            events.add_signal_handler(number, self._interrupt, task)
        try:
            done, _ = await asyncio.wait({task})
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                events.remove_signal_handler(number)
        if task.cancelled():
            self._leave()
        return done.pop().result()

    def _interrupt(self, task: asyncio.Task[str]) -> None:
        self.count += 1
        name = self.campaign.name
        if self.count == 1:
            self.campaign.store.set_state(name, CampaignState.PAUSED, actor=actor(), reason="interrupted")
            self.console.print(
                "[yellow]pausing:[/] what runs is finished and recorded; press Ctrl-C again to leave at once"
            )
        elif self.count == 2:  # noqa: PLR2004  the second time
            self.console.print("[yellow]leaving:[/] what runs is found again when you resume")
            task.cancel()
            asyncio.get_running_loop().call_later(LEAVE_S, self._leave)
        else:
            self._leave()

    def _leave(self) -> None:
        """End the process without waiting for a training that runs on a thread; the store is safe at any moment."""
        click.echo(f"go on: matloop resume {self.campaign.name}", err=True)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)
