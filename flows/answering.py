"""Everything that people are asked, and the one way to answer it: for the command line, the page's form and programs.

Two kinds of things wait for people: questions of a campaign (an outcome that nobody knows, a held result, a signature,
an instrument OUT OF SERVICE) and task cards of instruments that are people. Here they are one list, each with an id,
the answers that fit, and what each of them does.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flows.given import given
from orchestrator import plugins
from orchestrator.errors import MatloopError, StoreError
from orchestrator.execution import questions as asking
from orchestrator.execution.answers import Question, answer, questions
from orchestrator.protocols import AsksPeople, Instrument
from orchestrator.record.states import CampaignState

if TYPE_CHECKING:
    from orchestrator.campaign import Campaign
    from orchestrator.domain import Capability, Description
    from orchestrator.record.store import CampaignStore

CARD: Mapping[str, str] = {
    asking.BY_HAND: "it is done; the values come with the answer",
    asking.DISCARD: "it was done and gave nothing usable: the trial has failed, which is evidence",
    asking.REFUSE: "it was not begun",
}
"""Answers to a task card."""
WORDS: Mapping[str, str] = {
    "by_hand": asking.BY_HAND,
    "done": asking.BY_HAND,
    "not_started": asking.RETRY,
    "sign": asking.APPROVE,
}
"""Other words for the same answers."""
VERBS = tuple(dict.fromkeys(verb for verbs in asking.VERBS.values() for verb in verbs))
SHORT = 8
"""Digits of a task card's key that are shown."""
CLOSED = (CampaignState.DONE,)


@dataclass(frozen=True)
class Open:
    """One thing that a person is asked.

    Args:
        campaign: name.
        id: ``aN`` is about attempt N, ``qN`` is stored question N, ``tKEY`` a task card.
        kind: of question, or ``task``.
        text: the question, or what to do.
        instrument: concerned.
        trial: number; 0 where it is about none.
        verbs: the answers that fit, and what each does.
        values: property → unit, for the answer that comes with values.
        card: the task card.
    """

    campaign: str
    id: str
    kind: str
    text: str
    instrument: str
    trial: int
    verbs: Mapping[str, str]
    values: Mapping[str, str]
    card: Mapping[str, Any] | None = None

    def example(self, verb: str) -> str:
        """Write the command that gives an answer."""
        values = "".join(f" '{name}=… {unit}'" for name, unit in self.values.items()) if verb == asking.BY_HAND else ""
        spelled = verb.replace("_", "-")
        return f"matloop answer {self.campaign} {self.id} {spelled}{values} --reason '…'".replace(
            " dimensionless'", "'"
        )

    def to_json(self) -> dict[str, Any]:
        """Write it for programs."""
        return {**vars(self), "verbs": dict(self.verbs), "values": dict(self.values)}


class Desk:
    """Where questions and answers meet: the campaign database, and the drivers that know units and task cards.

    Args:
        records: the campaign database.
    """

    def __init__(self, records: CampaignStore) -> None:
        self.records = records
        self._campaigns: dict[str, Campaign] = {}
        self._drivers: dict[tuple[str, str], Instrument] = {}

    def campaign(self, name: str) -> Campaign:
        """Open a campaign, once."""
        from orchestrator.campaign import Campaign  # noqa: PLC0415  NumPy and pydantic are not needed by --help

        if name not in self._campaigns:
            self._campaigns[name] = Campaign.open(name, store=self.records)
        return self._campaigns[name]

    def driver(self, name: str, instrument: str) -> Instrument:
        """Build the driver of an instrument, once; no device is touched."""
        if (name, instrument) not in self._drivers:
            from orchestrator import measuring  # noqa: PLC0415  NumPy and pydantic are not needed by --help

            campaign = self.campaign(name)
            built = measuring.instrument(instrument, campaign.config, campaign.lab, campaign.base)
            self._drivers[name, instrument] = built
        return self._drivers[name, instrument]

    def people(self, name: str) -> dict[str, AsksPeople]:
        """Build the drivers of a campaign that are people, by name; the others, which may be large, are left alone."""
        campaign = self.campaign(name)
        named = {one: use.use for one, use in campaign.lab.instruments.items()}
        named |= {one: use.use for one, use in campaign.config.instruments.items()}
        found: dict[str, AsksPeople] = {}
        for instrument, use in named.items():
            kind = plugins.load("instruments", use, campaign.lab.allowed_modules)
            if issubclass(kind, AsksPeople):
                driver = self.driver(name, instrument)
                if isinstance(driver, AsksPeople):
                    found[instrument] = driver
        return found

    def capability(self, question: Question) -> Capability:
        """Read what the instrument of an attempt declares for its order."""
        order = self.records.attempt(question.attempt).order
        described: Description = asyncio.run(self.driver(question.campaign, question.instrument).describe())
        return described.capability(str(order["capability"]))


