"""Commands that need the same service at once, while no `finery up` runs."""

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from finery_client.connect import Connection
from finery_client.local import Machine, private_name
from finery_shared.errors import FineryError, Reason
from finery_shared.home import Home, announce, announced
from finery_shared.jobs.ownership import OwnerLock
from tests.unit.client.conftest import Finery, finish, wait_for, write_interpreter

Make = Callable[..., Machine]


@pytest.fixture(autouse=True)
def owning(venvs: Path) -> None:
    write_interpreter(venvs, "trainer", "-m tests.unit.client.owning_trainer")


def test_a_short_lived_owner_is_waited_for(machine: Make, home: Home):
    lock = OwnerLock(home.service("trainer"))
    lock.acquire()
    ending = threading.Timer(1.5, lock.release)
    ending.start()
    started: list[str] = []
    with Connection(machine(), started.append, patience=30.0) as services:
        assert services.endpoint("trainer").private
        assert len(services.pids()) == 1
    ending.join()
    assert started == ["trainer"]


def test_what_finery_up_announces_meanwhile_is_used(machine: Make, home: Home):
    lock = OwnerLock(home.service("trainer"))
    lock.acquire()
    starting = threading.Timer(1.5, announce, (home.announcement("trainer"), "trainer", "127.0.0.1:1"))
    starting.start()
    with Connection(machine(), patience=30.0) as services:
        found = services.endpoint("trainer")
        assert (found.address, found.private) == ("127.0.0.1:1", False)
        assert services.pids() == []
    starting.join()
    lock.release()


def test_the_owner_that_stays_is_named(machine: Make, home: Home):
    with Connection(machine()) as first, Connection(machine(), patience=0.0) as second:
        first.endpoint("trainer")
        owner = announced(home.root / "run" / private_name() / "trainer.json")
        assert owner is not None
        with pytest.raises(FineryError) as refused:
            second.endpoint("trainer")
    assert refused.value.reason is Reason.ALREADY_RUNNING
    said = refused.value.message
    assert said.startswith(f"Another finery command runs its own trainer (process {owner.pid}). Wait for it")
    assert "run `finery up`, and give both commands to that." in said


def test_a_command_that_was_refused_looks_at_jobs_once_it_can(finery: Finery, home: Home):
    lock = OwnerLock(home.service("trainer"))
    lock.acquire()
    log = home.root / "trainer" / "service.log"
    with finery.start("jobs", "show", "trainingJobs/1") as command:
        wait_for(lambda: log.exists() and "ALREADY_RUNNING" in log.read_text())
        lock.release()
        out, err = finish(command)
    assert command.returncode == 0, err
    assert err.count("Starting the trainer") == 1
    assert "QUEUED" in out


def test_commands_at_once_all_look_at_jobs(finery: Finery):
    commands = [finery.start("jobs", "show", "trainingJobs/1") for _ in range(3)]
    for command in commands:
        with command:
            out, err = finish(command)
        assert command.returncode == 0, err
        assert "QUEUED" in out


def test_jobs_are_looked_at_when_their_owner_leaves_meanwhile(finery: Finery, home: Home):
    path = home.service(f"run/{private_name()}") / "trainer.json"
    with socket.create_server(("127.0.0.1", 0)) as leaving:
        announce(path, "trainer", f"127.0.0.1:{leaving.getsockname()[1]}")
        command = finery.start("jobs", "show", "trainingJobs/1")
        leaving.settimeout(30)
        leaving.accept()[0].close()
        path.unlink()
    with command:
        out, err = finish(command)
    assert command.returncode == 0, err
    assert "QUEUED" in out
