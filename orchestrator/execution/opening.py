"""Opening the instruments of a campaign, and knowing them again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from orchestrator.config.lab import LabConfig, ParameterEnvelope
from orchestrator.config.steps import StepConfig
from orchestrator.domain import Capability, Description, Identity
from orchestrator.errors import ConfigError, InstrumentError, MatloopError, NotConnected
from orchestrator.execution.choosing_instrument import Bench
from orchestrator.protocols import Instrument
from orchestrator.record.store import CampaignStore
from orchestrator.record.views import AttemptInfo

OPENED = "instrument opened"
"""Kind of the event that keeps an instrument's identity."""


def needed(steps: Iterable[StepConfig], lab: LabConfig) -> list[str]:
    """List the instruments that steps use: the members of their kinds, and what their interlocks read.

    Args:
        steps: of every procedure.
        lab: with kinds and interlocks.
    """
    wanted = list(steps)
    names = [one for step in wanted for one in lab.members(step.instrument)]
    for interlock in lab.interlocks:
        about = {one.partition(".")[0] for one in interlock.before}
        if any(step.instrument in about or about & set(lab.members(step.instrument)) for step in wanted):
            names.append(interlock.read.instrument)
    return list(dict.fromkeys(names))


async def open_all(
    store: CampaignStore,
    campaign: str,
    bench: Bench,
    names: Iterable[str],
    envelopes: Mapping[str, Mapping[str, ParameterEnvelope]],
) -> dict[str, Description]:
    """Open instruments and put them on the bench; what cannot be reached is out of service, where something else can.

    Args:
        store: of the campaign.
        campaign: name.
        bench: that gets them.
        names: of the instruments.
        envelopes: the lab's bounds.

    Returns:
        What they can do, by name.

    Raises:
        ConfigError: an instrument is missing, or an envelope bounds what it does not have.
        InstrumentError: none of them can be reached.
    """
    known = _known_identities(store, campaign)
    descriptions: dict[str, Description] = {}
    missing: dict[str, InstrumentError] = {}
    for name in names:
        if name not in bench.instruments:
            there = ", ".join(bench.instruments) or "none"
            message = f"the procedure uses instrument {name!r}; there are: {there}"
            raise ConfigError(message)
        description = await bench.instruments[name].describe()
        _check_envelope(name, description, envelopes.get(name, {}))
        descriptions[name] = description
        bench.add(name, description.slots)
    for name in descriptions:
        found = await _opened(bench.instruments[name])
        if isinstance(found, InstrumentError):
            missing[name] = found
            continue
        bench.identities[name] = found
        if known.get(name) != found:
            _remember(store, campaign, name, found)
    if missing and len(missing) == len(descriptions):
        raise next(iter(missing.values()))
    for name, refusal in missing.items():
        await bench.take_out(name, "offline", f"it cannot be opened: {type(refusal).__name__}: {refusal}")
    for name, identity in bench.identities.items():
        if name in known and known[name].serial != identity.serial:
            await _doubt(bench, name, known[name], descriptions[name])
    await bench.look()
    return descriptions


async def _opened(instrument: Instrument) -> Identity | InstrumentError:
    """Open an instrument, or say why it cannot be reached."""
    try:
        return await instrument.open()
    except InstrumentError as error:
        return error
    except MatloopError:
        raise
    except Exception as error:  # noqa: BLE001  a spoiled answer makes libraries raise ValueError, struct.error, …
        return NotConnected(f"the driver raised {type(error).__name__}: {error}")


def capability_of(name: str, description: Description, wanted: str | None) -> Capability:
    """Return the capability that a step uses.

    Raises:
        ConfigError: the instrument has none of that name.
    """
    try:
        return description.capability(wanted or None)
    except KeyError as error:
        message = f"instrument {name!r} has {error.args[0]}"
        raise ConfigError(message) from error


def _check_envelope(name: str, description: Description, envelope: Mapping[str, ParameterEnvelope]) -> None:
    parameters = {p.name for capability in description.capabilities for p in capability.parameters}
    for bounded in envelope:
        if bounded not in parameters:
            there = ", ".join(sorted(parameters)) or "none"
            message = f"the envelope of instrument {name!r} bounds {bounded!r}; its parameters are: {there}"
            raise ConfigError(message)


def same_device(store: CampaignStore, campaign: str, bench: Bench, attempt: AttemptInfo) -> bool:
    """Say whether an instrument is still the device that an attempt was sent to; another one's log proves nothing."""
    now = bench.identities.get(attempt.instrument)
    then = _known_identities(store, campaign, attempt.created_at).get(attempt.instrument)
    return now is None or then is None or then.serial == now.serial


async def _doubt(bench: Bench, name: str, known: Identity, description: Description) -> None:
    """Take an exchanged instrument out of service, until a person says that it is the right one."""
    now = bench.identities[name].serial
    if known.serial and not description.simulated:
        await bench.take_out(name, "identity", f"it has serial number {now!r}; {known.serial!r} was opened before")


def _remember(store: CampaignStore, campaign: str, name: str, identity: Identity) -> None:
    said = {"instrument": name, "name": identity.name, "serial": identity.serial, "firmware": identity.firmware}
    store.add_event(campaign, kind=OPENED, actor="matloop", note=json.dumps(said, sort_keys=True))


def _known_identities(store: CampaignStore, campaign: str, until: int | None = None) -> dict[str, Identity]:
    known: dict[str, Identity] = {}
    for event in store.events(campaign):
        if event.kind == OPENED and (until is None or event.at <= until):
            said = json.loads(event.note)
            known[said["instrument"]] = Identity(said["name"], said["serial"], said["firmware"])
    return known
