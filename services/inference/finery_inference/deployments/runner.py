"""One deployment at work: loads its model, watches the engine, loads it again when the engine died."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from finery_inference.deployments.adapters import Adapters
from finery_inference.deployments.model import Deployment, DeploymentRecord, State
from finery_inference.deployments.restart import RestartPolicy
from finery_inference.deployments.watchdog import Watchdog
from finery_inference.engines.errors import engine_dead, engine_given_up, fresh
from finery_inference.generation.loaded import LoadedModel
from finery_shared.errors import FineryError, Reason
from finery_shared.log import Logger

Load = Callable[[DeploymentRecord], Awaitable[LoadedModel]]
Unload = Callable[[LoadedModel], Awaitable[None]]


class Runner:
    """The life of one deployment. ``changed`` is called after every change of its state."""

    def __init__(
        self,
        record: DeploymentRecord,
        load: Load,
        unload: Unload,
        changed: Callable[[], None],
        policy: RestartPolicy,
        watchdog: Watchdog,
        log: Logger,
        adapters: Adapters,
    ) -> None:
        self.record = record
        self.adapters = adapters
        self._load = load
        self._unload = unload
        self._changed = changed
        self._policy = policy
        self._watchdog = watchdog
        self._log = log.bind(deployment=record.name, model=record.model_id)
        self._state = State.LOADING
        self._error: FineryError | None = None
        self._model: LoadedModel | None = None
        self._max_model_len = 0
        self._restarts = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def deployment(self) -> Deployment:
        """As it is now."""
        adapters = self.adapters.told(self._state, self._error)
        return Deployment(self.record, self._state, self._error, self._max_model_len, adapters, self._restarts)

    @property
    def path(self) -> Path | None:
        """Where the loaded model's files lie; None while there is no loaded model."""
        return None if self._model is None else self._model.path

    def start(self) -> None:
        """Begin to load."""
        self._task = asyncio.create_task(self._run(), name=f"run {self.record.name}")

    async def stop(self) -> None:
        """Unload; running requests end with ENGINE_DEAD."""
        self._set(State.UNLOADING)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._drop_model()

    def find(self, model_id: str) -> LoadedModel | None:
        """The loaded model, or that with one of its adapters, by model id; None if neither is called so.

        Raises DEPLOYMENT_NOT_READY or ENGINE_DEAD, saying why it can't be used.
        """
        if model_id == self.record.model_id:
            return self.ready()
        adapter = self.adapters.find(model_id)
        return None if adapter is None else adapter.ready(self.ready())

    def ready(self) -> LoadedModel:
        """The loaded model; raises DEPLOYMENT_NOT_READY or ENGINE_DEAD, saying why there is none."""
        model_id = self.record.model_id
        if self._state is State.READY and self._model is not None:
            if self._model.engine.alive:
                return self._model
            raise engine_dead()
        if self._state is State.FAILED and self._error is not None:
            if self._error.reason is Reason.ENGINE_DEAD:
                raise fresh(self._error)
            message = f"The model {model_id!r} could not be loaded: {self._error.message}"
        elif self._state is State.UNLOADING:
            message = f"The model {model_id!r} is being unloaded."
        else:
            message = f"The model {model_id!r} is still loading. Try again in a moment."
        raise FineryError(Reason.DEPLOYMENT_NOT_READY, message, model=model_id)

    async def _run(self) -> None:
        failures = 0
        while True:
            start = time.monotonic()
            error = await self._live()
            failures = 1 if time.monotonic() - start > self._policy.steady else failures + 1
            died = error.reason is Reason.ENGINE_DEAD
            again = died and failures < self._policy.attempts
            if died and not again:
                error = engine_given_up(failures, error.detail)
            self._set(State.FAILED, error)
            self._log.error(
                "deployment failed", reason=str(error.reason), error=error.message, detail=error.detail, again=again
            )
            # After it was told, since an engine may take seconds to end.
            await self._drop_model()
            if not again:
                return
            await asyncio.sleep(self._policy.delay(failures))
            self._restarts += 1

    async def _live(self) -> FineryError:
        """Load, and serve until the engine dies; returns what ended it."""
        self._set(State.LOADING)
        start = time.monotonic()
        try:
            self._model = await self._load(self.record)
        except FineryError as error:
            return fresh(error)
        except Exception as error:
            self._log.exception("loading failed unexpectedly")
            message = "The model could not be loaded. The inference service's log says why."
            return FineryError(Reason.ENGINE_FAILED, message, detail=repr(error))
        self._max_model_len = self._model.max_model_len
        self.adapters.attach(self.record, self._model)
        self._set(State.READY)
        self._log.info("deployment ready", seconds=round(time.monotonic() - start, 1))
        return engine_dead(await self._watchdog.until_ended(self._model.engine))

    async def _drop_model(self) -> None:
        await self.adapters.detach()
        if self._model is not None:
            await self._unload(self._model)
        # Only now: who is cancelled on the way leaves the rest to `stop`.
        self._model = None

    def _set(self, state: State, error: FineryError | None = None) -> None:
        self._state, self._error = state, error
        self._changed()
