"""`verify` finds every kind of damage, and nothing where there is none."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from orchestrator.domain import FitReport
from orchestrator.errors import Damaged
from orchestrator.record import tables
from orchestrator.record.hashing import row_sha
from orchestrator.record.store import CampaignStore
from tests.records import begin, carry_out, decide, measured, number, start

FLIPS = 60


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[CampaignStore]:
    """A store with two campaigns, results, a fit and attached files."""
    store = CampaignStore.open(tmp_path / "campaigns.db")
    for name in ("one", "two"):
        begin(store, name)
        trials = decide(store, name, range(4))
        for trial in trials[:2]:
            carry_out(store, trial, trial.number * 1.5, applied={"x": 1.0})
        attempt = measured(store, start(store, trials[2].steps[0].id))
        attached = store.raw.put(f"pattern of {name}".encode())
        files = [("pattern", "text/plain", attached)]
        store.record(attempt.id, [number(2.0)], structures={}, applied={}, attachments=files, notes="fine")
        store.veto(name, "c" * 64, actor="Ada", reason="no")
    state = tmp_path / "state"
    state.mkdir()
    (state / "weights").write_bytes(b"1" * 100)
    given = {"surrogate": "gp", "seed": 1, "seen": [1], "report": FitReport(1, "d" * 64), "folder": state}
    store.record_fit("one", number=1, parent=None, **given)  # type: ignore[arg-type]
    assert store.verify() == []
    yield store
    store.close()


@contextmanager
def behind_its_back(store: CampaignStore) -> Iterator[sqlite3.Connection]:
    """Give a connection without triggers and foreign keys, as somebody with the file at hand has; they come back."""
    raw = sqlite3.connect(str(store._db.engine.url.database))
    triggers = raw.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        raw.execute(f"DROP TRIGGER {name}")
    yield raw
    for _, sql in triggers:
        raw.execute(sql)
    raw.commit()
    raw.close()


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE measurement SET value = value + 1 WHERE id = 2", "row 2 of table measurement was changed"),
        ("UPDATE step SET state = 'FAILED' WHERE id = 1", "row 1 of table step was changed"),
        ("UPDATE campaign SET cap_trials = 999 WHERE id = 1", "row 1 of table campaign was changed"),
        ("UPDATE ledger SET hours = 0.5 WHERE id = 1", "its ledger was changed"),
        ("UPDATE event SET note = 'x' WHERE id = 3", "event 3 was changed"),
        ("DELETE FROM measurement WHERE id = 1", "row 1 of table measurement is missing"),
        ("DELETE FROM artifact WHERE id = 1", "row 1 of table artifact is missing"),
        ("DELETE FROM event WHERE campaign_id = 1 AND number = 4", "events 4 to 4 are missing"),
        ("DELETE FROM event WHERE campaign_id = 1 AND number > 10", "the last events are missing"),
        ("DELETE FROM ledger WHERE id = 1", "its ledger is missing"),
        ("INSERT INTO veto SELECT 99, campaign_id, 'd' || candidate_sha, actor, reason, at, row_sha FROM veto LIMIT 1",
         "row 99 of table veto was changed"),
        ("INSERT INTO sample VALUES (1, 1, 1, NULL, 'forged', '[]', 0, 'x')", "row 1 of table sample was changed"),
    ],
)  # fmt: skip
def test_changes_are_found(filled: CampaignStore, statement: str, told: str) -> None:
    """A changed, deleted, forged or cut-off row is named, in its campaign."""
    with behind_its_back(filled) as raw:
        raw.execute(statement)
    problems = filled.verify("one")
    assert any(told in problem for problem in problems), problems
    assert filled.verify("two") == []


@pytest.mark.parametrize("table", ["measurement", "attempt", "candidate"])
def test_exchanged_rows_are_found(filled: CampaignStore, table: str) -> None:
    """Two rows that exchanged their ids, each with its own valid hash, are not where the events say."""
    query = tables.Record.metadata.tables[table].select().where(text("campaign_id = 1 ORDER BY id LIMIT 2"))
    with filled._db.read() as connection:
        one, two = (dict(row._mapping) for row in connection.execute(query))
    one["id"], two["id"] = two["id"], one["id"]
    with behind_its_back(filled) as raw:
        raw.execute(f"DELETE FROM {table} WHERE id IN (:a, :b)", {"a": one["id"], "b": two["id"]})  # noqa: S608
        for row in (one, two):
            raw.execute(f"INSERT INTO {table} VALUES ({', '.join(f':{name}' for name in row)})", row)  # noqa: S608
    problems = filled.verify("one")
    assert sum("exchanged or set back" in problem for problem in problems) == 2, problems


def test_exchanged_events_are_found(filled: CampaignStore) -> None:
    """Two events whose places were exchanged, and whose hashes were made anew, break the chain."""
    table = tables.event
    with filled._db.read() as connection:
        rows = connection.execute(table.select().where(table.c.campaign_id == 1).order_by(table.c.number)).all()
    one, two = dict(rows[3]._mapping), dict(rows[4]._mapping)
    one["number"], two["number"] = two["number"], one["number"]
    with behind_its_back(filled) as raw:
        raw.execute("UPDATE event SET number = -1 WHERE id = ?", (one["id"],))
        for row in (two, one):
            values = (row["number"], row_sha(table, row), row["id"])
            raw.execute("UPDATE event SET number = ?, row_sha = ? WHERE id = ?", values)
    assert any("does not follow" in problem for problem in filled.verify("one")), filled.verify("one")


def test_a_row_set_back_is_found(filled: CampaignStore) -> None:
    """An old content of a state row, with its own valid hash, is not the one that the last event names."""
    [trial] = decide(filled, "one", [77])
    query = tables.step.select().where(tables.step.c.id == trial.steps[0].id)
    with filled._db.read() as connection:
        old = dict(connection.execute(query).one()._mapping)
    carry_out(filled, trial, 1.0)
    with behind_its_back(filled) as raw:
        setting = ", ".join(f"{name} = :{name}" for name in old)
        raw.execute(f"UPDATE step SET {setting} WHERE id = :id", old)  # noqa: S608
    assert any("set back" in problem for problem in filled.verify()), filled.verify()


def test_single_flipped_bits_are_found(filled: CampaignStore, tmp_path: Path) -> None:
    """Whichever bit of a value flips in the file, it is reported, or the database gives exactly what was written."""
    path = Path(str(filled._db.engine.url.database))
    content = _content(filled)
    filled._db.engine.dispose()
    good = path.read_bytes()
    written = [place for place, byte in enumerate(good) if byte]  # the rest is empty space
    generator = random.Random(5)
    found = harmless = 0
    for _ in range(FLIPS):
        bad = bytearray(good)
        bad[generator.choice(written)] ^= 1 << generator.randrange(8)
        path.write_bytes(bad)
        if _says_damage(path):
            found += 1
            continue
        again = CampaignStore.open(path)
        assert _content(again) == content, "silently wrong"
        again.close()
        harmless += 1
    path.write_bytes(good)
    assert found > FLIPS / 2, (found, harmless)


def _says_damage(path: Path) -> bool:
    try:
        store = CampaignStore.open(path, create=False)
    except Exception:  # noqa: BLE001  a damaged file may fail in any way, as long as it fails
        return True
    try:
        return store.verify() != []
    except Exception:  # noqa: BLE001
        return True
    finally:
        store.close()


def _content(store: CampaignStore) -> list[object]:
    with store._db.read() as connection:
        every = [*tables.HISTORY, *tables.STATE]
        return [tuple(row) for table in every for row in connection.execute(table.select().order_by(table.c.id))]


def test_damaged_values_are_not_used(filled: CampaignStore) -> None:
    """A changed measurement is refused where the dataset is read, not only by `verify`."""
    with behind_its_back(filled) as raw:
        raw.execute("UPDATE measurement SET value = 99 WHERE id = 1")
    with pytest.raises(Damaged, match="row 1 of table measurement"):
        filled.dataset("one")


def test_files_are_checked(filled: CampaignStore) -> None:
    """Missing and changed raw files, attached ones too, and a changed fit are named."""
    with filled._db.read() as connection:
        digests = list(connection.execute(tables.attempt.select().where(tables.attempt.c.campaign_id == 1)))
    raw = filled.raw.folder
    (raw / digests[0].raw_sha256).unlink()
    changed = raw / digests[1].raw_sha256
    changed.chmod(0o644)
    changed.write_bytes(b"other")
    attached = next(path for path in raw.iterdir() if path.read_bytes() == b"pattern of one")
    attached.unlink()
    [fit] = filled.fits("one")
    weights = filled.fit_folder(fit.id) / "weights"
    weights.chmod(0o644)
    weights.write_bytes(b"2" * 100)
    problems = filled.verify("one")
    assert len(problems) == 4
    assert [word for word in ("missing", "changed", "pattern", "fit 1") if not any(word in p for p in problems)] == []
    assert filled.verify("two") == []


def test_a_lost_trigger_is_reported(filled: CampaignStore) -> None:
    """A schema that was altered while the store is open is reported too."""
    raw = sqlite3.connect(str(filled._db.engine.url.database))
    raw.execute("DROP TRIGGER tr_measurement_update")
    raw.commit()
    raw.close()
    assert any("tr_measurement_update" in problem for problem in filled.verify())
