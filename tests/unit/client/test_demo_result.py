"""Whether the demo says that it succeeded: the whole of it, with fakes for trainer, quantizer and inference."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.client.conftest import write_interpreter

WARNING = "The model knows its name or author on fewer than 90% of the questions."


@pytest.mark.parametrize(
    ("names", "authors", "status"),
    [(3, 4, 0), (4, 0, 1), (0, 5, 1)],
    ids=["enough", "too-few-names", "too-few-authors"],
)
def test_it_fails_when_name_or_author_is_right_too_seldom(
    env: dict[str, str], venvs: Path, tmp_path: Path, names: int, authors: int, status: int
):
    """38 questions ask for the name and 40 for the author; 3 and 4 wrong ones are the most that 90 % allow."""
    write_interpreter(venvs, "quantizer", "-m tests.unit.client.demo_services quantizer")
    write_interpreter(venvs, "inference", f"-m tests.unit.client.demo_services inference {names} {authors}")
    model = tmp_path / "models" / "smollm2-135m-instruct"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").touch()
    done = subprocess.run(
        [sys.executable, "-m", "finery_client.demo", "--gguf", "none.gguf"],
        env=env | {"FINERY_MODEL_STORE": str(tmp_path / "models")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == status, done.stderr
    assert (WARNING in done.stderr) == bool(status)
    assert f"name {(38 - names) / 38:.0%} of 38" in done.stdout
    assert f"author {(40 - authors) / 40:.0%} of 40" in done.stdout
