"""The SDK: fine-tune, merge, quantize, serve and talk, over Finery's services.

from finery_client import sft, export, load_model

result = sft(model_type="smollm2-135m-instruct", dataset=["self-cognition#500"], model_name=["小黄", "Xiao Huang"],
             model_author=["魔搭", "ModelScope"])
quantized = export(ckpt_dir=result.best_model_checkpoint, merge_lora=True, quant_bits=4)
with load_model(ckpt_dir=quantized.ckpt_dir) as model:
    response, history = model.ask("Who are you?")
    for piece in model.stream("Who developed you?", history):
        print(piece, end="", flush=True)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from finery_client.connect import Connection

if TYPE_CHECKING:
    from finery_client.asking import Answer, AnswerStream, Model, Question
    from finery_client.connect import Connection
    from finery_client.conversation import Chat, Message, Sampling, chat, chat_stream
    from finery_client.results import ExportResult, TrainingResult
    from finery_client.sdk import export, sft
    from finery_client.serve import Serving, deploy, load_model
    from finery_shared.errors import FineryError, Reason

__all__ = [
    "Answer",
    "AnswerStream",
    "Chat",
    "Connection",
    "ExportResult",
    "FineryError",
    "Message",
    "Model",
    "Question",
    "Reason",
    "Sampling",
    "Serving",
    "TrainingResult",
    "chat",
    "chat_stream",
    "deploy",
    "export",
    "load_model",
    "sft",
]

_HOMES = {
    "Answer": "finery_client.asking",
    "AnswerStream": "finery_client.asking",
    "Chat": "finery_client.conversation",
    "Connection": "finery_client.connect",
    "ExportResult": "finery_client.results",
    "FineryError": "finery_shared.errors",
    "Message": "finery_client.conversation",
    "Model": "finery_client.asking",
    "Question": "finery_client.asking",
    "Reason": "finery_shared.errors",
    "Sampling": "finery_client.conversation",
    "Serving": "finery_client.serve",
    "TrainingResult": "finery_client.results",
    "chat": "finery_client.conversation",
    "chat_stream": "finery_client.conversation",
    "deploy": "finery_client.serve",
    "export": "finery_client.sdk",
    "load_model": "finery_client.serve",
    "sft": "finery_client.sdk",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: the command line starts sooner without the rest."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
