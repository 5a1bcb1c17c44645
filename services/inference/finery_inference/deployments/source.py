"""From a deployment's spec to a directory that an engine can load, checked file by file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from finery_inference.deployments.accepted import once_checked
from finery_inference.deployments.model import DeploymentSpec
from finery_shared.artifacts import Kind, Manifest, look_over, read_manifest, verify
from finery_shared.errors import FineryError, Reason, invalid
from finery_shared.models import CheckPath, FoundModel, ModelHub, ModelSpec, find_model, from_path


@dataclass(frozen=True)
class Source:
    """A model on this machine."""

    path: Path
    model_type: str
    tool_parser: str | None = None


@dataclass(frozen=True)
class SourceResolver:
    """Finds and checks what a deployment is to load. Blocks on files: call it in a thread."""

    store: Path
    hubs: Sequence[ModelHub]
    check_path: CheckPath

    def look(self, spec: DeploymentSpec) -> str:
        """The model type of what a spec names: all that can be told while a caller waits.

        No weights are read, and hubs are asked only whether they answer. Raises what `finery_shared.models.find_model`,
        `FoundModel.check_fetchable` and `finery_shared.artifacts.look_over` raise, MODEL_INVALID for an adapter,
        INVALID_ARGUMENT for a length beyond the model's.
        """
        if spec.ckpt_dir:
            path, manifest = self._artifact(spec.ckpt_dir, look_over, self.check_path)
            _check_length(spec, from_path(path, manifest.model_type))
            return manifest.model_type
        found = self._model(spec, self.check_path)
        found.check_fetchable()
        if found.spec is not None:
            _check_length(spec, found.spec)
        return found.model_type

    def resolve(self, spec: DeploymentSpec) -> Source:
        """The model of a spec, fetched from a hub if need be, verified if it has a manifest: may take minutes.

        Raises what `look`, `finery_shared.artifacts.verify` and `finery_shared.models.FoundModel.fetched` raise.
        """
        check_path = once_checked(self.check_path)
        if spec.ckpt_dir:
            path, manifest = self._artifact(spec.ckpt_dir, verify, check_path)
            model = from_path(path, manifest.model_type)
            _check_length(spec, model)
            return Source(path, manifest.model_type, model.tool_parser)
        fetched = self._model(spec, check_path).fetched()
        _check_length(spec, fetched.spec)
        return Source(fetched.path, fetched.spec.model_type, fetched.spec.tool_parser)

    def _artifact(
        self, ckpt_dir: str, read: Callable[[Path], Manifest], check_path: CheckPath
    ) -> tuple[Path, Manifest]:
        path = check_path(ckpt_dir, "ckpt_dir")
        if (path / "adapter_config.json").is_file() or read_manifest(path).kind is Kind.ADAPTER:
            raise FineryError(
                Reason.MODEL_INVALID,
                f"{path} holds an adapter, not a whole model. Merge it first: finery export --ckpt_dir {path} "
                f"--merge_lora true, then deploy {path}-merged. Or deploy its base model with --enable_lora true, and "
                f"add it there: finery adapters create --deployment MODEL --ckpt_dir {path}.",
                path=str(path),
            )
        return path, read(path)

    def _model(self, spec: DeploymentSpec, check_path: CheckPath) -> FoundModel:
        return find_model(
            spec.model_type or None,
            spec.model_id_or_path or None,
            store=self.store,
            hubs=self.hubs,
            check_path=check_path,
        )


def _check_length(spec: DeploymentSpec, model: ModelSpec) -> None:
    longest = model.max_model_len
    if spec.max_model_len is not None and spec.max_model_len > longest:
        raise invalid("max_model_len", f"{spec.max_model_len} is beyond the model's {longest}; set at most that.")
