"""`python -m finery_quantizer`: the quantizer service."""

import sys

from finery_quantizer.bootstrap import QuantizerApplication
from finery_quantizer.settings import QuantizerSettings
from finery_shared.rpc.process import run_process


def main() -> int:
    """Serve until SIGTERM or SIGINT; the exit status."""
    return run_process(
        "quantizer",
        lambda: QuantizerApplication(QuantizerSettings.load()),
        lambda: QuantizerSettings.load().announce,
    )


if __name__ == "__main__":
    sys.exit(main())
