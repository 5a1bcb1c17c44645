"""``finery up``."""

from __future__ import annotations

import os
import time
from pathlib import Path

from finery_client.cli.commands import UpArguments
from finery_client.cli.screen import Screen
from finery_client.endpoints import base_url
from finery_client.local import Machine
from finery_client.supervise import Supervisor
from finery_shared.home import Home

_LOOK_EVERY = 0.3


def run(arguments: UpArguments, screen: Screen) -> int:
    """Start the services, show them, and keep them alive until Ctrl-C or SIGTERM."""
    machine = Machine(Home.from_env(), Path.cwd(), os.environ)
    supervisor = Supervisor(machine, screen.warn)
    try:
        with screen.remarks.status("starting the services"):
            supervisor.start(arguments.inference_processes)
        _show(supervisor, machine, screen)
        while True:
            supervisor.tend()
            time.sleep(_LOOK_EVERY)
    except KeyboardInterrupt:
        screen.say("Stopping. Jobs that were running go on at the next `finery up`; deployments load again.")
    finally:
        supervisor.stop()
    return 0


def _show(supervisor: Supervisor, machine: Machine, screen: Screen) -> None:
    rows = [
        (member.name, _address(member.service, member.address), str(machine.log(member.service, member.instance)))
        for member in supervisor.members
    ]
    screen.table(("service", "address", "log"), rows)
    screen.say("Ctrl-C stops all of them.")


def _address(service: str, address: str) -> str:
    return base_url(address) if service == "gateway" else address
