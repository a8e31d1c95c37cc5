"""What only PostgreSQL does: settings of the server, locks across computers, lost connections, shared databases."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from orchestrator.errors import Busy, Drift, Held, StoreError
from orchestrator.record.store import CampaignStore
from tests.records import begin, carry_out, decide, start

pytestmark = pytest.mark.postgres


@pytest.fixture
def store(postgres_database: str) -> Iterator[CampaignStore]:
    """An empty store on PostgreSQL."""
    opened = CampaignStore.open(postgres_database)
    yield opened
    opened.close()


def run(store: CampaignStore, statement: str) -> None:
    """Run one statement behind the store's back."""
    with store._db.engine.connect() as connection, connection.begin():
        connection.execute(text(statement))


def test_the_password_is_masked(store: CampaignStore, postgres_database: str) -> None:
    """The address that is shown never holds the password, and the files' folder does not depend on it."""
    secret = CampaignStore.open(postgres_database.replace("postgres@", "postgres:hunter2@"))
    assert "hunter2" not in secret.url
    assert "hunter2" not in str(secret.folder)
    assert secret.folder == store.folder
    secret.close()


def test_a_server_that_loses_commits_is_refused(store: CampaignStore, postgres_database: str) -> None:
    """With synchronous_commit off nothing is opened; the message names setting and danger."""
    try:
        run(store, "ALTER ROLE postgres SET synchronous_commit = off")
        with pytest.raises(StoreError, match=r"synchronous_commit=off.*lost"):
            CampaignStore.open(postgres_database)
    finally:
        run(store, "ALTER ROLE postgres RESET synchronous_commit")


def test_a_missing_server_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No server, no store, and an error that can be read."""
    monkeypatch.setenv("MATLOOP_HOME", str(tmp_path))
    with pytest.raises(StoreError, match="did not answer"):
        CampaignStore.open(f"postgresql+psycopg://postgres@/postgres?host={tmp_path}")


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("ALTER TABLE event DISABLE TRIGGER tr_event_update", "lost trigger tr_event_update"),
        ("DROP TRIGGER tr_event_truncate ON event", "not the ones that were made"),
        ("ALTER TABLE campaign DROP CONSTRAINT ck_campaign_trials", "not the ones that were made"),
        ("CREATE OR REPLACE FUNCTION matloop_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
         "not the ones that were made"),
    ],
)  # fmt: skip
def test_an_altered_schema_is_refused(store: CampaignStore, postgres_database: str, statement: str, told: str) -> None:
    """Triggers switched off, constraints dropped and functions replaced are found at the next start."""
    run(store, statement)
    with pytest.raises(Drift, match=told):
        CampaignStore.open(postgres_database)
    assert any(told in problem for problem in store.verify())


def test_another_computer_is_excluded(
    store: CampaignStore, postgres_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process with other lock files, as on another computer, is refused by the database's own lock."""
    begin(store)
    monkeypatch.setenv("MATLOOP_HOME", str(tmp_path / "elsewhere"))
    other = CampaignStore.open(postgres_database)
    assert other.folder != store.folder
    with store.hold("demo"), pytest.raises(Held, match=r"matloop \d+@.* since"), other.hold("demo"):
        pytest.fail("two computers hold one campaign")
    with other.hold("demo"):
        pass
    other.close()


def test_a_shared_database_keeps_apart(store: CampaignStore, postgres_database: str) -> None:
    """Tables of the same names in the public schema, such as Prefect's, are neither seen nor touched."""
    run(store, "CREATE TABLE IF NOT EXISTS public.artifact (id int)")
    begin(store)
    carry_out(store, decide(store, "demo", [1])[0], 1.0)
    CampaignStore.open(postgres_database).close()
    assert store.verify() == []
    run(store, "DROP TABLE public.artifact")


def test_a_broken_connection_is_made_anew(store: CampaignStore) -> None:
    """When the server drops the connections, the next transaction runs on new ones, once."""
    begin(store)
    drop = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
    )
    with store._db.engine.connect() as other, other.begin():
        store.add_event("demo", kind="notice", actor="Ada", note="before")
        other.execute(text(drop))
    store.add_event("demo", kind="notice", actor="Ada", note="after")
    assert [event.note for event in store.events("demo")][1:] == ["before", "after"]
    assert store.verify() == []


def test_a_slot_taken_meanwhile_is_not_taken_twice(store: CampaignStore) -> None:
    """Two campaigns that ask for the only slot at once: one gets it, the other is told that it is busy."""
    steps = []
    for name in ("a", "b"):
        begin(store, name)
        steps.append(decide(store, name, [1])[0].steps[0].id)
    answers: list[object] = []
    barrier = threading.Barrier(2)

    def ask(step: int) -> None:
        barrier.wait()
        try:
            answers.append(start(store, step, instrument="furnace", slots=1).slot)
        except Busy:
            answers.append("busy")

    threads = [threading.Thread(target=ask, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, answers)) == ["0", "busy"]
