"""The database of deployments: what is to be served, whatever happens to the process."""

from __future__ import annotations

import hashlib
import uuid
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, delete, insert, select
from sqlalchemy.engine import RowMapping

from finery_inference.deployments.model import AdapterRecord, AdapterSpec, DeploymentRecord, DeploymentSpec
from finery_inference.deployments.tables import (
    ADAPTERS,
    DEPLOYMENTS,
    METADATA,
    check_free,
    check_there,
    find_request,
    transaction,
)


class DeploymentStore:
    """Deployments of one inference process, and their adapters. Thread-safe; every method is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        with transaction(engine) as connection:
            METADATA.create_all(connection)

    def create(self, spec: DeploymentSpec, model_id: str, model_type: str, request_id: str = "") -> DeploymentRecord:
        """Store a deployment; a repeated ``request_id`` returns the one it made.

        Raises MODEL_TAKEN if a deployment or an adapter has the model id, REQUEST_ID_REUSED as `find_request`.
        """
        with transaction(self._engine) as connection:
            repeated = _find_deployment(connection, spec, request_id)
            if repeated is not None:
                return repeated
            check_free(connection, model_id)
            values = {
                "name": f"deployments/{_new_id()}",
                "model_id": model_id,
                "model_type": model_type,
                "spec": spec.model_dump_json(),
                "request_id": request_id or None,
                "request_sha256": _digest(spec.model_dump_json()),
                "create_time": _now(),
            }
            connection.execute(insert(DEPLOYMENTS).values(values))
            row = connection.execute(select(DEPLOYMENTS).where(DEPLOYMENTS.c.name == values["name"])).mappings().one()
            return _deployment(row)

    def find_request(self, spec: DeploymentSpec, request_id: str) -> DeploymentRecord | None:
        """The deployment that a request id made; raises REQUEST_ID_REUSED if that was for another spec."""
        with transaction(self._engine) as connection:
            return _find_deployment(connection, spec, request_id)

    def check_free(self, model_id: str) -> None:
        """Raise MODEL_TAKEN if a deployment or an adapter has the model id."""
        with transaction(self._engine) as connection:
            check_free(connection, model_id)

    def delete(self, name: str) -> None:
        """Forget a deployment and its adapters. Harmless when it is not there."""
        with transaction(self._engine) as connection:
            connection.execute(delete(ADAPTERS).where(ADAPTERS.c.parent == name))
            connection.execute(delete(DEPLOYMENTS).where(DEPLOYMENTS.c.name == name))

    def all(self) -> list[DeploymentRecord]:
        """Every deployment, oldest first."""
        with transaction(self._engine) as connection:
            rows = connection.execute(select(DEPLOYMENTS).order_by(DEPLOYMENTS.c.ordinal)).mappings().all()
        return [_deployment(row) for row in rows]

    def create_adapter(self, parent: str, spec: AdapterSpec, model_id: str, request_id: str = "") -> AdapterRecord:
        """Store an adapter of the deployment named ``parent``; otherwise as `create`. Raises DEPLOYMENT_NOT_FOUND."""
        with transaction(self._engine) as connection:
            repeated = _find_adapter(connection, parent, spec, request_id)
            if repeated is not None:
                return repeated
            check_there(connection, parent)
            check_free(connection, model_id)
            values = {
                "name": f"{parent}/adapters/{_new_id()}",
                "parent": parent,
                "model_id": model_id,
                "spec": spec.model_dump_json(),
                "request_id": request_id or None,
                "request_sha256": _digest(parent, spec.model_dump_json()),
                "create_time": _now(),
            }
            connection.execute(insert(ADAPTERS).values(values))
            row = connection.execute(select(ADAPTERS).where(ADAPTERS.c.name == values["name"])).mappings().one()
            return _adapter(row)

    def find_adapter_request(self, parent: str, spec: AdapterSpec, request_id: str) -> AdapterRecord | None:
        """The adapter that a request id made; raises REQUEST_ID_REUSED if that was for another parent or spec."""
        with transaction(self._engine) as connection:
            return _find_adapter(connection, parent, spec, request_id)

    def delete_adapter(self, name: str) -> None:
        """Forget an adapter. Harmless when it is not there."""
        with transaction(self._engine) as connection:
            connection.execute(delete(ADAPTERS).where(ADAPTERS.c.name == name))

    def adapters(self, parent: str) -> list[AdapterRecord]:
        """The adapters of a deployment, oldest first."""
        query = select(ADAPTERS).where(ADAPTERS.c.parent == parent).order_by(ADAPTERS.c.ordinal)
        with transaction(self._engine) as connection:
            rows = connection.execute(query).mappings().all()
        return [_adapter(row) for row in rows]

    def close(self) -> None:
        """Close the database."""
        self._engine.dispose()


def _find_deployment(connection: Connection, spec: DeploymentSpec, request_id: str) -> DeploymentRecord | None:
    row = find_request(connection, DEPLOYMENTS, request_id, _digest(spec.model_dump_json()))
    return None if row is None else _deployment(row)


def _find_adapter(connection: Connection, parent: str, spec: AdapterSpec, request_id: str) -> AdapterRecord | None:
    row = find_request(connection, ADAPTERS, request_id, _digest(parent, spec.model_dump_json()))
    return None if row is None else _adapter(row)


def _new_id() -> str:
    return uuid.uuid4().hex[:12]


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _deployment(row: RowMapping) -> DeploymentRecord:
    return DeploymentRecord(
        ordinal=row["ordinal"],
        name=row["name"],
        spec=DeploymentSpec.model_validate_json(row["spec"]),
        model_id=row["model_id"],
        model_type=row["model_type"],
        create_time=row["create_time"].replace(tzinfo=UTC),
    )


def _adapter(row: RowMapping) -> AdapterRecord:
    return AdapterRecord(
        ordinal=row["ordinal"],
        name=row["name"],
        parent=row["parent"],
        spec=AdapterSpec.model_validate_json(row["spec"]),
        model_id=row["model_id"],
        create_time=row["create_time"].replace(tzinfo=UTC),
    )
