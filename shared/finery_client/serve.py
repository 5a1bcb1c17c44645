"""Serving a model: find or start what it takes, load it, and say where it answers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, Unpack

from finery.inference.v1.deployments_pb2 import AdapterSpec
from finery_client.adapters import add
from finery_client.arguments import DeployArguments, ExportArguments
from finery_client.arguments.deploy import ServingArguments
from finery_client.asking import Model
from finery_client.calls import Calls
from finery_client.connect import Connection
from finery_client.conversation import Chat
from finery_client.deployments import Deployments, OnState, Placed, place, remove, remove_all
from finery_client.endpoints import Endpoint, base_url
from finery_client.options import DeployOptions, LoadOptions
from finery_client.results import ExportResult
from finery_client.sdk import build, run_export
from finery_client.specs import deployment_spec
from finery_shared.artifacts.manifest import Kind, read_manifest
from finery_shared.errors import FineryError, invalid

S = TypeVar("S", bound=ServingArguments)


@dataclass(frozen=True)
class Serving:
    """A model that answers. What is private of its services belongs to this process and ends with `close`."""

    model_id: str
    base_url: str
    max_model_len: int
    placed: tuple[Placed, ...]
    gateway: Endpoint
    _close: Callable[[], None]

    @property
    def private_inference(self) -> bool:
        """Whether the processes that loaded the model are private."""
        return any(one.endpoint.private for one in self.placed)

    @property
    def private(self) -> bool:
        """Whether the model answers at ``base_url`` no longer than until `close`."""
        return self.private_inference or self.gateway.private

    def chat(self) -> Chat:
        """A conversation partner."""
        return Chat(self.base_url, self.model_id)

    def add_adapter(self, ckpt_dir: str | Path, served_model_name: str = "") -> Chat:
        """Load a LoRA adapter beside the model, which must have been deployed with ``enable_lora``.

        Returns a conversation partner that uses it. ``served_model_name`` is by default the model's id, a colon and the
        directory's name. Raises FineryError; nothing is left behind then.
        """
        path = Path(ckpt_dir).expanduser().absolute()
        placed = add(self.placed, AdapterSpec(ckpt_dir=str(path), served_model_name=served_model_name))
        return Chat(self.base_url, placed[0].adapter.model_id)

    def alive(self) -> FineryError | None:
        """Why a private process that serves this model has ended; None while all live."""
        endpoints = (*(one.endpoint for one in self.placed), self.gateway)
        return next((death for endpoint in endpoints if (death := endpoint.death()) is not None), None)

    def close(self) -> None:
        """Stop the services that are private; a running service goes on serving the model."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


def deploy(
    *, on_state: OnState | None = None, connection: Connection | None = None, **options: Unpack[DeployOptions]
) -> Serving:
    """Serve a model and wait until it answers. The arguments are `DeployArguments`' fields.

    Close the result, or use it in a ``with`` statement: without running services this starts private ones, which
    serve until then. Raises FineryError.
    """
    services = connection or Connection.from_env()
    try:
        arguments = build(DeployArguments, options)
        check(arguments, services)
        arguments = merged(arguments, services, lambda wanted: run_export(wanted, services))
        serving = serve(arguments, services, on_state)
    except BaseException:
        if connection is None:
            services.close()
        raise
    return serving if connection is not None else replace(serving, _close=services.close)


@contextlib.contextmanager
def load_model(
    *, system: str = "", connection: Connection | None = None, **options: Unpack[LoadOptions]
) -> Iterator[Model]:
    """A model to ask, for as long as the ``with`` statement: a running service forgets it then, a private one ends.

    The arguments are `DeployArguments`' fields; ``system`` is a system prompt. Raises FineryError.
    """
    with deploy(connection=connection, port=0, **options) as serving:
        try:
            yield Model(serving.chat(), system)
        finally:
            # A connection that the caller lent keeps its private services, so they have to forget the model, too.
            if connection is not None or not serving.private_inference:
                withdraw(serving)


def check(arguments: DeployArguments, services: Connection) -> None:
    """Refuse what can't be served before anything is merged or started. Raises INVALID_ARGUMENT."""
    deployment_spec(arguments, services.here)
    if not 0 <= arguments.port <= 65535:
        raise invalid("port", f"{arguments.port} is no port; --port takes 1 to 65535, or 0 for a free one.")
    if arguments.replicas < 0:
        raise invalid("replicas", f"{arguments.replicas} is no number of processes; --replicas 0 takes all, 1 one.")
    if arguments.replicas > (processes := services.count("inference")):
        raise invalid(
            "replicas",
            f"{arguments.replicas} is more than there are inference processes ({processes}); --replicas 0 takes all. "
            f"`finery up --inference_processes {arguments.replicas}` starts as many.",
        )


def serve(arguments: DeployArguments, services: Connection, on_state: OnState | None = None) -> Serving:
    """Load a model through these services; they stay open. An adapter has to be `merged` before.

    A load that fails or is interrupted leaves no deployment behind.
    """
    spec = deployment_spec(arguments, services.here)
    inference, gateway = services.serving(arguments.port)
    placed = place(inference, spec, arguments.replicas)
    try:
        ready = [_wait(one, on_state) for one in placed]
    except BaseException:
        remove_all(placed)
        raise
    return Serving(
        model_id=ready[0].deployment.model_id,
        base_url=base_url(gateway.address),
        max_model_len=ready[0].deployment.max_model_len,
        placed=tuple(ready),
        gateway=gateway,
        _close=lambda: None,
    )


def merged(arguments: S, services: Connection, merge: Callable[[ExportArguments], ExportResult]) -> S:
    """The arguments with an adapter replaced by its merged model, if that was asked for. Raises what `merge` raises."""
    if not arguments.merge_lora or not arguments.ckpt_dir or not _is_adapter(arguments.ckpt_dir, services):
        return arguments
    result = merge(ExportArguments(ckpt_dir=arguments.ckpt_dir, merge_lora=True))
    return replace(arguments, ckpt_dir=result.merged, merge_lora=False)


def _is_adapter(ckpt_dir: str, services: Connection) -> bool:
    """Whether it has to be merged; a directory that another machine has is left for its services to judge."""
    path = services.here.cwd / Path(ckpt_dir).expanduser()
    return not path.is_dir() or read_manifest(path).kind is Kind.ADAPTER


def _wait(placed: Placed, on_state: OnState | None) -> Placed:
    with Calls(placed.endpoint) as calls:
        name = placed.deployment.name
        return Placed(Deployments(calls).wait_ready(name, on_state), placed.endpoint)


def withdraw(serving: Serving) -> None:
    """Delete the deployments of a serving."""
    for one in serving.placed:
        remove(one)
