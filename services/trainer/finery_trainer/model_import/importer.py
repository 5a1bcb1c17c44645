"""The import itself: read, convert, write into a staging directory, check, rename."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from finery_shared.errors import FineryError, Reason
from finery_trainer.model_import import checks, gguf_file, layout

Progress = Callable[[int, int, str], None]
"""Called with the step's number, the number of steps, and what the step does."""

_STEPS = 4


def import_gguf(source: Path, output: Path, progress: Progress) -> None:
    """Turns the GGUF file ``source`` into the Hugging Face directory ``output``, which appears whole or not at all.

    Does nothing when ``output`` is there already. Raises FILE_MISSING, MODEL_INVALID or UNSUPPORTED.
    """
    if (output / layout.CONFIG).is_file():
        progress(_STEPS, _STEPS, f"{output} is there already")
        return
    if not source.is_file():
        raise FineryError(Reason.FILE_MISSING, f"{source} is not a file. Pass the path of a .gguf file.")
    if output.exists():
        raise FineryError(Reason.OUTPUT_EXISTS, f"{output} exists and holds no model. Move it away first.")
    output.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        staging.chmod(0o755)
        _convert(source, staging, progress)
        progress(_STEPS, _STEPS, f"publishing {output}")
        staging.rename(output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _convert(source: Path, staging: Path, progress: Progress) -> None:
    metadata = gguf_file.read_metadata(source)
    progress(1, _STEPS, f"dequantizing {source.name} to bf16")
    model = gguf_file.load_model(source)
    tokenizer = gguf_file.load_tokenizer(source)

    progress(2, _STEPS, "writing safetensors, config and tokenizer")
    model.save_pretrained(staging)
    (staging / layout.WEIGHTS).chmod(0o644)
    config = layout.model_config(model.config.to_dict(), rope_theta=metadata.rope_theta)
    tokens = layout.tokenizer_json(tokenizer.tokenizer_json, pre_tokenizer=metadata.pre_tokenizer)
    layout.write_json(staging / layout.CONFIG, config)
    layout.write_json(staging / layout.GENERATION_CONFIG, layout.generation_config(config))
    layout.write_json(staging / layout.TOKENIZER, tokens)
    layout.write_json(
        staging / layout.TOKENIZER_CONFIG,
        {
            **layout.tokenizer_config(tokens, tokenizer.special_tokens, max_length=metadata.context_length),
            # transformers 4.51 and AutoAWQ read the template here; it is the file's own, verbatim.
            "chat_template": metadata.chat_template,
        },
    )

    progress(3, _STEPS, "checking: loads back, answers, stops")
    answer = checks.check(staging, rope_theta=metadata.rope_theta, chat_template=metadata.chat_template)
    progress(3, _STEPS, f"{checks.QUESTION} → {answer}")
