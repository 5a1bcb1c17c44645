import os
from collections.abc import Callable
from pathlib import Path

import pytest

from finery_client.connect import Connection
from finery_client.endpoints import Directory, base_url
from finery_client.local import Machine
from finery_shared.errors import FineryError, Reason
from finery_shared.home import Home, announce, process_start_time, split_paths
from tests.unit.client.conftest import write_interpreter

Make = Callable[..., Machine]


def test_the_environment_comes_first(machine: Make, home: Home):
    announce(home.announcement("trainer"), "trainer", "127.0.0.1:1")
    with Connection(machine({"FINERY_TRAINER": "10.0.0.1:50051"})) as services:
        endpoint = services.endpoint("trainer")
    assert (endpoint.address, endpoint.private) == ("10.0.0.1:50051", False)
    assert endpoint.target == "The trainer at 10.0.0.1:50051"


def test_callers_show_what_the_environment_says(machine: Make, home: Home):
    settings = {"FINERY_RPC_TOKEN": "a-token-of-the-tests"}
    announce(home.announcement("quantizer"), "quantizer", "127.0.0.1:2")
    with Connection(machine(settings | {"FINERY_TRAINER": "10.0.0.1:50051"})) as services:
        named, found = services.endpoint("trainer"), services.endpoint("quantizer")
        private = services.endpoint("inference")
        [pid, *_] = services.pids()
        begun = Path(f"/proc/{pid}/environ").read_bytes()
    assert {one.security.token for one in (named, found, private)} == {"a-token-of-the-tests"}
    assert b"FINERY_RPC_TOKEN=a-token-of-the-tests" in begun.split(b"\0")
    assert "a-token-of-the-tests" not in repr(private)


def test_then_what_was_announced_if_it_lives(machine: Make, home: Home):
    announce(home.announcement("trainer"), "trainer", "127.0.0.1:1")
    with Connection(machine()) as services:
        assert services.endpoint("trainer").address == "127.0.0.1:1"


def test_several_inference_processes_keep_their_order(machine: Make, home: Home):
    for name, port in (("inference-10", 3), ("inference-1", 2), ("inference", 1)):
        announce(home.announcement(name), "inference", f"127.0.0.1:{port}")
    found = Directory(machine()).find("inference")
    assert [endpoint.address for endpoint in found] == ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]
    named = Directory(machine({"FINERY_INFERENCE": "a:1, b:2"})).find("inference")
    assert [endpoint.address for endpoint in named] == ["a:1", "b:2"]


def test_else_a_private_one_for_the_duration(machine: Make, home: Home):
    stale = home.announcement("trainer")
    announce(stale, "trainer", "127.0.0.1:1")
    stale.write_text(stale.read_text().replace(f'"start_time": {process_start_time(os.getpid())}', '"start_time": 1'))
    started: list[str] = []
    with Connection(machine(), started.append) as services:
        endpoint = services.endpoint("trainer")
        assert endpoint.private
        assert services.endpoint("trainer") == endpoint
        assert endpoint.death() is None
        assert len(services.pids()) == 1
        pids = services.pids()
        others = Connection(machine())
        assert others.owner("trainer").address == endpoint.address, "jobs of a private service can be looked at"
    assert started == ["trainer"]
    assert [pid for pid in pids if process_start_time(pid) is not None] == []
    assert list((home.root / "run").glob("private-*")) == []


def test_a_private_gateway_routes_to_the_private_inference_process(machine: Make):
    with Connection(machine()) as services:
        inference, gateway = services.serving()
        assert inference[0].private and gateway.private
        assert gateway.address.startswith("127.0.0.1:")
        assert services.death() is None
        assert len(services.pids()) == 3, "inference, its child, gateway"


def test_a_running_gateway_is_used_with_its_own_inference_processes_only(machine: Make, home: Home):
    announce(home.announcement("gateway"), "gateway", "127.0.0.1:8000")
    announce(home.announcement("inference"), "inference", "127.0.0.1:1")
    with Connection(machine()) as services:
        inference, gateway = services.serving()
        assert [e.address for e in (*inference, gateway)] == ["127.0.0.1:1", "127.0.0.1:8000"]
    with Connection(machine({"FINERY_INFERENCE": "127.0.0.1:2", "FINERY_GATEWAY": "127.0.0.1:9"})) as services:
        assert services.serving()[1].address == "127.0.0.1:9"
    with Connection(machine({"FINERY_INFERENCE": "127.0.0.1:2"})) as services:
        inference, gateway = services.serving()
        assert inference[0].address == "127.0.0.1:2"
        assert gateway.private


def test_what_dead_commands_left_is_swept(machine: Make, home: Home):
    left = [home.service("run") / "private-1-1", home.service("inference") / "private-1-1"]
    for directory in left:
        directory.mkdir()
    with Connection(machine()) as services:
        services.endpoint("trainer")
        assert not any(directory.exists() for directory in left)


def test_a_missing_environment_says_how_to_build_it(machine: Make, tmp_path: Path):
    with Connection(machine({"FINERY_VENVS": str(tmp_path)})) as services, pytest.raises(FineryError) as refused:
        services.endpoint("quantizer")
    assert "make env-quantizer" in refused.value.message


def test_the_command_allows_its_directory(machine: Make, tmp_path: Path):
    program = machine({"FINERY_TRAINER_ALLOWED_ROOTS": "/data"}).program("trainer", tmp_path / "a.json")
    assert split_paths(program.env["FINERY_TRAINER_ALLOWED_ROOTS"]) == (str(tmp_path), "/data")


def test_a_directory_with_a_colon_is_allowed_whole(home: Home, tmp_path: Path, env: dict[str, str]):
    cwd = tmp_path / "a:b"
    program = Machine(home, cwd, env).program("quantizer", tmp_path / "a.json")
    assert split_paths(program.env["FINERY_QUANTIZER_ALLOWED_ROOTS"]) == (str(cwd),)


def test_allowed_roots_that_are_no_list_are_refused(machine: Make, tmp_path: Path):
    with pytest.raises(FineryError, match="FINERY_TRAINER_ALLOWED_ROOTS: expected paths") as refused:
        machine({"FINERY_TRAINER_ALLOWED_ROOTS": "[/data"}).program("trainer", tmp_path / "a.json")
    assert refused.value.reason is Reason.INVALID_ARGUMENT


def test_of_a_private_inference_process_the_log_is_left_until_the_next_one(machine: Make, home: Home):
    killed = home.service("inference") / "private-1-1"
    killed.mkdir(parents=True)
    (killed / "service.log").touch()
    with Connection(machine()) as services:
        services.endpoint("inference")
        [own] = home.service("inference").glob("private-*")
        (own / "deployments.db").touch()
        (own / "scratch").mkdir()
    assert list(own.iterdir()) == [machine().log("inference", own.name)]


def test_a_private_service_that_can_not_start_is_an_error(machine: Make, venvs: Path, home: Home):
    write_interpreter(venvs, "trainer", "-c 'import sys; sys.exit(\"FINERY_TRAINER_LISTEN: nonsense\")'")
    with Connection(machine()) as services, pytest.raises(FineryError, match="FINERY_TRAINER_LISTEN: nonsense") as bad:
        services.endpoint("trainer")
    assert bad.value.reason is Reason.SERVICE_UNAVAILABLE
    assert list((home.root / "run").glob("private-*")) == []


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "http://127.0.0.1:8000", "http://127.0.0.1:8000/v1/"])
def test_base_url(address: str):
    assert base_url(address) == "http://127.0.0.1:8000/v1"
