"""``finery deployments``."""

from __future__ import annotations

from collections.abc import Sequence

from finery.inference.v1.deployments_pb2 import DeploymentState
from finery_client.calls import Calls
from finery_client.cli.commands import DeleteDeployment, DeploymentsCommand
from finery_client.cli.screen import Screen
from finery_client.connect import Connection
from finery_client.deployments import Deployments, Placed, remove
from finery_shared.errors import FineryError, Reason


def run(arguments: DeploymentsCommand, screen: Screen) -> int:
    """List or delete."""
    with Connection.from_env(screen.starting) as services:
        found = all_deployments(services)
        if isinstance(arguments.command, DeleteDeployment):
            _delete(arguments.command.model, found, screen)
        elif found:
            screen.table(("model", "state", "process", "deployment", "serves"), [_row(one) for one in found])
        else:
            screen.say("No model is deployed.")
    return 0


def all_deployments(services: Connection) -> list[Placed]:
    """Those of all inference processes."""
    found: list[Placed] = []
    for endpoint in services.directory.find_any("inference"):
        with Calls(endpoint) as calls:
            found.extend(Placed(deployment, endpoint) for deployment in Deployments(calls).list())
    return found


def _delete(model: str, found: list[Placed], screen: Screen) -> None:
    for one in chosen(model, found):
        remove(one)
        screen.result(f"{one.deployment.model_id}: deleted")


def chosen(model: str, found: Sequence[Placed]) -> list[Placed]:
    """Those of a model id, or of the name of a deployment; raises DEPLOYMENT_NOT_FOUND if there is none."""
    named = [one for one in found if model in (one.deployment.model_id, one.deployment.name)]
    if not named:
        known = ", ".join(sorted({one.deployment.model_id for one in found})) or "none"
        raise FineryError(Reason.DEPLOYMENT_NOT_FOUND, f"No model {model!r} is deployed. Deployed: {known}.")
    return named


def _row(placed: Placed) -> tuple[str, ...]:
    deployment = placed.deployment
    state = DeploymentState.Name(deployment.state).removeprefix("DEPLOYMENT_STATE_")
    spec = deployment.spec
    source = spec.ckpt_dir or spec.model.model_id_or_path or spec.model.model_type
    return deployment.model_id, state, placed.endpoint.address, deployment.name, source
