"""What the terminal shows: a list of campaigns, one campaign, a campaign while it runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flows.answering import Desk, Open, waiting
from flows.overview import Overview, ago, number
from orchestrator.record.states import CampaignState, TrialState

if TYPE_CHECKING:
    from orchestrator.campaign import Campaign, Plan
    from orchestrator.record.store import CampaignStore
    from orchestrator.record.views import FitInfo, TrialInfo

COLOURS = {
    CampaignState.ACTIVE: "green",
    CampaignState.PAUSED: "yellow",
    CampaignState.STOPPED: "red",
    CampaignState.DONE: "cyan",
    TrialState.COMPLETED: "green",
    TrialState.FAILED: "red",
    TrialState.ABANDONED: "yellow",
    TrialState.RUNNING: "cyan",
    TrialState.PLANNED: "dim",
}
COUNTS = frozenset({"held_out"})
"""Metrics that say how many, not how good."""

LEADING = frozenset({"mae", "nll", "r2"})
"""Metrics that are named first; the store sorts them by name."""

METRICS = 3
"""Named in one line; the report has all of them."""

FRONT = 4
"""Candidates of the front in one line; the table marks more of them."""

LOOK_S = 2.0
"""How often a running campaign is looked at for what people are asked."""

T = TypeVar("T")

SHOWN = 8
"""Best candidates in the terminal; `matloop export` and the report have all of them."""


def campaigns_table(overviews: Sequence[Overview]) -> Table:
    """Lay out all campaigns, one line each."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("campaign", "state", "used", "best so far", "goal", "begun"):
        table.add_column(title)
    for view in overviews:
        state = view.info.state
        table.add_row(
            view.info.name,
            Text(state.value.lower(), style=COLOURS[state]),
            view.budget(),
            view.best_value(),
            view.goals(),
            ago(view.info.created_at),
        )
    return table


def campaign_view(view: Overview, *, doing: str = "") -> RenderableType:
    """Lay out one campaign.

    Args:
        view: as read from the store.
        doing: what happens at this moment, where it is known.
    """
    info = view.info
    head = Text.assemble(
        (info.name, "bold"),
        "  ",
        (info.state.value.lower(), COLOURS[info.state]),
        f" ({info.state_reason})" if info.state_reason else "",
        (f"  {doing}", "cyan") if doing else "",
    )
    parts: list[RenderableType] = [head, Text(view.goals(), style="dim"), _budget_line(view), _counts_line(view)]
    if len(view.problem.fidelities) > 1:
        parts.append(_levels_line(view))
    if view.in_flight:
        running = "; ".join(f"{t.number} {t.candidate.label} ({_step(t)})" for t in view.in_flight)
        parts.append(Text.assemble(("running   ", "dim"), running))
    if view.waiting and view.in_flight:
        waiting = "; ".join(f"{t.number} {t.candidate.label}" for t in view.waiting[:SHOWN])
        parts.append(Text.assemble(("waiting   ", "dim"), waiting))
    if view.decision is not None:
        parts.append(Text.assemble(("decided   ", "dim"), _decision_line(view)))
    if view.fits:
        parts.append(Text.assemble(("learned   ", "dim"), fit_line(view.fits[-1])))
    parts.extend(Text.assemble(("predicted ", "dim"), line) for line in view.trust)
    parts.extend(Text.assemble(("predicted ", "dim"), (alarm, "yellow")) for alarm in view.alarms)
    parts.extend(Text.assemble(("question  ", "bold red"), str(question)) for question in view.questions)
    if view.front:
        parts.append(_front_line(view))
    if view.ranked:
        parts.append(_best_table(view))
    return Group(*parts)


def _budget_line(view: Overview) -> RenderableType:
    line = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=1.0, completed=view.fraction, width=30) if view.fraction is not None else Text("")
    line.add_row(Text("budget   ", style="dim"), bar, view.budget())
    return line


def _counts_line(view: Overview) -> Text:
    counts = view.counts
    shown = [(f"{counts[state]} {state.value.lower()}", COLOURS[state]) for state in TrialState if counts[state]]
    line = Text("trials    ", style="dim")
    for i, (text, colour) in enumerate(shown):
        line.append(", " if i else "", style="default")
        line.append(text, style=colour)
    if not shown:
        line.append("none yet")
    if view.withdrawn:
        line.append(f" ({view.withdrawn} more were withdrawn for better ones)", style="dim")
    return line


def _front_line(view: Overview) -> Text:
    names = "; ".join(best.trial.candidate.label for best in view.front[:FRONT])
    more = f" and {len(view.front) - FRONT} more" if len(view.front) > FRONT else ""
    said = f"{len(view.front)} candidates that nothing dominates, hypervolume {number(view.hypervolume)}: {names}{more}"
    return Text.assemble(("front     ", "dim"), said)


def _levels_line(view: Overview) -> Text:
    parts = []
    for level in view.problem.fidelities:
        trials = [t for t in view.trials if t.fidelity == level.name and t.state is TrialState.COMPLETED]
        parts.append(f"{len(trials)} at {level.name} (cost {sum(s.cost for t in trials for s in t.steps):g})")
    return Text.assemble(("fidelity  ", "dim"), ", ".join(parts))


