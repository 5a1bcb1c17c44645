"""From what the user said (--model_type, --model_id_or_path) to a model's directory and its spec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from finery_shared.errors import FineryError, Reason, invalid
from finery_shared.models import registry
from finery_shared.models.derive import from_path
from finery_shared.models.directory import is_complete
from finery_shared.models.hubs import ModelHub
from finery_shared.models.spec import ModelSpec

CheckPath = Callable[[str | Path, str], Path]
"""Path and field to the real path, as `finery_shared.settings` has it; raises PATH_NOT_ALLOWED."""


@dataclass(frozen=True)
class ResolvedModel:
    """A model directory on this machine and what is known of it."""

    path: Path
    spec: ModelSpec


def resolve(
    model_type: str | None = None,
    model_id_or_path: str | None = None,
    *,
    store: Path,
    hubs: Sequence[ModelHub] = (),
    check_path: CheckPath,
) -> ResolvedModel:
    """Find a model: local path, then the store, then the hubs' caches, then the hubs in their order.

    ``model_id_or_path`` is an absolute directory, a hub id or a model type, and alone is enough. Raises
    INVALID_ARGUMENT (neither given, a relative path, a path as model type), PATH_NOT_ALLOWED, MODEL_NOT_FOUND (with
    near matches), FILE_MISSING (no such directory), MODEL_UNREACHABLE (no hub gave it), and what `from_path` raises.
    """
    if not model_type and not model_id_or_path:
        raise invalid("model_type", "say which model: --model_type NAME or --model_id_or_path DIR_OR_ID.")
    if model_type and _is_path(model_type):
        raise invalid("model_type", f"{model_type} is a path: pass it as --model_id_or_path.")
    if model_id_or_path and _is_path(model_id_or_path):
        path = Path(model_id_or_path)
        check_readable(path, "model_id_or_path", store=store, hubs=hubs, check_path=check_path)
        return ResolvedModel(path, from_path(path, model_type or None))
    wanted = model_id_or_path or model_type or ""
    spec = registry.find(wanted)
    if spec is not None:
        return _find_registered(spec, store, hubs)
    return _find_other(wanted, model_type or wanted.rpartition("/")[2], store, hubs)


def store_path(store: Path, model_type: str) -> Path:
    """Where a model type lies in the local model store; an importer writes there."""
    return store / model_type


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


def _find_registered(spec: ModelSpec, store: Path, hubs: Sequence[ModelHub]) -> ResolvedModel:
    stored = store_path(store, spec.model_type)
    ids = [(hub, repo_id) for hub in hubs if (repo_id := hub.id_of(spec)) is not None]
    path = stored if is_complete(stored) else _from_hubs(spec.model_type, ids)
    return ResolvedModel(path.absolute(), from_path(path, spec.model_type))


def _find_other(wanted: str, model_type: str, store: Path, hubs: Sequence[ModelHub]) -> ResolvedModel:
    """A model that is not registered: imported into the store under its name, or a hub's by its id."""
    stored = store_path(store, wanted)
    if is_complete(stored):
        path = stored.absolute()
    elif "/" in wanted:
        path = _from_hubs(wanted, [(hub, wanted) for hub in hubs])
    else:
        raise registry.not_found(wanted)
    return ResolvedModel(path, from_path(path, model_type))


def _from_hubs(wanted: str, ids: Sequence[tuple[ModelHub, str]]) -> Path:
    """The first whole copy in a cache, else the first that a hub gives."""
    for hub, repo_id in ids:
        if (cached := hub.cached(repo_id)) is not None:
            return cached
    refusals: list[FineryError] = []
    for hub, repo_id in ids:
        try:
            return hub.download(repo_id)
        except FineryError as error:
            refusals.append(error)
    causes = "; ".join(error.metadata.get("cause", error.message) for error in refusals) or "no hub is configured"
    raise FineryError(
        Reason.MODEL_UNREACHABLE,
        f"{wanted} is not on this machine, and no hub gave it: {causes}. "
        "If you have its files, pass their directory: --model_id_or_path DIR.",
        detail="; ".join(error.detail for error in refusals),
        model=wanted,
    )
