"""Clients that applications use, unchanged: openai's, LangChain, LlamaIndex, Mistral's, Open WebUI's requests, curl."""

import asyncio
import json
import shutil
import subprocess
import warnings

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.support.served_gateway import QUESTION, scripted_gateway

MESSAGES = [{"role": "user", "content": QUESTION}]
ANSWER = "The price of everything in the cart. [1]"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with scripted_gateway(tmp_path_factory.mktemp("home")) as served:
        yield served


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


@pytest.fixture(scope="module")
def langchain(gateway):
    from langchain_openai import ChatOpenAI

    # It asks for the tokens of a stream by itself only at OpenAI's own address.
    return ChatOpenAI(
        model="ragtune", base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, stream_usage=True
    )


def test_langchain_asks_streams_and_counts_tokens(langchain):
    reply = langchain.invoke([("system", "Be brief."), ("human", QUESTION)])
    assert reply.content == ANSWER
    assert reply.usage_metadata["input_tokens"] == 7
    chunks = list(langchain.stream(QUESTION))
    assert "".join(chunk.content for chunk in chunks).strip() == ANSWER
    assert [chunk.usage_metadata["input_tokens"] for chunk in chunks if chunk.usage_metadata] == [7]
    assert asyncio.run(langchain.ainvoke(QUESTION)).content == ANSWER


def test_langchain_continues_a_conversation_with_the_reply_as_it_came(gateway, langchain):
    reply = langchain.invoke(QUESTION)
    again = langchain.invoke([("human", QUESTION), reply, ("human", "And what does `shop.cart.empty` do?")])
    assert again.content
    assert [turn["role"] for turn in gateway.upstream.requests[-1]["messages"]] == [
        *("system", "user", "assistant", "user")
    ]


def test_langchain_asks_for_json_of_a_schema(gateway, langchain):
    schema = {"title": "Price", "type": "object", "properties": {"euros": {"type": "number"}}, "required": ["euros"]}
    words, gateway.upstream.words = gateway.upstream.words, ['{"euros":', "3}"]
    try:
        reply = langchain.with_structured_output(schema, method="json_schema").invoke(QUESTION)
    finally:
        gateway.upstream.words = words
    assert reply == {"euros": 3}
    assert gateway.upstream.requests[-1]["response_format"]["type"] == "json_schema"


def test_llama_index_asks_and_streams(gateway):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its own dependencies, when it is imported
        from llama_index.core.llms import ChatMessage
        from llama_index.llms.openai_like import OpenAILike

    model = OpenAILike(
        model="ragtune",
        api_base=f"{gateway.url}/v1",
        api_key=gateway.key,
        is_chat_model=True,
        context_window=2048,
        max_retries=0,
    )
    messages = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content=QUESTION)]
    assert model.chat(messages).message.content == ANSWER
    assert list(model.stream_chat(messages))[-1].message.content.strip() == ANSWER
    assert model.complete(QUESTION).text == ANSWER


def test_mistrals_client_reads_an_answer_and_a_stream_by_its_types(gateway):
    from mistralai.client import Mistral

    with Mistral(api_key=gateway.key, server_url=gateway.url) as client:
        assert client.chat.complete(model="ragtune", messages=MESSAGES).choices[0].message.content == ANSWER
        with client.chat.stream(model="ragtune", messages=MESSAGES) as stream:
            choices = [event.data.choices[0] for event in stream]
    assert "".join(choice.delta.content or "" for choice in choices).strip() == ANSWER
    assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]


OPEN_WEBUI_HEADERS = {
    "Content-Type": "application/json",
    "X-OpenWebUI-User-Name": "Ann",
    "X-OpenWebUI-User-Id": "7",
    "X-OpenWebUI-User-Email": "ann@app.example",
    "X-OpenWebUI-User-Role": "admin",
    "X-OpenWebUI-Chat-Id": "c1",
}
"""What Open WebUI sends (backend/open_webui/routers/openai.py): bodies are OpenAI's, users are in headers."""


def test_open_webui_lists_models_chats_and_asks_for_a_title(gateway):
    models = gateway.request("GET", "/v1/models", headers=OPEN_WEBUI_HEADERS).json()["data"]
    assert {"id", "object", "owned_by"} <= set(models[0])
    history = [
        {"role": "system", "content": "You are helpful."},
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hello, how can I help?"},
        {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
    ]
    # Its settings of a model end up in the body; it turns max_completion_tokens into max_tokens.
    settings = {"temperature": 0.2, "top_p": 0.9, "max_tokens": 60, "seed": 1, "stop": ["###"], "logit_bias": {}}
    body = {"model": "ragtune", "messages": history, "stream": True, "stream_options": {"include_usage": True}}
    answer = gateway.request(
        "POST", "/v1/chat/completions", headers=OPEN_WEBUI_HEADERS, content=json.dumps({**body, **settings})
    )
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    chunks = [json.loads(line) for line in lines if line != "[DONE]"]
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert text.strip() == ANSWER
    assert chunks[-1]["usage"]["prompt_tokens"] == 7
    title = [{"role": "user", "content": "### Task:\nWrite a title of 3 to 5 words for this chat.\n<chat_history>..."}]
    body = {"model": "ragtune", "messages": title, "stream": False, "max_tokens": 1000}
    answer = gateway.request("POST", "/v1/chat/completions", headers=OPEN_WEBUI_HEADERS, content=json.dumps(body))
    assert answer.json()["choices"][0]["message"]["content"]


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