def _step(trial: TrialInfo) -> str:
    now = next((s for s in trial.steps if s.state.value in {"OPEN", "CLAIMED", "PLANNED"}), None)
    return f"{now.name} on {now.instrument}" if now else trial.state.value.lower()


def _decision_line(view: Overview) -> str:
    decision = view.decision
    if decision is None:
        return "nothing yet"
    names = "; ".join(proposal.candidate.label for proposal in decision.proposals[:4])
    more = "" if len(decision.proposals) <= 4 else f" and {len(decision.proposals) - 4} more"  # noqa: PLR2004  of names
    return f"number {decision.number} by {decision.policy}, {ago(decision.made_at)}: {names}{more}"


def fit_line(fit: FitInfo) -> str:
    """Write what the last training gave."""
    parts = []
    for name, metrics in fit.report.metrics.items():
        keys = sorted((key for key in metrics if key not in COUNTS), key=lambda key: (key not in LEADING, key))
        shown = [f"{key.replace('_', ' ')} {metrics[key]:.3g}" for key in keys]
        parts.append(f"{name}: {', '.join(shown[:METRICS])}")
    about = f" ({'; '.join(parts)})" if parts else ""
    lost = "" if fit.report.promoted else f"; it does not propose: {fit.report.reason}"
    learned = f"{fit.surrogate} on {fit.report.labels} labels in {fit.report.seconds:.1f} s"
    return f"{learned}, {fit.report.device}{about}{lost}"


def _best_table(view: Overview) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    table.add_column("newest" if view.problem.learns_only else "best", justify="right", style="dim")
    table.add_column("candidate")
    for name in view.problem.properties:
        table.add_column(f"{name} ({view.problem.units[name]})", justify="right")
    table.add_column("expected", justify="right", style="dim")
    table.add_column("", style="yellow")
    first = view.problem.objectives[0].property
    shown = view.ranked[::-1] if view.problem.learns_only else view.ranked
    for place, best in enumerate(shown[:SHOWN], 1):
        mean, sd = best.trial.proposal.mean.get(first), best.trial.proposal.sd.get(first)
        expected = "–" if mean is None else f"{number(mean, 3)} ± {number(sd, 2)}"
        label = f"{best.trial.candidate.label} [dim]#{best.trial.number}[/]"
        values = [number(best.values.get(name)) for name in view.problem.properties]
        remark = "on the front" if view.front and best.on_front else ""
        table.add_row(str(place), label, *values, expected, remark if best.feasible else "violates a constraint")
    return table


def _asked(one: Open) -> str:
    """Write a question with the command that leads on; most name it themselves."""
    how = f"matloop answer {one.campaign}"
    return one.text if how in one.text else f"{one.text} Answer with: {how}"


class Screen:
    """Hooks of the loop that show it in the terminal: a live view on a terminal, one line a piece of news elsewhere.

    Args:
        store: the campaign database.
        name: of the campaign.
        console: where to write.
    """

    def __init__(self, store: CampaignStore, name: str, console: Console) -> None:
        self.store = store
        self.name = name
        self.console = console
        self.doing = "starting"
        self._asked: set[str] = set()
        self._seen = Overview.of(store, name)
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Screen:  # noqa: PYI034  not meant to be subclassed
        """Begin to show."""
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, and leave the last view in the terminal."""
        self._live.stop()

    def say(self, line: str) -> None:
        """Write one line for people above the live view."""
        self.console.print(Text(time.strftime("%H:%M:%S "), style="dim") + Text(line), soft_wrap=True)

    async def watching(self, work: Awaitable[T]) -> T:
        """Await the work on the campaign, and say meanwhile what people are asked, as soon as it is asked.

        Args:
            work: the loop.

        Returns:
            What the work returns.
        """
        watch = asyncio.create_task(self._watch())
        try:
            return await work
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _watch(self) -> None:
        desk = Desk(self.store)
        while True:
            there = {one.id: one for one in await asyncio.to_thread(waiting, desk, [self.name])}
            for one in there.values():
                if one.id not in self._asked:
                    self.say(f"QUESTION {one.id}: {_asked(one)}")
            if there or self._asked:
                self._seen = await asyncio.to_thread(Overview.of, self.store, self.name)
            self._asked = set(there)
            await asyncio.sleep(LOOK_S)

    async def fit(self, act: Callable[[], Awaitable[FitInfo | None]]) -> FitInfo | None:
        """Show a training."""
        self.doing = "training the surrogate"
        try:
            made = await act()
        finally:
            self.doing = ""
        if made is not None:
            self.say(f"fit {made.number}: {fit_line(made)}")
        return made

    async def propose(self, act: Callable[[], Awaitable[Plan]]) -> Plan:
        """Show a choice."""
        self.doing = "choosing what to measure next"
        try:
            return await act()
        finally:
            self.doing = ""

    async def trial(self, trial: TrialInfo, act: Callable[[], Awaitable[TrialInfo]]) -> TrialInfo:
        """Show a trial."""
        del trial
        return await act()

    async def publish(self, campaign: Campaign, news: str) -> None:
        """Show what is new."""
        self.say(news)
        self._seen = Overview.of(campaign.store, campaign.name)

    def _render(self) -> RenderableType:
        return campaign_view(self._seen, doing=self.doing)
