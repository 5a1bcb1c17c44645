"""``python -m finery_client.demo --gguf FILE``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from finery_client.cli.main import guarded
from finery_client.demo.demo import Options, run


def main() -> int:
    """Run the demo; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m finery_client.demo", description=run.__doc__)
    parser.add_argument(
        "--gguf", type=Path, required=True, help="the base model's weights, SmolLM2-135M-Instruct.*.gguf"
    )
    parser.add_argument("--output_dir", default="output", help="where the artifacts go (default: output)")
    arguments = parser.parse_args()
    return guarded(lambda screen: run(Options(arguments.gguf, arguments.output_dir), screen))


if __name__ == "__main__":
    sys.exit(main())
