"""Artifacts: directories with a manifest, published atomically, verified before use."""

from finery_shared.artifacts.manifest import (
    MANIFEST,
    FileEntry,
    Kind,
    Manifest,
    hash_files,
    look_over,
    manifest_digest,
    read_manifest,
    verify,
    write_manifest,
)
from finery_shared.artifacts.publish import disk_errors, publish

__all__ = [
    "MANIFEST",
    "FileEntry",
    "Kind",
    "Manifest",
    "disk_errors",
    "hash_files",
    "look_over",
    "manifest_digest",
    "publish",
    "read_manifest",
    "verify",
    "write_manifest",
]
