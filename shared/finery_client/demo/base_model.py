"""The demo's base model: real weights from a package, imported once into the local store."""

from __future__ import annotations

import subprocess
from pathlib import Path

from finery_client.cli.screen import Screen
from finery_client.local import Machine
from finery_shared.errors import FineryError, Reason
from finery_shared.models import is_complete, store_path

MODEL_TYPE = "smollm2-135m-instruct"


def ensure(machine: Machine, gguf: Path, screen: Screen) -> tuple[Path, bool]:
    """The model's directory in the store, and whether it was imported just now.

    Raises FILE_MISSING or MODEL_INVALID.
    """
    target = store_path(machine.home.models, MODEL_TYPE)
    if is_complete(target):
        return target, False
    if not gguf.is_file():
        message = f"There is no {gguf}. `make demo` unpacks it; or pass another copy by --gguf."
        raise FineryError(Reason.FILE_MISSING, message)
    command = [str(machine.python("trainer")), "-m", "finery_trainer.model_import"]
    target.parent.mkdir(parents=True, exist_ok=True)
    arguments = ["--gguf", str(gguf), "--output", str(target)]
    with subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True, encoding="utf-8") as importer:
        assert importer.stderr is not None
        last = ""
        try:
            for line in importer.stderr:
                last = line.strip() or last
                screen.say(f"  {line.rstrip()}")
        except BaseException:
            importer.terminate()
            raise
    if importer.returncode != 0:
        raise FineryError(Reason.MODEL_INVALID, f"The model could not be imported: {last}")
    return target, True
