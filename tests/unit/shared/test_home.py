import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from finery_shared.errors import FineryError, Reason
from finery_shared.home import Home, announce, announced, join_paths, process_start_time, split_paths, withdraw


def test_home_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FINERY_HOME", str(tmp_path))
    monkeypatch.delenv("FINERY_MODEL_STORE", raising=False)
    home = Home.from_env()
    assert home.models == tmp_path / "models"
    assert home.service("trainer").stat().st_mode & 0o777 == 0o700
    assert home.announcement("trainer") == tmp_path / "run" / "trainer.json"


@pytest.mark.parametrize("root", ["/proc/nope", "{file}", "{file}/below"])
def test_a_home_that_can_not_be_made_names_its_variable(tmp_path: Path, root: str) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(FineryError, match=r"FINERY_HOME: .* Set it to a directory") as refused:
        Home(Path(root.format(file=file))).service("run")
    assert refused.value.reason is Reason.INVALID_ARGUMENT


@pytest.mark.parametrize("paths", [(), ("/a",), ("/a:b", "/c d", "/[e]", "/小黄")])
def test_joined_paths_split_into_the_same(paths: tuple[str, ...]) -> None:
    assert split_paths(join_paths(map(Path, paths))) == paths


def test_paths_may_stand_between_colons() -> None:
    assert split_paths("/a::/b:") == ("/a", "/b")
    assert split_paths("") == ()


@pytest.mark.parametrize("text", ["[", "[/a]", "[1]", '["/a"'])
def test_what_is_no_list_of_paths(text: str) -> None:
    with pytest.raises(ValueError, match="a JSON list"):
        split_paths(text)


def test_an_announcement_holds_while_its_process_lives(tmp_path: Path) -> None:
    path = tmp_path / "run" / "x.json"
    announce(path, "x", "127.0.0.1:1")
    found = announced(path)
    assert found is not None
    assert (found.address, found.pid) == ("127.0.0.1:1", os.getpid())
    withdraw(path)
    assert announced(path) is None


def test_a_dead_process_is_not_announced(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    code = (
        f"from pathlib import Path; from finery_shared.home import announce; announce(Path({str(path)!r}), 'x', 'a:1')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert path.is_file()
    assert announced(path) is None
    withdraw(path)
    assert path.is_file()


def test_a_reused_pid_is_not_taken_for_the_process(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    announce(path, "x", "a:1")
    entry = json.loads(path.read_text())
    path.write_text(json.dumps({**entry, "start_time": entry["start_time"] - 1}))
    assert announced(path) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"service": 1'])
def test_a_damaged_announcement_counts_as_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    assert announced(path) is None


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    while process_start_time(child.pid) is not None:
        pass
    assert child.wait() == 0
