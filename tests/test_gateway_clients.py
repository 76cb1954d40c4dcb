"""Clients that applications use, unchanged: the official openai client in all its forms, and plain curl."""

import asyncio
import json
import shutil
import subprocess

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.served_gateway import QUESTION, ServedGateway, index_documents

MESSAGES = [{"role": "user", "content": QUESTION}]
ANSWER = "The price of everything in the cart. [1]"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    index_documents(home)
    upstream = ScriptedUpstream()
    served = ServedGateway(home, upstream)
    yield served
    served.close()
    upstream.close()


def text_of(chunks) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def test_the_synchronous_client_gets_an_answer_that_its_types_accept(gateway):
    reply = gateway.client().chat.completions.create(model="ragtune", messages=MESSAGES)
    assert reply.choices[0].message.content == ANSWER
    ChatCompletion.model_validate(reply.model_dump(), strict=True)


def test_the_synchronous_client_streams(gateway):
    with gateway.client() as client:
        chunks = list(client.chat.completions.create(model="ragtune", messages=MESSAGES, stream=True))
    assert text_of(chunks).strip() == ANSWER
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.model_dump(), strict=True)


def test_the_helper_that_collects_a_stream_returns_the_whole_answer(gateway):
    options = {"include_usage": True}
    with gateway.client().chat.completions.stream(model="ragtune", messages=MESSAGES, stream_options=options) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content.strip() == ANSWER
    assert final.choices[0].finish_reason == "stop"
    assert final.usage.prompt_tokens == 7


def test_the_raw_response_has_headers_and_parses(gateway):
    raw = gateway.client().chat.completions.with_raw_response.create(model="ragtune", messages=MESSAGES)
    assert raw.headers["content-type"] == "application/json"
    assert raw.parse().choices[0].message.content == ANSWER
    streamed = gateway.client().chat.completions.with_streaming_response.create(
        model="ragtune", messages=MESSAGES, stream=True
    )
    with streamed as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert any("price" in line for line in response.iter_lines())


def test_the_asynchronous_client_answers_streams_and_asks_many_questions_at_once(gateway):
    async def ask() -> None:
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:
            replies = await asyncio.gather(
                *(client.chat.completions.create(model="ragtune", messages=MESSAGES) for _ in range(8))
            )
            assert {reply.choices[0].message.content for reply in replies} == {ANSWER}
            assert len({reply.id for reply in replies}) == 8
            stream = await client.chat.completions.create(model="ragtune", messages=MESSAGES, stream=True)
            assert text_of([chunk async for chunk in stream]).strip() == ANSWER
            raw = await client.chat.completions.with_raw_response.create(model="ragtune", messages=MESSAGES)
            assert raw.parse().choices[0].message.content == ANSWER

    asyncio.run(ask())


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
def test_a_response_format_is_passed_to_the_engine(gateway, kind):
    schema = {"json_schema": {"name": "answer", "schema": {"type": "object"}}} if kind == "json_schema" else {}
    gateway.client().chat.completions.create(
        model="ragtune", messages=MESSAGES, response_format={"type": kind, **schema}
    )
    assert gateway.upstream.requests[-1]["response_format"] == {"type": kind, **schema}


def test_the_clients_errors_say_what_was_wrong(gateway):
    client = gateway.client()
    with pytest.raises(openai.BadRequestError, match="ragtune-base") as error:
        client.chat.completions.create(model="gpt-4", messages=MESSAGES)
    assert error.value.param == "model"
    with pytest.raises(openai.AuthenticationError, match="Bearer KEY"):
        client.with_options(api_key="rt-wrong").models.list()
    with pytest.raises(openai.NotFoundError, match="ragtune-raw"):
        client.models.retrieve("gpt-4")


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
@pytest.mark.parametrize("stream", [False, True])
def test_curl_gets_an_answer(gateway, stream):
    body = json.dumps({"model": "ragtune", "messages": MESSAGES, "stream": stream})
    command = ["curl", "-sN", f"{gateway.url}/v1/chat/completions", "-H", f"Authorization: Bearer {gateway.key}"]
    command += ["-H", "Content-Type: application/json", "-d", body]
    output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    if stream:
        assert output.endswith("data: [DONE]\n\n")
    else:
        assert json.loads(output)["choices"][0]["message"]["content"] == ANSWER
