"""What is left of a job's directories once it has ended."""

from pathlib import Path

from finery_shared.jobs.publication import discard_staging, staging_directory


def test_an_output_directory_in_which_nothing_is_left_goes_too(tmp_path: Path) -> None:
    output = tmp_path / "out"
    staging_directory(str(output), "toys/1", 2).mkdir(parents=True)
    staging_directory(str(output), "toys/2", 1).mkdir(parents=True)
    discard_staging(str(output), "toys/1")
    assert [path.name for path in (output / ".staging").iterdir()] == ["2"]
    discard_staging(str(output), "toys/2")
    assert list(tmp_path.iterdir()) == []


def test_what_was_published_stays(tmp_path: Path) -> None:
    staging_directory(str(tmp_path), "toys/1", 1).mkdir(parents=True)
    (tmp_path / "checkpoint").mkdir()
    discard_staging(str(tmp_path), "toys/1")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
