"""Sends requests that schemathesis draws from a gateway's OpenAPI description, most of them wrong somewhere.

    FUZZER/bin/python -m benchmarks.serving.fuzzing --url URL --key-file FILE --log LOG

FUZZER is an environment made from `fuzzing-requirements.txt`. schemathesis is not among the development requirements:
it is a plugin of pytest, which every run of the tests would load. `malformed.py` draws requests of its own and is part
of the tests.

A response is wrong if it is a 500, if the description does not name its status, its type or its shape, or if a request
that breaks the description is answered all the same. For a 500 the log of the gateway has to have the request's
exception; give the gateway the setting `gateway.log_format: json`, and a home of its own, because experiments are
started and stopped. Writes fuzzing.json next to this script.

Goal: 1,000 requests, nothing wrong, and no 500 without a cause in the log.
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
STANDARD = {404, 405, 413}
"""Statuses that any path may answer: a drawn path may be another one, a body may be too large."""
BROKEN = 4
"""One request in this many fits the description. Chosen by hand: right ones reach code that wrong ones never do."""
_SEED = 17


@dataclass(slots=True)
class Findings:
    """Counts of statuses, what was wrong, and the ids of the requests that got a 500."""

    statuses: Counter[int] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, list[str]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)


def drawn_cases(description: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return requests to the operations of a description; operations without parameters and body cannot be broken."""
    operations = [operation.ok() for operation in schemathesis.openapi.from_dict(description).get_all_operations()]
    right = [operation.as_strategy(GenerationMode.POSITIVE) for operation in operations]
    broken = [
        operation.as_strategy(GenerationMode.NEGATIVE)
        for operation in operations
        if list(operation.body) or list(operation.query) or list(operation.path_parameters)
    ]
    return st.integers(1, BROKEN).flatmap(lambda number: st.one_of(right if number == 1 else broken))


def without_keys(description: dict[str, Any]) -> None:
    """Take the keys out of a description: schemathesis would draw wrong ones, and a third of the requests be a 401."""
    description.pop("security", None)
    description["components"].pop("securitySchemes", None)
    for operations in description["paths"].values():
        for operation in operations.values():
            operation.pop("security", None)


def send(url: str, session: requests.Session, case: Any, findings: Findings) -> None:
    """Send a request and note what is wrong with the response."""
    response = case.call(base_url=url, session=session, timeout=120)
    curl = case.as_curl_command().replace(url, "URL")
    findings.statuses[response.status_code] += 1
    findings.operations[case.operation.label] += 1
    if response.status_code == requests.codes.server_error:
        findings.failed.append(response.headers["x-request-id"][0])
        findings.wrong.setdefault("500", []).append(curl)
    failures: list[Failure] = []
    try:
        case.validate_response(response, checks=CHECKS)
    except FailureGroup as group:
        failures = list(group.exceptions)
    except Failure as only:
        failures = [only]
    for failure in failures:
        if failure.title == "Undocumented HTTP status code" and response.status_code in STANDARD:
            continue
        findings.wrong.setdefault(failure.title, []).append(f"{response.status_code}: {failure.message} {curl}")


def send_many(url: str, key: str, count: int) -> Findings:
    """Send this many requests and return what came back."""
    findings = Findings()
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {key}"
        description = session.get(f"{url}/openapi.json", timeout=60).json()

        without_keys(description)

        @seed(_SEED)
        @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(drawn_cases(description))
        def one(case: Any) -> None:
            send(url, session, case, findings)

        one()
    return findings


def without_cause(failed: list[str], log: Path) -> list[str]:
    """Return the requests with a 500 of which the log, in JSON, has no exception."""
    lines = [json.loads(line) for line in log.read_text().splitlines()] if failed else []
    explained = {line.get("request_id") for line in lines if "exception" in line}
    return [request for request in failed if request not in explained]


def main() -> None:
    """Send, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--key-file", type=Path, default=Path(".ragtune/keys/client.key"))
    parser.add_argument("--log", type=Path, default=Path(".ragtune/logs/gateway.log"))
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    findings = send_many(options.url, options.key_file.read_text().strip(), options.count)
    result = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python -m benchmarks.serving.fuzzing --count {options.count}",
        "schemathesis": version("schemathesis"),
        "requests": sum(findings.statuses.values()),
        "statuses": {str(status): count for status, count in sorted(findings.statuses.items())},
        "operations": dict(sorted(findings.operations.items())),
        "wrong": findings.wrong,
        "500_without_a_cause_in_the_log": without_cause(findings.failed, options.log),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    sys.exit(bool(findings.wrong))


if __name__ == "__main__":
    main()
