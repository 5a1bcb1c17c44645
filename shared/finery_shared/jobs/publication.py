"""From a worker's staged directories to published artifacts."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from finery.artifacts.v1.artifacts_pb2 import Artifact, ArtifactKind
from finery.jobs.v1.worker_pb2 import StagedArtifact
from finery_shared.artifacts import Kind, Manifest, disk_errors, manifest_digest, publish, verify
from finery_shared.errors import FineryError, Reason

_KINDS = {
    Kind.ADAPTER: ArtifactKind.ARTIFACT_KIND_ADAPTER,
    Kind.MODEL: ArtifactKind.ARTIFACT_KIND_MODEL,
    Kind.QUANTIZED_MODEL: ArtifactKind.ARTIFACT_KIND_QUANTIZED_MODEL,
}

STATE = "state"
"""The directory beside those of the attempts in which one leaves what the next goes on from."""

LOOSE_FILES = "loose_files"
"""Role of a directory that is no artifact: what it holds is moved beside the artifacts, without a manifest."""


@dataclass(frozen=True)
class Published:
    """An artifact in view, and what it is to its job."""

    role: str
    artifact: Artifact


def staging_directory(work_dir: str, job: str, attempt: int) -> Path:
    """Where an attempt writes: on the file system of its output, out of view."""
    return Path(work_dir) / ".staging" / job.rpartition("/")[2] / str(attempt)


def has_state(work_dir: str, job: str) -> bool:
    """Whether the attempts of a job left something that another one can go on from."""
    directory = staging_directory(work_dir, job, 0).with_name(STATE)
    return directory.is_dir() and any(directory.iterdir())


def publish_all(staged: Iterable[StagedArtifact], work_dir: str, *, replace: bool) -> list[Published]:
    """Verify every staged directory, then rename them into view one by one; safe to repeat after a crash.

    Raises DATA_LOSS naming the file that isn't what its manifest lists, PATH_NOT_ALLOWED for a path that a worker has
    no business with, OUTPUT_EXISTS, DISK_FULL.
    """
    root, items = Path(work_dir).resolve(), list(staged)
    for item in items:
        _check_inside(root, item)
        if item.role != LOOSE_FILES:
            verify(_source(item))
    published = []
    for item in items:
        if item.role == LOOSE_FILES:
            _move_content(Path(item.path), Path(item.destination))
            continue
        if item.path != item.destination:
            publish(Path(item.path), Path(item.destination), replace=replace)
        published.append(Published(item.role, to_artifact(Path(item.destination))))
    return published


def to_artifact(directory: Path, manifest: Manifest | None = None) -> Artifact:
    """The message that names a published directory."""
    manifest = manifest or verify(directory)
    return Artifact(
        uri=directory.as_uri(),
        kind=_KINDS[manifest.kind],
        manifest_sha256=manifest_digest(directory),
        metrics=manifest.metrics,
    )


def discard_staging(work_dir: str, job: str) -> None:
    """Remove what the attempts of a job left out of view."""
    directory = Path(work_dir) / ".staging" / job.rpartition("/")[2]
    shutil.rmtree(directory, ignore_errors=True)
    with suppress(OSError):
        directory.parent.rmdir()  # unless another job uses it


def _move_content(source: Path, destination: Path) -> None:
    """Move every entry of a directory into another one, in place of what an interrupted publication moved there."""
    with disk_errors(destination):
        destination.mkdir(parents=True, exist_ok=True)
        for path in source.glob("*"):
            target = destination / path.name
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)


def _source(item: StagedArtifact) -> Path:
    path = Path(item.path)
    return path if path.exists() else Path(item.destination)


def _check_inside(root: Path, item: StagedArtifact) -> None:
    for path in (Path(item.path), Path(item.destination)):
        if not path.resolve().is_relative_to(root):
            raise FineryError(Reason.PATH_NOT_ALLOWED, f"The worker named {path}, which lies outside {root}.")
