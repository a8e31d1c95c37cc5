"""The operator of the acceptance campaign: looks at the devices, and answers questions as a person would.

It sees what a person at the bench sees (which orders a device began, how they ended, what stands on the display), and
answers through the public interface with a name and a reason.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from contextlib import suppress
from typing import Any

from instruments.virtual.devices import DEVICES
from instruments.virtual.world import World
from orchestrator.domain import Quantity
from orchestrator.errors import BadData, IllegalTransition, StoreError
from orchestrator.execution.answers import answer
from orchestrator.execution.questions import Question, questions
from orchestrator.record.store import CampaignStore

LOOKS_EVERY_S = 0.5
WHO = "Olga Operator"


class Operator:
    """A person at the bench.

    Args:
        store: of the campaign.
        name: of the campaign.
        world: what can be seen in the lab.
    """

    def __init__(self, store: CampaignStore, name: str, world: World) -> None:
        self.store = store
        self.name = name
        self.world = world
        self.answers: Counter[str] = Counter()
        self.unusual: list[str] = []

    async def watch(self) -> None:
        """Answer whatever is asked, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOKS_EVERY_S)

    def look(self) -> None:
        """Answer what is asked now."""
        for question in questions(self.store, self.name):
            with suppress(StoreError, IllegalTransition):  # answered, or settled by itself, in this moment
                self._answer(question)

    def see_to(self, reason: str) -> None:
        """Do what a paused campaign asks for before it is resumed.

        Args:
            reason: of the pause.
        """
        if "refill" in reason:
            self.world.refill("dispenser")
            self.answers["pause: refilled"] += 1

    def _answer(self, question: Question) -> None:
        if question.attempt:
            self._of_an_attempt(question)
        elif question.kind == "service":
            if self._at_work(question.instrument):
                return
            self._say(question, "retry", "looked at it: it is in order")
        elif "retry" in question.verbs:
            self._say(question, "retry", "seen to")
        else:
            verb = "approve" if "approve" in question.verbs else next(iter(question.verbs))
            self._say(question, verb, "seen to")

    def _of_an_attempt(self, question: Question) -> None:
        key = self.store.attempt(question.attempt).key
        lines = [line for line in self.world.events(question.instrument) if line.get("key") == key]
        last = lines[-1] if lines else None
        if last is None or last["event"] == "refused":
            self._say(question, "retry", "the device's own log has no such order: it never began")
        elif last["event"] == "finished":
            shown = {n: math.nan if v is None else float(v) for n, v in last["shown"].items()}
            if last["fault"] is not None or not all(map(math.isfinite, shown.values())):
                self._say(question, "discard", "the display shows nonsense")
                return
            self._by_hand(question, shown)
        elif last["event"] == "started":
            return  # still at work; the driver stops what hangs
        else:
            self._say(question, "discard", f"the device says that the order {last['event']}")

    def _by_hand(self, question: Question, shown: dict[str, float]) -> None:
        capability = DEVICES[question.instrument](World(self.world.folder)).capability()
        values = {output.name: Quantity(shown[output.name], output.unit) for output in capability.outputs}
        try:
            self._say(question, "done_by_hand", "read from the display", values=values, capability=capability)
        except BadData as error:
            self.unusual.append(f"{question}: {error}")
            self._say(question, "discard", str(error))

    def _at_work(self, device: str) -> bool:
        lines = [line for line in self.world.events(device) if line["event"] != "refused"]
        return bool(lines) and lines[-1]["event"] == "started"

    def _say(self, question: Question, verb: str, reason: str, **more: Any) -> None:
        answer(self.store, self.name, question, verb, who=WHO, reason=reason, **more)
        self.answers[f"{question.kind}: {verb}"] += 1
