"""The tables of deployments and of their adapters, and what holds for both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Column, Connection, DateTime, Engine, Integer, MetaData, String, Table, select
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import OperationalError

from finery_shared.artifacts.publish import disk_full
from finery_shared.errors import FineryError, Reason

METADATA = MetaData()

DEPLOYMENTS = Table(
    "deployments",
    METADATA,
    Column("ordinal", Integer, primary_key=True, autoincrement=True),
    Column("name", String, nullable=False, unique=True),
    Column("model_id", String, nullable=False, unique=True),
    Column("model_type", String, nullable=False),
    Column("spec", String, nullable=False),
    Column("request_id", String, nullable=True, unique=True),
    Column("request_sha256", String, nullable=False),
    Column("create_time", DateTime, nullable=False),
    sqlite_autoincrement=True,
)

ADAPTERS = Table(
    "adapters",
    METADATA,
    # Never used twice: engines tell adapters apart by it.
    Column("ordinal", Integer, primary_key=True, autoincrement=True),
    Column("name", String, nullable=False, unique=True),
    Column("parent", String, nullable=False, index=True),
    Column("model_id", String, nullable=False, unique=True),
    Column("spec", String, nullable=False),
    Column("request_id", String, nullable=True, unique=True),
    Column("request_sha256", String, nullable=False),
    Column("create_time", DateTime, nullable=False),
    sqlite_autoincrement=True,
)


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """A connection whose work is kept as a whole or not at all. Raises DISK_FULL."""
    try:
        with engine.begin() as connection:
            yield connection
    except OperationalError as error:
        if "full" not in str(error.orig):
            raise
        raise disk_full(Path(engine.url.database or "the database of deployments")) from error


def check_free(connection: Connection, model_id: str) -> None:
    """Raise MODEL_TAKEN if a deployment or an adapter has the model id."""
    for table, kind in ((DEPLOYMENTS, "deployment"), (ADAPTERS, "adapter")):
        name = connection.execute(select(table.c.name).where(table.c.model_id == model_id)).scalar()
        if name is not None:
            message = (
                f"The model id {model_id!r} is taken by {name}. Choose another with --served_model_name NAME, or "
                f"delete that {kind} first."
            )
            raise FineryError(Reason.MODEL_TAKEN, message, model=model_id, deployment=name)


def check_there(connection: Connection, name: str) -> None:
    """Raise DEPLOYMENT_NOT_FOUND if no deployment has the resource name."""
    if connection.execute(select(DEPLOYMENTS.c.name).where(DEPLOYMENTS.c.name == name)).scalar() is None:
        raise not_found(name)


def not_found(name: str) -> FineryError:
    """There is no deployment of that resource name."""
    message = f"There is no deployment {name!r} here. Deleted ones are gone for good."
    return FineryError(Reason.DEPLOYMENT_NOT_FOUND, message, deployment=name)


def find_request(connection: Connection, table: Table, request_id: str, digest: str) -> RowMapping | None:
    """The row that a request id made; raises REQUEST_ID_REUSED if that was for something else."""
    if not request_id:
        return None
    row = connection.execute(select(table).where(table.c.request_id == request_id)).mappings().first()
    if row is not None and row["request_sha256"] != digest:
        what = table.name.removesuffix("s")
        message = f"request_id {request_id} was used for another {what}. Make a new one for each new request."
        raise FineryError(Reason.REQUEST_ID_REUSED, message, deployment=row["name"])
    return row
