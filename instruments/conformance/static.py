"""Level 0 of the conformance checks: what a driver declares. Nothing is opened."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass
from functools import cache

from pydantic import BaseModel

from instruments.conformance.rules import Findings
from orchestrator.domain import Capability, Description, Limit, Output, Parameter, Recovery
from orchestrator.errors import UnitError
from orchestrator.protocols import Instrument, Recoverable
from orchestrator.units import check_unit

OFFLINE_S = 5.0
"""`describe` is asked while a campaign file is checked, before any device is switched on; it may read a table."""
METHODS = tuple(name for name, member in vars(Instrument).items() if callable(member) and not name.startswith("_"))
IMPORT_S = 60.0
WATCHED_IMPORT = """
import json, sys, threading
seen, armed = [], []
def hook(event, arguments):
    if armed and event in ("socket.connect", "socket.sendto", "subprocess.Popen", "os.fork", "os.posix_spawn"):
        seen.append(event)
sys.path[:] = json.loads(sys.argv[1])
import instruments.sync, orchestrator.protocols, orchestrator.units
sys.addaudithook(hook)
armed.append(True)
__import__(sys.argv[2])
armed.clear()
threads = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
print("\\n" + json.dumps({"calls": sorted(set(seen)), "threads": threads, "torch": "torch" in sys.modules}))
"""


async def static(instrument: Instrument, findings: Findings) -> Description | None:
    """Check declarations; nothing is opened.

    Args:
        instrument: built.
        findings: to add to.

    Returns:
        What it declares; None where it could not say.
    """
    findings.none_of(
        "the six methods are async",
        (
            f"{name} is {'missing' if not hasattr(instrument, name) else 'no async method'}"
            for name in METHODS
            if not inspect.iscoroutinefunction(getattr(instrument, name, None))
        ),
    )
    options = getattr(type(instrument), "Options", None)
    strict = (
        isinstance(options, type) and issubclass(options, BaseModel) and options.model_config.get("extra") == "forbid"
    )
    findings.that(
        "options refuse unknown keys", strict, "give the class an inner Options (orchestrator.protocols.Options)"
    )
    module = type(instrument).__module__
    if importable(module):
        findings.none_of("importing touches nothing", await asyncio.to_thread(import_effects, module))
    began = time.monotonic()
    try:
        first, second = await instrument.describe(), await instrument.describe()
    except Exception as error:  # noqa: BLE001  a driver may raise anything; that is what is reported
        findings.that("describe works offline", False, f"{type(error).__name__}: {error}")
        return None
    took = time.monotonic() - began
    offline = isinstance(first, Description) and took < OFFLINE_S
    if not findings.that("describe works offline", offline, f"{took:.1f} s: {first!r}"):
        return None
    findings.that("describe gives the same twice", first == second, "two calls differ")
    if not findings.none_of("the description is plain JSON", _not_json(first)):
        return None  # what is no number cannot be compared with bounds
    _capabilities(first, findings)
    recoverable = first.recovery is not Recovery.QUERYABLE or isinstance(instrument, Recoverable)
    findings.that(
        "a queryable instrument can look up", recoverable, "recovery is queryable; write 'lookup' and 'attach'"
    )
    findings.that("there is at least one slot", first.slots >= 1, f"slots is {first.slots}")
    return first


def importable(module: str) -> bool:
    """Say whether another process could import a module by its name.

    Args:
        module: dotted name.
    """
    try:
        return module != "__main__" and importlib.util.find_spec(module) is not None
    except (ImportError, ValueError, AttributeError):  # the module was made, not imported
        return False


@cache
def import_effects(module: str) -> tuple[str, ...]:
    """Import a module in a fresh process, and tell what that touched.

    Args:
        module: dotted name.

    Returns:
        One sentence for each: connections, processes, threads, torch.
    """
    command = [sys.executable, "-c", WATCHED_IMPORT, json.dumps(sys.path), module]
    try:
        done = subprocess.run(  # noqa: S603  our own program; the module is the driver that is being checked
            command, capture_output=True, text=True, check=False, timeout=IMPORT_S, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return (f"importing {module} takes longer than {IMPORT_S:g} s",)
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        return (f"{module} cannot be imported alone: {last}",)
    seen = json.loads(done.stdout.splitlines()[-1])
    wrong = [f"it calls {call}" for call in seen["calls"]]
    wrong += [f"it starts the thread {name}" for name in seen["threads"]]
    return (*wrong, "it loads torch: import it inside the function that needs it") if seen["torch"] else tuple(wrong)


def _not_json(description: Description) -> Iterable[str]:
    try:
        json.dumps(description, default=_plain)
    except (TypeError, ValueError) as error:
        yield f"{error}; use plain text, int and float"


def _plain(part: object) -> object:
    if is_dataclass(part):
        return vars(part)
    if isinstance(part, frozenset):
        return sorted(part)
    if isinstance(part, Mapping):
        return dict(part)
    message = f"{part!r} is a {type(part).__name__}"
    raise TypeError(message)


def _capabilities(description: Description, findings: Findings) -> None:
    capabilities = description.capabilities
    names = [capability.name for capability in capabilities]
    findings.that("capabilities have different names", bool(names) and len(set(names)) == len(names), f"{names}")
    each: tuple[tuple[str, Callable[[Capability], Iterable[str]]], ...] = (
        ("names can be written in a file", _names),
        ("every capability declares outputs", _outputs),
        ("units are known and unambiguous", _units),
        ("parameters have finite bounds or choices", _bounds),
        ("joint limits name parameters", _limits),
        ("durations and cost are finite", _durations),
    )
    for rule, faults in each:
        findings.none_of(rule, (f"{c.name}: {fault}" for c in capabilities for fault in faults(c)))


def _names(capability: Capability) -> Iterable[str]:
    parts: tuple[Capability | Parameter | Output, ...] = (capability, *capability.parameters, *capability.outputs)
    for name in (part.name for part in parts):
        if not name.isidentifier():
            yield f"{name!r} is no name; use letters, digits and '_'"


def _outputs(capability: Capability) -> Iterable[str]:
    names = [output.name for output in capability.outputs]
    if not names:
        yield "there are none"
    if len(set(names)) != len(names):
        yield f"a name stands twice: {names}"
    for output in capability.outputs:
        if output.low is not None and output.high is not None and not output.low < output.high:
            yield f"{output.name} is valid from {output.low} to {output.high}"


def _units(capability: Capability) -> Iterable[str]:
    parts: tuple[Output | Parameter, ...] = (*capability.outputs, *capability.parameters)
    for part in parts:
        try:
            check_unit(part.unit)
        except UnitError as error:
            yield f"{part.name}: {error}"


def _bounds(capability: Capability) -> Iterable[str]:
    names = [parameter.name for parameter in capability.parameters]
    if len(set(names)) != len(names):
        yield f"a name stands twice: {names}"
    for p in capability.parameters:
        if p.choices:
            if p.default is not None and p.default not in p.choices:
                yield f"{p.name}: the default {p.default!r} is none of the choices"
            continue
        if p.low is None or p.high is None or not -math.inf < p.low < p.high < math.inf:
            yield f"{p.name} goes from {p.low} to {p.high}"
        elif p.default is not None and not (isinstance(p.default, float | int) and p.low <= p.default <= p.high):
            yield f"{p.name}: the default {p.default!r} is out of bounds"
        elif p.resolution is not None and not 0 < p.resolution <= p.high - p.low:
            yield f"{p.name}: the resolution {p.resolution} does not fit into the bounds"


def _limits(capability: Capability) -> Iterable[str]:
    numbers = {p.name for p in capability.parameters if not p.choices}
    for limit in capability.limits:
        if not _sound(limit, numbers):
            yield f"{limit.message!r} bounds {dict(limit.coefficients)} at {limit.at_most}"


def _sound(limit: Limit, numbers: set[str]) -> bool:
    return bool(limit.coefficients) and set(limit.coefficients) <= numbers and math.isfinite(limit.at_most)


def _durations(capability: Capability) -> Iterable[str]:
    c = capability
    if not 0 < c.typical_s <= c.longest_s < math.inf:
        yield f"usually {c.typical_s} s, at most {c.longest_s} s"
    if not 0 <= c.cost < math.inf:
        yield f"cost {c.cost}"
    if not c.fidelity:
        yield "no fidelity; write 'real', 'simulated', …"
