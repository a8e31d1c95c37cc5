"""What the adapter host and its client say to each other, as JSON.

::

    GET  /v1                                    names of the instruments, protocol number
    GET  /v1/NAME                               description, its hash, mix-ins
    POST /v1/NAME/open | abort | safe | beat    link; stop; safe state; the orchestrator lives
    GET  /v1/NAME/health
    POST /v1/NAME/orders                        create: checks and journals an order, moves nothing → its job's id
    POST /v1/NAME/jobs/ID/start                 the one message that starts something
    POST /v1/NAME/jobs/ID/withdraw              a job that was not started never will be
    GET  /v1/NAME/jobs/ID?after=N&wait=SECONDS  state; waits for a change
    GET  /v1/NAME/keys/KEY                      where the job of a key is
    POST /v1/NAME/keys/KEY/acknowledge          the campaign has the result
    GET  /v1/NAME/attachments/SHA256            a raw file

Every request carries ``Authorization: Bearer TOKEN``. A refusal has an HTTP status of its own and a body
``{"error": {"kind", "message", "effect"}}``; `kind` is a class of `orchestrator.errors`. Every answer carries a hash
over the question as the host read it and the answer as the host wrote it. Numbers that JSON does not
have (NaN, infinities) travel as text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from orchestrator import errors
from orchestrator.domain import (
    Capability,
    Description,
    Identity,
    JsonObject,
    Limit,
    Output,
    Parameter,
    Recovery,
    canonical_json,
    sha256,
)
from orchestrator.errors import Effect, Fault, InstrumentError

PROTOCOL = 1
"""Raised when an older client would misunderstand; a client refuses another number."""
LARGEST = 64 * 2**20
"""Bytes of one message; attachments are files of their own and have no such limit here."""
KINDS: Mapping[str, type[InstrumentError]] = {
    kind.__name__: kind
    for kind in (
        errors.NotConnected,
        errors.Busy,
        errors.Rejected,
        errors.Interlocked,
        errors.TimedOut,
        errors.ProtocolDesync,
        errors.Aborted,
        errors.BadData,
        errors.Fault,
    )
}
STATUS: Mapping[str, int] = {"Busy": 409, "Rejected": 422, "Interlocked": 423, "NotConnected": 502, "TimedOut": 504}
"""HTTP status of a refusal by its kind; 500 for the others. Never 200: a client that forgets to look must not go on."""


SEAL = "x-matloop-seal"
"""Header of every answer in JSON."""


def seal(method: str, path: str, sent: bytes, answer: bytes) -> str:
    """Hash a question with its answer: TCP lets one in 65,000 damaged packets through, and a digit is one bit.

    Args:
        method: of HTTP.
        path: with the query.
        sent: body of the question.
        answer: body of the answer.

    Returns:
        What the host puts into the header, and the client expects there.
    """
    return sha256(b"\n".join((f"{method} {path} {len(sent)}".encode(), sent, answer)))


def dump(content: Any) -> bytes:
    """Write JSON in which numbers that JSON does not have are text.

    Args:
        content: mappings, sequences, texts and numbers.
    """
    return json.dumps(_spelled(content), sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def description_json(description: Description) -> JsonObject:
    """Write a description.

    Args:
        description: of an instrument.

    Returns:
        JSON content that `description_from` reads.
    """
    content: JsonObject = {
        "capabilities": [_capability_json(capability) for capability in description.capabilities],
        "recovery": description.recovery.value,
        "slots": description.slots,
        "delivery_s": description.delivery_s,
        "knows": [*sorted(description.knows)],
        "simulated": description.simulated,
    }
    return content


def description_from(content: Mapping[str, Any]) -> Description:
    """Read what `description_json` wrote.

    Args:
        content: JSON content.

    Returns:
        The description.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    return Description(
        capabilities=tuple(_capability(c) for c in content["capabilities"]),
        recovery=Recovery(content["recovery"]),
        slots=int(content["slots"]),
        delivery_s=float(content["delivery_s"]),
        knows=frozenset(content["knows"]),
        simulated=bool(content["simulated"]),
    )


def fingerprint(description: Mapping[str, Any]) -> str:
    """Return the hash of a description's JSON, by which drift is seen."""
    return sha256(canonical_json(description))


def error_json(error: BaseException) -> JsonObject:
    """Write an error; one that is no `InstrumentError` becomes a `Fault` of unknown effect."""
    if not isinstance(error, InstrumentError):
        error = Fault(f"the driver raised {type(error).__name__}: {error}")
    kind = next((name for name, known in KINDS.items() if isinstance(error, known)), "Fault")
    return {"kind": kind, "message": str(error), "effect": error.effect.value}


def error_from(content: Any) -> InstrumentError:
    """Read what `error_json` wrote; what cannot be read is a `Fault` of unknown effect."""
    try:
        kind = KINDS[content["kind"]]
        return kind(str(content["message"]), effect=Effect(content["effect"]))
    except (KeyError, TypeError, ValueError):
        return Fault(f"the host answered with an error that cannot be read: {content!r:.200}")


def identity_from(content: Mapping[str, Any]) -> Identity:
    """Read an identity."""
    return Identity(str(content["name"]), str(content["serial"]), str(content["firmware"]))


def _capability_json(capability: Capability) -> JsonObject:
    limits = [{**vars(limit), "coefficients": dict(limit.coefficients)} for limit in capability.limits]
    parts = {"outputs": [vars(o) for o in capability.outputs], "parameters": [vars(p) for p in capability.parameters]}
    content: JsonObject = _plain({**vars(capability), **parts, "limits": limits})
    return content


def _capability(content: Mapping[str, Any]) -> Capability:
    return Capability(
        name=content["name"],
        outputs=tuple(Output(**output) for output in content["outputs"]),
        parameters=tuple(Parameter(**{**p, "choices": tuple(p["choices"])}) for p in content["parameters"]),
        takes_structure=content["takes_structure"],
        limits=tuple(Limit(**limit) for limit in content["limits"]),
        typical_s=float(content["typical_s"]),
        longest_s=float(content["longest_s"]),
        cost=float(content["cost"]),
        fidelity=content["fidelity"],
    )


def _plain(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    return content


def _spelled(content: Any) -> Any:
    if isinstance(content, bool | int) or not isinstance(content, Real):
        if isinstance(content, Mapping):
            return {str(key): _spelled(value) for key, value in content.items()}
        return [_spelled(value) for value in content] if isinstance(content, list | tuple) else content
    number = float(content)
    return number if math.isfinite(number) else repr(number)
