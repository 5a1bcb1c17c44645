"""``python -m finery_inference``: deployments and generation over gRPC."""

from __future__ import annotations

import sys

import uvloop

from finery_inference.bootstrap import build
from finery_inference.settings import Settings
from finery_shared.rpc.process import run_process


def main() -> int:
    """Serve until SIGTERM or SIGINT; the exit status."""
    return run_process(
        "inference", lambda: build(Settings.load()), lambda: Settings.load().announce, uvloop.new_event_loop
    )


if __name__ == "__main__":
    sys.exit(main())
