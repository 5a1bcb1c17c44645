"""``finery infer``: a conversation in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import fields

from finery_client.arguments import DeployArguments, InferArguments
from finery_client.arguments.deploy import ServingArguments
from finery_client.cli.deploy import load
from finery_client.cli.screen import Screen
from finery_client.connect import Connection
from finery_client.conversation import Chat, Message, Sampling
from finery_client.endpoints import base_url
from finery_client.serve import withdraw
from finery_client.specs import deployment_spec
from finery_shared.errors import FineryError, Reason

PROMPT = "<<< "
RULE = "-" * 50


def run(arguments: InferArguments, screen: Screen) -> int:
    """Talk with a deployed model, or with one that is deployed for the conversation."""
    with Connection.from_env(screen.starting) as services:
        if not (arguments.ckpt_dir or arguments.model_type or arguments.model_id_or_path):
            return _talk(_deployed(arguments, services), arguments, screen)
        deployment_spec(arguments, services.here)
        names = {field.name for field in fields(ServingArguments)}
        serving = load(DeployArguments(port=0, **{name: getattr(arguments, name) for name in names}), services, screen)
        try:
            return _talk(serving.chat(), arguments, screen)
        finally:
            if not serving.private_inference:
                withdraw(serving)


def _deployed(arguments: InferArguments, services: Connection) -> Chat:
    found = services.directory.find_any("gateway")
    if not found:
        message = "No gateway is running. Name a model by --ckpt_dir or --model_type, or start `finery up`."
        raise FineryError(Reason.SERVICE_UNAVAILABLE, message)
    return Chat(base_url(found[0].address), arguments.model)


def _talk(chat: Chat, arguments: InferArguments, screen: Screen) -> int:
    said = "" if arguments.query else " `clear` forgets the conversation, `exit` ends it."
    screen.say(f"Talking with {chat.model}.{said}")
    conversation = Conversation(chat, arguments.system, _sampling(arguments), stream=arguments.stream)
    if arguments.query:
        return 0 if _answer(conversation, arguments.query, screen) else 1
    interactive = sys.stdin.isatty()
    status = 0
    for query in _queries(interactive):
        command = query.strip().lower()
        if command in ("exit", "quit"):
            break
        if command == "clear":
            conversation.clear()
            continue
        if not command:
            continue
        if not interactive:
            screen.result(f"{PROMPT}{query}")
        if not _answer(conversation, query, screen):
            status = 1
        screen.result(RULE)
    return 0 if interactive else status


def _answer(conversation: Conversation, query: str, screen: Screen) -> bool:
    """Ask and show the answer; False if there was none. Ctrl-C ends an answer, not the conversation."""
    try:
        conversation.ask(query, lambda piece: screen.result(piece, end=""))
        screen.result("")
    except FineryError as error:
        screen.error(error)
        return False
    except KeyboardInterrupt:
        screen.result("")
        if not sys.stdin.isatty():
            raise
    return True


class Conversation:
    """The messages so far. A question that got no whole answer is forgotten."""

    def __init__(self, chat: Chat, system: str, sampling: Sampling, *, stream: bool) -> None:
        self._chat = chat
        self._system: list[Message] = [{"role": "system", "content": system}] if system else []
        self._sampling = sampling
        self._stream = stream
        self._turns: list[Message] = []

    def clear(self) -> None:
        """Forget the turns."""
        self._turns = []

    def ask(self, query: str, show: Callable[[str], None]) -> str:
        """Ask; ``show`` gets the answer in pieces. Raises FineryError."""
        turns: list[Message] = [*self._turns, {"role": "user", "content": query}]
        messages = [*self._system, *turns]
        answer = ""
        for piece in self._pieces(messages):
            show(piece)
            answer += piece
        self._turns = [*turns, {"role": "assistant", "content": answer}]
        return answer

    def _pieces(self, messages: list[Message]) -> Iterator[str]:
        if self._stream:
            return self._chat.stream(messages, self._sampling)
        return iter([self._chat.complete(messages, self._sampling)])


def _queries(interactive: bool) -> Iterator[str]:
    """What is typed, line by line, until the end of input; with editing and history on a terminal."""
    if not interactive:
        for line in sys.stdin:
            yield line.rstrip("\n")
        return
    from prompt_toolkit import PromptSession

    session: PromptSession[str] = PromptSession(PROMPT)
    while True:
        try:
            yield session.prompt()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return


def _sampling(arguments: InferArguments) -> Sampling:
    sampling = Sampling()
    if arguments.max_new_tokens is not None:
        sampling["max_tokens"] = arguments.max_new_tokens
    if arguments.temperature is not None:
        sampling["temperature"] = arguments.temperature
    if arguments.top_p is not None:
        sampling["top_p"] = arguments.top_p
    if arguments.seed is not None:
        sampling["seed"] = arguments.seed
    return sampling
