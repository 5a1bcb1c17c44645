import errno
from pathlib import Path

import pytest

from finery_shared.artifacts import (
    MANIFEST,
    Kind,
    Manifest,
    disk_errors,
    hash_files,
    look_over,
    manifest_digest,
    publish,
    read_manifest,
    verify,
    write_manifest,
)
from finery_shared.artifacts.manifest import READ_AT_ONCE
from finery_shared.errors import FineryError, Reason


def make(directory: Path, text: str = "hello") -> Path:
    (directory / "deep").mkdir(parents=True)
    (directory / "model.safetensors").write_text(text)
    (directory / "deep" / "config.json").write_text("{}")
    manifest = Manifest(
        kind=Kind.ADAPTER,
        model_type="m",
        base_model="b",
        template="t",
        job="jobs/1",
        recipe={"lr": 1e-4},
        metrics={"loss": 1.5},
        files=hash_files(directory),
    )
    write_manifest(directory, manifest)
    return directory


def reason(call: object, *arguments: object, **options: object) -> Reason:
    with pytest.raises(FineryError) as caught:
        call(*arguments, **options)  # type: ignore[operator]
    return caught.value.reason


def test_what_was_written_is_read_and_verified(tmp_path: Path) -> None:
    directory = make(tmp_path / "a")
    manifest = verify(directory)
    assert manifest == read_manifest(directory)
    assert set(manifest.files) == {"model.safetensors", "deep/config.json"}
    assert manifest.files["model.safetensors"].size == 5
    assert manifest.metrics == {"loss": 1.5}


def change(path: Path) -> None:
    path.write_text("hellx")


def add(path: Path) -> None:
    (path.parent / "extra.safetensors").write_text("x")


@pytest.mark.parametrize(("damage", "name"), [(change, "model"), (Path.unlink, "model"), (add, "extra")])
def test_a_damaged_file_is_named(tmp_path: Path, damage: object, name: str) -> None:
    directory = make(tmp_path / "a")
    damage(directory / "model.safetensors")  # type: ignore[operator]
    for check in (verify, look_over):
        with pytest.raises(FineryError) as caught:
            check(directory)
        assert caught.value.reason is Reason.DATA_LOSS
        assert caught.value.metadata["file"] == str(directory / f"{name}.safetensors")


def test_large_files_are_not_read_while_a_caller_waits(tmp_path: Path) -> None:
    directory = make(tmp_path / "a", "x" * (READ_AT_ONCE + 1))
    (directory / "model.safetensors").write_text("y" * (READ_AT_ONCE + 1))
    assert look_over(directory).model_type == "m"
    assert reason(verify, directory) is Reason.DATA_LOSS
    (directory / "model.safetensors").write_text("y" * READ_AT_ONCE)
    assert reason(look_over, directory) is Reason.DATA_LOSS


def test_missing_directory_manifest_and_a_damaged_manifest(tmp_path: Path) -> None:
    assert reason(verify, tmp_path / "none") is Reason.FILE_MISSING
    (tmp_path / "plain").mkdir()
    assert reason(verify, tmp_path / "plain") is Reason.MANIFEST_MISSING
    directory = make(tmp_path / "a")
    (directory / MANIFEST).write_text("{")
    assert reason(verify, directory) is Reason.DATA_LOSS


@pytest.mark.parametrize("name", ["pytorch_model.bin", "optimizer.pt"])
def test_pickles_are_never_published(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    assert reason(hash_files, tmp_path) is Reason.DATA_LOSS


def test_publish_renames_and_can_be_repeated(tmp_path: Path) -> None:
    staged, destination = make(tmp_path / ".staging" / "a"), tmp_path / "out" / "a"
    publish(staged, destination)
    publish(staged, destination)
    assert not staged.exists()
    assert verify(destination).job == "jobs/1"


def test_publish_refuses_another_output_unless_told(tmp_path: Path) -> None:
    old = make(tmp_path / "out", "old")
    staged = make(tmp_path / ".staging" / "a", "new")
    assert reason(publish, staged, old) is Reason.OUTPUT_EXISTS
    assert (old / "model.safetensors").read_text() == "old"
    digest = manifest_digest(staged)
    publish(staged, old, replace=True)
    assert manifest_digest(old) == digest
    assert (old / "model.safetensors").read_text() == "new"


def test_a_full_disk_is_told_with_the_path() -> None:
    with pytest.raises(FineryError) as caught, disk_errors(Path("/somewhere")):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.reason is Reason.DISK_FULL
    assert "/somewhere" in caught.value.message
    with pytest.raises(PermissionError), disk_errors(Path("/somewhere")):
        raise PermissionError
