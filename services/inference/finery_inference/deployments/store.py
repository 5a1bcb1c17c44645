"""The database of deployments: what is to be served, whatever happens to the process."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Column, Connection, DateTime, Engine, Integer, MetaData, String, Table, delete, insert, select
from sqlalchemy.engine import RowMapping
from sqlalchemy.exc import OperationalError

from finery_inference.deployments.model import DeploymentRecord, DeploymentSpec
from finery_shared.artifacts.publish import disk_full
from finery_shared.errors import FineryError, Reason

_METADATA = MetaData()

_DEPLOYMENTS = Table(
    "deployments",
    _METADATA,
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


class DeploymentStore:
    """Deployments of one inference process. Thread-safe; every method is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        with self._transaction() as connection:
            _METADATA.create_all(connection)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except OperationalError as error:
            if "full" not in str(error.orig):
                raise
            raise disk_full(Path(self._engine.url.database or "the database of deployments")) from error

    def create(self, spec: DeploymentSpec, model_id: str, model_type: str, request_id: str = "") -> DeploymentRecord:
        """Store a deployment; a repeated ``request_id`` returns the one it made.

        Raises MODEL_TAKEN if another deployment has the model id, REQUEST_ID_REUSED as `find_request`.
        """
        with self._transaction() as connection:
            repeated = _find_request(connection, spec, request_id)
            if repeated is not None:
                return repeated
            _check_free(connection, model_id)
            name = f"deployments/{uuid.uuid4().hex[:12]}"
            values = {
                "name": name,
                "model_id": model_id,
                "model_type": model_type,
                "spec": spec.model_dump_json(),
                "request_id": request_id or None,
                "request_sha256": _digest(spec),
                "create_time": datetime.now(UTC).replace(tzinfo=None),
            }
            connection.execute(insert(_DEPLOYMENTS).values(values))
            row = connection.execute(select(_DEPLOYMENTS).where(_DEPLOYMENTS.c.name == name)).mappings().one()
            return _record(row)

    def find_request(self, spec: DeploymentSpec, request_id: str) -> DeploymentRecord | None:
        """The deployment that a request id made; raises REQUEST_ID_REUSED if that was for another spec."""
        with self._transaction() as connection:
            return _find_request(connection, spec, request_id)

    def check_free(self, model_id: str) -> None:
        """Raise MODEL_TAKEN if a deployment has the model id."""
        with self._transaction() as connection:
            _check_free(connection, model_id)

    def delete(self, name: str) -> None:
        """Forget a deployment. Harmless when it is not there."""
        with self._transaction() as connection:
            connection.execute(delete(_DEPLOYMENTS).where(_DEPLOYMENTS.c.name == name))

    def all(self) -> list[DeploymentRecord]:
        """Every deployment, oldest first."""
        with self._transaction() as connection:
            rows = connection.execute(select(_DEPLOYMENTS).order_by(_DEPLOYMENTS.c.ordinal)).mappings().all()
        return [_record(row) for row in rows]

    def close(self) -> None:
        """Close the database."""
        self._engine.dispose()


def _find_request(connection: Connection, spec: DeploymentSpec, request_id: str) -> DeploymentRecord | None:
    if not request_id:
        return None
    query = select(_DEPLOYMENTS).where(_DEPLOYMENTS.c.request_id == request_id)
    row = connection.execute(query).mappings().first()
    if row is None:
        return None
    if row["request_sha256"] != _digest(spec):
        message = f"request_id {request_id} was used for another deployment. Make a new one for each new request."
        raise FineryError(Reason.REQUEST_ID_REUSED, message, deployment=row["name"])
    return _record(row)


def _check_free(connection: Connection, model_id: str) -> None:
    query = select(_DEPLOYMENTS.c.name).where(_DEPLOYMENTS.c.model_id == model_id)
    name = connection.execute(query).scalar()
    if name is not None:
        message = (
            f"The model id {model_id!r} is taken by {name}. Choose another with --served_model_name NAME, or delete "
            "that deployment first."
        )
        raise FineryError(Reason.MODEL_TAKEN, message, model=model_id, deployment=name)


def _digest(spec: DeploymentSpec) -> str:
    return hashlib.sha256(spec.model_dump_json().encode()).hexdigest()


def _record(row: RowMapping) -> DeploymentRecord:
    return DeploymentRecord(
        ordinal=row["ordinal"],
        name=row["name"],
        spec=DeploymentSpec.model_validate_json(row["spec"]),
        model_id=row["model_id"],
        model_type=row["model_type"],
        create_time=row["create_time"].replace(tzinfo=UTC),
    )
