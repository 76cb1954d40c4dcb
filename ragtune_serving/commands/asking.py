"""`ask`: one question, or a batch that continues after an interruption."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from ragtune.answer.controls import NEUTRAL, with_controls
from ragtune.errors import EngineError, SettingsError
from ragtune.settings import load_settings
from ragtune.text.counts import counted
from ragtune_serving.client import GatewayClient, Reply
from ragtune_serving.commands.documents import read_lines
from ragtune_serving.terminal import out, print_json, progress_bar, stoppable

_ATTEMPTS = 4
_PAUSE_SECONDS = 5.0
"""Pauses of 5, 10 and 15 s between attempts: an engine restarts in about half a minute (`engine.eager`)."""
_LOAD_SECONDS = 300.0
"""How long to wait for a gateway that starts, in addition to `engine.start_timeout`: it loads the index and may have to
make INT8 weights, which takes a minute on two cores. Chosen by hand."""
_SWITCH_WORDS = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}


def ask(
    text: Annotated[str, typer.Argument(help="the question")] = "",
    json_: Annotated[bool, typer.Option("--json", help="print the answer as JSON")] = False,
    dial: Annotated[list[str], typer.Option(help="NAME=VALUE from 0 to 1, such as depth=0.8; may be repeated")] = [],  # noqa: B006
    switch: Annotated[list[str], typer.Option(help="NAME=on or NAME=off, such as citations=off; may be repeated")] = [],  # noqa: B006
    questions: Annotated[
        Path | None, typer.Option(help='a JSON lines file with a batch of questions: one {"id","text"} per line')
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(help="the JSON lines file to write; answers that it already has are kept")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="how many questions of a batch to ask at once")] = 8,
    model: Annotated[str, typer.Option(help="ragtune, ragtune-base or ragtune-raw")] = "ragtune",
) -> None:
    """Ask the gateway a question and show the answer with its citations."""
    if (questions is None) != (answers is None) or bool(text) == (questions is not None):
        raise SettingsError(
            "It is not clear what to ask.",
            'either a "TEXT", or --questions FILE.jsonl together with --answers OUT.jsonl',
        )
    controls = parse_controls(dial, switch)
    settings = load_settings()
    with closing(GatewayClient(settings)) as client:
        with stoppable("The question was not asked."), progress_bar() as progress:
            client.wait_while_starting(settings.engine.start_timeout + _LOAD_SECONDS, progress)
        if questions is not None and answers is not None:
            _batch(client, questions, answers, concurrency, model, controls)
            return
        reply = client.ask(text, model, controls)
    if json_:
        more = {name: reply.fields[name] for name in ("citations", "delivered", "warnings", "quotation", "closest")}
        print_json({**as_row(reply.fields["response_id"], reply), **more})
    else:
        show(reply)


def show(reply: Reply) -> None:
    """Print an answer with its citations, warnings, model version and time."""
    out.print(reply.text)
    for citation in reply.fields["citations"]:
        title = " > ".join([citation["title"], *citation["headings"]])
        page = f", page {citation['page']}" if citation["page"] else ""
        out.print(f"  [{citation['number']}] {title}  ({citation['source']}{page})")
    for passage in reply.fields["closest"]:
        out.print(f"  closest: {passage['title']}  ({passage['source']}): {passage['sentence']}", style="dim")
    for warning in reply.fields["warnings"]:
        out.print(f"  note: {warning}", style="yellow")
    out.print(
        f"  version {reply.fields['model_version']}, {reply.latency_ms:.0f} ms, response {reply.fields['response_id']}",
        style="dim",
    )


def parse_controls(dials: Sequence[str], switches: Sequence[str]) -> dict[str, Any]:
    """Return the controls for a request; raise SettingsError with the valid names and values if one is wrong."""
    controls: dict[str, Any] = {"dials": {}, "switches": {}}
    for entry in dials:
        name, _, value = entry.partition("=")
        try:
            controls["dials"][name] = float(value)
        except ValueError as error:
            raise SettingsError(f"--dial is {entry}.", "NAME=NUMBER from 0 to 1, such as depth=0.8") from error
    for entry in switches:
        name, _, value = entry.partition("=")
        if value not in _SWITCH_WORDS:
            raise SettingsError(f"--switch is {entry}.", "NAME=on or NAME=off, such as citations=off")
        controls["switches"][name] = _SWITCH_WORDS[value]
    with_controls(NEUTRAL, controls["dials"], controls["switches"])  # raises for an unknown name or a wrong value
    return {kind: values for kind, values in controls.items() if values}


def as_row(question_id: str, reply: Reply) -> dict[str, Any]:
    """Return one line of an answers file."""
    fields = reply.fields
    return {
        "id": question_id,
        "answer": reply.text,
        "refused": fields["refused"],
        "quoted": fields["quoted"],
        "citations": [
            {name: citation[name] for name in ("document", "chunk", "source")} for citation in fields["citations"]
        ],
        "model_version": fields["model_version"],
        "latency_ms": reply.latency_ms,
    }


def _batch(
    client: GatewayClient, questions: Path, answers: Path, concurrency: int, model: str, controls: dict[str, Any]
) -> None:
    """Append answers in the order of the questions; questions that already have an answer are not asked again."""
    rows = read_lines(questions, "id", "text")
    if len({row["id"] for row in rows}) != len(rows):
        raise SettingsError(f"{questions} has the same id twice.", "a different id for each question")
    done = _count_finished(answers, [row["id"] for row in rows])
    answers.parent.mkdir(parents=True, exist_ok=True)
    kept = f"The answers so far are in {answers}. The same command goes on with the other questions."
    with stoppable(kept), answers.open("a") as stream, progress_bar() as progress:
        progress("asking", done, len(rows))
        for number, answer in enumerate(_answers_in_order(client, rows[done:], concurrency, model, controls), done + 1):
            stream.write(json.dumps(answer, ensure_ascii=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
            progress("asking", number, len(rows))
    out.print(f"{counted(len(rows), 'answer')} in {answers}, {done} of them from an earlier run.")


def _answers_in_order(
    client: GatewayClient, rows: Sequence[dict[str, Any]], concurrency: int, model: str, controls: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    pool = ThreadPoolExecutor(concurrency)
    try:
        futures = [pool.submit(_ask_with_retries, client, row["text"], model, controls) for row in rows]
        for row, future in zip(rows, futures, strict=True):
            yield as_row(row["id"], future.result())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _ask_with_retries(client: GatewayClient, question: str, model: str, controls: dict[str, Any]) -> Reply:
    """Ask, and ask again after a pause while the engine restarts or is swapped."""
    for attempt in range(1, _ATTEMPTS):
        try:
            return client.ask(question, model, controls)
        except EngineError:
            time.sleep(_PAUSE_SECONDS * attempt)
    return client.ask(question, model, controls)


def _count_finished(answers: Path, ids: Sequence[str]) -> int:
    """Return how many answers the file already has, and remove an incomplete last line from it.

    Raises SettingsError if the file contains answers to other questions.
    """
    if not answers.is_file():
        return 0
    content = answers.read_bytes()
    complete_lines = content[: content.rfind(b"\n") + 1]
    if complete_lines != content:
        answers.write_bytes(complete_lines)
    finished_ids = [str(json.loads(line)["id"]) for line in complete_lines.splitlines()]
    if finished_ids != list(ids[: len(finished_ids)]):
        raise SettingsError(
            f"{answers} contains answers to other questions.",
            "the answers of an earlier run of the same batch",
            "choose another --answers file",
        )
    return len(finished_ids)
