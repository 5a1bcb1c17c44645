"""The adapters of one deployment at work: loaded whenever its engine is, each with a state of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path

from finery_inference.deployments.model import Adapter, AdapterRecord, DeploymentRecord, State
from finery_inference.engines.errors import fresh
from finery_inference.engines.protocol import EngineAdapter
from finery_inference.generation.loaded import LoadedModel
from finery_shared.errors import FineryError, Reason
from finery_shared.log import Logger

LoadAdapter = Callable[[AdapterRecord, DeploymentRecord, LoadedModel], Awaitable[EngineAdapter]]


def engine_adapter(record: AdapterRecord, path: Path) -> EngineAdapter:
    """A stored adapter whose files lie at ``path``, as engines know it."""
    return EngineAdapter(record.ordinal, record.name, path)


class RunningAdapter:
    """The life of one adapter. ``changed`` is called after every change of its state."""

    def __init__(self, record: AdapterRecord, load: LoadAdapter, changed: Callable[[], None], log: Logger) -> None:
        self.record = record
        self._load = load
        self._changed = changed
        self._log = log.bind(adapter=record.name, model=record.model_id)
        self._state = State.LOADING
        self._error: FineryError | None = None
        self._loaded: EngineAdapter | None = None
        self._task: asyncio.Task[None] | None = None

    def told(self, base: State, error: FineryError | None) -> Adapter:
        """As it is now, given its deployment's state: no adapter is better off than its deployment."""
        if base is State.READY or self._state is State.UNLOADING:
            return Adapter(self.record, self._state, self._error)
        return Adapter(self.record, base, error)

    def attach(self, base: DeploymentRecord, model: LoadedModel) -> None:
        """The deployment's engine runs: begin to load, unless it is being deleted."""
        if self._state is State.UNLOADING:
            return
        self._task = asyncio.create_task(self._attach(base, model), name=f"load {self.record.name}")

    async def detach(self) -> None:
        """The deployment's engine is gone."""
        await self._cancel()
        if self._state is not State.UNLOADING:
            self._state, self._error, self._loaded = State.LOADING, None, None

    async def remove(self, model: LoadedModel | None) -> None:
        """Unload; running requests end with DEPLOYMENT_NOT_READY. ``model`` is the deployment's, if it runs."""
        self._state, self._error = State.UNLOADING, None
        self._changed()
        await self._cancel()
        if model is not None:
            await model.engine.unload_adapter(engine_adapter(self.record, Path(self.record.spec.ckpt_dir)))

    def ready(self, model: LoadedModel) -> LoadedModel:
        """The deployment's model with this adapter; raises DEPLOYMENT_NOT_READY, saying why it can't be used."""
        if self._state is State.READY and self._loaded is not None:
            return replace(model, adapter=self._loaded)
        name = self.record.model_id
        if self._error is not None:
            message = f"The adapter {name!r} could not be loaded: {self._error.message}"
        elif self._state is State.UNLOADING:
            message = f"The adapter {name!r} is being unloaded."
        else:
            message = f"The adapter {name!r} is still loading. Try again in a moment."
        raise FineryError(Reason.DEPLOYMENT_NOT_READY, message, model=name)

    async def _attach(self, base: DeploymentRecord, model: LoadedModel) -> None:
        try:
            self._loaded = await self._load(self.record, base, model)
        except FineryError as error:
            if error.reason is Reason.ENGINE_DEAD:
                return
            self._fail(fresh(error))
        except Exception as error:
            self._log.exception("loading an adapter failed unexpectedly")
            message = "The adapter could not be loaded. The inference service's log says why."
            self._fail(FineryError(Reason.ENGINE_FAILED, message, detail=repr(error)))
        else:
            self._state = State.READY
            self._log.info("adapter ready")
            self._changed()

    def _fail(self, error: FineryError) -> None:
        self._log.error("adapter failed", reason=str(error.reason), error=error.message, detail=error.detail)
        self._state, self._error = State.FAILED, error
        self._changed()

    async def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class Adapters:
    """All adapters of one deployment, oldest first."""

    def __init__(
        self, records: Iterable[AdapterRecord], load: LoadAdapter, changed: Callable[[], None], log: Logger
    ) -> None:
        self._load = load
        self._turn = asyncio.Lock()
        self._changed = changed
        self._log = log
        self._running = {record.name: self._new(record) for record in records}
        self._base: DeploymentRecord | None = None
        self._model: LoadedModel | None = None

    def __len__(self) -> int:
        return len(self._running)

    def attach(self, base: DeploymentRecord, model: LoadedModel) -> None:
        """The deployment's engine runs: load all of them into it."""
        self._base, self._model = base, model
        for adapter in self._running.values():
            adapter.attach(base, model)

    async def detach(self) -> None:
        """The deployment's engine is gone, and they with it."""
        self._base = self._model = None
        await asyncio.gather(*(adapter.detach() for adapter in self._running.values()))

    def add(self, record: AdapterRecord) -> None:
        """One more; it is loaded as soon as the engine runs."""
        adapter = self._running[record.name] = self._new(record)
        if self._base is not None and self._model is not None:
            adapter.attach(self._base, self._model)
        self._changed()

    async def remove(self, name: str) -> None:
        """One less."""
        try:
            await self._running[name].remove(self._model)
        finally:
            self._running.pop(name, None)
            self._changed()

    def told(self, base: State, error: FineryError | None) -> tuple[Adapter, ...]:
        """All of them, given their deployment's state."""
        return tuple(adapter.told(base, error) for adapter in self._running.values())

    def find(self, model_id: str) -> RunningAdapter | None:
        """The adapter of that model id; the newer one while an older one is unloaded."""
        found = (one for one in reversed(self._running.values()) if one.record.model_id == model_id)
        return next(found, None)

    def model_ids(self) -> list[str]:
        """Under which clients ask for them."""
        return [adapter.record.model_id for adapter in self._running.values()]

    async def _load_in_turn(self, record: AdapterRecord, base: DeploymentRecord, model: LoadedModel) -> EngineAdapter:
        # Oldest first: where an engine has room for a few, the same ones get it at every start.
        async with self._turn:
            return await self._load(record, base, model)

    def _new(self, record: AdapterRecord) -> RunningAdapter:
        return RunningAdapter(record, self._load_in_turn, self._changed, self._log)
