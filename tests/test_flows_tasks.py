"""An act of the loop is carried out once, whatever Prefect does around it. No Prefect server is needed here."""

from __future__ import annotations

import asyncio
from typing import Any, Self
from uuid import uuid4

import pytest

from flows import artifacts, tasks


class _Counted:
    """An act that counts how often it is begun."""

    def __init__(self, *, error: Exception | None = None, seconds: float = 0.0) -> None:
        self.times = 0
        self.ended = ""
        self.error = error
        self.seconds = seconds

    async def __call__(self) -> str:
        self.times += 1
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        if self.error is not None:
            raise self.error
        self.ended = "done"
        return "result"


async def _runs(**_: Any) -> None:
    await tasks._ACT.get().outcome()


async def _dies_before(**_: Any) -> None:
    raise ConnectionError


async def _dies_after(**_: Any) -> None:
    await tasks._ACT.get().outcome()
    raise ConnectionError


async def _swallows(**_: Any) -> None:
    """Prefect with `return_state=True`: an error becomes a state."""
    await asyncio.gather(tasks._ACT.get().outcome(), return_exceptions=True)


async def _forgets(**_: Any) -> None:
    """A Prefect that answers without having run the task."""


@pytest.mark.parametrize("wrapped", [_runs, _dies_before, _dies_after, _swallows, _forgets])
async def test_an_act_is_carried_out_once(wrapped: Any) -> None:
    """Whether Prefect runs the task, fails or forgets it: the act runs once and its result counts."""
    act = _Counted()
    assert await tasks.shown(wrapped, act) == "result"
    assert act.times == 1


@pytest.mark.parametrize("wrapped", [_runs, _dies_before, _dies_after, _swallows, _forgets])
async def test_an_act_that_fails_says_so_and_is_not_repeated(wrapped: Any) -> None:
    """An error of the act itself reaches the loop as it is, and the act is not tried again."""
    act = _Counted(error=ValueError("no powder left"))
    with pytest.raises(ValueError, match="no powder left"):
        await tasks.shown(wrapped, act)
    assert act.times == 1


async def test_a_brief_act_is_no_task() -> None:
    """An act that ends within the limit is not shown: most turns of the loop have nothing to train."""
    act = _Counted()

    async def never(**_: Any) -> None:
        pytest.fail("a task was made")

    assert await tasks.shown(never, act, not_before_s=5.0) == "result"
    slow, seen = _Counted(seconds=0.1), []

    async def noted(**ids: Any) -> None:
        seen.append(ids)
        await tasks._ACT.get().outcome()

    assert await tasks.shown(noted, slow, not_before_s=0.01, campaign="x") == "result"
    assert (slow.times, seen) == (1, [{"campaign": "x", "return_state": True}])


@pytest.mark.parametrize("limit", [0.0, 0.01])
async def test_cancelling_reaches_the_act(limit: float) -> None:
    """Ctrl-C cancels the act itself and waits for it, so that the executor can leave its step in a legal state."""
    act = _Counted(seconds=30.0)
    running = asyncio.ensure_future(tasks.shown(_runs, act, not_before_s=limit))
    await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert act.ended == "cancelled"


async def test_acts_side_by_side_are_not_mixed_up() -> None:
    """Each trial in flight carries out its own act, although they share one context variable."""

    async def one(number: int) -> int:
        async def act() -> int:
            await asyncio.sleep(0.01 * (5 - number))
            return number

        return await tasks.shown(_runs, act)

    assert await asyncio.gather(*(one(i) for i in range(5))) == list(range(5))


async def test_the_page_never_stops_a_campaign(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is away costs one try a minute, and no exception reaches the loop."""
    calls = []

    def away() -> Any:
        calls.append(1)
        raise ConnectionError

    monkeypatch.setattr(artifacts, "get_client", away)
    page = artifacts.Page("Alloys_2", uuid4())
    await page.markdown("report", "text")
    await page.progress("progress", 0.5)
    await page.table("results", [{"place": 1}])
    await page.named("alloys", ["campaign:alloys"])
    await page.crashed(str(uuid4()), "gone")
    assert calls == [1]
    page._silent_until = 0.0
    await page.markdown("report", "text")
    assert calls == [1, 1]


async def test_a_page_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not answer holds the campaign for the patience only."""
    monkeypatch.setattr(artifacts, "PATIENCE_S", 0.05)

    class Hanging:
        async def __aenter__(self) -> Self:
            await asyncio.sleep(60)
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(artifacts, "get_client", Hanging)
    page = artifacts.Page("alloys", uuid4())
    await asyncio.wait_for(page.markdown("report", "text"), 2.0)
    assert page._silent_until > 0


async def test_artifacts_are_made_once_and_updated_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first showing makes an artifact under a fixed, legal key; later ones update it."""
    made: list[Any] = []
    updated: list[Any] = []

    class Client:
        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

        async def create_artifact(self, artifact: Any) -> Any:
            made.append(artifact)
            return type("Made", (), {"id": uuid4()})

        async def update_artifact(self, identity: Any, artifact: Any) -> None:
            updated.append((identity, artifact))

    monkeypatch.setattr(artifacts, "get_client", Client)
    page = artifacts.Page("Alloys_2", uuid4())
    for _ in range(3):
        await page.progress("progress", 0.25)
        await page.table("results", [{"place": 1}])
    assert [artifact.key for artifact in made] == ["alloys-2-progress", "alloys-2-results"]
    assert [artifact.data for artifact in made] == [25.0, '[{"place": 1}]']
    assert len(updated) == 4


async def test_without_a_flow_run_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page without a flow run asks no server."""
    monkeypatch.setattr(artifacts, "get_client", lambda: pytest.fail("a server was asked"))
    await artifacts.Page("alloys", None).markdown("report", "text")
