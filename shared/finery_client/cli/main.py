"""The ``finery`` command."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence

from finery_client.arguments import DeployArguments, ExportArguments, InferArguments, SftArguments
from finery_client.cli.commands import (
    AdaptersCommand,
    Command,
    DeploymentsCommand,
    JobsCommand,
    ModelsCommand,
    UpArguments,
    parse,
)
from finery_client.cli.screen import Screen
from finery_client.cli.signals import Stopped, interruptible
from finery_shared.errors import FineryError, Reason

FAILED = 1
USAGE = 2
INTERRUPTED = 130


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; its exit status: 0, 1 for an error, 2 for wrong usage, 130 when interrupted."""
    return guarded(lambda screen: dispatch(parse(sys.argv[1:] if words is None else words), screen))


def guarded(run: Callable[[Screen], int]) -> int:
    """Run something on a new screen; its exit status. Every error becomes one line."""
    interruptible()
    screen = Screen()
    try:
        return run(screen)
    except FineryError as error:
        screen.error(error)
        return USAGE if error.reason is Reason.INVALID_ARGUMENT else FAILED
    except (KeyboardInterrupt, Stopped):
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the results has left; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        # The last resort of a program for people: one line instead of a traceback, which FINERY_DEBUG brings back.
        if os.environ.get("FINERY_DEBUG"):
            traceback.print_exc()
        what = f"{type(error).__name__}: {error}"
        screen.error(FineryError(Reason.INTERNAL, f"Unexpected: {what}. FINERY_DEBUG=1 shows where it happened."))
        return FAILED


def dispatch(command: Command, screen: Screen) -> int:
    """Run the command that was parsed; its exit status. Only its own module is imported."""
    match command:
        case UpArguments():
            from finery_client.cli import up

            return up.run(command, screen)
        case SftArguments():
            from finery_client.cli import sft

            return sft.run(command, screen)
        case ExportArguments():
            from finery_client.cli import export

            return export.run(command, screen)
        case DeployArguments():
            from finery_client.cli import deploy

            return deploy.run(command, screen)
        case InferArguments():
            from finery_client.cli import infer

            return infer.run(command, screen)
        case JobsCommand():
            from finery_client.cli import jobs

            return jobs.run(command, screen)
        case DeploymentsCommand():
            from finery_client.cli import deployments

            return deployments.run(command, screen)
        case AdaptersCommand():
            from finery_client.cli import adapters

            return adapters.run(command, screen)
        case ModelsCommand():
            from finery_client.cli import models

            return models.run(screen)
