"""Answers a question set without a gateway: the answering path over an index and any chat model."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ragtune.answer.answering import Answerer, Prepared, generate
from ragtune.answer.passages import search_text
from ragtune.answer.units import chunk_units
from ragtune.backends.catalog import line_similarity_from, retriever_from
from ragtune.ports import ChatModel, Embedder, EvidenceModel
from ragtune.records import Answer, Completion, Message
from ragtune.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = {
    "manual": "examples/manual",
    "german": "examples/manual-de",
    "french": "examples/manual-fr",
    "faq": "examples/faq",
    "releases": "examples/releases",
}
"""Folders of the sets whose documents are part of this project; another set needs `--source`."""
Question = dict[str, Any]


def settings_of(set_name: str, homes: Path, sources: Sequence[str]) -> Settings:
    """Return the settings of a home with the documents of a set."""
    name = set_name.partition(".")[0]
    if not sources and name not in DOCUMENTS:
        raise SystemExit(f"{name} has no documents here: give --source folder:PATH or package:NAME")
    specs = list(sources) or [f"folder:{ROOT / DOCUMENTS[name]}"]
    return load_settings({"home": homes / name, "sources": specs})


def answerer_of(settings: Settings, evidence: EvidenceModel | None) -> Answerer:
    """Return the answering path over the home's index, which is built if there is none."""
    from ragtune.knowledge.library import Library
    from ragtune.ports import silent
    from ragtune_serving.commands.documents import bring_up_to_date

    retriever = retriever_from(settings)
    if not retriever.index.versions():
        bring_up_to_date(settings, Library(settings).read([]).documents, silent)
    return Answerer(retriever, settings.answer, line_similarity_from(settings), evidence)


def answer_all(
    questions: Sequence[Question],
    answerer: Answerer,
    embedder: Embedder,
    chat: ChatModel | None,
    texts: dict[str, dict[str, Any]],
    concurrency: int,
) -> Iterator[dict[str, Any]]:
    """Yield a row per question in their order.

    `texts` holds earlier rows by id; their model texts are used again instead of asking the model.
    """

    def answer(question: Question) -> dict[str, Any]:
        history = [Message(turn["role"], turn["content"]) for turn in question["history"]]
        prepared = answerer.prepare(question["question"], history)
        again = None  # an earlier run has no text of a second try
        if stored := texts.get(question["id"]):
            completion = _completion(stored)
        elif chat is None:
            raise SystemExit(f"The file of model texts has no row for {question['id']}.")
        else:
            # What the model would write counts, too, if the product refuses before it writes.
            completion = generate(chat, replace(prepared, refused_at_once=False))
            again = partial(generate, chat, seed=1)
        best = most_similar_unit(prepared, search_text(question["question"], history), embedder)
        answer = answerer.conclude(prepared, completion, again)
        answer = replace(answer, completion=replace(answer.completion, text=completion.text))
        return row_of(question["id"], answer, best, chat.name if chat else "stored")

    with ThreadPoolExecutor(concurrency) as pool:
        yield from pool.map(answer, questions)


def row_of(question_id: str, answer: Answer, best: str, model: str) -> dict[str, Any]:
    """Return the row that the report stores for an answer."""
    return {
        "id": question_id,
        "model_text": answer.completion.text,
        "finish_reason": answer.completion.finish_reason,
        "answer": answer.text,
        "refused": answer.refused,
        "own_words": answer.own_words,
        "quoted": answer.quoted,
        "failures": [[failure.reason for failure in failures] for failures in (*answer.tries, answer.failures)],
        "cited": [
            {"source": citation.source, "headings": list(citation.headings), "text": citation.text}
            for citation in answer.citations
        ],
        "best": best,
        "model_version": model,
        "seconds": round(answer.completion.total_seconds + answer.retrieval_ms / 1000, 3),
    }


def most_similar_unit(prepared: Prepared, text: str, embedder: Embedder) -> str:
    """Return the unit of the shown passages whose vector is closest to the question's; "" if there is no passage.

    It is what the product has to beat: no language model and nothing that was trained for it.
    """
    units = [unit for hit in prepared.passages or () for unit in chunk_units(hit.chunk)]
    if not units:
        return ""
    vectors = embedder.embed([text, *(unit.scored_text for unit in units)])
    return units[int((vectors[1:] @ vectors[0]).argmax())].text


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of an answers file by id; empty if there is no file."""
    if not path.is_file():
        return {}
    rows = [json.loads(line) for line in path.read_text().split("\n") if line.strip()]
    return {row["id"]: row for row in rows}


def _completion(row: dict[str, Any]) -> Completion:
    return Completion(
        text=row["model_text"],
        prompt_tokens=0,
        completion_tokens=0,
        first_token_seconds=0.0,
        total_seconds=0.0,
        finish_reason=row["finish_reason"],
    )
