"""From a deployment's spec to a directory that an engine can load, checked file by file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finery_inference.deployments.model import DeploymentSpec
from finery_shared.artifacts import Kind, read_manifest, verify
from finery_shared.errors import FineryError, Reason, invalid
from finery_shared.models import CheckPath, ModelHub, ModelSpec, from_path, resolve


@dataclass(frozen=True)
class Source:
    """A model on this machine."""

    path: Path
    model_type: str
    spec: ModelSpec


@dataclass(frozen=True)
class SourceResolver:
    """Finds and checks what a deployment is to load. Blocks on files: call it in a thread."""

    store: Path
    hubs: Sequence[ModelHub]
    check_path: CheckPath

    def resolve(self, spec: DeploymentSpec) -> Source:
        """The model of a spec.

        Raises what `finery_shared.models.resolve` and `finery_shared.artifacts.verify` raise, MODEL_INVALID for an
        adapter, INVALID_ARGUMENT for a length beyond the model's.
        """
        source = self._artifact(spec.ckpt_dir) if spec.ckpt_dir else self._model(spec)
        longest = source.spec.max_model_len
        if spec.max_model_len is not None and spec.max_model_len > longest:
            raise invalid("max_model_len", f"{spec.max_model_len} is beyond the model's {longest}; set at most that.")
        return source

    def _artifact(self, ckpt_dir: str) -> Source:
        path = self.check_path(ckpt_dir, "ckpt_dir")
        if (path / "adapter_config.json").is_file() or read_manifest(path).kind is Kind.ADAPTER:
            raise FineryError(
                Reason.MODEL_INVALID,
                f"{path} holds an adapter, not a whole model. Merge it first: finery export --ckpt_dir {path} "
                f"--merge_lora true, then deploy {path}-merged.",
                path=str(path),
            )
        manifest = verify(path)
        return Source(path, manifest.model_type, from_path(path, manifest.model_type))

    def _model(self, spec: DeploymentSpec) -> Source:
        found = resolve(
            spec.model_type or None,
            spec.model_id_or_path or None,
            store=self.store,
            hubs=self.hubs,
            check_path=self.check_path,
        )
        return Source(found.path, found.spec.model_type, found.spec)
