"""Several processes that work on one attempt: how they are started, find each other, and fail together.

torchrun starts the ranks and ends them all when one of them dies. They meet through files, so that none of them
listens on the network. Rank 0 is the worker that the service knows; the others report nothing.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from finery.jobs.v1.worker_pb2 import WorkerOutcome

MEETING_ENV = "FINERY_WORKER_RANKS"

_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""The ranks of one machine talk on its loopback interface, and torchrun opens no port of its own."""

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class RankPlace:
    """One process among ``size``, and the directory in which they meet."""

    rank: int
    size: int
    directory: Path

    @property
    def store(self) -> Path:
        """The file through which the process group forms."""
        return self.directory / "store"

    def leave_failure(self, outcome: WorkerOutcome) -> None:
        """Tell rank 0 why this rank ends."""
        path = self.directory / f"failure-{self.rank}.pb"
        path.with_suffix(".tmp").write_bytes(outcome.SerializeToString())
        path.with_suffix(".tmp").replace(path)

    def failure_of_others(self) -> WorkerOutcome | None:
        """Why another rank ended, if one has said so; None from one that was killed."""
        found = sorted(self.directory.glob("failure-*.pb"))
        return WorkerOutcome.FromString(found[0].read_bytes()) if found else None


def meeting_place(staging: str) -> Path:
    """Where the ranks of the attempt with that staging directory meet: beside it, and gone when the job ends."""
    path = Path(staging)
    return path.parent / f"ranks-{path.name}"


def launch(module: str, ranks: int, directory: Path) -> tuple[list[str], dict[str, str]]:
    """What ``python -m`` runs, and variables that the environment may override; 0 ranks is a process by itself."""
    if ranks == 0:
        return [module], {}
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    arguments = {
        "nnodes": 1,
        "nproc-per-node": ranks,
        "max-restarts": 0,
        "rdzv-backend": "c10d",
        "rdzv-endpoint": directory / "rendezvous",
        "rdzv-conf": "store_type=file",
        "rdzv-id": "ranks",
        "local-addr": "127.0.0.1",
    }
    threads = max(1, len(os.sched_getaffinity(0)) // ranks)
    variables = _LOOPBACK | {"OMP_NUM_THREADS": str(threads), MEETING_ENV: str(directory)}
    options = [f"--{name}={value}" for name, value in arguments.items()]
    return ["torch.distributed.run", *options, "-m", module], variables


def own_place(environment: Mapping[str, str]) -> RankPlace | None:
    """The place of this process among the ranks; None when it works by itself."""
    directory = environment.get(MEETING_ENV)
    if directory is None:
        return None
    return RankPlace(int(environment["RANK"]), int(environment["WORLD_SIZE"]), Path(directory))


def die_with_parent() -> None:
    """Have the kernel kill this rank when the process that started it is gone: torchrun gives it a session of its own,
    which a signal to the worker's process group does not reach.
    """
    parent = os.getppid()
    if sys.platform == "linux":
        with suppress(OSError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def rank_lost(error: Exception) -> bool:
    """Whether an error says that another rank is gone, as torch's process groups report it."""
    if type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError"):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error).lower()
