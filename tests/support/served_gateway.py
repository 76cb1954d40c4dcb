"""The whole gateway in this process, in front of a scripted upstream, over an index of three documents."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai

from ragtune.settings import load_settings
from ragtune_serving.gateway import build_app, build_services
from ragtune_serving.keys import KeyStore
from tests.support.scripted_upstream import ScriptedUpstream, ServedApp

DOCUMENTS = {
    "total": "shop.cart.total returns the price of everything in the cart, taxes included.",
    "empty": "shop.cart.empty removes every item from the cart and frees the stock.",
    "login": "shop.users.login checks the password and opens a session for thirty minutes.",
}
QUESTION = "What does `shop.cart.total` return?"


def index_documents(home: Path) -> None:
    """Index the documents into a home, as `ragtune index` does."""
    from typer.testing import CliRunner

    from ragtune_serving.cli import app

    lines = [json.dumps({"id": name, "title": f"shop.{name}", "text": text}) for name, text in DOCUMENTS.items()]
    (home / "docs.jsonl").write_text("\n".join(lines))
    result = CliRunner().invoke(
        app, ["index", "--source", f"jsonl:{home / 'docs.jsonl'}"], env={"RAGTUNE_HOME": str(home)}
    )
    assert result.exit_code == 0, result.output


class ServedGateway:
    """A gateway on a free port; keyword arguments are settings of its sections `gateway`, `engine` and so on.

    Unless the section `answer` is given, the engine's text is delivered as it is. Answers are cached only if `gateway`
    says so: most tests ask the same question again.
    """

    def __init__(self, home: Path, upstream: ScriptedUpstream, **sections: dict[str, Any]) -> None:
        engine = {"backend": "openai", "url": upstream.url, "model": upstream.name, **sections.pop("engine", {})}
        gateway = {"poll_seconds": 0.1, "cache": {"entries": 0}, **sections.pop("gateway", {})}
        answer = sections.pop("answer", {"quotations": False, "refused_share": 0.0})
        self.settings = load_settings(
            {"home": home, "engine": engine, "gateway": gateway, "answer": answer, **sections}
        )
        self.upstream = upstream
        self.keys = KeyStore(home / "keys")
        self.keys.ensure()
        self.key = self.keys.client_key()
        self.services = build_services(self.settings)
        self.served = ServedApp(build_app(self.services, self.settings, self.keys))
        self.url = self.served.url
        end = time.monotonic() + 60
        while not (ready := httpx.get(f"{self.url}/health/readiness")).json()["retrieval"] or ready.status_code != 200:
            assert time.monotonic() < end, ready.text
            time.sleep(0.05)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def request(self, method: str, path: str, **arguments) -> httpx.Response:
        headers = {**self.headers, **arguments.pop("headers", {})}
        return httpx.request(method, self.url + path, headers=headers, timeout=30, **arguments)

    def ask(self, content: Any = QUESTION, **fields) -> httpx.Response:
        """Ask one question, or send these messages if `content` is a list."""
        messages = content if isinstance(content, list) else [{"role": "user", "content": content}]
        return self.request("POST", "/v1/chat/completions", json={"model": "ragtune", "messages": messages, **fields})

    def ask_with(self, key: str, content: str) -> httpx.Response:
        """Ask one question with another key."""
        body = {"model": "ragtune", "messages": [{"role": "user", "content": content}]}
        return self.request("POST", "/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"})

    def leave_after(self, reached: Callable[[], bool], key: str = "", **fields) -> None:
        """Ask a question, and close the connection without reading once something was reached."""
        body = {"model": "ragtune", "messages": [{"role": "user", "content": QUESTION}], **fields}
        content = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key or self.key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", int(self.url.rsplit(":", 1)[1]))) as connection:
            connection.sendall(head.encode() + content)
            end = time.monotonic() + 60
            while not reached():
                assert time.monotonic() < end, "waited too long"
                time.sleep(0.01)

    def events(self, content: Any = QUESTION, **fields) -> list[dict]:
        """Return the events of a streamed answer, without the last `[DONE]`."""
        answer = self.ask(content, stream=True, **fields)
        assert answer.status_code == 200, answer.text
        lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
        return [json.loads(line) for line in lines if line != "[DONE]"]

    def metric(self, name: str) -> float:
        """Return the value of one series, 0 if there is none."""
        lines = self.request("GET", "/metrics").text.splitlines()
        return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.rsplit(" ", 1)[0] == name), 0.0)

    def client(self, **arguments) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, **arguments)

    def close(self) -> None:
        self.served.close()


@contextmanager
def scripted_gateway(home: Path, **sections: dict[str, Any]) -> Iterator[ServedGateway]:
    """Index the documents into a home and yield its gateway, in front of an upstream of its own."""
    index_documents(home)
    with closing(ScriptedUpstream()) as upstream, closing(ServedGateway(home, upstream, **sections)) as gateway:
        yield gateway
