"""vLLM's log lines in the shape of Finery's own; named in logging.json, which every process of vLLM reads."""

from __future__ import annotations

import logging
import os
from typing import Any

import structlog


def formatter() -> logging.Formatter:
    """One JSON object a line."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.ExtraAdder([]),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _origin,
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
    )


def _origin(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {**event, "service": "inference", "part": "vllm", "pid": os.getpid()}
