"""The one door to the Prefect page: artifacts, links and marks, none of which can ever stop a trial.

Artifacts have fixed keys and are updated in place: a new version each time would add a card a trial to the page.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger
from prefect.states import Crashed

PATIENCE_S = 10.0
"""Longest wait for the server; the campaign waits meanwhile, its instruments do not."""

SILENT_S = 60.0
"""After a failure the server is left alone for so long, so that an outage costs a campaign 10 s a minute at most."""


class Page:
    """What one flow run shows.

    Args:
        campaign: its name.
        flow_run_id: to which the artifacts belong; None shows nothing.
    """

    def __init__(self, campaign: str, flow_run_id: UUID | None) -> None:
        self.prefix = re.sub(r"[^a-z0-9-]+", "-", campaign.lower())
        self.flow_run_id = flow_run_id
        self._ids: dict[str, UUID] = {}
        self._silent_until = 0.0

    async def markdown(self, name: str, text: str, description: str = "") -> None:
        """Show a text, replacing what was shown under the name before."""
        await self._show(name, "markdown", text, description)

    async def table(self, name: str, rows: Sequence[Mapping[str, Any]], description: str = "") -> None:
        """Show a table, one mapping a row."""
        await self._show(name, "table", json.dumps([dict(row) for row in rows]), description)

    async def progress(self, name: str, fraction: float, description: str = "") -> None:
        """Show a progress bar; fraction between 0 and 1."""
        await self._show(name, "progress", round(100.0 * fraction, 1), description)

    async def named(self, name: str, tags: Sequence[str]) -> None:
        """Name and tag the flow run, which the form may have left without a name."""

        async def act(client: PrefectClient) -> None:
            if self.flow_run_id is not None:
                await client.update_flow_run(self.flow_run_id, name=name, tags=list(tags))

        await self._safely(act)

    async def deployment(self, name: str) -> UUID | None:
        """Find a deployment by ``flow/name``; None where there is none."""
        found: list[UUID] = []

        async def act(client: PrefectClient) -> None:
            with contextlib.suppress(ObjectNotFound):
                found.append((await client.read_deployment_by_name(name)).id)

        await self._safely(act)
        return found[0] if found else None

    async def crashed(self, flow_run_id: str, message: str) -> None:
        """Mark an earlier flow run whose process is gone."""

        async def act(client: PrefectClient) -> None:
            try:
                earlier = await client.read_flow_run(UUID(flow_run_id))
            except ObjectNotFound:
                return  # another server, or an emptied one
            if earlier.state is None or not earlier.state.is_final():
                await client.set_flow_run_state(UUID(flow_run_id), Crashed(message=message), force=True)

        await self._safely(act)

    async def _show(self, name: str, kind: str, data: Any, description: str) -> None:
        key = f"{self.prefix}-{name}"

        async def act(client: PrefectClient) -> None:
            if key in self._ids:
                await client.update_artifact(self._ids[key], ArtifactUpdate(data=data, description=description))
                return
            made = await client.create_artifact(
                ArtifactCreate(key=key, type=kind, data=data, description=description, flow_run_id=self.flow_run_id)
            )
            self._ids[key] = made.id

        await self._safely(act)

    async def _safely(self, act: Any) -> None:
        if self.flow_run_id is None or time.monotonic() < self._silent_until:
            return
        try:
            await asyncio.wait_for(self._call(act), PATIENCE_S)
        except Exception as error:  # noqa: BLE001  the page may fail in any way it likes; the campaign goes on
            self._silent_until = time.monotonic() + SILENT_S
            get_logger("matloop").warning("the Prefect page could not be updated: %r", error)

    @staticmethod
    async def _call(act: Any) -> None:
        async with get_client() as client:
            answer: Awaitable[None] = act(client)
            await answer
