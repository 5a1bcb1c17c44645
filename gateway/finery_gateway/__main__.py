"""``python -m finery_gateway``: the OpenAI API over the inference services."""

from __future__ import annotations

import sys

import uvloop

from finery_gateway.bootstrap import build
from finery_gateway.settings import Settings
from finery_shared.rpc.process import run_process


def main() -> int:
    """Serve until SIGTERM or SIGINT; the exit status."""
    return run_process(
        "gateway", lambda: build(Settings.load()), lambda: Settings.load().announce, uvloop.new_event_loop
    )


if __name__ == "__main__":
    sys.exit(main())
