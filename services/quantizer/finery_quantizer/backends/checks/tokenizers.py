"""Whether a model speaks with the tokenizer that it was trained with."""

import filecmp
from pathlib import Path

from finery_quantizer.backends.checkpoint.shards import small_files
from finery_shared.errors import FineryError, Reason

_CHANGED_ON_PURPOSE = {"config.json"}


def check_same_files(source: Path, made: Path) -> None:
    """Raise GATE_FAILED unless `made` has the tokenizer, chat template and generation config of `source`."""
    expected = {file.name for file in small_files(source)} - _CHANGED_ON_PURPOSE
    found = {file.name for file in small_files(made)} - _CHANGED_ON_PURPOSE
    _, differ, unreadable = filecmp.cmpfiles(source, made, sorted(expected & found), shallow=False)
    wrong = sorted((expected ^ found) | set(differ) | set(unreadable))
    if wrong:
        raise FineryError(
            Reason.GATE_FAILED,
            f"{made} does not have the tokenizer and generation files of {source}: {', '.join(wrong)} differ. "
            "Another process may have changed them; run the job again.",
            gate="tokenizer",
        )
