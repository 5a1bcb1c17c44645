"""manifest.json: what an artifact is, what it came from, and the checksum of its every file."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from finery_shared.errors import FineryError, Reason

MANIFEST = "manifest.json"
READ_AT_ONCE = 16 * 2**20
"""Bytes up to which a file is read while a caller waits."""

_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}


class Kind(StrEnum):
    """What the directory holds."""

    ADAPTER = "adapter"
    MODEL = "model"
    QUANTIZED_MODEL = "quantized_model"


class FileEntry(BaseModel):
    """Size in bytes and SHA-256 of one file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    sha256: str


class Manifest(BaseModel):
    """The content of manifest.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    kind: Kind
    model_type: str
    """The registry's name of the base model, or the base directory's name."""
    base_model: str
    """Where the base model was read from: a path, or a hub id."""
    template: str
    """Name of the chat template's family."""
    parent: str | None = None
    """Path of the artifact that this one was made from."""
    parent_manifest_sha256: str | None = None
    job: str
    """Resource name of the job that made it."""
    recipe: dict[str, JsonValue]
    """Every argument of the job."""
    metrics: dict[str, float]
    """What was checked before it was published, by name."""
    files: dict[str, FileEntry]
    """Every other file of the directory, by its path relative to it."""
    create_time: datetime = Field(default_factory=lambda: datetime.now(UTC))


def hash_files(directory: Path) -> dict[str, FileEntry]:
    """Size and SHA-256 of every file but the manifest, read back from the file system.

    Raises DATA_LOSS for a file that could run code when it is loaded: safetensors alone are published.
    """
    return {name: FileEntry(size=path.stat().st_size, sha256=_sha256(path)) for name, path in _files(directory).items()}


def _files(directory: Path) -> dict[str, Path]:
    found = {}
    for path in sorted(p for p in directory.rglob("*") if p.is_file() and p != directory / MANIFEST):
        if path.suffix in _PICKLES or path.is_symlink():
            raise FineryError(Reason.DATA_LOSS, f"{path} is a pickle or a link; artifacts hold safetensors only.")
        found[path.relative_to(directory).as_posix()] = path
    return found


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write manifest.json into a staged directory."""
    (directory / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_manifest(directory: Path) -> Manifest:
    """Read manifest.json, without looking at the files it lists.

    Raises FILE_MISSING, MANIFEST_MISSING or DATA_LOSS.
    """
    if not directory.is_dir():
        raise FineryError(Reason.FILE_MISSING, f"{directory} is not a directory. Pass a checkpoint's directory.")
    path = directory / MANIFEST
    if not path.is_file():
        message = (
            f"{directory} has no {MANIFEST}, so it was not published by Finery, or not as a whole. Pass the directory "
            "that a job printed, or a model without a manifest by --model_id_or_path."
        )
        raise FineryError(Reason.MANIFEST_MISSING, message, path=str(directory))
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        message = f"{path} can't be read as a manifest. Make the artifact again, or restore the file."
        raise FineryError(Reason.DATA_LOSS, message, detail=str(error), file=str(path)) from error


def verify(directory: Path) -> Manifest:
    """The manifest of a directory whose every file was read and has the listed size and checksum.

    Raises FILE_MISSING, MANIFEST_MISSING, or DATA_LOSS naming the file.
    """
    return _checked(directory, None)


def look_over(directory: Path) -> Manifest:
    """As `verify`, but fast: of files of more than `READ_AT_ONCE` bytes only the size is compared."""
    return _checked(directory, READ_AT_ONCE)


def _checked(directory: Path, longest: int | None) -> Manifest:
    manifest = read_manifest(directory)
    found = _files(directory)
    for name in sorted(manifest.files.keys() | found.keys()):
        if name not in found:
            problem = "is listed in the manifest and missing"
        elif name not in manifest.files:
            problem = "is not listed in the manifest"
        elif not _agrees(found[name], manifest.files[name], longest):
            problem = "does not have the size and checksum that the manifest lists"
        else:
            continue
        path = directory / name
        message = f"{path} {problem}. Restore it from a copy, or make the artifact again."
        raise FineryError(Reason.DATA_LOSS, message, file=str(path))
    return manifest


def _agrees(path: Path, listed: FileEntry, longest: int | None) -> bool:
    size = path.stat().st_size
    unread = longest is not None and size > longest
    return size == listed.size and (unread or _sha256(path) == listed.sha256)


def manifest_digest(directory: Path) -> str:
    """SHA-256 of manifest.json: the identity of an artifact's content."""
    return _sha256(directory / MANIFEST)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
