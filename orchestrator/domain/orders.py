"""What instruments are asked, what they answer, and how they describe themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal

from orchestrator.domain.candidates import Crystal, Quantity
from orchestrator.domain.canonical import JsonObject, frozen, sha256
from orchestrator.domain.dataset import Quality


class Recovery(StrEnum):
    """What an instrument lets us find out after a crash; `blind` unless the driver says otherwise."""

    IDEMPOTENT = "idempotent"
    """An order with a known key returns the existing job: send it again."""
    QUERYABLE = "queryable"
    """A job can be looked up by its key, once the old sender is dead."""
    BLIND = "blind"
    """Nothing can be found out: a person must answer."""


@dataclass(frozen=True)
class Parameter:
    """One set-point that a capability takes.

    Args:
        name: such as ``temperature``.
        unit: unit of `low`, `high`, `resolution` and of the values that the driver gets.
        low: smallest allowed value; with `high` None for a choice.
        high: largest allowed value.
        resolution: smallest step that makes a difference.
        choices: allowed names, for a categorical parameter.
        default: used where the campaign gives none; None makes the parameter required.
    """

    name: str
    unit: str = "dimensionless"
    low: float | None = None
    high: float | None = None
    resolution: float | None = None
    choices: tuple[str, ...] = ()
    default: float | str | None = None


@dataclass(frozen=True)
class Output:
    """One property that a capability gives.

    Args:
        name: such as ``energy``.
        unit: unit of the readings.
        low: smallest physically valid value.
        high: largest physically valid value.
        kind: a number, or a structure such as a relaxed cell.
    """

    name: str
    unit: str = "dimensionless"
    low: float | None = None
    high: float | None = None
    kind: Literal["number", "structure"] = "number"


@dataclass(frozen=True)
class Limit:
    """A joint bound: the sum of coefficient × parameter must not pass `at_most`."""

    coefficients: Mapping[str, float]
    at_most: float
    message: str


@dataclass(frozen=True)
class Capability:
    """One thing that an instrument can do.

    Args:
        name: such as ``relax``.
        parameters: set-points.
        outputs: what it gives.
        takes_structure: whether an order must carry a structure.
        limits: joint bounds.
        typical_s: usual duration in seconds.
        longest_s: after this many seconds the instrument hangs; finite.
        cost: in the campaign's cost unit.
        fidelity: what kind of truth this is: ``real``, ``simulated``, ``potential:chgnet-0.3.0`` …
    """

    name: str
    outputs: tuple[Output, ...]
    parameters: tuple[Parameter, ...] = ()
    takes_structure: bool = False
    limits: tuple[Limit, ...] = ()
    typical_s: float = 1.0
    longest_s: float = 3600.0
    cost: float = 0.0
    fidelity: str = "real"


@dataclass(frozen=True)
class Description:
    """What an instrument declares, offline.

    Args:
        capabilities: at least one.
        recovery: what can be found out after a crash.
        slots: how many orders run at once.
        delivery_s: longest time in seconds that a sent order may still be on its way after its sender died; before
            that, "never started" is no proof.
        knows: versions of pretrained knowledge inside, such as ``chgnet-0.3.0``.
        simulated: no physical act happens.
    """

    capabilities: tuple[Capability, ...]
    recovery: Recovery = Recovery.BLIND
    slots: int = 1
    delivery_s: float = 5.0  # a TCP peer on a busy lab computer has read its buffer by then
    knows: frozenset[str] = frozenset()
    simulated: bool = False

    def capability(self, name: str | None) -> Capability:
        """Return a capability by name, or the only one where no name is given.

        Raises:
            KeyError: there is none of that name, or several and no name.
        """
        if name is None and len(self.capabilities) == 1:
            return self.capabilities[0]
        for capability in self.capabilities:
            if capability.name == name:
                return capability
        message = f"no capability {name!r}; there are: {', '.join(c.name for c in self.capabilities)}"
        raise KeyError(message)


@dataclass(frozen=True)
class Identity:
    """What the opened instrument says it is; compared before each start."""

    name: str
    serial: str = ""
    firmware: str = ""


@dataclass(frozen=True)
class Health:
    """The state of an instrument, read now."""

    state: Literal["ready", "busy", "fault", "interlocked", "offline", "unknown"]
    detail: str = ""


@dataclass(frozen=True)
class Attachment:
    """A raw file that came with a result."""

    name: str
    media_type: str
    content: bytes

    @cached_property
    def sha256(self) -> str:
        """Hash of the content."""
        return sha256(self.content)


@dataclass(frozen=True)
class Order:
    """What an instrument is asked: one capability with its set-points.

    Args:
        key: dispatch key, unique for one attempt; send it to the instrument where it takes one.
        capability: name of the capability.
        settings: set-points by parameter name, in the unit that the parameter declares.
        choices: categorical set-points.
        crystal: structure, for capabilities that take one.
        sample: id of the physical sample.
        label: what people call the candidate, for task cards and logs.
        deadline_s: the driver must give up by then.
    """

    key: str
    capability: str
    settings: Mapping[str, Quantity] = field(default_factory=frozen)
    choices: Mapping[str, str] = field(default_factory=frozen)
    crystal: Crystal | None = None
    sample: str | None = None
    label: str = ""
    deadline_s: float = 3600.0

    def to_json(self) -> JsonObject:
        """Return the order as JSON content."""
        return {
            "key": self.key,
            "capability": self.capability,
            "settings": {name: [q.value, q.unit] for name, q in self.settings.items()},
            "choices": dict(self.choices),
            "crystal": self.crystal.to_json() if self.crystal else None,
            "sample": self.sample,
            "label": self.label,
            "deadline_s": self.deadline_s,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Order:
        """Build the order from `to_json` content."""
        return cls(
            key=content["key"],
            capability=content["capability"],
            settings=_quantities(content["settings"]),
            choices=frozen(content["choices"]),
            crystal=Crystal.from_json(content["crystal"]) if content["crystal"] else None,
            sample=content["sample"],
            label=content["label"],
            deadline_s=float(content["deadline_s"]),
        )


@dataclass(frozen=True)
class Reading:
    """One number that an instrument gives.

    Args:
        property: name of the output.
        value: number in `unit`.
        unit: any unit of the declared dimension; the guard converts.
        std_error: standard error in `unit`, where known.
        quality: trust.
        measured_at: UTC in microseconds, where the instrument keeps time; else the guard stamps it.
    """

    property: str
    value: float
    unit: str
    std_error: float | None = None
    quality: Quality = Quality.GOOD
    measured_at: int | None = None


@dataclass(frozen=True)
class Result:
    """What came back for one order.

    Args:
        key: the order's key, echoed.
        readings: numbers.
        structures: structure outputs, such as the relaxed cell, by output name.
        applied: set-points as read back; what the surrogate trains on.
        applied_choices: categorical set-points as read back.
        attachments: raw files.
        notes: for people: who measured, what was odd.
    """

    key: str
    readings: tuple[Reading, ...] = ()
    structures: Mapping[str, Crystal] = field(default_factory=frozen)
    applied: Mapping[str, Quantity] = field(default_factory=frozen)
    applied_choices: Mapping[str, str] = field(default_factory=frozen)
    attachments: tuple[Attachment, ...] = ()
    notes: str = ""

    def to_json(self) -> JsonObject:
        """Return the result as JSON content; attachments by name, type and hash."""
        return {
            "key": self.key,
            "readings": [
                {
                    "property": r.property,
                    "value": r.value,
                    "unit": r.unit,
                    "std_error": r.std_error,
                    "quality": r.quality.value,
                    "measured_at": r.measured_at,
                }
                for r in self.readings
            ],
            "structures": {name: crystal.to_json() for name, crystal in self.structures.items()},
            "applied": {name: [q.value, q.unit] for name, q in self.applied.items()},
            "applied_choices": dict(self.applied_choices),
            "attachments": [[a.name, a.media_type, a.sha256] for a in self.attachments],
            "notes": self.notes,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], read: Callable[[str], bytes] | None = None) -> Result:
        """Build the result from `to_json` content.

        Args:
            content: numbers may be text such as ``"nan"``, which JSON has no number for.
            read: gives the content of an attachment by its hash; without it the attachments are left out.

        Returns:
            The result as the driver returned it.
        """
        return cls(
            key=content["key"],
            readings=tuple(
                Reading(
                    property=r["property"],
                    value=float(r["value"]),
                    unit=r["unit"],
                    std_error=None if r["std_error"] is None else float(r["std_error"]),
                    quality=Quality(r["quality"]),
                    measured_at=r["measured_at"],
                )
                for r in content["readings"]
            ),
            structures=frozen({name: Crystal.from_json(c) for name, c in content["structures"].items()}),
            applied=_quantities(content["applied"]),
            applied_choices=frozen(content["applied_choices"]),
            attachments=tuple(
                Attachment(name, media, read(digest)) for name, media, digest in content["attachments"] if read
            ),
            notes=content["notes"],
        )


@dataclass(frozen=True)
class Absent:
    """Answer of `lookup`: the instrument's own log shows that the order never started."""


@dataclass(frozen=True)
class Running:
    """Answer of `lookup`: the job runs; `attach` with this handle waits for it."""

    handle: JsonObject


@dataclass(frozen=True)
class Finished:
    """Answer of `lookup`: the job is done."""

    result: Result


@dataclass(frozen=True)
class Unsure:
    """Answer of `lookup`: the instrument cannot tell."""

    why: str


def _quantities(content: Mapping[str, Any]) -> Mapping[str, Quantity]:
    return frozen({name: Quantity(float(value), unit) for name, (value, unit) in content.items()})


Whereabouts = Absent | Running | Finished | Unsure
