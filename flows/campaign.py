"""One campaign is one flow run: the same loop as `--plain`, shown on the Prefect page.

The campaign database is the truth and this flow a view of it. It can be started again at any time, with any Prefect
database: it goes on where the campaign stands.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger, runtime, tags
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows import tasks
from flows.artifacts import Page
from flows.beginning import begin_or_resume, loaded_with, refuse_by_hand
from flows.notify import told
from flows.places import data_folder
from flows.session import STORE_VARIABLE, actor, opened
from orchestrator import loop
from orchestrator.campaign import Campaign, Plan
from orchestrator.domain import sha256
from orchestrator.errors import ConfigError, MatloopError
from orchestrator.record.states import CampaignState
from orchestrator.record.store import CampaignStore
from orchestrator.record.views import FitInfo, TrialInfo

FLOW = "campaign"
FOLDER_VARIABLE = "MATLOOP_CAMPAIGNS"
"""Folder of the campaign files that the form offers; set by `matloop up`."""

LINK = "prefect_flow_run_id"
REFRESH_S = 5.0
"""Artifacts are not updated more often: the page does not refresh them by itself, and a plot costs 0.3 s."""

ASK_S = 3.0
"""How often the questions are read: a person who waits for one looks every few seconds."""

BRIEF_S = 0.7
"""A training that takes less is no task: most turns of the loop have nothing to train."""


@dataclass
class Lent:
    """What the command line lends to the flow in the same process: an open campaign, and hooks around its acts."""

    campaign: Campaign
    hooks: loop.Hooks
    error: MatloopError | None = None


_LENT: ContextVar[Lent | None] = ContextVar("lent by the command line", default=None)


class Shown:
    """Hooks of the loop that show its acts as tasks, its news as log lines, and how it stands as artifacts.

    Args:
        campaign: that is run.
        page: the flow run's artifacts.
        inner: hooks that go around the acts as well, such as the terminal's.
    """

    def __init__(self, campaign: Campaign, page: Page, inner: loop.Hooks) -> None:
        self.campaign = campaign
        self.page = page
        self.inner = inner
        self.log = get_run_logger()
        self._claimed = False
        self._shown_at = 0.0

    async def fit(self, act: Callable[[], Awaitable[FitInfo | None]]) -> FitInfo | None:
        """Show a training as a task, if it takes its time."""
        await self._claim()
        name = self.campaign.name
        made = await tasks.shown(tasks.fit, lambda: self.inner.fit(act), not_before_s=BRIEF_S, campaign=name)
        if made is not None:
            self.log.info("fit %d: %d labels in %.1f s", made.number, made.report.labels, made.report.seconds)
        return made

    async def propose(self, act: Callable[[], Awaitable[Plan]]) -> Plan:
        """Show a choice as a task."""
        await self._claim()
        return await tasks.shown(tasks.propose, lambda: self.inner.propose(act), campaign=self.campaign.name)

    async def trial(self, trial: TrialInfo, act: Callable[[], Awaitable[TrialInfo]]) -> TrialInfo:
        """Show a trial as a task."""
        await self._claim()
        return await tasks.shown(
            tasks.trial,
            lambda: self.inner.trial(trial, act),
            campaign=self.campaign.name,
            number=trial.number,
            label=trial.candidate.label,
        )

    async def publish(self, campaign: Campaign, news: str) -> None:
        """Log the news, and bring the artifacts up to date every few seconds."""
        await self._claim()
        self.log.info(news)
        await self.inner.publish(campaign, news)
        ended = campaign.info.state is not CampaignState.ACTIVE
        if ended or time.monotonic() - self._shown_at >= REFRESH_S:
            await self.show()

    async def show(self) -> None:
        """Bring the artifacts up to date."""
        from flows.page import show  # noqa: PLC0415  matplotlib is slow to import, and a broken page stops nothing

        try:
            await show(self.page, self.campaign)
        except Exception as error:  # noqa: BLE001  the page is a view; the campaign goes on
            self.log.warning("the page could not be made: %r", error)
        self._shown_at = time.monotonic()

    async def watch(self) -> None:
        """Keep the artifact of the open questions up to date; to be cancelled."""
        from flows.answer_flow import DEPLOYMENT, listed  # noqa: PLC0415  not needed before the first question
        from flows.answer_flow import FLOW as ANSWER  # noqa: PLC0415  the same
        from flows.answering import Desk, Open, waiting  # noqa: PLC0415  the same

        desk, shown = Desk(self.campaign.store), list[Open]()
        while True:
            try:
                asked = await asyncio.to_thread(waiting, desk, [self.campaign.name])
                if asked != shown:
                    for one in asked:
                        if one not in shown:
                            self.log.warning("a person is asked: %s", one.text)
                    form = await self.page.deployment(f"{ANSWER}/{DEPLOYMENT}")
                    text = listed(asked, form)
                    await self.page.markdown("questions", text, f"What {self.campaign.name} asks people")
                    shown = asked
            except Exception as error:  # noqa: BLE001  a view must not stop what it shows
                self.log.warning("the questions could not be shown: %r", error)
            await asyncio.sleep(ASK_S)

    async def _claim(self) -> None:
        """Link this flow run with the campaign, which is held by this process by now."""
        if self._claimed or self.page.flow_run_id is None:
            return
        self._claimed = True
        name = self.campaign.name
        earlier = self.campaign.info.links.get(LINK)
        self.campaign.store.set_link(name, LINK, str(self.page.flow_run_id))
        await self.page.named(name, _tags(name))
        if earlier and earlier != str(self.page.flow_run_id):
            await self.page.crashed(earlier, f"its process is gone; flow run {self.page.flow_run_id} goes on")


def _run_name() -> str:
    given: dict[str, Any] = runtime.flow_run.parameters or {}
    return str(given.get("name") or Path(str(given.get("file") or FLOW)).stem)


@flow(name=FLOW, flow_run_name=_run_name, persist_result=False, retries=0, log_prints=False)
async def campaign_flow(
    *,
    file: str = "",
    name: str = "",
    trials: int | None = None,
    hours: float | None = None,
    parallel: int | None = None,
    seed: int | None = None,
    text: str = "",
) -> State[str]:
    """Run a campaign until it stops, and say why it stopped.

    Everything that happens is recorded in the campaign database first. A run that was cut off is resumed by starting
    it again with the same name, or by `matloop resume NAME`.

    Args:
        file: campaign file, relative to the folder that the form offers.
        name: of the campaign; empty takes the file's. One that exists is resumed.
        trials: budget, instead of the file's.
        hours: budget, instead of the file's.
        parallel: trials in flight, instead of the file's.
        seed: instead of the file's.
        text: a whole campaign in YAML, instead of a file; needs a name.

    Returns:
        A state that says why it stopped; as its data too, for whoever calls the flow.
    """
    given = _LENT.get()
    try:
        if given is not None:
            return await _run(given.campaign, given.hooks)
        with opened(os.environ.get(STORE_VARIABLE), create=True) as store:
            changes = {"budget": {"trials": trials, "hours": hours}, "parallel": parallel, "seed": seed}
            campaign = _wanted(store, file, name, text, changes)
            return await _run(campaign, loop.Plain())
    except MatloopError as error:
        if given is not None:
            given.error = error
        return Failed(message=str(error))  # raised, it would stand on the page under a traceback


def _wanted(store: CampaignStore, file: str, name: str, text: str, changes: Mapping[str, Any]) -> Campaign:
    """Begin or open the campaign that the form asks for, and make it active."""
    if file or text:
        place = _text_file(name, text) if text else Path(os.environ.get(FOLDER_VARIABLE, "")) / file
        loaded = loaded_with(place, name=name or None, changes=changes)
        refuse_by_hand(loaded.config)
        campaign = begin_or_resume(loaded, store, actor=actor())
    elif name:
        campaign = Campaign.open(name, store=store)
    else:
        message = "nothing to run: choose a campaign file, or give the name of a campaign that exists"
        raise ConfigError(message)
    refuse_by_hand(campaign.config)
    if campaign.info.state in {CampaignState.PAUSED, CampaignState.STOPPED}:
        store.set_state(campaign.name, CampaignState.ACTIVE, actor=actor(), reason="")
    return campaign


async def lent(campaign: Campaign, hooks: loop.Hooks) -> str:
    """Run the flow in this process on a campaign that the command line has opened.

    Args:
        campaign: to be run.
        hooks: around the acts, inside the tasks.

    Returns:
        Why it stopped.
    """
    given = Lent(campaign, hooks)
    token = _LENT.set(given)
    try:
        with tags(*_tags(campaign.name)):
            state: State[Any] = await campaign_flow(name=campaign.name, return_state=True)
    finally:
        _LENT.reset(token)
    if given.error is not None:
        raise given.error
    return str(await state.aresult())


def _tags(name: str) -> list[str]:
    return ["matloop", f"campaign:{name}"]


async def _run(campaign: Campaign, inner: loop.Hooks) -> State[str]:
    found = runtime.flow_run.id
    hooks = Shown(campaign, Page(campaign.name, UUID(found) if found else None), inner)
    watch = asyncio.create_task(hooks.watch())
    try:
        reason = await told(campaign, loop.run(campaign, hooks=hooks, who=f"{actor()}, flow run {found}"))
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
    await hooks.show()
    return Completed(message=reason, data=reason)


def _text_file(name: str, text: str) -> Path:
    """Keep the text of the form as a file, so that the campaign can be resumed and amended like any other."""
    if not name:
        message = "a campaign that is given as text needs a name, so that it can be found again"
        raise ConfigError(message, key="name")
    folder = data_folder() / "campaigns"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}-{sha256(text)[:8]}.yaml"
    file.write_text(text, encoding="utf-8")
    return file
