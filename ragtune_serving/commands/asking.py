"""`ask`: one question, or a batch that goes on where it was interrupted."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer

from ragtune.answer.controls import NEUTRAL, with_controls
from ragtune.errors import EngineError, SettingsError
from ragtune.settings import load_settings
from ragtune_serving.client import GatewayClient, Reply
from ragtune_serving.commands.documents import read_lines
from ragtune_serving.terminal import out, print_json, progress_bar

_ATTEMPTS = 4
_SWITCH_WORDS = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}


def ask(
    text: Annotated[str, typer.Argument(help="the question")] = "",
    json_: Annotated[bool, typer.Option("--json", help="print the answer as JSON")] = False,
    dial: Annotated[list[str], typer.Option(help="NAME=0..1, such as depth=0.8; may be repeated")] = [],  # noqa: B006
    switch: Annotated[list[str], typer.Option(help="NAME=on|off, such as citations=off; may be repeated")] = [],  # noqa: B006
    questions: Annotated[Path | None, typer.Option(help='a batch: one {"id","text"} a line')] = None,
    answers: Annotated[Path | None, typer.Option(help="JSON lines file to write; finished ones are kept")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="questions at a time")] = 8,
    model: Annotated[str, typer.Option(help="ragtune, ragtune-base or ragtune-raw")] = "ragtune",
) -> None:
    """Ask the gateway and show the answer with its citations."""
    if (questions is None) != (answers is None) or bool(text) == (questions is not None):
        raise SettingsError(
            "It is not clear what to ask.", 'a "TEXT", or --questions FILE.jsonl together with --answers OUT.jsonl'
        )
    controls = parse_controls(dial, switch)
    client = GatewayClient(load_settings())
    if questions is not None and answers is not None:
        _batch(client, questions, answers, concurrency, model, controls)
        return
    reply = client.ask(text, model, controls)
    if json_:
        print_json({**as_row("", reply), "citations": reply.fields["citations"], "warnings": reply.fields["warnings"]})
    else:
        show(reply)


def show(reply: Reply) -> None:
    """Print an answer with the passages it cites."""
    out.print(reply.text)
    for citation in reply.fields["citations"]:
        out.print(f"  [{citation['number']}] {citation['title']}  ({citation['document']})")
    for warning in reply.fields["warnings"]:
        out.print(f"  note: {warning}", style="yellow")
    out.print(f"  version {reply.fields['model_version']}, {reply.latency_ms:.0f} ms", style="dim")


def parse_controls(dials: Sequence[str], switches: Sequence[str]) -> dict[str, Any]:
    """Return the request's controls; raises SettingsError that lists the valid names and values."""
    chosen: dict[str, Any] = {"dials": {}, "switches": {}}
    for entry in dials:
        name, _, value = entry.partition("=")
        try:
            chosen["dials"][name] = float(value)
        except ValueError as error:
            raise SettingsError(f"--dial is {entry}.", "NAME=NUMBER from 0 to 1, such as depth=0.8") from error
    for entry in switches:
        name, _, value = entry.partition("=")
        if value not in _SWITCH_WORDS:
            raise SettingsError(f"--switch is {entry}.", "NAME=on or NAME=off, such as citations=off")
        chosen["switches"][name] = _SWITCH_WORDS[value]
    with_controls(NEUTRAL, chosen["dials"], chosen["switches"])
    return {kind: values for kind, values in chosen.items() if values}


def as_row(question_id: str, reply: Reply) -> dict[str, Any]:
    """Return one line of an answers file."""
    fields = reply.fields
    return {
        "id": question_id,
        "answer": reply.text,
        "refused": fields["refused"],
        "citations": [{"document": c["document"], "chunk": c["chunk"]} for c in fields["citations"]],
        "model_version": fields["model_version"],
        "latency_ms": reply.latency_ms,
    }


def _batch(
    client: GatewayClient, questions: Path, answers: Path, concurrency: int, model: str, controls: dict[str, Any]
) -> None:
    """Append answers in the order asked; a second call keeps the finished ones and asks the rest."""
    asked = read_lines(questions, "id", "text")
    if len({row["id"] for row in asked}) != len(asked):
        raise SettingsError(f"{questions} has the same id twice.", "an id of its own for each question")
    done = _finished(answers, [row["id"] for row in asked])
    rest = asked[done:]
    answers.parent.mkdir(parents=True, exist_ok=True)
    with answers.open("a") as stream, progress_bar() as progress:
        progress("asking", done, len(asked))
        for number, row in enumerate(_in_order(client, rest, concurrency, model, controls), done + 1):
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
            progress("asking", number, len(asked))
    out.print(f"{len(asked)} answers in {answers} ({done} were there already).")


def _in_order(
    client: GatewayClient, rows: Sequence[dict[str, Any]], concurrency: int, model: str, controls: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    pool = ThreadPoolExecutor(concurrency)
    try:
        futures = [pool.submit(_patiently, client, row["text"], model, controls) for row in rows]
        for row, future in zip(rows, futures, strict=True):
            yield as_row(row["id"], future.result())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _patiently(client: GatewayClient, question: str, model: str, controls: dict[str, Any]) -> Reply:
    """Ask again while the engine restarts or is swapped."""
    for attempt in range(1, _ATTEMPTS):
        try:
            return client.ask(question, model, controls)
        except EngineError:
            time.sleep(5.0 * attempt)
    return client.ask(question, model, controls)


def _finished(answers: Path, ids: Sequence[str]) -> int:
    """Return how many answers are there already, and cut off a line that was not finished.

    Raises SettingsError when the file holds answers to other questions.
    """
    if not answers.is_file():
        return 0
    raw = answers.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if whole != raw:
        answers.write_bytes(whole)
    there = [str(json.loads(line)["id"]) for line in whole.splitlines()]
    if there != list(ids[: len(there)]):
        raise SettingsError(
            f"{answers} holds answers to other questions.",
            "the answers of an earlier run",
            "name another --answers file",
        )
    return len(there)
