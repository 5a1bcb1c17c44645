"""Tables of the job database."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    inspect,
)
from sqlalchemy.engine.interfaces import DBAPIConnection

METADATA = MetaData()

JOBS = Table(
    "jobs",
    METADATA,
    Column("ordinal", Integer, primary_key=True, autoincrement=True),
    Column("name", String, nullable=False, unique=True),
    Column("request_id", String, nullable=True, unique=True),
    Column("request_sha256", String, nullable=False),
    Column("spec", LargeBinary, nullable=False),
    Column("work_dir", String, nullable=False),
    # JSON: variables that the job's workers get as they were when it was accepted.
    Column("environment", String, nullable=True),
    Column("state", Integer, nullable=False, index=True),
    Column("attempt", Integer, nullable=False, default=0),
    Column("status", LargeBinary, nullable=False),
    Column("output", LargeBinary, nullable=True),
    Column("cancel_requested", Boolean, nullable=False, default=False),
    # The attempt under way: its process, its secret, how much of its reports is stored, and how it ended.
    Column("crashes", Integer, nullable=False, default=0),
    Column("handle", String, nullable=True),
    Column("secret", String, nullable=True),
    Column("sequence", Integer, nullable=False, default=0),
    Column("outcome", LargeBinary, nullable=True),
    Column("reported_at", Float, nullable=True),
    # Why the job fails, while another attempt hands in what it saved.
    Column("failure", LargeBinary, nullable=True),
    sqlite_autoincrement=True,
)

EVENTS = Table(
    "job_events",
    METADATA,
    Column("name", String, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("kind", String, nullable=False),
    Column("event", LargeBinary, nullable=False),
)


def create_tables(connection: Connection) -> None:
    """Make what is missing of the tables; a column that an older database lacks is null in its rows."""
    METADATA.create_all(connection)
    present = {column["name"] for column in inspect(connection).get_columns(JOBS.name)}
    for column in JOBS.columns:
        if column.name not in present:
            kind = column.type.compile(connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {JOBS.name} ADD COLUMN {column.name} {kind}")


def open_sqlite(path: Path) -> Engine:
    """The database file, made if it is missing.

    WAL: readers don't wait for the writer, and a killed process loses nothing that was committed.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def _configure(connection: DBAPIConnection, _record: object) -> None:
        # The driver's own idea of transactions leaves reads outside of them; BEGIN is said below instead.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # IMMEDIATE: what was read can't have changed when it is written.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
