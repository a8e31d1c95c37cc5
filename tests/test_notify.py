"""People are told what a campaign wants of them: over a real webhook and a real mail server, and never at its cost."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import pytest

from flows import notify
from flows.beginning import loaded_with
from flows.notify import Herald, Sender, told
from orchestrator import loop
from orchestrator.campaign import Campaign
from orchestrator.config.safety import NotifyConfig
from orchestrator.errors import StoreError
from orchestrator.record.states import CampaignState
from orchestrator.record.store import CampaignStore
from tests.small_campaign import write_campaign
from tests.test_answering import bench

pytest.importorskip("apprise")
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # apprise imports it
VARIABLE = "LAB_ADDRESSES"
SECRET = "hunter2"  # noqa: S105  a password of nobody


class Webhook:
    """An HTTP server that keeps what is posted.

    Args:
        status: that it answers.
        delay_s: before it answers.
    """

    def __init__(self, status: int = 200, delay_s: float = 0.0) -> None:
        self.status = status
        self.delay_s = delay_s
        self.posted: list[dict[str, Any]] = []
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        self.posted.append(json.loads(await reader.readexactly(length)))
        await asyncio.sleep(self.delay_s)
        writer.write(f"HTTP/1.1 {self.status} X\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok".encode())
        await writer.drain()
        writer.close()


class Mailbox:
    """A mail server that keeps what is sent."""

    def __init__(self) -> None:
        self.mails: list[str] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 lab\r\n")
        while line := (await reader.readline()).decode():
            word = line[:4].upper()
            if word == "DATA":
                writer.write(b"354 go on\r\n")
                self.mails.append((await reader.readuntil(b"\r\n.\r\n")).decode())
            writer.write(b"221 bye\r\n" if word == "QUIT" else b"250 ok\r\n")
            await writer.drain()
            if word == "QUIT":
                break
        writer.close()


@pytest.fixture
async def webhook(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Webhook]:
    """A webhook whose address stands in the environment."""
    async with Webhook() as server:
        monkeypatch.setenv(VARIABLE, f"json://user:{SECRET}@127.0.0.1:{server.port}/lab")
        yield server


@pytest.fixture
def store(tmp_path: Path) -> CampaignStore:
    """A campaign database."""
    return CampaignStore.open(tmp_path / "store.db", create=True)


def campaign_in(folder: Path, store: CampaignStore, file: Path, **changes: Any) -> Campaign:
    """Begin a campaign whose lab tells people."""
    notifies = {"addresses_from": VARIABLE, **changes}
    (folder / "lab.yaml").write_text(json.dumps({"name": "lab", "notify": notifies}), encoding="utf-8")
    return Campaign.begin(loaded_with(file), store=store, actor="ada")


async def test_a_webhook_hears_of_cards_and_of_the_end(
    tmp_path: Path, store: CampaignStore, webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task card and the end of the campaign reach the webhook, each once, with the command that answers."""
    monkeypatch.setattr(notify, "LOOK_S", 0.1)
    campaign = campaign_in(tmp_path, store, bench(tmp_path, budget={"trials": 1}))
    running = asyncio.create_task(told(campaign, loop.run(campaign)))
    while not webhook.posted:
        await asyncio.sleep(0.05)
        assert not running.done(), running
    (post,) = webhook.posted
    assert post["title"] == "matloop bench: question"
    assert "Break the bar" in post["message"]
    assert "matloop answer bench t" in post["message"]
    await asyncio.sleep(0.5)
    assert len(webhook.posted) == 1
    (card,) = (tmp_path / "cards" / "outbox").glob("*.json")
    content = json.loads(card.read_text())
    values = {"strength": {"value": 70.0, "unit": "MPa"}}
    answer = {"key": content["key"], "by": "Ada", "at": content["issued_at"], "values": values}
    (tmp_path / "cards" / "inbox" / card.name).write_text(json.dumps(answer))
    assert "all 1 trials" in await asyncio.wait_for(running, 20)
    assert [post["title"] for post in webhook.posted] == ["matloop bench: question", "matloop bench: done"]
    assert store.campaign("bench").state is CampaignState.DONE


