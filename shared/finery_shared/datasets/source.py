"""Where a data set's rows come from: a shipped file, a local path, or a hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finery_shared.datasets import registry
from finery_shared.datasets.files import is_data_file
from finery_shared.datasets.grammar import DatasetSpec, HubName
from finery_shared.datasets.hubs import DatasetHub
from finery_shared.errors import FineryError, Reason, invalid
from finery_shared.models.registry import near_matches


@dataclass(frozen=True)
class Source:
    """Files to read. Rows of ``trusted`` files are the user's or ours: each has to be right; a hub's may be skipped."""

    path: Path
    subset: str | None
    trusted: bool


def locate(spec: DatasetSpec, hubs: Mapping[HubName, DatasetHub]) -> Source:
    """Find a data set: by registered name, then as an absolute path, then as a hub id.

    Raises INVALID_ARGUMENT (a relative path: those mean something to whoever wrote them alone), DATASET_NOT_FOUND
    (with near matches), FILE_MISSING or DATASET_UNREACHABLE.
    """
    if is_remote(spec):
        hub, dataset_id = _offer(spec, hubs)
        return Source(hub.fetch(dataset_id), spec.subset, trusted=False)
    entry = registry.find(spec.name)
    if entry is not None and entry.path is not None:
        return Source(entry.path, spec.subset, trusted=True)
    if (found := _local(spec)) is not None:
        return found
    raise _not_found(spec)


def check_fetchable(spec: DatasetSpec, hubs: Mapping[HubName, DatasetHub]) -> None:
    """Raise what `locate` would for a hub's data set, when a few seconds are enough to see that it can't be had."""
    if is_remote(spec):
        hub, dataset_id = _offer(spec, hubs)
        hub.check(dataset_id)


def is_remote(spec: DatasetSpec) -> bool:
    """Whether `locate` asks a hub for a data set."""
    entry = registry.find(spec.name)
    if entry is not None:
        return entry.path is None or spec.hub is not None
    return spec.hub is not None or (not _is_path(spec.name) and spec.name.count("/") == 1)


def _is_path(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or is_data_file(name)


def _local(spec: DatasetSpec) -> Source | None:
    """The path if it is one. A colon may belong to the file's name."""
    whole = f"{spec.name}:{spec.subset}" if spec.subset else spec.name
    for text, subset in ((whole, None), (spec.name, spec.subset)):
        path = Path(text)
        if path.is_absolute() and path.exists():
            return Source(path, subset, trusted=True)
    if spec.name.startswith("/"):
        message = f"There is no data file {spec.name}: check the path."
        raise FineryError(Reason.FILE_MISSING, message, path=spec.name)
    if _is_path(spec.name):
        raise invalid("dataset", f"{spec.name} is not an absolute path.")
    return None


def _offer(spec: DatasetSpec, hubs: Mapping[HubName, DatasetHub]) -> tuple[DatasetHub, str]:
    """The hub to ask for a data set, and its id there."""
    entry = registry.find(spec.name)
    ids: Mapping[HubName, str | None] = (
        {"HF": entry.hf_id, "MS": entry.ms_id} if entry else {"HF": spec.name, "MS": spec.name}
    )
    for name, hub in hubs.items():
        dataset_id = ids[name]
        if dataset_id is not None and spec.hub in (None, name):
            return hub, dataset_id
    raise _not_found(spec)


def _not_found(spec: DatasetSpec) -> FineryError:
    near = near_matches(spec.name, registry.names())
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return FineryError(
        Reason.DATASET_NOT_FOUND,
        f"There is no data set {spec.name!r}.{hint} Known: {', '.join(registry.names())}; "
        "also a path to a .jsonl, .json, .csv, .tsv, .parquet or .txt file, or a hub id (owner/name).",
        dataset=spec.name,
    )
