"""`python -m finery_trainer`: the trainer service."""

import sys

from finery_shared.rpc.process import run_process
from finery_trainer.bootstrap import TrainerApplication
from finery_trainer.settings import TrainerSettings


def main() -> int:
    """Serve until SIGTERM or SIGINT; the exit status."""
    return run_process(
        "trainer",
        lambda: TrainerApplication(TrainerSettings.load()),
        lambda: TrainerSettings.load().announce,
    )


if __name__ == "__main__":
    sys.exit(main())
