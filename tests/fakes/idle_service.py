"""A process that announces itself as a service and answers nothing: `python -m tests.fakes.idle_service NAME [CHILD]`.

With a second argument it starts a child in a session of its own, as services start workers.
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import grpc

from finery_shared.home import announce, withdraw


def main() -> None:
    name = sys.argv[1]
    if len(sys.argv) > 2:
        subprocess.Popen(["sleep", "600"], start_new_session=True)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    server = grpc.server(None)
    port = server.add_insecure_port(os.environ.get(f"FINERY_{name.upper()}_LISTEN", "127.0.0.1:0"))
    server.start()
    path = Path(os.environ[f"FINERY_{name.upper()}_ANNOUNCE"])
    announce(path, name, f"127.0.0.1:{port}")
    ended.wait()
    withdraw(path)
    server.stop(0)


if __name__ == "__main__":
    main()
