"""Importing what isn't a model leaves a reason and nothing else."""

from pathlib import Path

import pytest

from finery_shared.errors import FineryError, Reason
from finery_trainer.model_import.__main__ import main
from finery_trainer.model_import.importer import import_gguf


def silent(step: int, total: int, what: str) -> None:
    pass


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, Reason.FILE_MISSING), (b"", Reason.MODEL_INVALID), (b"not a model" * 50, Reason.MODEL_INVALID)],
    ids=["missing", "empty", "garbage"],
)
def test_what_is_no_gguf_file_is_refused(tmp_path: Path, content: bytes | None, reason: Reason) -> None:
    source = tmp_path / "model.gguf"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(FineryError) as caught:
        import_gguf(source, tmp_path / "models" / "m", silent)
    assert caught.value.reason is reason
    assert str(source) in caught.value.message
    assert not list((tmp_path / "models").iterdir() if (tmp_path / "models").exists() else [])


def test_a_model_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    said: list[str] = []
    import_gguf(tmp_path / "none.gguf", tmp_path / "m", lambda _step, _total, what: said.append(what))
    assert said == [f"{tmp_path / 'm'} is there already"]


def test_another_directory_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "model.gguf").write_bytes(b"x")
    with pytest.raises(FineryError) as caught:
        import_gguf(tmp_path / "model.gguf", tmp_path / "m", silent)
    assert caught.value.reason is Reason.OUTPUT_EXISTS


def test_the_command_tells_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--gguf", str(tmp_path / "none.gguf"), "--output", str(tmp_path / "m")]
    assert main(arguments) == 1
    assert "none.gguf is not a file" in capsys.readouterr().err
