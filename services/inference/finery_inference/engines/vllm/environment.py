"""The environment variables by which vLLM, in all of its processes, is told what no argument says."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from finery_inference.engines.vllm.hardware import Hardware
from finery_inference.engines.vllm.last_words import LAST_WORDS
from finery_inference.engines.vllm.owner import OWNER


def scratch_directory(state: Path) -> Path:
    """Where the engines of one service put sockets and temporary files: the same directory after every restart.

    Not below ``state``, since the path of a socket may have 107 bytes at most.
    """
    digest = hashlib.sha256(os.fsencode(state)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"finery-{os.getuid()}-{digest}"


def vllm_environment(hardware: Hardware, pid: int, state: Path, scratch: Path) -> dict[str, str]:
    """Variables to set before vLLM is imported; its processes inherit them.

    ``pid`` is the service's, ``state`` a directory of its own, ``scratch`` see `scratch_directory`.
    """
    variables = {
        OWNER: str(pid),
        LAST_WORDS: str(state / "engine-failure.txt"),
        "TMPDIR": str(scratch),
        "VLLM_RPC_BASE_PATH": str(scratch),
        # Never fork: gRPC has threads.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_CONFIG_PATH": str(Path(__file__).parent / "logging.json"),
        "TOKENIZERS_PARALLELISM": "false",
    }
    if hardware.cpu:
        # With this, vLLM lets the engine's process compute by itself. A worker process beside it would take another
        # 700 MiB and one more import of vLLM to start, and leave a core unused.
        variables["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        variables["OMP_NUM_THREADS"] = str(hardware.cpu_threads)
        # Threads that spin while they wait make an engine crawl as soon as anything else wants a core.
        variables["OMP_WAIT_POLICY"] = "passive"
    return variables
