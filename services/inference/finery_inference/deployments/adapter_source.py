"""From an adapter's spec to a directory that its deployment's engine can load, checked file by file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from finery_inference.deployments.accepted import once_checked
from finery_inference.deployments.adapter_files import AdapterFiles, read_adapter
from finery_inference.deployments.model import AdapterSpec, DeploymentRecord
from finery_shared.artifacts import MANIFEST, Manifest, look_over, verify
from finery_shared.errors import FineryError, Reason, invalid
from finery_shared.models import CheckPath, find, from_path


@dataclass(frozen=True)
class AdapterResolver:
    """Finds and checks what is to be loaded beside a base model. Blocks on files: call it in a thread."""

    check_path: CheckPath

    def look(self, spec: AdapterSpec, base: DeploymentRecord, model: Path | None) -> None:
        """All that can be told while a caller waits; ``model`` is the base model's directory, if it is there yet.

        Raises UNSUPPORTED for a deployment without adapters, INVALID_ARGUMENT for a rank beyond its limit,
        MODEL_INVALID for an adapter of another model, and what the path's check, `read_adapter` and
        `finery_shared.artifacts.look_over` raise.
        """
        if not base.spec.enable_lora:
            raise FineryError(
                Reason.UNSUPPORTED,
                f"{base.model_id} was deployed without adapters. Delete it and deploy it with --enable_lora true.",
                deployment=base.name,
            )
        self._checked(self.check_path(spec.ckpt_dir, "ckpt_dir"), base, model, look_over)

    def resolve(self, spec: AdapterSpec, base: DeploymentRecord, model: Path) -> Path:
        """The adapter's directory, every file verified if it has a manifest. Raises as `look`."""
        path = once_checked(self.check_path)(spec.ckpt_dir, "ckpt_dir")
        return self._checked(path, base, model, verify).path

    def _checked(
        self, path: Path, base: DeploymentRecord, model: Path | None, read: Callable[[Path], Manifest]
    ) -> AdapterFiles:
        manifest = read(path) if (path / MANIFEST).is_file() else None
        files = read_adapter(path)
        if manifest is not None:
            _check_manifest(path, manifest, base, model)
        else:
            _check_name(files, base)
        most = base.spec.max_lora_rank
        if files.rank > most:
            message = (
                f"{path} has rank {files.rank}, and {base.model_id} was deployed for ranks up to {most}. Delete it and "
                f"deploy it again with --max_lora_rank {files.rank}."
            )
            raise invalid("ckpt_dir", message)
        if model is not None:
            files.check_shapes(from_path(model, base.model_type).shape)
        return files


def _check_manifest(path: Path, manifest: Manifest, base: DeploymentRecord, model: Path | None) -> None:
    same_directory = model is not None and Path(manifest.base_model).resolve() == model.resolve()
    if not same_directory and not _same(manifest.model_type, base.model_type):
        raise _other_model(path, manifest.model_type, base)


def _check_name(files: AdapterFiles, base: DeploymentRecord) -> None:
    """PEFT notes a hub id or a path: only two registered models are surely different ones."""
    made_for, served = find(files.base_model), find(base.model_type)
    if made_for is not None and served is not None and not _same(made_for.model_type, served.model_type):
        raise _other_model(files.path, made_for.model_type, base)


def _same(made_for: str, served: str) -> bool:
    """Whether two model types share their weights, of which one may be quantized."""
    return made_for.removesuffix("-awq") == served.removesuffix("-awq")


def _other_model(path: Path, made_for: str, base: DeploymentRecord) -> FineryError:
    return FineryError(
        Reason.MODEL_INVALID,
        f"{path} is an adapter of {made_for}, and {base.model_id} serves {base.model_type}. Deploy {made_for} with "
        "--enable_lora true and add the adapter there; if it lies in a directory of another name, say --model_type "
        f"{made_for} too.",
        path=str(path),
    )
