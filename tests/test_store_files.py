"""The files beside the database, its place, its lock, and what happens when the disk is full."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from orchestrator.domain import sha256
from orchestrator.errors import Damaged, Drift, Held, StoreError
from orchestrator.record import engine as engines
from orchestrator.record.raw import RawStore, folder_sha256, keep_folder
from orchestrator.record.states import AttemptState, CampaignState
from orchestrator.record.store import CampaignStore
from tests.records import begin, carry_out, decide, measured, number, start

ROOT = Path(__file__).parents[1]


# --- where the database is ------------------------------------------------------------------------------------------


def test_the_default_place_is_the_users_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MATLOOP_HOME moves the store, and its files lie beside the database."""
    monkeypatch.setenv("MATLOOP_HOME", str(tmp_path / "home"))
    store = CampaignStore.open()
    assert store.url == f"sqlite:///{tmp_path / 'home' / 'campaigns.db'}"
    assert store.folder == tmp_path / "home" / "campaigns.db.files"
    store.close()


def test_what_cannot_be_opened_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing database, a foreign one, no database at all and a network file system are refused with advice."""
    with pytest.raises(StoreError, match="no campaign database at"):
        CampaignStore.open(tmp_path / "none.db", create=False)
    with pytest.raises(StoreError, match="mysql"):
        CampaignStore.open("mysql://x/y")
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE flow_run (id)")
    other.commit()
    other.close()
    with pytest.raises(Drift, match=r"another program.*flow_run"):
        CampaignStore.open(tmp_path / "other.db")
    (tmp_path / "text.db").write_text("This is no database. " * 100)
    with pytest.raises(StoreError, match="not a database"):
        CampaignStore.open(tmp_path / "text.db")
    monkeypatch.setattr(engines, "file_system", lambda folder: "nfs4")
    with pytest.raises(StoreError, match=r"network file system \(nfs4\).*MATLOOP_HOME"):
        CampaignStore.open(tmp_path / "campaigns.db")


@pytest.mark.parametrize(
    ("version", "mode"),
    [((3, 40, 1), "truncate"), ((3, 51, 2), "truncate"), ((3, 51, 3), "wal"), ((3, 50, 7), "wal"), ((3, 44, 6), "wal"),
     ((3, 45, 9), "truncate"), ((3, 50, 6), "truncate"), ((4, 0, 0), "wal")],
)  # fmt: skip
def test_journal_mode_follows_the_version(version: tuple[int, ...], mode: str) -> None:
    """The write-ahead log is used only where its reset bug is fixed."""
    assert engines.journal_for(version)[0] == mode


def test_settings_are_read_back(tmp_path: Path) -> None:
    """Every connection has the settings that durability rests on; a file kept in another mode is refused."""
    store = CampaignStore.open(tmp_path / "campaigns.db")
    with store._db.read() as connection:
        for name, value in (("foreign_keys", 1), ("recursive_triggers", 1), ("busy_timeout", 30_000)):
            assert connection.exec_driver_sql(f"PRAGMA {name}").scalar() == value
        journal, sync = engines.journal_for(sqlite3.sqlite_version_info)
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == journal
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == {"FULL": 2, "EXTRA": 3}[sync]
    store.close()


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    """A newer database asks for a newer matloop, an unknown one for the program that wrote it; nothing is changed."""
    path = tmp_path / "campaigns.db"
    CampaignStore.open(path).close()
    for version, advice in (("99", "install a newer matloop"), ("old", "the matloop that wrote it")):
        raw = sqlite3.connect(path)
        raw.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", (version,))
        raw.commit()
        raw.close()
        before = path.read_bytes()
        with pytest.raises(Drift, match=f"version {version}.*{advice}"):
            CampaignStore.open(path)
        assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("DROP TRIGGER tr_event_delete", "lost trigger tr_event_delete"),
        ("DROP INDEX uq_attempt_slot", "lost index uq_attempt_slot"),
        ("CREATE TRIGGER mine BEFORE INSERT ON event BEGIN SELECT RAISE(IGNORE); END", "not the ones that were made"),
        ("ALTER TABLE event ADD COLUMN more TEXT", "not the ones that were made"),
    ],
)
def test_an_altered_schema_is_refused(tmp_path: Path, statement: str, told: str) -> None:
    """A trigger, index or column that came or went is found at the next start."""
    path = tmp_path / "campaigns.db"
    CampaignStore.open(path).close()
    raw = sqlite3.connect(path)
    raw.execute(statement)
    raw.commit()
    raw.close()
    with pytest.raises(Drift, match=told):
        CampaignStore.open(path)


# --- raw files ------------------------------------------------------------------------------------------------------


def test_raw_files_are_named_by_their_content(tmp_path: Path) -> None:
    """Storing twice is one file; what is missing, changed or no hash at all is refused; nothing else is left."""
    raw = RawStore(tmp_path / "raw")
    digest = raw.put(b"abc")
    assert digest == sha256(b"abc") == raw.put(b"abc")
    assert raw.get(digest) == b"abc"
    assert [path.name for path in raw.folder.iterdir()] == [digest]
    (raw.folder / digest).unlink()
    with pytest.raises(Damaged, match="missing"):
        raw.get(digest)
    (raw.folder / digest).write_bytes(b"abd")
    with pytest.raises(Damaged, match="changed"):
        raw.get(digest)
    assert raw.get(raw.put(b"abc")) == b"abc"  # storing it again repairs it
    for wrong in ("../../etc/passwd", "A" * 64, ""):
        with pytest.raises(StoreError, match="not a SHA-256"):
            raw.get(wrong)


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that takes only a part, as on a disk that fills up, does not cut a result short."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:3]))
    raw = RawStore(tmp_path / "raw")
    assert raw.get(raw.put(b"0123456789")) == b"0123456789"


def test_leftovers_of_dead_processes_are_swept(tmp_path: Path) -> None:
    """Old temporary files go, young ones stay: their writer may be alive."""
    raw = RawStore(tmp_path)
    for name, age in ((".tmp-1-a", 7200), (".tmp-1-b", 0)):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (os.path.getatime(tmp_path), os.path.getmtime(tmp_path) - age))  # noqa: PTH203, PTH204
    raw.sweep()
    assert [path.name for path in tmp_path.iterdir()] == [".tmp-1-b"]


def test_folders_are_kept_whole(tmp_path: Path) -> None:
    """A kept folder has the hash of its files' names and content; links and empty folders are refused."""
    source, shelf = tmp_path / "source", tmp_path / "shelf"
    shelf.mkdir()
    (source / "deep").mkdir(parents=True)
    with pytest.raises(StoreError, match="empty"):
        keep_folder(source, shelf)
    (source / "deep" / "a").write_bytes(b"1")
    digest = keep_folder(source, shelf)
    assert digest == keep_folder(source, shelf) == folder_sha256(shelf / digest)
    (source / "deep" / "a").rename(source / "b")
    assert folder_sha256(source) != digest
    (source / "link").symlink_to("/etc/passwd")
    with pytest.raises(StoreError, match="link"):
        keep_folder(source, shelf)
    assert [path.name for path in shelf.iterdir()] == [digest]


