"""From what the user said (--model_type, --model_id_or_path) to a model's directory and its spec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from finery_shared.errors import FineryError, Reason, invalid
from finery_shared.models import registry
from finery_shared.models.derive import from_path
from finery_shared.models.directory import is_complete
from finery_shared.models.hubs import ModelHub
from finery_shared.models.spec import ModelSpec

T = TypeVar("T")

CheckPath = Callable[[str | Path, str], Path]
"""Path and field to the real path, as `finery_shared.settings` has it; raises PATH_NOT_ALLOWED."""


@dataclass(frozen=True)
class ResolvedModel:
    """A model directory on this machine and what is known of it."""

    path: Path
    spec: ModelSpec


@dataclass(frozen=True)
class FoundModel:
    """A model that was named, before anything was fetched.

    ``path`` is None if it is not on this machine; ``offers`` are then the hubs that may have it, each with its id
    there. ``spec`` is what its directory says, else what the registry does, else None.
    """

    model_type: str
    path: Path | None
    spec: ModelSpec | None
    offers: tuple[tuple[ModelHub, str], ...] = ()

    def check_fetchable(self) -> None:
        """Raise MODEL_UNREACHABLE when a few seconds are enough to see that `fetched` can't give the model."""
        if self.path is None:
            _ask(self.model_type, self.offers, lambda hub, repo_id: hub.check(repo_id))

    def fetched(self) -> ResolvedModel:
        """The model on this machine; asks the hubs in their order if need be, and may take as long as they do.

        Raises MODEL_UNREACHABLE and what `from_path` raises.
        """
        if self.path is not None and self.spec is not None:
            return ResolvedModel(self.path, self.spec)
        path = _ask(self.model_type, self.offers, lambda hub, repo_id: hub.download(repo_id)).absolute()
        return ResolvedModel(path, from_path(path, self.model_type))


def resolve(
    model_type: str | None = None,
    model_id_or_path: str | None = None,
    *,
    store: Path,
    hubs: Sequence[ModelHub] = (),
    check_path: CheckPath,
) -> ResolvedModel:
    """Find a model: local path, then the store, then the hubs' caches, then the hubs in their order.

    Raises what `find_model` raises, and what `FoundModel.fetched` does.
    """
    return find_model(model_type, model_id_or_path, store=store, hubs=hubs, check_path=check_path).fetched()


def find_model(
    model_type: str | None = None,
    model_id_or_path: str | None = None,
    *,
    store: Path,
    hubs: Sequence[ModelHub] = (),
    check_path: CheckPath,
) -> FoundModel:
    """Look for a model on this machine, without asking a hub: local path, then the store, then the hubs' caches.

    ``model_id_or_path`` is an absolute directory, a hub id or a model type, and alone is enough. Raises
    INVALID_ARGUMENT (neither given, a relative path, a path as model type), PATH_NOT_ALLOWED, MODEL_NOT_FOUND (with
    near matches), FILE_MISSING (no such directory), MODEL_UNREACHABLE (no hub to ask), and what `from_path` raises.
    """
    if not model_type and not model_id_or_path:
        raise invalid("model_type", "say which model: --model_type NAME or --model_id_or_path DIR_OR_ID.")
    if model_type and _is_path(model_type):
        raise invalid("model_type", f"{model_type} is a path: pass it as --model_id_or_path.")
    if model_id_or_path and _is_path(model_id_or_path):
        path = Path(model_id_or_path)
        check_readable(path, "model_id_or_path", store=store, hubs=hubs, check_path=check_path)
        return _local(path, model_type or None)
    wanted = model_id_or_path or model_type or ""
    spec = registry.find(wanted)
    if spec is not None:
        offers = tuple((hub, repo_id) for hub in hubs if (repo_id := hub.id_of(spec)) is not None)
        return _stored_or_offered(store_path(store, spec.model_type), spec.model_type, offers)
    name = model_type or wanted.rpartition("/")[2]
    if "/" not in wanted and not is_complete(store_path(store, wanted)):
        raise registry.not_found(wanted)
    return _stored_or_offered(store_path(store, wanted), name, tuple((hub, wanted) for hub in hubs))


def store_path(store: Path, model_type: str) -> Path:
    """Where a model type lies in the local model store; an importer writes there."""
    return store / model_type


def _stored_or_offered(stored: Path, model_type: str, offers: tuple[tuple[ModelHub, str], ...]) -> FoundModel:
    """A model in the store, else the first whole copy in a hub's cache, else what the hubs offer."""
    if is_complete(stored):
        return _local(stored.absolute(), model_type)
    for hub, repo_id in offers:
        if (cached := hub.cached(repo_id)) is not None:
            return _local(cached.absolute(), model_type)
    if not offers:
        raise _unreachable(model_type, "no hub is configured")
    spec = registry.find(model_type)
    return FoundModel(spec.model_type if spec else model_type, None, spec, offers)


def _local(path: Path, model_type: str | None) -> FoundModel:
    spec = from_path(path, model_type)
    return FoundModel(spec.model_type, path, spec)


def check_readable(path: Path, field: str, *, store: Path, hubs: Sequence[ModelHub], check_path: CheckPath) -> None:
    """Refuse a directory that a service must not read for a caller.

    It may read what lies in the store or in a hub's cache, which callers can name without a path too, and what
    ``check_path`` allows. Raises INVALID_ARGUMENT (a relative path) or PATH_NOT_ALLOWED.
    """
    if not path.is_absolute():
        raise invalid(field, f"{path} is neither an absolute path nor a hub id (owner/name).")
    if not path.resolve().is_relative_to(store.resolve()) and not any(hub.holds(path) for hub in hubs):
        check_path(path, field)


def _is_path(text: str) -> bool:
    """Whether ``text`` can only be a path, not a hub id or a model type."""
    return text.startswith(("/", "~")) or text.count("/") > 1 or any(part in (".", "..") for part in text.split("/"))


def _ask(wanted: str, offers: Sequence[tuple[ModelHub, str]], question: Callable[[ModelHub, str], T]) -> T:
    """The answer of the first hub that has one."""
    refusals: list[FineryError] = []
    for hub, repo_id in offers:
        try:
            return question(hub, repo_id)
        except FineryError as error:
            refusals.append(error)
    causes = "; ".join(error.metadata.get("cause", error.message) for error in refusals)
    raise _unreachable(wanted, causes, "; ".join(error.detail for error in refusals))


def _unreachable(wanted: str, causes: str, detail: str = "") -> FineryError:
    return FineryError(
        Reason.MODEL_UNREACHABLE,
        f"{wanted} is not on this machine, and no hub gave it: {causes}. "
        "If you have its files, pass their directory: --model_id_or_path DIR.",
        detail=detail,
        model=wanted,
    )
