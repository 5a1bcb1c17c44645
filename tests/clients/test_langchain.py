"""LangChain's ChatOpenAI, which talks to OpenAI and to nobody else."""

import asyncio
from typing import Any, Literal

import openai
import pytest
from langchain_core.messages import AIMessage, BaseMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from tests.clients.conftest import Server

QUESTION = "What is the capital of France?"


@pytest.fixture
def chat(server: Server) -> ChatOpenAI:
    return make(server)


def make(server: Server, **settings: Any) -> ChatOpenAI:
    """A model as users make it."""
    defaults = {"model": server.model, "base_url": server.url, "api_key": server.key, "temperature": 0}
    return ChatOpenAI(**(defaults | {"max_tokens": 12, "max_retries": 0, "timeout": 60} | settings))


def joined(chunks: list[BaseMessageChunk]) -> BaseMessageChunk:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return whole


def test_invoke(chat: ChatOpenAI, server: Server) -> None:
    answer = chat.invoke(QUESTION)
    assert isinstance(answer, AIMessage)
    assert answer.content
    assert answer.response_metadata["model_name"] == server.model
    assert answer.response_metadata["finish_reason"] in ("stop", "length")
    assert answer.response_metadata["id"].startswith("chatcmpl-")
    used = answer.usage_metadata
    assert used is not None
    assert used["input_tokens"] > 0 and 0 < used["output_tokens"] <= 12
    assert used["total_tokens"] == used["input_tokens"] + used["output_tokens"]


def test_stream_is_the_answer_in_pieces(server: Server) -> None:
    chat = make(server, stream_usage=True)
    chunks = list(chat.stream(QUESTION))
    whole, answer = joined(chunks), chat.invoke(QUESTION)
    assert len([c for c in chunks if c.content]) > 1
    assert whole.content == answer.content
    assert whole.response_metadata["finish_reason"] == answer.response_metadata["finish_reason"]
    assert whole.usage_metadata["output_tokens"] == answer.usage_metadata["output_tokens"]


def test_conversation_of_all_kinds_of_messages(chat: ChatOpenAI) -> None:
    messages = [
        SystemMessage("You are brief."),
        HumanMessage(QUESTION),
        AIMessage("Paris."),
        HumanMessage([{"type": "text", "text": "And of "}, {"type": "text", "text": "Italy?"}]),
    ]
    longer, shorter = chat.invoke(messages), chat.invoke(messages[:2])
    assert longer.usage_metadata["input_tokens"] > shorter.usage_metadata["input_tokens"]


def test_chain_and_batch(chat: ChatOpenAI) -> None:
    chain = ChatPromptTemplate.from_messages([("system", "You know {what}."), ("human", "{question}")]) | chat
    answers = (chain | StrOutputParser()).batch([{"what": w, "question": QUESTION} for w in ("maps", "cities", "food")])
    assert len(answers) == 3 and all(answers)


def test_stop(chat: ChatOpenAI) -> None:
    whole = chat.invoke(QUESTION).content
    assert chat.invoke(QUESTION, stop=[whole[2:5]]).content == whole.partition(whole[2:5])[0]


async def test_async_one_many_and_streamed(chat: ChatOpenAI) -> None:
    expected = chat.invoke(QUESTION).content
    assert (await chat.ainvoke(QUESTION)).content == expected
    assert [a.content for a in await chat.abatch([QUESTION] * 8)] == [expected] * 8
    assert joined([chunk async for chunk in chat.astream(QUESTION)]).content == expected
    async with asyncio.timeout(60):
        async for _ in chat.astream(QUESTION):
            break
    assert (await chat.ainvoke(QUESTION)).content == expected


class City(BaseModel):
    """A city, told in so few words that a model of any size comes to an end."""

    size: Literal["small", "large"]
    capital: bool


def test_structured_output(server: Server) -> None:
    chat = make(server, max_tokens=200).with_structured_output(City, method="json_schema")
    assert isinstance(chat.invoke("Tell of Paris."), City)


def weather(city: str, days: int) -> str:
    """Tell the weather of a city."""
    raise NotImplementedError


def test_tool_calls_whole_and_streamed(server: Server) -> None:
    if not server.calls_tools:
        pytest.skip("this model knows no tools")
    chat = make(server, max_tokens=200).bind_tools([weather], tool_choice="weather")
    answer = chat.invoke("What will the weather be in Rome?")
    (call,) = answer.tool_calls
    assert call["name"] == "weather"
    assert {name: type(value) for name, value in call["args"].items()} == {"city": str, "days": int}
    assert joined(list(chat.stream("What will the weather be in Rome?"))).tool_calls[0]["args"] == call["args"]
    told = [HumanMessage("And?"), answer, ToolMessage("It rains.", tool_call_id=call["id"])]
    assert make(server).bind_tools([weather]).invoke(told).content


def test_unknown_model(server: Server) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        make(server, model="gpt-nowhere").invoke(QUESTION)
    assert caught.value.code == "model_not_found"
    assert server.model in str(caught.value)


def test_wrong_key(server: Server) -> None:
    if not server.guarded:
        pytest.skip("this gateway asks for no key")
    with pytest.raises(openai.AuthenticationError) as caught:
        make(server, api_key="wrong").invoke(QUESTION)
    assert caught.value.code == "invalid_api_key"


def test_bad_parameter_and_long_prompt(server: Server) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        make(server, temperature=7).invoke(QUESTION)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as caught:
        make(server).invoke("word " * 10_000)
    assert caught.value.code == "context_length_exceeded"


def test_nobody_there(server: Server) -> None:
    with pytest.raises(openai.APIConnectionError):
        make(server, base_url="http://127.0.0.1:1/v1").invoke(QUESTION)
