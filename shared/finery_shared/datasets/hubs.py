"""Data sets from Hugging Face and ModelScope: their data files, downloaded into the hub's own cache."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from finery_shared.datasets.grammar import HubName
from finery_shared.errors import FineryError, Reason

DATA_FILES = ("*.jsonl", "*.json", "*.csv", "*.parquet")


class DatasetHub(Protocol):
    """A hub of data sets."""

    def fetch(self, dataset_id: str) -> Path:
        """The directory with the data set's files; raises DATASET_UNREACHABLE when they can't be had."""


class HuggingFaceDatasets:
    """Data sets of huggingface.co, through the cache of huggingface_hub."""

    def fetch(self, dataset_id: str) -> Path:
        """Download what the cache lacks; without network the cached files serve."""
        try:
            from huggingface_hub import snapshot_download
        except ImportError as error:
            raise unreachable("Hugging Face", dataset_id, f"huggingface_hub is not installed: {error}") from error
        try:
            return Path(snapshot_download(dataset_id, repo_type="dataset", allow_patterns=list(DATA_FILES)))
        except Exception as error:  # whatever its HTTP library of the day raises
            raise unreachable("Hugging Face", dataset_id, repr(error)) from error


class ModelScopeDatasets:
    """Data sets of modelscope.cn, through the cache of the modelscope package."""

    def fetch(self, dataset_id: str) -> Path:
        """Download what the cache lacks."""
        try:
            from modelscope.hub.snapshot_download import dataset_snapshot_download
        except ImportError as error:
            raise unreachable("ModelScope", dataset_id, f"modelscope is not installed: {error}") from error
        try:
            return Path(dataset_snapshot_download(dataset_id, allow_file_pattern=list(DATA_FILES)))
        except Exception as error:  # whatever its HTTP library of the day raises
            raise unreachable("ModelScope", dataset_id, repr(error)) from error


def default_hubs() -> Mapping[HubName, DatasetHub]:
    """Both hubs; the first is the one that an id without prefix is looked for on."""
    return {"HF": HuggingFaceDatasets(), "MS": ModelScopeDatasets()}


def unreachable(hub: str, dataset_id: str, detail: str) -> FineryError:
    """The error for a data set that can't be fetched."""
    return FineryError(
        Reason.DATASET_UNREACHABLE,
        f"The data set {dataset_id} could not be fetched from {hub}: is the hub reachable, and the id right? "
        "A local file serves too: --dataset path/to/rows.jsonl; general-zh and general-en come with Finery.",
        detail=detail,
        dataset=dataset_id,
    )