def waiting(desk: Desk, names: Sequence[str] | None = None) -> list[Open]:
    """List what people are asked; not to be called where an event loop runs.

    Args:
        desk: with the campaign database.
        names: of campaigns; default: all that are not done.

    Returns:
        Oldest first in each campaign; task cards after its questions.
    """
    if names is None:
        names = sorted(info.name for info in desk.records.campaigns() if info.state not in CLOSED)
    return [one for name in names for one in (*_questions(desk, name), *_cards(desk, name))]


def resolve_verb(text: str) -> str | None:
    """Return the answer that a word means, or None."""
    word = text.strip().lower().replace("-", "_").replace(" ", "_")
    word = WORDS.get(word, word)
    return word if word in VERBS else None


def give(
    desk: Desk,
    campaign: str,
    wanted: str | None,
    verb: str | None,
    texts: Sequence[str] = (),
    *,
    who: str,
    reason: str,
) -> str:
    """Answer one thing.

    Args:
        desk: with the campaign database.
        campaign: name.
        wanted: id of what is answered; a number is an attempt's; None where only one thing is asked.
        verb: the answer; None where values are given, which says that it was done.
        texts: values such as ``strength=3.4 MPa``.
        who: the person's name.
        reason: how the person knows; may be left out with the values of a task card.

    Returns:
        A sentence that says what was answered.

    Raises:
        StoreError: it is not clear what is answered, or the answer does not fit.
        BadData: values are missing or cannot be used.
    """
    asked = find(waiting(desk, [campaign]), campaign, wanted)
    chosen = verb or (asking.BY_HAND if texts else None)
    if chosen is None or chosen not in asked.verbs:
        fit = ", ".join(one.replace("_", "-") for one in asked.verbs)
        message = f"{chosen or 'no answer'!r} does not go with {asked.id} ({asked.kind}); these do: {fit}"
        raise StoreError(message)
    if (chosen == asking.BY_HAND) != bool(texts):
        wish = " ".join(f"'{name}=VALUE {unit}'" for name, unit in asked.values.items())
        message = f"values go with 'done-by-hand', and with nothing else; {asked.id} expects {wish or 'none'}"
        raise StoreError(message)
    if asked.card is not None:
        _reply(desk, asked, chosen, texts, who=who, reason=reason)
    else:
        capability = None
        if chosen in (asking.BY_HAND, asking.APPROVE):
            there = [one for one in questions(desk.records, campaign) if one.id == asked.id and one.attempt]
            capability = desk.capability(there[0]) if there else None
        values = given(tuple(texts), asked.values) if texts else None
        answer(desk.records, campaign, asked.id, chosen, who=who, reason=reason, values=values, capability=capability)
    return f"{asked.id} of {campaign} is answered: {chosen.replace('_', '-')} ({asked.verbs[chosen]})"


def find(there: Sequence[Open], campaign: str, wanted: str | None) -> Open:
    """Find what is meant among what is asked.

    Raises:
        StoreError: nothing, or several things.
    """
    if wanted is not None and wanted.isdigit():
        wanted = f"a{wanted}"
    fitting = [one for one in there if wanted is None or one.id == wanted]
    if wanted is not None and wanted.startswith("t") and not fitting:
        fitting = [one for one in there if one.card is not None and f"t{one.card['key']}".startswith(wanted)]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(one.id for one in there) or "nothing"
    message = f"which question? {campaign!r} asks {known}; 'matloop questions {campaign}' shows them"
    raise StoreError(message)


