"""The routing table: which backend answers for which model, and why none does."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from finery.inference.v1 import deployments_pb2, inference_pb2
from finery_gateway.routing.affinity import PrefixAffinity, prefix_keys
from finery_gateway.routing.backend import Backend
from finery_gateway.routing.served import Served
from finery_shared.errors import FineryError, Reason


class RoutingTable:
    """Chooses among the backends that serve a model: by the prompt's beginning, then by the work in flight."""

    def __init__(self, addresses: Sequence[str], stale_seconds: float, affinity: PrefixAffinity | None = None) -> None:
        self._addresses = addresses
        self._stale_seconds = stale_seconds
        self._affinity = affinity or PrefixAffinity()
        self._backends: list[Backend] = []

    def add(self, backend: Backend) -> None:
        """Route to one more."""
        self._backends.append(backend)

    def remove(self, backend: Backend) -> None:
        """Route to one less."""
        self._backends.remove(backend)

    @property
    def backends(self) -> Sequence[Backend]:
        """All that are routed to, heard or not."""
        return self._backends

    def knows(self, model: str) -> bool:
        """Whether some backend has told of a model, ready or not."""
        return any(model in backend.served for backend in self._backends)

    def route(self, request: inference_pb2.GenerateRequest, tried: Collection[Backend] = ()) -> Backend | None:
        """The best backend for a generation that was not tried yet.

        That is one that has the beginning of the prompt in its cache, if it is not clearly busier than others, else
        the one with the least work.
        """
        ready = self._ready(request.model, tried)
        if len(ready) < 2:
            return ready[0] if ready else None
        keys = prefix_keys(request)
        heard = [b for b in ready if not self._is_stale(b)]
        best = self._affinity.prefer(keys, heard) or self._least_busy(ready)
        self._affinity.note(keys, best)
        return best

    def choose(self, model: str, tried: Collection[Backend] = ()) -> Backend | None:
        """The backend with the least work for a model that was not tried yet.

        One that has fallen silent is the last resort: it may be dead, or only busy.
        """
        ready = self._ready(model, tried)
        return self._least_busy(ready) if ready else None

    def _ready(self, model: str, tried: Collection[Backend]) -> list[Backend]:
        return [b for b in self._backends if b not in tried and b.is_ready(model)]

    def _least_busy(self, ready: Sequence[Backend]) -> Backend:
        best = min(ready, key=self._cost)
        # Equal ones take turns.
        self._backends.remove(best)
        self._backends.append(best)
        return best

    def _is_stale(self, backend: Backend) -> bool:
        return backend.silence > self._stale_seconds

    def _cost(self, backend: Backend) -> tuple[bool, int]:
        return self._is_stale(backend), backend.in_flight

    def models(self) -> list[Served]:
        """The models and adapters that can be asked, bases before their adapters, oldest first, each model id once."""
        found: dict[str, Served] = {}
        for backend in self._backends:
            for model, served in backend.served.items():
                if backend.is_ready(model) and (model not in found or served.created < found[model].created):
                    found[model] = served
        return sorted(found.values(), key=lambda served: served.order)

    def find(self, model: str) -> Served:
        """What can be asked by a model id; raises why nothing can."""
        backend = self.choose(model)
        if backend is None:
            raise self.refusal(model)
        return backend.served[model]

    def refusal(self, model: str) -> FineryError:
        """Why no backend can be asked for a model now."""
        told = [(b, b.served[model]) for b in self._backends if model in b.served]
        for backend, served in told:
            if backend.connected and not backend.draining and (error := _not_serving(model, served)):
                return error
        for backend, served in told:
            if served.state == deployments_pb2.DEPLOYMENT_STATE_READY and not backend.is_ready(model):
                return _out_of_reach(model, backend)
        if not any(b.connected for b in self._backends):
            return self._nobody()
        return self._unknown(model)

    def readiness(self) -> FineryError | None:
        """Why no request at all can be answered; None if some can."""
        if self.models():
            return None
        if not any(b.connected for b in self._backends):
            return self._nobody()
        for backend in self._backends:
            for model in backend.served:
                return self.refusal(model)
        return FineryError(Reason.SERVICE_UNAVAILABLE, "No model is deployed. Deploy one with `finery deploy`.")

    def _nobody(self) -> FineryError:
        addresses = ", ".join(self._addresses)
        return FineryError(
            Reason.SERVICE_UNAVAILABLE,
            f"No inference service can be reached at {addresses}. Start one (`finery up` does), or set"
            " FINERY_INFERENCE.",
        )

    def _unknown(self, model: str) -> FineryError:
        names = ", ".join(f"`{s.model_id}`" for s in self.models())
        there_is = f"Available: {names}." if names else "No model is deployed: deploy one with `finery deploy`."
        return FineryError(Reason.MODEL_NOT_FOUND, f"The model `{model}` does not exist. {there_is}", field="model")


def _not_serving(model: str, served: Served) -> FineryError | None:
    match served.state:
        case deployments_pb2.DEPLOYMENT_STATE_LOADING:
            return FineryError(
                Reason.DEPLOYMENT_NOT_READY, f"The model `{model}` is still loading. Try again in a moment."
            )
        case deployments_pb2.DEPLOYMENT_STATE_FAILED:
            why = served.error or "its log says why"
            return FineryError(Reason.ENGINE_DEAD, f"The model `{model}` has failed: {why}")
    return None


def _out_of_reach(model: str, backend: Backend) -> FineryError:
    what = "is shutting down" if backend.connected else "can't be reached"
    return FineryError(
        Reason.SERVICE_UNAVAILABLE,
        f"The inference service at {backend.address}, which serves `{model}`, {what}. Try again in a moment.",
    )
