"""Version and fingerprint of the schema: a database that is not exactly ours is refused, never guessed at.

The fingerprint is the hash of what the database itself says of its tables, constraints, indexes and triggers. It is
stored when the database is made, and compared at every start: a trigger that vanished, as triggers do when a migration
tool rebuilds an SQLite table, is found before anything is written.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import Connection, Engine, text

from orchestrator.domain import canonical_json, sha256
from orchestrator.errors import Drift, StoreError
from orchestrator.record import table_base, tables
from orchestrator.record.engine import PG_SCHEMA
from orchestrator.record.triggers import trigger_ddl, trigger_names

_PG_LOCK = 0x6D61746C6F6F70  # "matloop": two processes must not make the tables at once
_PG_QUERIES = (
    """SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
       WHERE table_schema = current_schema() ORDER BY table_name, column_name""",
    """SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated FROM pg_constraint
       WHERE connamespace = current_schema()::regnamespace ORDER BY 1, 2""",
    "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema() ORDER BY 1",
    """SELECT t.tgname, pg_get_triggerdef(t.oid), t.tgenabled::text FROM pg_trigger t
       JOIN pg_class c ON c.oid = t.tgrelid
       WHERE c.relnamespace = current_schema()::regnamespace AND NOT t.tgisinternal ORDER BY 1""",
    "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = current_schema()::regnamespace ORDER BY 1",
)


def prepare(engine: Engine, *, create: bool) -> None:
    """Make the tables where there are none, and check what is there.

    Args:
        engine: of the campaign database.
        create: whether tables may be made.

    Raises:
        Drift: the database is another version's, another program's, or was altered.
        StoreError: there are no tables and none may be made.
    """
    with engine.connect() as connection, connection.begin():
        version = _version(connection)
        if version is None:
            if not create:
                message = f"there are no campaigns in {engine.url.render_as_string()}; start one with: matloop run FILE"
                raise StoreError(message)
            _make(connection)
            return
    check(engine)


def check(engine: Engine) -> None:
    """Compare version and fingerprint with what this program writes.

    Raises:
        Drift: they differ; the message says what to do.
    """
    with engine.connect() as connection, connection.begin():
        problems = differences(connection)
    if problems:
        raise Drift(problems[0])


def differences(connection: Connection) -> list[str]:
    """Return what is wrong with version and fingerprint, in words; nothing where all is well."""
    version = _version(connection)
    if version != str(tables.SCHEMA_VERSION):
        newer = version is not None and version.isdigit() and int(version) > tables.SCHEMA_VERSION
        advice = "install a newer matloop" if newer else "open it with the matloop that wrote it, and export from there"
        message = (
            f"the campaign database has schema version {version}; this matloop reads and writes version "
            f"{tables.SCHEMA_VERSION}: {advice}, or give another database with --store"
        )
        return [message]
    problems = [
        f"the campaign database has lost {kind} {', '.join(sorted(missing))}: it was altered by another program; "
        "restore a backup, or start a new database with --store"
        for kind, missing in _missing(connection)
        if missing
    ]
    key = _key(connection)
    stored = connection.execute(tables.meta.select().where(tables.meta.c.key == key)).first()
    if stored is not None and stored.value != fingerprint(connection) and not problems:
        problems.append(
            "the tables, constraints, indexes or triggers of the campaign database are not the ones that were made: it "
            "was altered by another program; restore a backup, or start a new database with --store"
        )
    return problems


def fingerprint(connection: Connection) -> str:
    """Return the hash of what the database says of its own schema."""
    return sha256(canonical_json(_description(connection)))


def _description(connection: Connection) -> list[list[Any]]:
    if connection.dialect.name == "sqlite":
        query = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_stat%' ORDER BY 1, 2"
        return [list(row) for row in connection.execute(text(query))]
    return [list(row) for query in _PG_QUERIES for row in connection.execute(text(query))]


def _key(connection: Connection) -> str:
    # PostgreSQL words definitions differently from one major version to the next; names are compared in any case
    major = connection.dialect.server_version_info or (0,)
    return "fingerprint:sqlite" if connection.dialect.name == "sqlite" else f"fingerprint:postgresql-{major[0]}"


def _missing(connection: Connection) -> list[tuple[str, frozenset[str]]]:
    if connection.dialect.name == "sqlite":
        rows = connection.execute(text("SELECT type, name FROM sqlite_master")).all()
        have = {kind: {row.name for row in rows if row.type == kind} for kind in ("table", "index", "trigger")}
    else:
        queries = {
            "table": "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()",
            "index": "SELECT indexname FROM pg_indexes WHERE schemaname = current_schema()",
            "trigger": "SELECT t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
            "WHERE c.relnamespace = current_schema()::regnamespace AND t.tgenabled <> 'D'",
        }
        have = {kind: set(connection.execute(text(query)).scalars()) for kind, query in queries.items()}
    all_tables = table_base.Record.metadata.sorted_tables
    wanted = {
        "table": {table.name for table in all_tables},
        "index": {str(index.name) for table in all_tables for index in table.indexes},
        "trigger": set(trigger_names()),
    }
    return [(kind, frozenset(wanted[kind] - have[kind])) for kind in wanted]


def _version(connection: Connection) -> str | None:
    if connection.dialect.name == "sqlite":
        names = set(connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars())
        foreign = bool(names) and "meta" not in names
    else:
        query = text("SELECT tablename FROM pg_tables WHERE schemaname = :name")
        names = set(connection.execute(query, {"name": PG_SCHEMA}).scalars())
        foreign = bool(names) and "meta" not in names
    if foreign:
        message = f"this database belongs to another program (it has the tables {', '.join(sorted(names)[:5])} …)"
        raise Drift(message)
    if not names:
        return None
    row = connection.execute(tables.meta.select().where(tables.meta.c.key == "schema_version")).first()
    return None if row is None else str(row.value)


def _make(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _PG_LOCK})
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {PG_SCHEMA}"))
        if _version(connection) is not None:
            return  # another process made the tables while we waited for the lock
    table_base.Record.metadata.create_all(connection, checkfirst=False)
    statements = trigger_ddl(connection.dialect.name)
    if connection.dialect.name == "postgresql":
        statements = ["; ".join(statements)]  # one message instead of a hundred
    for statement in statements:
        connection.exec_driver_sql(statement, execution_options={"no_parameters": True})  # the text has % signs
    facts = {
        "schema_version": str(tables.SCHEMA_VERSION),
        "made_at": str(time.time_ns() // 1000),
        _key(connection): fingerprint(connection),
    }
    connection.execute(tables.meta.insert(), [{"key": key, "value": value} for key, value in facts.items()])
