"""The tokenizer of a model directory, built from tokenizer.json itself, whichever transformers major wrote it."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from finery_shared.errors import FineryError, Reason

_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_OPTIONS = ("model_max_length", "clean_up_tokenization_spaces")


def load_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """A fast tokenizer with the special tokens and the chat template of the directory.

    The class named in tokenizer_config.json (transformers 5 writes one that 4 does not know) plays no part. Raises
    MODEL_INVALID when a file lacks, or when a special token is not one token of the vocabulary.
    """
    file, config = directory / "tokenizer.json", _config(directory)
    if not file.is_file():
        raise FineryError(
            Reason.MODEL_INVALID,
            f"{directory} has no tokenizer.json: save its tokenizer once with transformers' fast tokenizer class.",
        )
    raw = Tokenizer.from_file(str(file))
    special = {name: token for name in _SPECIAL if (token := _text(config.get(name))) is not None}
    extra = config.get("additional_special_tokens") or config.get("extra_special_tokens") or []
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        chat_template=_chat_template(directory, config),
        additional_special_tokens=[_text(token) for token in extra] if isinstance(extra, list) else [],
        **special,
        **{name: config[name] for name in _OPTIONS if config.get(name) is not None},
    )
    for name, token in special.items():
        if raw.token_to_id(token) is None:
            raise FineryError(
                Reason.MODEL_INVALID,
                f"{directory}: {name} is {token!r}, which tokenizer.json does not have: restore the tokenizer's files.",
                field=name,
            )
    return tokenizer


def _config(directory: Path) -> dict[str, Any]:
    file = directory / "tokenizer_config.json"
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return content


def _chat_template(directory: Path, config: dict[str, Any]) -> str | None:
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default") or next(iter(named.values()), None)
    return template


def _text(token: Any) -> str | None:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None