async def test_what_happened_meanwhile_is_told_once(tmp_path: Path, store: CampaignStore, webhook: Webhook) -> None:
    """Service, questions and pauses become lines of one message; another process tells nothing of it again."""
    campaign = campaign_in(tmp_path, store, write_campaign(tmp_path))
    store.ask("small", "approval", "1200 degC needs a signature")
    store.take_out_of_service("small", "oven", cause="fault", reason="the fan stands still", actor="matloop")
    store.set_state("small", CampaignState.PAUSED, actor="ada", reason="lunch")
    config = NotifyConfig(addresses_from=VARIABLE)
    await Herald(campaign, config).look()
    (post,) = webhook.posted
    assert set(post["title"].removeprefix("matloop small: ").split(", ")) == {"question", "out of service", "paused"}
    for words in ("needs a signature", "approve, refuse, abort", "OUT OF SERVICE: oven", "fan stands still", "lunch"):
        assert words in post["message"]
    await Herald(campaign, config).look()
    assert len(webhook.posted) == 1
    store.return_to_service("small", "oven", reason="a new fan", actor="ada")
    await Herald(campaign, config).look()
    assert len(webhook.posted) == 1  # not asked for
    await Herald(campaign, NotifyConfig(addresses_from=VARIABLE, on=("done",))).look()
    assert len(webhook.posted) == 1


async def test_a_mail_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mail reaches a real mail server, with title and text."""
    async with Mailbox() as box:
        address = f"mailto://127.0.0.1:{box.port}?from=lab@example.org&to=ada@example.org&mode=insecure"
        monkeypatch.setenv(VARIABLE, address)
        assert await Sender(VARIABLE).send("matloop small: question", "1200 degC needs a signature")
        (mail,) = box.mails
        assert "Subject: matloop small: question" in mail
        assert "ada@example.org" in mail


@pytest.mark.parametrize(
    ("status", "delay_s", "words"), [(500, 0.0, "did not reach"), (200, 2.0, "within 0.3 s"), (None, 0.0, "not reach")]
)
async def test_a_deaf_server_stops_nothing(  # noqa: PLR0917  fixtures
    tmp_path: Path,
    store: CampaignStore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    status: int | None,
    delay_s: float,
    words: str,
) -> None:
    """A server that fails, sleeps or is dead costs a line in the log, without any address in it, and no trial."""
    monkeypatch.setattr(notify, "LOOK_S", 0.1)
    monkeypatch.setattr(notify, "SEND_S", 0.3)
    monkeypatch.setattr(notify, "LAST_S", 0.5)
    async with Webhook(status or 200, delay_s) as server:
        port = server.port if status else 9
        monkeypatch.setenv(VARIABLE, f"json://user:{SECRET}@127.0.0.1:{port}/lab")
        campaign = campaign_in(tmp_path, store, write_campaign(tmp_path, budget={"trials": 4}))
        with caplog.at_level(logging.WARNING):
            assert "all 4 trials" in await told(campaign, loop.run(campaign))
        assert words in caplog.text
        assert SECRET not in caplog.text
        await asyncio.sleep(delay_s)  # the thread that was left behind ends


async def test_without_addresses_a_line_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An unset variable and an address of no kind are named, the latter by its number alone."""
    monkeypatch.delenv(VARIABLE, raising=False)
    assert not await Sender(VARIABLE).send("a", "b")
    assert f"${VARIABLE} is not set" in caplog.text
    monkeypatch.setenv(VARIABLE, f"nothing-known://{SECRET}")
    assert not await Sender(VARIABLE).send("a", "b")
    assert "no. 1" in caplog.text
    assert SECRET not in caplog.text


async def test_an_error_of_the_campaign_is_told(tmp_path: Path, store: CampaignStore, webhook: Webhook) -> None:
    """A campaign that ends with an error tells it, and raises it."""

    async def broken() -> str:
        message = "the disk is full"
        raise StoreError(message)

    campaign = campaign_in(tmp_path, store, write_campaign(tmp_path))
    with pytest.raises(StoreError):
        await told(campaign, broken())
    assert any("disk is full" in post["message"] for post in webhook.posted)
