"""The adapters of all deployments of an inference process."""

from __future__ import annotations

import asyncio

from finery_inference.deployments.adapter_source import AdapterResolver
from finery_inference.deployments.manager import DeploymentManager
from finery_inference.deployments.model import MODEL_ID, Adapter, AdapterRecord, AdapterSpec
from finery_inference.deployments.runner import Runner
from finery_inference.deployments.store import DeploymentStore
from finery_inference.engines.protocol import MOST_ADAPTERS
from finery_shared.errors import FineryError, Reason, invalid


class AdapterManager:
    """Creates and deletes the adapters of the deployments of a `DeploymentManager`, while those run on."""

    def __init__(self, deployments: DeploymentManager, store: DeploymentStore, sources: AdapterResolver) -> None:
        self._deployments = deployments
        self._store = store
        self._sources = sources

    async def create(self, parent: str, spec: AdapterSpec, request_id: str = "") -> Adapter:
        """Check, store and begin to load an adapter; what takes long, as reading weights, is part of the loading.

        Raises DEPLOYMENT_NOT_FOUND, INVALID_ARGUMENT, MODEL_TAKEN, REQUEST_ID_REUSED, UNSUPPORTED when the deployment
        has as many adapters as it takes, and what `AdapterResolver.look` raises.
        """
        async with self._deployments.creating():
            runner = self._deployments.runner(parent)
            repeated = await asyncio.to_thread(self._store.find_adapter_request, parent, spec, request_id)
            if repeated is not None:
                return self.get(repeated.name)
            model_id = spec.served_model_name or default_model_id(runner.record.model_id, spec)
            await asyncio.to_thread(self._store.check_free, model_id)
            await asyncio.to_thread(self._sources.look, spec, runner.record, runner.path)
            if len(runner.adapters) >= MOST_ADAPTERS:
                message = (
                    f"{runner.record.model_id} has {MOST_ADAPTERS} adapters, as many as it takes. Delete one first."
                )
                raise FineryError(Reason.UNSUPPORTED, message, deployment=parent)
            return await self._deployments.whole.run(self._place(parent, spec, model_id, request_id))

    def get(self, name: str) -> Adapter:
        """One adapter; raises DEPLOYMENT_NOT_FOUND."""
        return self._find(name)[1]

    def list(self, parent: str) -> tuple[Adapter, ...]:
        """The adapters of a deployment, oldest first; raises DEPLOYMENT_NOT_FOUND."""
        return self._deployments.runner(parent).deployment.adapters

    async def delete(self, name: str) -> None:
        """Forget an adapter, then unload it; asked again meanwhile, it is the same removal.

        Raises DEPLOYMENT_NOT_FOUND.
        """
        runner, _ = self._find(name)
        await self._deployments.whole.once(name, lambda: self._remove(runner, name))

    async def _place(self, parent: str, spec: AdapterSpec, model_id: str, request_id: str) -> Adapter:
        record: AdapterRecord = await asyncio.to_thread(self._store.create_adapter, parent, spec, model_id, request_id)
        self._deployments.runner(parent).adapters.add(record)
        return self.get(record.name)

    async def _remove(self, runner: Runner, name: str) -> None:
        await asyncio.to_thread(self._store.delete_adapter, name)
        await runner.adapters.remove(name)

    def _find(self, name: str) -> tuple[Runner, Adapter]:
        runner = self._deployments.runner(name.partition("/adapters/")[0])
        for adapter in runner.deployment.adapters:
            if adapter.record.name == name:
                return runner, adapter
        message = f"There is no adapter {name!r} here. Deleted ones are gone for good."
        raise FineryError(Reason.DEPLOYMENT_NOT_FOUND, message, adapter=name)


def default_model_id(base: str, spec: AdapterSpec) -> str:
    """The model id of an adapter that was given none; raises INVALID_ARGUMENT if that can't be one."""
    model_id = f"{base}:{spec.ckpt_dir.rstrip('/').rpartition('/')[2]}"
    if not MODEL_ID.fullmatch(model_id):
        message = (
            f"the directory's name makes {model_id!r}, which is not 1 to 200 characters without spaces. Choose one."
        )
        raise invalid("served_model_name", message)
    return model_id
