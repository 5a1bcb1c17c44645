"""A ModelSpec for any directory that holds a chat model of a known architecture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from finery_shared.errors import FineryError, Reason
from finery_shared.models import registry
from finery_shared.models.architectures import ARCHITECTURES, Architecture, architecture_named
from finery_shared.models.directory import ModelFiles, read_model_files
from finery_shared.models.shape import ModelShape
from finery_shared.models.spec import ModelSpec
from finery_shared.templates.families import family_of
from finery_shared.templates.tool_parsers import tool_parser_of


def from_path(path: Path, model_type: str | None = None) -> ModelSpec:
    """Read a model's directory and tell what it is.

    With a registered ``model_type`` the registry's entry is the base (its recipe, its names), checked against the
    directory. Without one, a directory that is called as a registered model (in the store, or in Hugging Face's cache)
    and has its architecture is taken for it. Any other is told from config.json and the tokenizer's files alone, under
    the name given or the directory's. Template, stop tokens, tool parser, sizes and quantization are always the
    directory's.

    Raises FILE_MISSING, MODEL_INVALID (something lacks), UNSUPPORTED (unknown architecture) or INVALID_ARGUMENT (the
    directory is not of that model type).
    """
    files = read_model_files(path)
    architecture = _architecture(files)
    known = registry.find(model_type) if model_type else _known_by_name(path, architecture)
    if known is not None and known.architecture != architecture.name:
        raise FineryError(
            Reason.INVALID_ARGUMENT,
            f"{path} holds a {architecture.name}, but {known.model_type} is a {known.architecture}: "
            "leave --model_type out, or name the right one.",
            field="model_type",
        )
    derived = _derive(files, architecture, model_type or _own_name(path).rpartition("/")[2])
    if known is None:
        return derived
    return replace(
        derived,
        model_type=known.model_type,
        family=known.family,
        hf_id=known.hf_id,
        ms_id=known.ms_id,
        targets=known.targets,
        recipe=known.recipe,
        identity=known.identity,
    )


def _own_name(path: Path) -> str:
    """The directory's name; in Hugging Face's cache, where that is a commit, the repository's id."""
    path = path.absolute()
    repository = path.parent.parent.name
    if path.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/")
    return path.name


def _known_by_name(path: Path, architecture: Architecture) -> ModelSpec | None:
    known = registry.find(_own_name(path))
    return known if known is not None and known.architecture == architecture.name else None


def _derive(files: ModelFiles, architecture: Architecture, model_type: str) -> ModelSpec:
    template = family_of(files.chat_template)
    stops = (*template.stop_tokens, files.eos_token) if files.eos_token else template.stop_tokens
    length = files.config.get("max_position_embeddings")
    return ModelSpec(
        model_type=model_type,
        family=architecture.family,
        architecture=architecture.name,
        template=template.name,
        shape=ModelShape.from_config(files.config),
        default_system=template.default_system,
        stop_tokens=tuple(dict.fromkeys(stops)),
        tool_parser=tool_parser_of(files.chat_template),
        max_model_len=length if isinstance(length, int) else 2048,
        quantized=files.quantized,
        targets=architecture.targets,
    )


def _architecture(files: ModelFiles) -> Architecture:
    named = files.config.get("architectures") or []
    found = next((known for known in map(architecture_named, named) if known is not None), None)
    if found is None:
        said = ", ".join(named) or f"model_type {files.config.get('model_type')!r}"
        raise FineryError(
            Reason.UNSUPPORTED,
            f"{files.path} is of an architecture that Finery does not know ({said}); "
            f"known: {', '.join(known.name for known in ARCHITECTURES)}.",
        )
    return found
