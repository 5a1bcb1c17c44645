"""Data sets from Hugging Face and ModelScope: their data files, downloaded into the hub's own cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from finery_shared.datasets.grammar import HubName
from finery_shared.errors import FineryError, Reason
from finery_shared.models.reach import hugging_face_endpoint, missing, modelscope_endpoint, unreachable_because

DATA_FILES = ("*.jsonl", "*.json", "*.csv", "*.tsv", "*.parquet", "*.txt")


class DatasetHub(Protocol):
    """A hub of data sets."""

    def check(self, dataset_id: str) -> None:
        """Raise DATASET_UNREACHABLE when a few seconds are enough to see that the data set can't be had."""

    def fetch(self, dataset_id: str) -> Path:
        """The directory with the data set's files; raises DATASET_UNREACHABLE when they can't be had."""


@dataclass(frozen=True)
class HuggingFaceDatasets:
    """Data sets of huggingface.co, through the cache of huggingface_hub (its own by default)."""

    endpoint: str = "https://huggingface.co"
    cache: Path | None = None

    def check(self, dataset_id: str) -> None:
        """The hub answers, or the cache has the data set."""
        if unreachable_because(self.endpoint) is not None:
            self.fetch(dataset_id)

    def fetch(self, dataset_id: str) -> Path:
        """Download what the cache lacks; where the hub is out of reach, the cached files serve."""
        try:
            from huggingface_hub import snapshot_download
        except ImportError as error:
            cause = missing("huggingface-hub")
            raise unreachable("Hugging Face", dataset_id, cause, error) from error
        problem = unreachable_because(self.endpoint)
        options = {"allow_patterns": list(DATA_FILES), "endpoint": self.endpoint, "cache_dir": self.cache}
        try:
            found = snapshot_download(dataset_id, repo_type="dataset", local_files_only=bool(problem), **options)
            return Path(found)
        except Exception as error:  # whatever its HTTP library of the day raises
            cause = "it can't be reached from here" if problem else "it did not give these files; check the id"
            raise unreachable("Hugging Face", dataset_id, cause, problem or error) from error


@dataclass(frozen=True)
class ModelScopeDatasets:
    """Data sets of modelscope.cn, through the cache of modelscope-hub (its own by default)."""

    endpoint: str = "https://www.modelscope.cn"
    cache: Path | None = None

    def check(self, dataset_id: str) -> None:
        """The hub answers, or the cache has the data set."""
        if unreachable_because(self.endpoint) is not None:
            self.fetch(dataset_id)

    def fetch(self, dataset_id: str) -> Path:
        """Download what the cache lacks; where the hub is out of reach, the cached files serve."""
        try:
            from modelscope_hub import HubApi
        except ImportError as error:
            cause = missing("modelscope-hub")
            raise unreachable("ModelScope", dataset_id, cause, error) from error
        problem = unreachable_because(self.endpoint)
        options = {"allow_patterns": list(DATA_FILES), "cache_dir": self.cache}
        try:
            hub = HubApi(endpoint=self.endpoint)
            return Path(hub.download_repo(dataset_id, "dataset", local_files_only=bool(problem), **options))
        except Exception as error:  # whatever its HTTP library of the day raises
            cause = "it can't be reached from here" if problem else "it did not give these files; check the id"
            raise unreachable("ModelScope", dataset_id, cause, problem or error) from error


def hubs_from(environment: Mapping[str, str]) -> Mapping[HubName, DatasetHub]:
    """Both hubs at the addresses that these environment variables name.

    An id without prefix is looked for on the first: Hugging Face, or ModelScope when ``USE_HF`` is 0 or false.
    """
    hf = HuggingFaceDatasets(hugging_face_endpoint(environment))
    ms = ModelScopeDatasets(modelscope_endpoint(environment))
    return {"MS": ms, "HF": hf} if environment.get("USE_HF", "1").lower() in ("0", "false") else {"HF": hf, "MS": ms}


def unreachable(hub: str, dataset_id: str, cause: str, detail: object) -> FineryError:
    """The error for a data set that can't be fetched."""
    return FineryError(
        Reason.DATASET_UNREACHABLE,
        f"The data set {dataset_id} could not be fetched from {hub}: {cause}. "
        "A local file serves too: --dataset path/to/rows.jsonl; general-zh and general-en come with Finery.",
        detail=repr(detail),
        dataset=dataset_id,
    )
