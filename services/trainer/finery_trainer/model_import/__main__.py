"""``python -m finery_trainer.model_import --gguf FILE --output DIR [--model_type NAME]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from finery_shared.errors import FineryError
from finery_trainer.model_import.importer import import_gguf


def main(arguments: Sequence[str] | None = None) -> int:
    """Imports one model; 0 on success (also when it is there already), 1 with the reason on stderr otherwise."""
    parser = argparse.ArgumentParser(prog="python -m finery_trainer.model_import", description=__doc__)
    parser.add_argument("--gguf", type=Path, required=True, help="the .gguf file of a llama chat model")
    parser.add_argument("--output", type=Path, required=True, help="the directory to make")
    options = parser.parse_args(arguments)
    try:
        import_gguf(options.gguf, options.output, _show)
    except FineryError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return 1
    return 0


def _show(step: int, total: int, what: str) -> None:
    sys.stderr.write(f"[{step}/{total}] {what}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