# --- a full disk ----------------------------------------------------------------------------------------------------


def test_a_full_database_loses_nothing(tmp_path: Path) -> None:
    """When the database cannot grow the step fails with advice, what was acknowledged stays, and it goes on after."""
    store = CampaignStore.open(tmp_path / "campaigns.db")
    begin(store)
    trials = decide(store, "demo", range(30))
    store._db.engine.dispose()
    with store._db.read() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
    pages = raw.execute("PRAGMA page_count").fetchone()[0]
    raw.execute(f"PRAGMA max_page_count={pages + 3}")
    acknowledged = []
    with pytest.raises(StoreError, match=r"full or failing.*free some space, then resume"):  # noqa: PT012  how far it gets
        for trial in trials:
            carry_out(store, trial, float(trial.number))
            acknowledged.append(trial.number)
    assert 0 < len(acknowledged) < 30
    raw.execute("PRAGMA max_page_count=1000000")
    assert [m.trial for m in store.measurements("demo") if m.value == m.trial][: len(acknowledged)] == acknowledged
    assert store.verify() == []
    for attempt in store.open_attempts("demo"):
        done = attempt if attempt.state is AttemptState.MEASURED else measured(store, attempt)
        store.record(done.id, [number(float(done.trial))], structures={}, applied={})
    store.release_stale_claims("demo")
    for trial in store.trials("demo"):
        if trial.ended_at is None:
            carry_out(store, trial, float(trial.number))
    assert len(store.measurements("demo")) == 30
    store.close()


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="only root can mount a small disk")
def test_a_full_disk_is_said(tmp_path: Path) -> None:
    """On a real small disk the raw store says that it is full, leaves no part of a file, and goes on after."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", small], check=False).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    try:
        raw = RawStore(small / "raw")
        kept = raw.put(os.urandom(100_000))
        with pytest.raises(StoreError, match="full or failing"):
            raw.put(os.urandom(400_000))
        assert [path.name for path in raw.folder.iterdir()] == [kept]
        (raw.folder / kept).unlink()
        raw.get(raw.put(os.urandom(200_000)))
    finally:
        subprocess.run(["umount", small], check=True)


# --- one process at a time ------------------------------------------------------------------------------------------

HOLDER = """
    import sys
    from orchestrator.record.store import CampaignStore

    store = CampaignStore.open(sys.argv[1])
    with store.hold("demo", who="matloop run demo.yaml"):
        print("held", flush=True)
        sys.stdin.read()
"""


def test_a_second_process_is_told_who_holds(store: CampaignStore, where: str) -> None:
    """The refusal names process, computer, time and command; the kernel frees the lock when its holder is killed."""
    begin(store)
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), where]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        told = rf"process {holder.pid} on .* since 20.* UTC \(matloop run demo.yaml\)"
        with pytest.raises(Held, match=told), store.hold("demo"):
            pytest.fail("two processes hold one campaign")
        holder.kill()
        holder.wait()
    with store.hold("demo"), pytest.raises(Held, match=f"process {os.getpid()}"), store.hold("demo"):
        pytest.fail("one process holds one campaign twice")
    with store.hold("demo"):
        store.set_state("demo", CampaignState.PAUSED, actor="Ada", reason="")


def test_a_child_does_not_keep_the_campaign(tmp_path: Path) -> None:
    """A forked child that outlives its parent neither holds the lock nor uses the parent's connections."""
    store = CampaignStore.open(tmp_path / "campaigns.db")
    begin(store)
    [trial] = decide(store, "demo", [1])
    read, write = os.pipe()
    with store.hold("demo"):
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
    with store.hold("demo"):
        start(store, trial.steps[0].id)
    os.write(write, b"x")
    assert os.waitpid(child, 0)[1] == 0
    os.close(read)
    os.close(write)
    store.close()
