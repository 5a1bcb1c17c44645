"""Hugging Face and ModelScope as places where models may lie: their caches on disk, and the hubs themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from finery_shared.errors import FineryError, Reason
from finery_shared.models.directory import is_complete
from finery_shared.models.reach import hugging_face_endpoint, missing, modelscope_endpoint, unreachable_because
from finery_shared.models.spec import ModelSpec

MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "tokenizer.model")


class ModelHub(Protocol):
    """A hub of models with a cache on this machine."""

    @property
    def name(self) -> str:
        """What users call it."""

    def id_of(self, spec: ModelSpec) -> str | None:
        """The model's id on this hub; None if it is not there."""

    def cached(self, repo_id: str) -> Path | None:
        """The model's directory in this machine's cache, if it is there and whole. Never goes to the network."""

    def holds(self, path: Path) -> bool:
        """Whether a directory lies in this hub's cache."""

    def check(self, repo_id: str) -> None:
        """Raise MODEL_UNREACHABLE when a few seconds are enough to see that nothing can be fetched."""

    def download(self, repo_id: str) -> Path:
        """Fetch a model into the cache; raises MODEL_UNREACHABLE when that can't be done."""


@dataclass(frozen=True)
class HuggingFaceHub:
    """huggingface.co and its cache (``$HF_HUB_CACHE``, ``$HF_HOME/hub``, ``~/.cache/huggingface/hub``)."""

    cache: Path
    endpoint: str = "https://huggingface.co"
    name: str = "Hugging Face"

    def id_of(self, spec: ModelSpec) -> str | None:
        """The model's Hugging Face id."""
        return spec.hf_id

    def cached(self, repo_id: str) -> Path | None:
        """The snapshot that ``refs/main`` names, else the newest whole one."""
        repo = self.cache / f"models--{repo_id.replace('/', '--')}"
        try:
            main = [repo / "snapshots" / (repo / "refs" / "main").read_text().strip()]
        except OSError:
            main = []
        others = sorted((repo / "snapshots").glob("*"), key=lambda path: path.stat().st_mtime, reverse=True)
        return next((path for path in (*main, *others) if is_complete(path)), None)

    def holds(self, path: Path) -> bool:
        """Whether a directory lies in the cache."""
        return path.resolve().is_relative_to(self.cache.resolve())

    def check(self, repo_id: str) -> None:
        """Its package has to be installed, and something has to answer at its address."""
        _check(self.name, self.endpoint, "huggingface_hub", repo_id)

    def download(self, repo_id: str) -> Path:
        """Fetch config, tokenizer and safetensors files."""
        self.check(repo_id)
        from huggingface_hub import snapshot_download

        options = {"allow_patterns": list(MODEL_FILES), "cache_dir": self.cache, "endpoint": self.endpoint}
        try:
            return Path(snapshot_download(repo_id, **options))
        except Exception as error:  # whatever its HTTP library of the day raises
            raise _unreachable(self.name, repo_id, "it did not give these files", error) from error


@dataclass(frozen=True)
class ModelScopeHub:
    """modelscope.cn and its cache (``$MODELSCOPE_CACHE``, ``~/.cache/modelscope``)."""

    cache: Path
    endpoint: str = "https://www.modelscope.cn"
    name: str = "ModelScope"

    def id_of(self, spec: ModelSpec) -> str | None:
        """The model's ModelScope id."""
        return spec.ms_id

    def cached(self, repo_id: str) -> Path | None:
        """The model's snapshot, or its directory in an older cache: a dot in its name is three underscores there."""
        snapshot = Path(repo_id.replace("/", "--"), "snapshots", "master")
        tops = ("models", ".", "hub/models", "hub")
        names = (snapshot, repo_id.replace(".", "___"), repo_id)
        places = (self.cache / top / name for top in tops for name in names)
        return next((path for path in places if is_complete(path)), None)

    def holds(self, path: Path) -> bool:
        """Whether a directory lies in the cache."""
        return path.resolve().is_relative_to(self.cache.resolve())

    def check(self, repo_id: str) -> None:
        """Its package has to be installed, and something has to answer at its address."""
        _check(self.name, self.endpoint, "modelscope_hub", repo_id)

    def download(self, repo_id: str) -> Path:
        """Fetch config, tokenizer and safetensors files."""
        self.check(repo_id)
        from modelscope_hub import HubApi

        options = {"allow_patterns": list(MODEL_FILES), "cache_dir": self.cache}
        try:
            return Path(HubApi(endpoint=self.endpoint).download_repo(repo_id, "model", **options))
        except Exception as error:  # whatever its HTTP library of the day raises
            raise _unreachable(self.name, repo_id, "it did not give these files", error) from error


def hubs_from(environment: Mapping[str, str]) -> tuple[ModelHub, ...]:
    """Both hubs, with the caches that these environment variables name.

    Hugging Face comes first, ModelScope when ``USE_HF`` is 0 or false (ms-swift's switch).
    """
    home = Path(environment.get("HOME") or Path.home())
    cache = Path(environment.get("XDG_CACHE_HOME") or home / ".cache")
    hf_home = Path(environment.get("HF_HOME") or cache / "huggingface")
    hf_cache = Path(environment.get("HF_HUB_CACHE") or hf_home / "hub").expanduser()
    ms_cache = Path(environment.get("MODELSCOPE_CACHE") or cache / "modelscope").expanduser()
    hf = HuggingFaceHub(hf_cache, hugging_face_endpoint(environment))
    ms = ModelScopeHub(ms_cache, modelscope_endpoint(environment))
    return (ms, hf) if environment.get("USE_HF", "1").lower() in ("0", "false") else (hf, ms)


def _check(hub: str, endpoint: str, package: str, repo_id: str) -> None:
    if find_spec(package) is None:
        raise _unreachable(hub, repo_id, missing(package.replace("_", "-")), package)
    if (problem := unreachable_because(endpoint)) is not None:
        raise _unreachable(hub, repo_id, "it can't be reached from here", problem)


def _unreachable(hub: str, repo_id: str, cause: str, detail: object) -> FineryError:
    return FineryError(
        Reason.MODEL_UNREACHABLE,
        f"{repo_id} could not be fetched from {hub}: {cause}. "
        "A model that is already on this machine is used with --model_id_or_path DIR.",
        detail=f"{hub}: {detail!r}",
        model=repo_id,
        cause=f"{hub} ({repo_id}): {cause}",
    )
