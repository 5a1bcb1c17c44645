import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from finery_client import guard
from finery_client.launch import Launch, Program
from finery_client.logs import last_words
from finery_shared.errors import FineryError, Reason
from finery_shared.home import announce, announced, process_start_time

ROOT = Path(__file__).parents[3]


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.02)


def program(tmp_path: Path, *command: str, name: str = "trainer") -> Program:
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        f"FINERY_{name.upper()}_ANNOUNCE": str(tmp_path / "a.json"),
        f"FINERY_{name.upper()}_LISTEN": "127.0.0.1:0",
    }
    return Program(name, (sys.executable, *command), env, tmp_path / "a.json", tmp_path / "logs" / "service.log")


def idle(tmp_path: Path) -> Program:
    return program(tmp_path, "-m", "tests.fakes.idle_service", "inference", "with-a-child", name="inference")


def test_it_serves_and_leaves_nothing_behind(tmp_path: Path):
    launch = Launch()
    process = launch.start(idle(tmp_path))
    address = process.wait_ready(20)
    assert address.startswith("127.0.0.1:")
    assert process.death() is None
    pids = launch.pids()
    assert len(pids) == 2, "the service and its child"
    assert all(os.getsid(pid) == pid for pid in pids), "each in a session of its own"
    launch.stop()
    assert [pid for pid in pids if process_start_time(pid) is not None] == []
    assert launch.pids() == []
    assert not (tmp_path / "a.json").exists()


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path):
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    launch = Launch()
    process = launch.start(program(tmp_path, "-c", code))
    wait_until(lambda: "up" in process.program.log.read_text())
    begun = time.monotonic()
    launch.stop(grace=0.3)
    assert process_start_time(process.pid) is None
    assert time.monotonic() - begun < 10


def test_a_failed_start_tells_the_reason(tmp_path: Path):
    line = '{"event": "can\'t start", "reason": "PORT_IN_USE", "error": "127.0.0.1:1 can\'t be bound. Set X."}'
    launch = Launch()
    process = launch.start(program(tmp_path, "-c", f"import sys; print({line!r}); sys.exit(1)"))
    with pytest.raises(FineryError) as refused:
        process.wait_ready(20)
    launch.stop()
    assert refused.value.reason is Reason.PORT_IN_USE
    assert "The trainer ended with exit status 1: 127.0.0.1:1 can't be bound. Set X." in refused.value.message
    assert str(process.program.log) in refused.value.message


def test_a_crash_tells_its_last_line(tmp_path: Path):
    launch = Launch()
    process = launch.start(program(tmp_path, "-c", "import no_such_module"))
    with pytest.raises(FineryError, match="ModuleNotFoundError: No module named 'no_such_module'"):
        process.wait_ready(20)
    launch.stop()


def test_another_processs_announcement_is_left_alone(tmp_path: Path):
    announce(tmp_path / "a.json", "trainer", "127.0.0.1:1")
    launch = Launch()
    process = launch.start(program(tmp_path, "-c", "import sys; sys.exit('no')"))
    with pytest.raises(FineryError):
        process.wait_ready(20)
    launch.stop()
    other = announced(tmp_path / "a.json")
    assert other is not None
    assert other.pid == os.getpid()


def test_only_this_starts_lines_count(tmp_path: Path):
    log = tmp_path / "service.log"
    log.write_text('{"reason": "DISK_FULL", "error": "of yesterday"}\n')
    offset = log.stat().st_size
    assert last_words(log, offset).message == "it wrote nothing"
    assert last_words(log, 0).reason is Reason.DISK_FULL


def test_killing_the_command_ends_what_it_started(tmp_path: Path):
    """SIGKILL leaves the command no chance to clean up; its guard does."""
    code = (
        "import sys, time; from pathlib import Path; from tests.unit.client.test_launch import idle;"
        "from finery_client.launch import Launch; launch = Launch();"
        "launch.start(idle(Path(sys.argv[1]))).wait_ready(20);"
        "print(launch._id, flush=True); time.sleep(600)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env
    ) as command:
        assert command.stdout is not None
        launch_id = command.stdout.readline().strip()
        pids = guard.marked(launch_id)
        assert len(pids) == 2
        command.send_signal(signal.SIGKILL)
    # A process that is exiting loses its environment a moment before it counts as dead.
    wait_until(lambda: all(process_start_time(pid) is None for pid in pids))
    assert not guard.marked(launch_id)
