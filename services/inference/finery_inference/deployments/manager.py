"""All deployments of an inference process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager

from finery_inference.deployments.adapter_source import AdapterResolver
from finery_inference.deployments.adapters import Adapters, engine_adapter
from finery_inference.deployments.board import Board
from finery_inference.deployments.model import AdapterRecord, Deployment, DeploymentRecord, DeploymentSpec, Snapshot
from finery_inference.deployments.restart import RestartPolicy
from finery_inference.deployments.runner import Runner
from finery_inference.deployments.source import Source, SourceResolver
from finery_inference.deployments.store import DeploymentStore
from finery_inference.deployments.tables import not_found
from finery_inference.deployments.turns import Turns
from finery_inference.deployments.watchdog import Watchdog
from finery_inference.deployments.whole import Whole
from finery_inference.engines.protocol import EngineAdapter, EngineConfig, EngineFactory, LoraLimits
from finery_inference.engines.threads import in_daemon_thread
from finery_inference.generation.loaded import LoadedModel, front
from finery_shared.errors import FineryError, Reason, invalid
from finery_shared.log import Logger


class DeploymentManager:
    """Creates, deletes and watches deployments, and finds the model that a request is for."""

    def __init__(
        self,
        store: DeploymentStore,
        sources: SourceResolver,
        adapter_sources: AdapterResolver,
        backends: Mapping[str, EngineFactory],
        policy: RestartPolicy,
        watchdog: Watchdog,
        log: Logger,
    ) -> None:
        self._store = store
        self._sources = sources
        self._adapter_sources = adapter_sources
        self._backends = backends
        self._policy = policy
        self._watchdog = watchdog
        self._log = log
        self._runners: dict[str, Runner] = {}
        self._board = Board(self._deployments)
        self._turns = Turns()
        self._creating = asyncio.Lock()
        self._restored = asyncio.Event()
        self.whole = Whole()

    @property
    def draining(self) -> bool:
        """Whether the process is on its way out."""
        return self._board.draining

    async def restore(self) -> None:
        """Load every stored deployment again; does not wait until they are READY."""
        for factory in self._backends.values():
            await factory.prepare()
        for record in await asyncio.to_thread(self._store.all):
            self._run(record, await asyncio.to_thread(self._store.adapters, record.name))
        self._restored.set()

    async def create(self, spec: DeploymentSpec, request_id: str = "") -> Deployment:
        """Check, store and begin to load a deployment; what takes long, as reading weights, is part of the loading.

        Raises MODEL_TAKEN, REQUEST_ID_REUSED, INVALID_ARGUMENT for engine arguments, and what `SourceResolver.look`
        raises.
        """
        async with self.creating():
            repeated = await asyncio.to_thread(self._store.find_request, spec, request_id)
            if repeated is not None:
                return self.runner(repeated.name).deployment
            if spec.served_model_name:
                await asyncio.to_thread(self._store.check_free, spec.served_model_name)
            factory = self._factory(spec)
            factory.check(spec.engine_args)
            if spec.enable_lora and not factory.takes_adapters:
                message = f"the {spec.infer_backend} engine takes no adapters; leave it out, or deploy on vLLM."
                raise invalid("enable_lora", message)
            model_type = await asyncio.to_thread(self._sources.look, spec)
            return await self.whole.run(self._place(spec, model_type, request_id))

    @asynccontextmanager
    async def creating(self) -> AsyncGenerator[None, None]:
        """For one creation at a time, so that model ids are given once, and none before what is stored runs again.

        Raises SERVICE_UNAVAILABLE on the way out.
        """
        if self.draining:
            raise draining()
        async with self._creating:
            await self._restored.wait()
            yield

    def get(self, name: str) -> Deployment:
        """One deployment; raises DEPLOYMENT_NOT_FOUND."""
        return self.runner(name).deployment

    def list(self) -> tuple[Deployment, ...]:
        """All deployments, oldest first."""
        return self._deployments()

    async def delete(self, name: str) -> None:
        """Forget a deployment, then unload it; raises DEPLOYMENT_NOT_FOUND.

        Asked again meanwhile, it is the same removal. One that is still loading is undone after this has returned.
        """
        runner = self.runner(name)
        await self.whole.once(name, lambda: self._remove(runner))

    def watch(self) -> AsyncGenerator[Snapshot, None]:
        """Snapshots: one at once, then after every change and as heartbeats."""
        return self._board.watch()

    def model(self, model_id: str) -> LoadedModel:
        """The loaded model or adapter of that id; raises DEPLOYMENT_NOT_FOUND, DEPLOYMENT_NOT_READY or ENGINE_DEAD."""
        if self.draining:
            raise draining()
        # A deleted deployment may still be unloading while a newer one has its id.
        for runner in reversed(self._runners.values()):
            if (found := runner.find(model_id)) is not None:
                return found
        runners = self._runners.values()
        ids = {model_id for r in runners for model_id in (r.record.model_id, *r.adapters.model_ids())}
        known = ", ".join(sorted(ids)) or "none yet"
        message = f"There is no model {model_id!r} here. Deployed: {known}."
        raise FineryError(Reason.DEPLOYMENT_NOT_FOUND, message, model=model_id)

    def named(self, name: str) -> LoadedModel:
        """The loaded model of the deployment of that resource name; raises as `model`."""
        return self.runner(name).ready()

    def drain(self) -> None:
        """Refuse new requests and deployments from now on."""
        self._board.drain()

    def end_watches(self) -> None:
        """End every watch after a last snapshot."""
        self._board.close()

    async def stop(self) -> None:
        """Unload everything; what is stored stays stored."""
        await self.whole.finish()
        await asyncio.gather(*(runner.stop() for runner in self._runners.values()))
        for factory in self._backends.values():
            await factory.close()
        await asyncio.to_thread(self._store.close)

    async def _place(self, spec: DeploymentSpec, model_type: str, request_id: str) -> Deployment:
        model_id = spec.served_model_name or model_type
        record = await asyncio.to_thread(self._store.create, spec, model_id, model_type, request_id)
        return self._run(record, ()).deployment

    async def _remove(self, runner: Runner) -> None:
        name = runner.record.name
        await asyncio.to_thread(self._store.delete, name)
        try:
            await runner.stop()
        finally:
            self._runners.pop(name, None)
            self._board.changed()

    def _run(self, record: DeploymentRecord, adapters: Iterable[AdapterRecord]) -> Runner:
        changed, log = self._board.changed, self._log
        beside = Adapters(adapters, self._load_adapter, changed, log)
        runner = Runner(record, self._load, self._turns.end, changed, self._policy, self._watchdog, log, beside)
        self._runners[record.name] = runner
        runner.start()
        self._board.changed()
        return runner

    async def _load(self, record: DeploymentRecord) -> LoadedModel:
        # A download can't be interrupted; nobody waits for its end when the deployment is deleted or the process ends.
        source = await in_daemon_thread(lambda: self._sources.resolve(record.spec), f"resolve {record.name}")
        return await self._turns.start(lambda: self._start(record.spec, source))

    async def _start(self, spec: DeploymentSpec, source: Source) -> LoadedModel:
        engine = await self._factory(spec).start(_config(spec, source))
        try:
            return await asyncio.to_thread(front, engine, source.path, source.tool_parser)
        except BaseException:
            await engine.shutdown()
            raise

    async def _load_adapter(self, record: AdapterRecord, base: DeploymentRecord, model: LoadedModel) -> EngineAdapter:
        resolve = self._adapter_sources.resolve
        path = await in_daemon_thread(lambda: resolve(record.spec, base, model.path), f"resolve {record.name}")
        adapter = engine_adapter(record, path)
        await model.engine.load_adapter(adapter)
        return adapter

    def _factory(self, spec: DeploymentSpec) -> EngineFactory:
        factory = self._backends.get(spec.infer_backend)
        if factory is None:
            raise invalid("infer_backend", f"{spec.infer_backend!r} is not one of: {', '.join(self._backends)}.")
        return factory

    def runner(self, name: str) -> Runner:
        """What runs the deployment of that resource name; raises DEPLOYMENT_NOT_FOUND."""
        runner = self._runners.get(name)
        if runner is None:
            raise not_found(name)
        return runner

    def _deployments(self) -> tuple[Deployment, ...]:
        return tuple(runner.deployment for runner in self._runners.values())


def draining() -> FineryError:
    """The error for what comes while the process is on its way out."""
    return FineryError(Reason.SERVICE_UNAVAILABLE, "This inference process is shutting down. Try another one.")


def _config(spec: DeploymentSpec, source: Source) -> EngineConfig:
    return EngineConfig(
        model=source.path,
        max_model_len=spec.max_model_len,
        dtype=spec.dtype,
        gpu_memory_utilization=spec.gpu_memory_utilization,
        tensor_parallel_size=spec.tensor_parallel_size or 1,
        lora=LoraLimits(spec.max_loras, spec.max_lora_rank) if spec.enable_lora else None,
        extra=spec.engine_args,
    )
