"""The store: a campaign's only memory. Everything else can be rebuilt from it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import platformdirs
from sqlalchemy import make_url

from orchestrator.domain import sha256
from orchestrator.errors import StoreError
from orchestrator.record.bluesky import export_bluesky
from orchestrator.record.campaigns import Campaigns
from orchestrator.record.database import Database, said_plainly
from orchestrator.record.engine import is_postgresql, make_engine, masked
from orchestrator.record.export import export_csv
from orchestrator.record.imports import Imports
from orchestrator.record.resources import Resources
from orchestrator.record.results import Results
from orchestrator.record.samples import Samples
from orchestrator.record.schema import prepare
from orchestrator.record.service import Service
from orchestrator.record.steps import Steps
from orchestrator.record.verify import verify
from orchestrator.record.views import NewMeasurement, StepOutput, StepPlan
from orchestrator.record.waiting import Waiting

__all__ = ["CampaignStore", "NewMeasurement", "StepOutput", "StepPlan", "home"]

LEAST_FREE = 50_000_000
"""Bytes that must be free before a new step starts: room for its raw result, its rows and the journal."""


class CampaignStore(Campaigns, Imports, Steps, Results, Service, Resources, Samples, Waiting):
    """One database of campaigns with the folder of its files. Open it with `CampaignStore.open`.

    Every method is one transaction; the store may be used from several threads.

    Attributes:
        folder: of raw files, fits and locks.
        raw: raw files by their SHA-256.
    """

    @classmethod
    def open(
        cls,
        where: str | Path | None = None,
        *,
        create: bool = True,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
        least_free: int = LEAST_FREE,
    ) -> CampaignStore:
        """Open a store, and make it where there is none.

        Args:
            where: path of an SQLite file, or ``postgresql+psycopg://user@host/database``; None takes
                ``campaigns.db`` in `home`.
            create: whether a missing database may be made.
            clock: returns UTC in microseconds.
            least_free: bytes that must be free before a new step may start.

        Returns:
            The store.

        Raises:
            Drift: the database is another version's or was altered.
            StoreError: there is none, or its place cannot be used.
        """
        text = str(where) if where is not None else str(home() / "campaigns.db")
        if text.startswith("sqlite:///"):
            text = text.removeprefix("sqlite:///")
        if is_postgresql(text):
            bare = make_url(text)._replace(password=None).render_as_string()  # `set` takes None for "as it was"
            folder = home() / f"{sha256(bare)[:16]}.files"
        elif "://" not in text:
            text = str(Path(text).expanduser().absolute())
            folder = Path(f"{text}.files")
        else:
            message = (
                f"a store at {text.split('://', maxsplit=1)[0]}://… is not supported; "
                "give the path of an SQLite file or postgresql+psycopg://user@host/database"
            )
            raise StoreError(message)
        engine = make_engine(text, create=create)
        try:
            with said_plainly():
                prepare(engine, create=create)
                folder.mkdir(parents=True, exist_ok=True)
                store = cls(Database(engine, clock), folder, least_free=least_free)
                store.raw.sweep()
        except BaseException:
            engine.dispose()
            raise
        return store

    @property
    def url(self) -> str:
        """Address of the database, its password masked."""
        return masked(self._db.engine)

    def close(self) -> None:
        """Close the connections. Closing twice is harmless."""
        self._db.engine.dispose()

    def verify(self, name: str | None = None) -> list[str]:
        """Look for damage: changed, deleted or exchanged rows, raw files and fits, and an altered schema.

        Args:
            name: of one campaign; all of them where None.

        Returns:
            What was found, one sentence each; nothing where all is well.
        """
        return verify(self._db, self.folder, None if name is None else self._id(name))

    def export_csv(self, name: str, path: Path) -> int:
        """Write the trials of a campaign as CSV, one line each.

        Args:
            name: of the campaign.
            path: to be written, replaced where it exists.

        Returns:
            The number of trials.
        """
        return export_csv(self.trials(name), self.measurements(name), path, self.samples(name))

    def export_bluesky(self, name: str, path: Path) -> int:
        """Write the trials of a campaign as bluesky documents, one JSON line each.

        Args:
            name: of the campaign.
            path: to be written, replaced where it exists.

        Returns:
            The number of trials that were begun.
        """
        return export_bluesky(
            path,
            campaign=self.campaign(name),
            trials=self.trials(name),
            attempts=self.attempts(name),
            measurements=self.measurements(name, single=True),
            applied=self.applied(name),
        )


def home() -> Path:
    """Return the folder of Matloop's data: ``MATLOOP_HOME``, or the user's data folder."""
    given = os.environ.get("MATLOOP_HOME")
    return Path(given).expanduser() if given else Path(platformdirs.user_data_dir("matloop"))
