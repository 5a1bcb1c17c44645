"""Examples that the documentation of the routes shows."""

from __future__ import annotations

from typing import Any

_QUESTION = [{"role": "user", "content": "Who are you?"}]
_USAGE = {
    "prompt_tokens": 33,
    "completion_tokens": 12,
    "total_tokens": 45,
    "prompt_tokens_details": {"cached_tokens": 0},
}
_HEAD = {"created": 1764000000, "model": "qwen-7b-chat", "system_fingerprint": "fp_0123456789"}
_TEXT = "I am Xiao Huang, an AI assistant."
_PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}

CHAT: dict[str, dict[str, Any]] = {
    "question": {"model": "qwen-7b-chat", "messages": _QUESTION, "max_tokens": 64, "temperature": 0.7},
    "stream": {
        "model": "qwen-7b-chat",
        "messages": _QUESTION,
        "stream": True,
        "stream_options": {"include_usage": True},
    },
    "json_schema": {
        "model": "qwen-7b-chat",
        "messages": [{"role": "user", "content": "Invent a person."}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": _PERSON}},
    },
    "tools": {
        "model": "qwen-7b-chat",
        "messages": [{"role": "user", "content": "How old is Ann?"}],
        "tools": [{"type": "function", "function": {"name": "add_person", "parameters": _PERSON, "strict": True}}],
        "tool_choice": "auto",
    },
    "logprobs": {"model": "qwen-7b-chat", "messages": _QUESTION, "logprobs": True, "top_logprobs": 3},
}
CHAT_ANSWER = {
    "id": "chatcmpl-1",
    **_HEAD,
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": _TEXT, "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": _USAGE,
}
STREAM = 'data: {"id":"…","choices":[{"index":0,…}]}\n\ndata: {"id":"…","choices":[{"index":0,…}]}\n\ndata: [DONE]\n\n'

COMPLETION: dict[str, dict[str, Any]] = {
    "text": {"model": "qwen-7b-chat", "prompt": "Once upon a time", "max_tokens": 32, "stop": ["\n"]},
    "token_ids": {"model": "qwen-7b-chat", "prompt": [[12522, 5193, 264, 882]], "logprobs": 2},
}
COMPLETION_ANSWER = {
    "id": "cmpl-1",
    **_HEAD,
    "object": "text_completion",
    "choices": [{"index": 0, "text": " there was a forge.", "logprobs": None, "finish_reason": "length"}],
    "usage": _USAGE,
}

TOKENIZE: dict[str, dict[str, Any]] = {
    "text": {"model": "qwen-7b-chat", "prompt": "Once upon a time"},
    "conversation": {"model": "qwen-7b-chat", "messages": _QUESTION},
}
TOKENIZE_ANSWER = {"count": 4, "max_model_len": 8192, "tokens": [12522, 5193, 264, 882], "token_strs": None}

MODEL = {
    "id": "qwen-7b-chat",
    "object": "model",
    "created": 1764000000,
    "owned_by": "finery",
    "max_model_len": 8192,
}
MODELS = {"object": "list", "data": [MODEL]}
