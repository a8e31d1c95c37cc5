"""Answers of a campaign whose instrument is a table: every candidate is asked for once, before anything is chosen."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator import plugins
from orchestrator.config.schema import CampaignConfig
from orchestrator.config.steps import StepConfig
from orchestrator.domain import Candidate, JsonObject
from orchestrator.errors import InstrumentError
from orchestrator.execution.inputs import Context, build_order
from orchestrator.measuring import parameter_units
from orchestrator.planner import Parts
from orchestrator.protocols import Instrument
from orchestrator.units import convert

TABLE = "table_lookup"


def table_step(config: CampaignConfig) -> StepConfig | None:
    """Return the only step of a campaign that asks a table of its own; None where there is another procedure."""
    if len(config.procedure) != 1:
        return None
    use = config.instruments.get(config.procedure[0].instrument)
    return config.procedure[0] if use is not None and use.use == TABLE else None


def look_up(config: CampaignConfig, parts: Parts, candidates: Sequence[Candidate]) -> dict[str, list[float]]:
    """Ask the table for every candidate.

    Args:
        config: a campaign with a `table_step`.
        parts: its plug-ins.
        candidates: n.

    Returns:
        By property of the table: n values in the problem's units, NaN where the table has no row.

    Raises:
        InstrumentError: the table cannot be read.
    """
    step = table_step(config)
    if step is None:
        return {}
    use = config.instruments[step.instrument]
    instrument: Instrument = plugins.build(
        "instruments", use.use, use.options, base=parts.base, allowed_modules=parts.allowed_modules
    )
    return asyncio.run(_ask(instrument, step, candidates, parameter_units(parts.space), config.problem().units))


async def _ask(
    instrument: Instrument,
    step: StepConfig,
    candidates: Sequence[Candidate],
    given: Mapping[str, str],
    wanted: Mapping[str, str],
) -> dict[str, list[float]]:
    capability = (await instrument.describe()).capability(step.capability)
    found = {output.name: [math.nan] * len(candidates) for output in capability.outputs if output.name in wanted}
    await instrument.open()
    try:
        for i, candidate in enumerate(candidates):
            order = build_order(step, capability, Context(candidate, units=given))
            try:
                result = await instrument.run(replace(order, key=candidate.id), _Silent())
            except InstrumentError:
                continue  # no row, or none that can be read: a replayed campaign learns nothing there either
            for reading in result.readings:
                if reading.property in found:
                    found[reading.property][i] = convert(reading.value, reading.unit, wanted[reading.property])
    finally:
        await instrument.close()
    return found


class _Silent:
    """Events of an order that nobody watches."""

    async def accepted(self, handle: JsonObject) -> None:
        """Take note of nothing."""

    def progress(self, fraction: float, text: str = "") -> None:
        """Take note of nothing."""

    def abort_requested(self) -> bool:
        """Never end early."""
        return False

    async def sleep(self, seconds: float) -> None:
        """Never wait."""
