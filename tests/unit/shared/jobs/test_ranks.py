"""How ranks are started, find their place, fail together, and go when what started them goes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finery.jobs.v1.jobs_pb2 import JobError
from finery.jobs.v1.worker_pb2 import WorkerOutcome
from finery_shared.home import process_start_time
from finery_shared.jobs.ranks import MEETING_ENV, RankPlace, launch, meeting_place, own_place, rank_lost


def test_a_worker_by_itself_is_just_its_module(tmp_path: Path) -> None:
    assert launch("some.worker", 0, tmp_path / "ranks") == (["some.worker"], {})
    assert not (tmp_path / "ranks").exists()
    assert own_place({}) is None


def test_ranks_meet_in_a_fresh_directory_beside_their_staging(tmp_path: Path) -> None:
    directory = meeting_place(str(tmp_path / "job" / "2"))
    assert directory == tmp_path / "job" / "ranks-2"
    directory.mkdir(parents=True)
    (directory / "store").write_text("of a process group that is gone")
    command, variables = launch("some.worker", 2, directory)
    assert command[0] == "torch.distributed.run"
    assert command[-2:] == ["-m", "some.worker"]
    assert "--nproc-per-node=2" in command
    assert not any("standalone" in part or "29" in part for part in command), "no port of torchrun's"
    assert int(variables["OMP_NUM_THREADS"]) == max(1, len(os.sched_getaffinity(0)) // 2)
    assert list(directory.iterdir()) == []
    place = own_place({**variables, "RANK": "1", "WORLD_SIZE": "2"})
    assert place == RankPlace(1, 2, directory)
    assert variables[MEETING_ENV] == str(directory)


def test_a_rank_leaves_word_of_its_failure(tmp_path: Path) -> None:
    first, second = RankPlace(0, 2, tmp_path), RankPlace(1, 2, tmp_path)
    assert first.failure_of_others() is None
    outcome = WorkerOutcome(failure=JobError(reason="DISK_FULL", message="No room."))
    second.leave_failure(outcome)
    assert first.failure_of_others() == outcome


class DistBackendError(RuntimeError):
    pass


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[../gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:4242"), True),
        (DistBackendError("NCCL error: remote process exited"), True),
        (RuntimeError("shape '[2, 3]' is invalid for input of size 7"), False),
        (ValueError("gloo"), False),
    ],
)
def test_a_lost_rank_is_told_from_an_error_of_ones_own(error: Exception, lost: bool) -> None:
    assert rank_lost(error) is lost


def test_a_rank_dies_with_what_started_it() -> None:
    """Also when it is in a session of its own, where no signal to the group of its parent reaches it."""
    child = (
        "import time; from finery_shared.jobs.ranks import die_with_parent; die_with_parent(); print(1); time.sleep(99)"
    )
    parent = (
        "import subprocess, sys, time;"
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE, start_new_session=True);"
        "p.stdout.readline(); print(p.pid, flush=True); time.sleep(99)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        born = process_start_time(pid)
        assert born is not None
        process.send_signal(signal.SIGKILL)
        process.wait()
        until = time.monotonic() + 30
        while process_start_time(pid) == born and time.monotonic() < until:
            time.sleep(0.02)
        assert process_start_time(pid) != born
