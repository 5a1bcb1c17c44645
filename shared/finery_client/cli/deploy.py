"""``finery deploy``."""

from __future__ import annotations

import time

from finery.inference.v1.deployments_pb2 import Deployment, DeploymentState
from finery_client.arguments import DeployArguments
from finery_client.cli.export import export
from finery_client.cli.screen import Screen
from finery_client.connect import Connection
from finery_client.serve import Serving, check, merged, serve
from finery_shared.errors import FineryError, Reason

_LOOK_EVERY = 0.5


def run(arguments: DeployArguments, screen: Screen) -> int:
    """Load a model and say where it answers; with a private gateway or inference, serve until interrupted."""
    with Connection.from_env(screen.starting) as services:
        check(arguments, services)
        serving = _load(arguments, services, screen)
        screen.result(f"model: {serving.model_id}")
        screen.result(f"base_url: {serving.base_url}")
        if serving.private:
            _serve_on(serving, services, screen)
    return 0


def _load(arguments: DeployArguments, services: Connection, screen: Screen) -> Serving:
    try:
        return load(arguments, services, screen)
    except FineryError as error:
        if error.reason is not Reason.PORT_IN_USE:
            raise
        message = f"{error.message} Here --port does that."
        raise FineryError(error.reason, message, detail=error.detail, **error.metadata) from error


def load(arguments: DeployArguments, services: Connection, screen: Screen) -> Serving:
    """Load a model through these services, with signs of life; an adapter is merged first if that was asked for."""
    arguments = merged(arguments, services, lambda wanted: export(wanted, services, screen))
    states = _States(screen)
    with screen.remarks.status("loading the model"):
        return serve(arguments, services, states.show)


def _serve_on(serving: Serving, services: Connection, screen: Screen) -> None:
    """Wait for Ctrl-C. Raises why a process ended, if one does."""
    stays = "" if serving.private_inference else " The model stays deployed after that; this gateway does not."
    screen.say(f"Serving until Ctrl-C.{stays}")
    try:
        while (death := services.death()) is None:
            time.sleep(_LOOK_EVERY)
    except KeyboardInterrupt:
        screen.say("Stopping.")
        return
    raise death


class _States:
    """Says each state of a deployment once."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._shown: dict[str, DeploymentState.ValueType] = {}

    def show(self, deployment: Deployment) -> None:
        """Say a state that is new."""
        if self._shown.get(deployment.name) == deployment.state:
            return
        self._shown[deployment.name] = deployment.state
        state = DeploymentState.Name(deployment.state).removeprefix("DEPLOYMENT_STATE_").lower()
        self._screen.say(f"{deployment.model_id}: {state}")
