"""Sends malformed requests to a gateway: `python -m benchmarks.serving.malformed --url URL --key-file FILE`.

The requests are drawn by hypothesis from the gateway's own OpenAPI description: a body that fits the schema, in which a
value is replaced, left out or added; bytes that are no JSON; and odd parameters. An answer is wrong if it is a 500, if
the description does not name its status, or if its error has another shape than the description says. The result is in
`malformed.json`.
"""

import argparse
import json
import string
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

Json = Any
_SEED = 17
_ODD_TEXTS = (
    "",
    " ",
    "\x00",
    "\ud800",
    "<|im_end|>",
    "a" * 5000,
    "\u202e",
    "../../etc/passwd",
    "%00",
    "NaN",
    "null",
    "😀",
)
_ODD_NUMBERS = (0, -1, 2**31, 2**63, -(2**63), 10**30, 1e308, -0.0, 0.5)
_ODD_BODIES = (
    b"",
    b"{",
    b"[]",
    b"null",
    b'"text"',
    b"\xff\xfe",
    b'{"model": "ragtune", "messages": [{"role": "user"',
    b'{"model": 1e999}',
    b'{"model": NaN}',
    b'{"a": 1, "a": 2}',
    b"[" * 5000,
    b'{"messages": ' * 500,
    b"model=ragtune&messages=hello",
)
_TYPES = ("application/json", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16", "")
_STANDARD = {404, 405, 413}
"""Statuses that any path may answer: another path or method than the description's, or a body that is too large."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """One request, and the statuses that the description names for it."""

    method: str
    path: str
    content: bytes | None
    content_type: str
    query: tuple[tuple[str, str], ...]
    documented: frozenset[int]


@dataclass(slots=True)
class Findings:
    """Counts of statuses, and what was wrong."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def odd_values() -> st.SearchStrategy[Json]:
    """Return JSON values that few clients send."""
    leaves = st.one_of(
        st.none(), st.booleans(), st.sampled_from(_ODD_NUMBERS), st.sampled_from(_ODD_TEXTS), st.text(max_size=20)
    )
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("a", "type", "")), inner, max_size=2)
        ),
        max_leaves=5,
    )


def fitting(schema: Json, schemas: Json, depth: int = 0) -> st.SearchStrategy[Json]:
    """Return values that fit a schema of the description; deep inside only the fields that are required."""
    if "$ref" in schema:
        return fitting(schemas[schema["$ref"].rsplit("/", 1)[1]], schemas, depth)
    if options := schema.get("anyOf"):
        return st.one_of([fitting(option, schemas, depth) for option in options])
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum") or [schema["const"]])
    kind = schema.get("type")
    if kind == "object" and "properties" in schema:
        required = schema.get("required", [])
        fields = {name: fitting(part, schemas, depth + 1) for name, part in schema["properties"].items()}
        more = {name: part for name, part in fields.items() if name not in required and depth < 2}
        return st.fixed_dictionaries({name: fields[name] for name in required}, optional=more)
    simple: dict[str, st.SearchStrategy[Json]] = {
        "string": st.sampled_from(("What does `shop.cart.total` return?", "why", "x")),
        "integer": st.integers(1, 64),
        "number": st.sampled_from((0.0, 0.5, 1.0)),
        "boolean": st.booleans(),
        "null": st.none(),
        "object": st.just({}),
    }
    if kind == "array":
        return st.lists(fitting(schema.get("items", {}), schemas, depth + 1), min_size=1, max_size=2)
    return simple.get(kind or "null", st.none())


@st.composite
def damaged(draw: st.DrawFn, value: Json) -> Json:
    """Return a JSON value with one place replaced, left out or added."""
    if isinstance(value, dict) and value:
        name = draw(st.sampled_from(sorted(value)))
        way = draw(st.sampled_from(("deeper", "deeper", "replace", "leave out", "add")))
        if way == "add":
            return {**value, draw(st.text(string.ascii_letters, min_size=1, max_size=8)): draw(odd_values())}
        if way == "leave out":
            return {key: part for key, part in value.items() if key != name}
        return {**value, name: draw(damaged(value[name])) if way == "deeper" else draw(odd_values())}
    if isinstance(value, list) and value and draw(st.booleans()):
        return [draw(damaged(value[0])), *value[1:]]
    return draw(odd_values())


@st.composite
def malformed_requests(draw: st.DrawFn, description: Json) -> Malformed:
    """Return requests to the routes of an OpenAPI description that are wrong somewhere."""
    schemas = description["components"]["schemas"]
    path, methods = draw(st.sampled_from(sorted(description["paths"].items(), key=lambda item: item[0])))
    method, operation = draw(st.sampled_from(sorted(methods.items(), key=lambda item: item[0])))
    documented = frozenset(int(status) for status in operation["responses"]) | _STANDARD
    content, content_type = None, ""
    if body := operation.get("requestBody"):
        content_type = "application/json"
        fits = draw(fitting(body["content"]["application/json"]["schema"], schemas))
        if draw(st.integers(0, 4)):
            # A lone surrogate is valid JSON text and no valid character.
            content = json.dumps(draw(damaged(fits))).encode()
        else:
            content, content_type = draw(st.sampled_from(_ODD_BODIES)), draw(st.sampled_from(_TYPES))
    names = [part["name"] for part in operation.get("parameters", []) if part["in"] == "query"]
    odd = st.sampled_from(
        [text for text in _ODD_TEXTS if text.isprintable()] + [str(number) for number in _ODD_NUMBERS]
    )
    query = tuple((name, draw(odd)) for name in names if draw(st.booleans()))
    for part in operation.get("parameters", []):
        if part["in"] == "path":
            path = path.replace(f"{{{part['name']}}}", draw(st.text(string.ascii_letters + "-._~%20", min_size=1)))
    return Malformed(method.upper(), path, content, content_type, query, documented)


def send(client: httpx.Client, request: Malformed, findings: Findings) -> None:
    """Send a request and note what came back."""
    headers = {"Content-Type": request.content_type} if request.content_type else {}
    answer = client.request(
        request.method, request.path, content=request.content, params=request.query or None, headers=headers
    )
    findings.statuses[answer.status_code] += 1
    problems = []
    if answer.status_code == httpx.codes.INTERNAL_SERVER_ERROR:
        problems.append("500")
    elif answer.status_code not in request.documented:
        problems.append(f"{answer.status_code}, which the description does not name")
    is_state = request.path == "/health/readiness"
    if answer.is_error and not is_state and set(answer.json().get("error", {})) != {"message", "type", "param", "code"}:
        problems.append(f"an error of another shape: {answer.text[:200]}")
    findings.wrong += [f"{problem}: {request}" for problem in problems]


def send_many(url: str, key: str, count: int) -> Findings:
    """Send this many malformed requests and return what came back."""
    findings = Findings()
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=120) as client:
        description = client.get("/openapi.json").json()

        @seed(_SEED)
        @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(malformed_requests(description))
        def one(request: Malformed) -> None:
            send(client, request, findings)

        one()
    return findings


def main() -> None:
    """Send, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--key-file", type=Path, default=Path(".ragtune/keys/client.key"))
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    findings = send_many(options.url, options.key_file.read_text().strip(), options.count)
    result = {
        "command": f"python -m benchmarks.serving.malformed --count {options.count}",
        "requests": sum(findings.statuses.values()),
        "statuses": {str(status): count for status, count in sorted(findings.statuses.items())},
        "wrong": findings.wrong,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
