"""Citations name their place: the sentence of the answer, and a URL that opens the page at the passage."""

import json
from urllib.parse import unquote

import pytest
from openai.types.chat.chat_completion_message import ChatCompletionMessage
from typer.testing import CliRunner

from ragtune_serving.citation_places import cited_spans, place_url
from ragtune_serving.cli import app
from tests.support.scripted_upstream import ScriptedUpstream, ServedApp
from tests.support.served_gateway import ServedGateway

PAGE = "https://docs.example/cart"
PASSAGE = """\
# The cart

A cart belongs to one customer. `shop.cart.total` returns the *price* of everything in the cart, and [taxes](t.md) \
are part of it - always. It is emptied after checkout."""


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("The price. [1]", {1: ["The price. [1]"]}),
        ("A price [1]. Taxes too [2][3].", {1: ["A price [1]."], 2: ["Taxes too [2][3]."], 3: ["Taxes too [2][3]."]}),
        ("One. [1] Two. [2] Three. [1]", {1: ["One. [1]", "Three. [1]"], 2: ["Two. [2]"]}),
        ("Nothing is cited.", {}),
        ('From the documents: "It is late." [4]', {4: ['From the documents: "It is late." [4]']}),
    ],
)  # fmt: skip
def test_a_span_is_the_sentence_with_its_mark(text, spans):
    found = {number: [text[start:end] for start, end in places] for number, places in cited_spans(text).items()}
    assert found == spans


def test_the_url_names_the_edges_of_the_sentence_that_the_answer_is_based_on():
    url = place_url(PAGE, PASSAGE, "It is the price of everything in the cart. [1]")
    assert url.startswith(f"{PAGE}#:~:text=shop.cart.total%20returns")
    first, last = unquote(url.partition("text=")[2]).split(",")
    assert first == "shop.cart.total returns the price of"
    assert last == "part of it - always."
    assert "-" not in url.partition("text=")[2], "a hyphen belongs to the syntax of a text fragment"


def test_a_short_sentence_is_named_whole_and_a_fragment_is_kept():
    url = place_url(f"{PAGE}#carts", PASSAGE, "The cart is emptied after checkout.")
    assert url == f"{PAGE}#carts:~:text=It%20is%20emptied%20after%20checkout."


@pytest.mark.parametrize("source", ["cart.md", "s3://bucket/cart.md", ""])
def test_what_no_browser_opens_has_no_url(source):
    assert place_url(source, PASSAGE, "The price.") == ""


def test_the_response_annotates_cited_web_pages_in_openais_form(tmp_path):
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    site = ServedApp(Starlette(routes=[Route("/cart.md", lambda _: PlainTextResponse(PASSAGE))]))
    try:
        environment = {"RAGTUNE_HOME": str(tmp_path)}
        result = CliRunner().invoke(app, ["index", "--source", f"{site.url}/cart.md"], env=environment)
        assert result.exit_code == 0, result.output
    finally:
        site.close()
    upstream = ScriptedUpstream()
    gateway = ServedGateway(tmp_path, upstream)
    try:
        reply = gateway.client().chat.completions.create(
            model="ragtune", messages=[{"role": "user", "content": "What does `shop.cart.total` return?"}]
        )
        last = gateway.events("What does `shop.cart.total` return?")[-1]
    finally:
        gateway.close()
        upstream.close()
    message = ChatCompletionMessage.model_validate(reply.choices[0].message.model_dump(), strict=True)
    (annotation,) = message.annotations
    citation = annotation.url_citation
    assert citation.url.startswith(f"{site.url}/cart.md")
    assert ":~:text=" in citation.url
    assert message.content[citation.start_index : citation.end_index] == message.content
    (cited,) = reply.ragtune["citations"]
    assert (cited["url"], cited["spans"]) == (citation.url, [[0, len(message.content)]])
    assert json.dumps(last["ragtune"]["citations"]) == json.dumps(reply.ragtune["citations"])