def _questions(desk: Desk, name: str) -> Iterator[Open]:
    for one in questions(desk.records, name):
        values: Mapping[str, str] = {}
        if asking.BY_HAND in one.verbs:
            # A lab file may lie on another computer, and a driver's library too; the other answers work without.
            with contextlib.suppress(MatloopError, KeyError):
                outputs = desk.capability(one).outputs
                values = {output.name: output.unit for output in outputs if output.kind == "number"}
        yield Open(name, one.id, one.kind, str(one), one.instrument, one.trial, one.verbs, values)


def _cards(desk: Desk, name: str) -> Iterator[Open]:
    """List the task cards that belong to open attempts of a campaign."""
    attempts = {attempt.key: attempt for attempt in desk.records.open_attempts(name)}
    people: dict[str, AsksPeople] = {}
    with contextlib.suppress(MatloopError):  # the same
        people = desk.people(name) if attempts else {}
    for instrument, driver in people.items():
        for card in driver.cards():
            attempt = attempts.get(str(card["key"]))
            if attempt is not None and attempt.instrument == instrument:
                yield _card(name, instrument, attempt.trial, card)


def _card(name: str, instrument: str, trial: int, card: Mapping[str, Any]) -> Open:
    settings = [f"{key} = {one['value']:g} {one['unit']}" for key, one in card["settings"].items()]
    settings += [f"{key} = {one}" for key, one in card["choices"].items()]
    about = f"{card['task']} {card['label']}".strip()
    lines = (f"trial {trial}: {about}", "; ".join(settings), str(card["instructions"]))
    text = ". ".join(line.rstrip(".") for line in lines if line)
    values = {str(key): str(unit) for key, unit in card["answer_with"].items()}
    return Open(name, f"t{str(card['key'])[:SHORT]}", "task", text, instrument, trial, CARD, values, card)


def _reply(desk: Desk, asked: Open, verb: str, texts: Sequence[str], *, who: str, reason: str) -> None:
    card = asked.card or {}
    values = {name: {"value": q.value, "unit": q.unit} for name, q in given(tuple(texts), asked.values).items()}
    content = {
        "key": card["key"],
        "by": who,
        "at": datetime.now().astimezone().isoformat(timespec="seconds"),
        "notes": reason if verb == asking.BY_HAND else "",
        "failed": reason if verb == asking.DISCARD else "",
        "not_started": reason if verb == asking.REFUSE else "",
        "values": values,
    }
    if verb != asking.BY_HAND and not reason.strip():
        message = "say why: the reason stands in the record beside your name"
        raise StoreError(message)
    desk.people(asked.campaign)[asked.instrument].reply(content)


QUESTION = re.compile(r"\d+|[aq]\d+|t[0-9a-zA-Z_-]{2,128}")
VALUE = re.compile(r"\w+\s*=.*", re.DOTALL)


@dataclass(frozen=True)
class Typed:
    """What a person typed: each part may be missing."""

    campaign: str | None
    question: str | None
    verb: str | None
    values: tuple[str, ...]


def read(words: Sequence[str], campaigns: Sequence[str]) -> Typed:
    """Tell campaign, question, answer and values apart.

    Args:
        words: as typed, in this order.
        campaigns: names that exist.

    Raises:
        StoreError: a word is none of these.
    """
    left = list(words)
    campaign = left.pop(0) if left and (left[0] in campaigns or not _is_other(left[0])) else None
    question = left.pop(0) if left and QUESTION.fullmatch(left[0]) and resolve_verb(left[0]) is None else None
    verb = resolve_verb(left[0]) if left and not VALUE.fullmatch(left[0]) else None
    values = tuple(left[1:] if verb else left)
    wrong = [value for value in values if not VALUE.fullmatch(value)]
    if wrong:
        known = ", ".join(one.replace("_", "-") for one in VERBS)
        message = f"{wrong[0]!r} is no answer and no PROPERTY=VALUE; answers are: {known}"
        raise StoreError(message)
    return Typed(campaign, question, verb, values)


def _is_other(word: str) -> bool:
    return bool(QUESTION.fullmatch(word) or VALUE.fullmatch(word) or resolve_verb(word))
