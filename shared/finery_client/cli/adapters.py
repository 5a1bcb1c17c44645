"""``finery adapters``."""

from __future__ import annotations

from finery.inference.v1.deployments_pb2 import Adapter, DeploymentState
from finery_client.adapters import PlacedAdapter, add, remove
from finery_client.cli.commands import AdaptersCommand, CreateAdapter, DeleteAdapter
from finery_client.cli.deployments import all_deployments, chosen
from finery_client.cli.screen import Screen
from finery_client.connect import Connection
from finery_client.specs import adapter_spec
from finery_shared.errors import FineryError, Reason


def run(arguments: AdaptersCommand, screen: Screen) -> int:
    """Create, list or delete."""
    with Connection.from_env(screen.starting) as services:
        match arguments.command:
            case CreateAdapter() as command:
                _create(command, services, screen)
            case DeleteAdapter() as command:
                _delete(command.model, _all(services), screen)
            case _:
                _list(_all(services), screen)
    return 0


def _create(command: CreateAdapter, services: Connection, screen: Screen) -> None:
    spec = adapter_spec(command.ckpt_dir, command.served_model_name, services.here)
    bases = chosen(command.deployment, all_deployments(services))
    shown: set[tuple[str, int]] = set()

    def show(adapter: Adapter) -> None:
        if (adapter.name, adapter.state) not in shown:
            shown.add((adapter.name, adapter.state))
            screen.say(f"{adapter.model_id}: {_state(adapter).lower()}")

    with screen.remarks.status("loading the adapter"):
        placed = add(bases, spec, show)
    screen.result(f"model: {placed[0].adapter.model_id}")


def _list(found: list[PlacedAdapter], screen: Screen) -> None:
    if not found:
        screen.say("No adapter is deployed.")
        return
    screen.table(("model", "state", "base", "process", "adapter", "serves"), [_row(one) for one in found])


def _delete(model: str, found: list[PlacedAdapter], screen: Screen) -> None:
    named = [one for one in found if model in (one.adapter.model_id, one.adapter.name)]
    if not named:
        known = ", ".join(sorted({one.adapter.model_id for one in found})) or "none"
        raise FineryError(Reason.DEPLOYMENT_NOT_FOUND, f"No adapter {model!r} is deployed. Deployed: {known}.")
    for one in named:
        remove(one)
        screen.result(f"{one.adapter.model_id}: deleted")


def _all(services: Connection) -> list[PlacedAdapter]:
    return [PlacedAdapter(adapter, base) for base in all_deployments(services) for adapter in base.deployment.adapters]


def _row(placed: PlacedAdapter) -> tuple[str, ...]:
    adapter, base = placed.adapter, placed.base.deployment.model_id
    return adapter.model_id, _state(adapter), base, placed.endpoint.address, adapter.name, adapter.spec.ckpt_dir


def _state(adapter: Adapter) -> str:
    return DeploymentState.Name(adapter.state).removeprefix("DEPLOYMENT_STATE_")
