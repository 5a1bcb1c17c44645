"""Talking with deployed models through the gateway, by the ``openai`` client."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from finery_client.connect import Connection
from finery_client.endpoints import base_url as openai_url
from finery_shared.errors import CATALOG, FineryError, Reason

if TYPE_CHECKING:
    import openai


NO_KEY = "EMPTY"
"""What is sent where there is no key: the ``openai`` client wants one."""


class Message(TypedDict):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Sampling(TypedDict, total=False):
    """How to choose tokens; what is left out is the model's own default."""

    max_tokens: int
    temperature: float
    top_p: float
    seed: int


class Chat:
    """A gateway, and one of its models. Loading the ``openai`` package waits until it is needed.

    ``api_key`` is one of the gateway's keys, by default the one in OPENAI_API_KEY; a gateway without keys takes any.
    """

    def __init__(self, base_url: str, model: str = "", *, api_key: str = "") -> None:
        self._base_url = base_url
        self._api_key = api_key or os.environ.get("OPENAI_API_KEY") or NO_KEY
        self._model = model
        self._made: openai.OpenAI | None = None

    @property
    def base_url(self) -> str:
        """The gateway's OpenAI base URL."""
        return self._base_url

    @property
    def model(self) -> str:
        """The model id; by default the only one there is. Raises DEPLOYMENT_NOT_FOUND or INVALID_ARGUMENT."""
        if not self._model:
            self._model = _only(self.models())
        return self._model

    def models(self) -> list[str]:
        """The ids of all deployed models."""
        with self._errors():
            return [model.id for model in self.client.models.list().data]

    def complete(self, messages: Sequence[Message], sampling: Sampling | None = None) -> str:
        """The whole answer to a conversation."""
        model = self.model
        with self._errors():
            answer = self.client.chat.completions.create(model=model, messages=_plain(messages), **_given(sampling))
            return answer.choices[0].message.content or ""

    def stream(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Iterator[str]:
        """The answer in pieces. Raises SERVICE_UNAVAILABLE for one that breaks off."""
        model = self.model
        finished = False
        with self._errors():
            chunks = self.client.chat.completions.create(
                model=model, messages=_plain(messages), stream=True, **_given(sampling)
            )
            with chunks:
                for chunk in chunks:
                    for choice in chunk.choices:
                        finished = finished or choice.finish_reason is not None
                        yield choice.delta.content or ""
        if not finished:
            raise FineryError(Reason.SERVICE_UNAVAILABLE, "The answer broke off. Ask again.")

    @property
    def client(self) -> openai.OpenAI:
        """The ``openai`` client."""
        import openai

        self._made = self._made or openai.OpenAI(base_url=self._base_url, api_key=self._api_key)
        return self._made

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        import openai

        try:
            yield
        except openai.APIConnectionError as error:
            message = f"The gateway at {self._base_url} can't be reached. Start it with `finery up`."
            raise FineryError(Reason.SERVICE_UNAVAILABLE, message, detail=str(error)) from error
        except openai.APIStatusError as error:
            raise FineryError(_reason(error.status_code, error.code), _message(error)) from error
        except openai.APIError as error:
            raise FineryError(Reason.ENGINE_FAILED, error.message) from error


def chat(
    query: str | Sequence[Message],
    *,
    model: str = "",
    system: str = "",
    history: Sequence[Message] = (),
    base_url: str = "",
    sampling: Sampling | None = None,
) -> str:
    """Ask a deployed model; returns its answer.

    ``query`` is a question, which follows ``history``, or a whole conversation. ``base_url`` is a gateway's, by
    default the one that FINERY_GATEWAY names or `finery up` announced. Raises FineryError.
    """
    return _gateway(base_url, model).complete(conversation(query, system, history), sampling)


def chat_stream(
    query: str | Sequence[Message],
    *,
    model: str = "",
    system: str = "",
    history: Sequence[Message] = (),
    base_url: str = "",
    sampling: Sampling | None = None,
) -> Iterator[str]:
    """As `chat`, the answer in pieces as it is made."""
    return _gateway(base_url, model).stream(conversation(query, system, history), sampling)


def conversation(query: str | Sequence[Message], system: str = "", history: Sequence[Message] = ()) -> list[Message]:
    """The messages of a request."""
    first: list[Message] = [{"role": "system", "content": system}] if system else []
    last: Sequence[Message] = [{"role": "user", "content": query}] if isinstance(query, str) else query
    return [*first, *history, *last]


def _gateway(base_url: str, model: str) -> Chat:
    if base_url:
        return Chat(base_url, model)
    with Connection.from_env() as connection:
        found = connection.directory.find_any("gateway")
    if not found:
        raise FineryError(
            Reason.SERVICE_UNAVAILABLE,
            "No gateway is running. Start one with `finery up` or `finery deploy`, or name one in FINERY_GATEWAY.",
        )
    return Chat(openai_url(found[0].address), model)


def _only(models: Sequence[str]) -> str:
    if not models:
        raise FineryError(
            Reason.DEPLOYMENT_NOT_FOUND, "No model is deployed. Deploy one: `finery deploy --ckpt_dir DIR`."
        )
    if len(models) > 1:
        raise FineryError(
            Reason.INVALID_ARGUMENT, f"Several models are deployed; say which by --model: {', '.join(models)}."
        )
    return models[0]


def _plain(messages: Sequence[Message]) -> Any:
    return [dict(message) for message in messages]


def _given(sampling: Sampling | None) -> Any:
    return dict(sampling or {})


def _reason(status: int, code: str | None) -> Reason:
    kinds = CATALOG.items()
    exact = [reason for reason, kind in kinds if (kind.http_status, kind.openai_code) == (status, code)]
    alike = [reason for reason, kind in kinds if kind.http_status == status]
    return (exact or alike or [Reason.INTERNAL])[0]


def _message(error: openai.APIStatusError) -> str:
    body = error.body
    message = body.get("message") if isinstance(body, dict) else None
    return str(message or error.message)
