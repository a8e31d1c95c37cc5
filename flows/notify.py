"""Tell people by mail, chat or phone what a campaign wants of them, and how it ended: `notify` in lab.yaml, by Apprise.

The addresses hold passwords, so they come from an environment variable and stand in no file, log or message. Nothing
here can stop or delay a trial: messages are sent beside the loop, with a time limit, and one that cannot be sent is a
line in the log. What was told is kept with the campaign, so that a resumed one tells what happened meanwhile, and
nothing twice.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Awaitable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from flows.answering import Desk, waiting

if TYPE_CHECKING:
    from orchestrator.campaign import Campaign
    from orchestrator.config.safety import News, NotifyConfig
    from orchestrator.record.views import EventInfo

T = TypeVar("T")
LINK = "notified"
LOOK_S = 3.0
"""How often news are looked for; what happens within that time goes into one message."""
SEND_S = 30.0
"""A mail server may be slow; its thread is left behind after that."""
LAST_S = 15.0
"""How long the end of a campaign waits for its last message."""
TRIES = 3
LONGEST = 4000
"""Characters of a message: what chats take."""
INSTALL = "pip install 'matloop[notify]'"

logger = logging.getLogger("matloop.notify")


@dataclass(frozen=True)
class Line:
    """One piece of news."""

    news: News
    text: str


class Sender:
    """The way out, to every address of an environment variable.

    Args:
        variable: its name.
    """

    def __init__(self, variable: str) -> None:
        self.variable = variable

    async def send(self, title: str, body: str) -> bool:
        """Send a message to every address.

        Args:
            title: one line.
            body: plain text.

        Returns:
            Whether it reached every address; why it did not stands in the log, without the address.
        """
        addresses = os.environ.get(self.variable, "").split()
        if not addresses:
            logger.warning("nobody is told: $%s is not set; it holds Apprise addresses", self.variable)
            return False
        try:
            return await asyncio.wait_for(asyncio.to_thread(_sent, addresses, title, body), SEND_S)
        except ImportError:
            logger.warning("nobody is told: the package apprise is missing; install it with: %s", INSTALL)
        except TimeoutError:
            logger.warning("a message was not sent within %g s; the addresses are those of $%s", SEND_S, self.variable)
        except Exception as error:  # noqa: BLE001  whatever a mail server does, the campaign goes on
            # The error's text may hold an address, and an address a password.
            logger.warning("a message was not sent: %s; see the addresses of $%s", type(error).__name__, self.variable)
        return False


def _sent(addresses: list[str], title: str, body: str) -> bool:
    import apprise  # noqa: PLC0415  an extra, and slow to import

    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # it writes addresses into its log
    there = apprise.Apprise()
    wrong = [number for number, address in enumerate(addresses, 1) if not there.add(address)]
    if wrong:
        logger.warning("addresses no. %s are none that Apprise understands", ", ".join(map(str, wrong)))
    if not len(there):
        return False
    reached = bool(there.notify(title=title, body=body))
    if not reached:
        logger.warning("a message did not reach all of %d addresses", len(addresses))
    return reached and not wrong


class Herald:
    """Tells people what is new in a campaign.

    Args:
        campaign: that is run.
        config: `notify` of its lab file.
        sender: to the addresses.
    """

    def __init__(self, campaign: Campaign, config: NotifyConfig, sender: Sender | None = None) -> None:
        self.campaign = campaign
        self.config = config
        self.sender = sender or Sender(config.addresses_from)
        self._desk = Desk(campaign.store)
        self._waiting: list[Line] = []
        self._tries = 0
        links = campaign.info.links
        told: dict[str, Any] = json.loads(links[LINK]) if LINK in links else {}
        self._seen = int(told.get("seen", 0))
        self._asked = set(map(str, told.get("asked", ())))

    async def watch(self) -> None:
        """Look for news and tell them; to be cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Look once for news, and tell them."""
        try:
            found = await asyncio.to_thread(self._news)
            self._waiting += [line for line in found if line.news in self.config.on]
            await self._tell()
        except Exception as error:  # noqa: BLE001  telling is no reason to stop a campaign
            logger.warning("news could not be told: %s", type(error).__name__)

    def add(self, news: News, text: str) -> None:
        """Tell something that is no event of the record."""
        if news in self.config.on:
            self._waiting.append(Line(news, text))

    async def _tell(self) -> None:
        if not self._waiting:
            return
        lines, name = list(self._waiting), self.campaign.name
        kinds = ", ".join(dict.fromkeys(line.news.replace("_", " ") for line in lines))
        body = "\n\n".join(line.text for line in lines)
        body = body if len(body) <= LONGEST else f"{body[:LONGEST]} …\nall of it: matloop questions {name}"
        sent = await self.sender.send(f"matloop {name}: {kinds}", body)
        self._tries += 1
        if sent or self._tries >= TRIES:
            self._tries = 0
            self._waiting = self._waiting[len(lines) :]
            told = json.dumps({"seen": self._seen, "asked": sorted(self._asked)})
            await asyncio.to_thread(self.campaign.store.set_link, name, LINK, told)

    def _news(self) -> list[Line]:
        store, name = self.campaign.store, self.campaign.name
        lines = []
        for event in store.events(name, since=self._seen):
            lines += list(_lines(name, event))
            self._seen = max(self._seen, event.seq)
        there = {one.id: one for one in waiting(self._desk, [name])}
        for one in there.values():
            if one.id not in self._asked and one.kind != "service":  # the event of the service says it
                answers = ", ".join(verb.replace("_", "-") for verb in one.verbs)
                news: News = "held" if one.kind == "held" else "question"
                how = f"Answers: {answers}. {one.example(next(iter(one.verbs)))}"
                lines.append(Line(news, f"{one.id}: {one.text}\n{how}"))
        self._asked = set(there)
        return lines


def _lines(name: str, event: EventInfo) -> Iterator[Line]:
    states: Mapping[str, News] = {"PAUSED": "paused", "STOPPED": "stopped", "DONE": "done"}
    to = str(event.to or "")
    if event.kind == "state" and to in states:
        yield Line(states[to], f"{name} is {to.lower()}: {event.note or event.actor}")
    elif event.kind == "service" and event.frm != event.to:
        if to == "out":
            yield Line("out_of_service", f"OUT OF SERVICE: {event.note}\nmatloop questions {name}")
        else:
            yield Line("back_in_service", f"back in service: {event.note}")


async def told(campaign: Campaign, work: Awaitable[T]) -> T:
    """Await the work on a campaign, and tell people meanwhile what its lab file says that they want to know.

    Args:
        campaign: that is run.
        work: the loop.

    Returns:
        What the work returns.
    """
    config = campaign.lab.notify
    if config is None:
        return await work
    herald = Herald(campaign, config)
    watch = asyncio.create_task(herald.watch())
    try:
        return await work
    except Exception as error:
        herald.add("failed", f"{campaign.name} ended with an error: {error}\nmatloop resume {campaign.name}")
        raise
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        try:
            await asyncio.wait_for(herald.look(), LAST_S)
        except TimeoutError:
            logger.warning("the last message was not sent within %g s", LAST_S)
