"""Loose files beside artifacts: moved as they are, and again after a publication that was interrupted."""

from pathlib import Path

import pytest

from finery.jobs.v1.worker_pb2 import StagedArtifact
from finery_shared.errors import FineryError, Reason
from finery_shared.jobs.publication import LOOSE_FILES, publish_all


def staged(root: Path, destination: Path) -> StagedArtifact:
    source = root / ".staging" / "job" / "state" / "run"
    (source / "images").mkdir(parents=True, exist_ok=True)
    (source / "logging.jsonl").write_text("new")
    (source / "images" / "loss.png").write_text("new")
    return StagedArtifact(role=LOOSE_FILES, path=str(source), destination=str(destination))


def test_they_land_beside_what_is_there(tmp_path: Path) -> None:
    run = tmp_path / "v0"
    (run / "checkpoint-1").mkdir(parents=True)
    (run / "images").mkdir()
    (run / "images" / "half.png").write_text("from before a crash")
    item = staged(tmp_path, run)
    for _ in range(2):
        assert publish_all([item], str(tmp_path), replace=False) == []
        names = sorted(path.relative_to(run).as_posix() for path in run.rglob("*"))
        assert names == ["checkpoint-1", "images", "images/loss.png", "logging.jsonl"]


def test_they_stay_inside_the_output(tmp_path: Path) -> None:
    with pytest.raises(FineryError) as caught:
        publish_all([staged(tmp_path / "out", tmp_path / "elsewhere")], str(tmp_path / "out"), replace=False)
    assert caught.value.reason is Reason.PATH_NOT_ALLOWED
