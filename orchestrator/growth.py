"""Pools that grow while a campaign runs: every decision is recorded with the pool that it saw.

The ids of a growing pool are kept as a raw file, 32 bytes each and sorted, whenever they have changed; the event that
says so stands before the decision that used them. So a decision can be recomputed on a pool that has grown since:
what came later is closed to it. Nothing may be taken away, since decisions were made among it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from orchestrator.errors import SpaceError
from orchestrator.protocols import ColumnarSpace, FiniteSpace, GrowingSpace, SearchSpace
from orchestrator.record.store import CampaignStore
from orchestrator.record.verify import POOL
from orchestrator.record.views import EventInfo

DIGITS = 64
ID_BYTES = 32
SHOWN = 3

Ids = npt.NDArray[np.bytes_]


def look(store: CampaignStore, name: str, space: SearchSpace) -> int:
    """Take in what was added to a growing pool, and record the pool where it is another than before.

    Args:
        store: the campaign database.
        name: of the campaign.
        space: of its current revision; any other space is left alone.

    Returns:
        How many candidates are new since the last decision.

    Raises:
        SpaceError: candidates were taken away, or what was added cannot be read.
    """
    if not isinstance(space, GrowingSpace) or not space.growing():
        return 0
    space.refresh()
    revision = store.campaign(name).revision
    events = _events(store, name, revision)
    now = ids_of(space)
    before = _stored(store, events[-1]) if events else now
    gone = np.setdiff1d(before, now, assume_unique=True)
    if len(gone):
        some = ", ".join(f"{one.ljust(ID_BYTES, bytes(1)).hex()[:12]}…" for one in gone[:SHOWN].tolist())
        message = (
            f"{len(gone)} candidates ({some}) are no longer in the pool that campaign {name!r} chooses from, and its"
            " decisions were made among them: put them back. To take a candidate out of a running campaign, write"
            " 'matloop veto'; for another pool, amend the campaign file"
        )
        raise SpaceError(message)
    new = len(now) - len(before)
    if not events or new:
        digest = store.raw.put(now.tobytes())
        note = f"revision {revision}: {len(now)} candidates, {new} of them new; ids in the raw file {digest}"
        store.add_event(name, kind=POOL, actor="matloop", note=note)
    return new


def added_later(store: CampaignStore, name: str, space: SearchSpace, *, revision: int, at: int) -> frozenset[str]:
    """Return the ids that came into a growing pool after a moment.

    Args:
        store: the campaign database.
        name: of the campaign.
        space: as it is now.
        revision: of the campaign file.
        at: the moment, in the store's time.
    """
    if not isinstance(space, GrowingSpace) or not space.growing():
        return frozenset()
    seen = [event for event in _events(store, name, revision) if event.at <= at]
    if not seen:
        return frozenset()
    later = np.setdiff1d(ids_of(space), _stored(store, seen[-1]), assume_unique=True)
    return frozenset(one.ljust(ID_BYTES, bytes(1)).hex() for one in later.tolist())


def ids_of(space: FiniteSpace) -> Ids:
    """Return the ids of a listed space as 32 bytes each, sorted."""
    if isinstance(space, ColumnarSpace):
        return np.asarray(space.ids())
    return np.array(sorted(bytes.fromhex(candidate.id) for candidate in space.candidates()), dtype=f"S{ID_BYTES}")


def _events(store: CampaignStore, name: str, revision: int) -> list[EventInfo]:
    begins = f"revision {revision}: "
    return [event for event in store.events(name) if event.kind == POOL and event.note.startswith(begins)]


def _stored(store: CampaignStore, event: EventInfo) -> Ids:
    return np.frombuffer(store.raw.get(event.note[-DIGITS:]), dtype=f"S{ID_BYTES}")
