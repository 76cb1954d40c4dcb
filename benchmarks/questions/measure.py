"""Asks question sets and scores the answers: `python -m benchmarks.questions.measure manual.dev --answers DIR ...`.

It asks a gateway, or without one a chat model through the answering path; README.md in this folder has the commands.
Every answer is written to a file in DIR, so that a run that was interrupted goes on and every answer can be read.
"""

import argparse
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.questions.offline import answer_all, answerer_of, read_rows, settings_of
from ragtune.answer.language_packs import packs
from ragtune.answer.refusals import is_refusal
from ragtune.backends.catalog import embedder_from, engine_from, evidence_from
from ragtune.backends.chat import OpenAIChat
from ragtune.evaluation.resampling import mean_interval
from ragtune.ports import ChatModel
from ragtune.settings import load_settings

SETS = Path(__file__).parent
HOMES = Path(".ragtune/questions")
MOST_WORDS = 40
_YES_NO = frozenset({"yes", "no", "ja", "nein", "oui", "non"})
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def main() -> None:
    """Ask, score and print, set by set."""
    options = _options()
    options.answers.mkdir(parents=True, exist_ok=True)
    questions_of = {name: read_lines(SETS / f"{name}.jsonl") for name in options.set}
    missing_of = {
        name: [question for question in questions if question["id"] not in read_rows(options.answers / f"{name}.jsonl")]
        for name, questions in questions_of.items()
    }
    if any(missing_of.values()):
        _ask(options, missing_of)
    for name, questions in questions_of.items():
        file = options.answers / f"{name}.jsonl"
        print(json.dumps({"set": name, **scores(questions, read_rows(file))}, indent=1), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", nargs="+", help="manual.dev, german.locked, ...")
    parser.add_argument("--answers", type=Path, required=True, help="folder for NAME.jsonl; answers in it are kept")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--homes", type=Path, default=HOMES, help="folder with a home per set; indexes are built there")
    parser.add_argument("--source", action="append", default=[], help="documents of a set, such as package:NAME")
    models = parser.add_mutually_exclusive_group(required=True)
    models.add_argument("--gateway", default="", help="URL of a gateway, such as http://127.0.0.1:8080/v1")
    models.add_argument("--model-folder", type=Path, help="start an engine on this model")
    models.add_argument("--chat-url", default="", help="URL of a server with a chat model, ending in /v1")
    models.add_argument("--texts", type=Path, help="folder of an earlier run whose model texts are used again")
    parser.add_argument("--model", default="ragtune", help="name of the model on the gateway or server")
    parser.add_argument("--key-file", type=Path, help="file with the API key of the gateway or server")
    return parser.parse_args()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON lines file."""
    return [json.loads(line) for line in path.read_text().split("\n") if line.strip()]


def write_rows(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append the rows to the file as they come."""
    with file.open("a") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            stream.flush()


def _ask(options: argparse.Namespace, missing_of: dict[str, list[dict[str, Any]]]) -> None:
    """Answer the missing questions of every set; one engine serves all sets."""
    if options.gateway:
        for name, questions in missing_of.items():
            write_rows(options.answers / f"{name}.jsonl", _gateway_rows(options, questions))
        return
    with _chat(options) as chat:
        for name, questions in missing_of.items():
            settings = settings_of(name, options.homes, options.source)
            answerer, embedder = answerer_of(settings, evidence_from(settings)), embedder_from(settings)
            texts = read_rows(options.texts / f"{name}.jsonl") if options.texts else {}
            rows = answer_all(questions, answerer, embedder, chat, texts, options.concurrency)
            write_rows(options.answers / f"{name}.jsonl", rows)


@contextmanager
def _chat(options: argparse.Namespace) -> Iterator[ChatModel | None]:
    """Yield the chat model that the options name, or None if stored texts are used."""
    if options.texts:
        yield None
    elif options.chat_url:
        key = options.key_file.read_text().strip() if options.key_file else ""
        with OpenAIChat(options.chat_url, key, options.model) as chat:
            yield chat
    else:
        settings = load_settings({"home": options.homes})
        with engine_from(settings).running(options.model_folder.resolve(), "measured") as running:
            yield running.chat()


def _gateway_rows(options: argparse.Namespace, questions: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a row per question; the gateway does not say what the model wrote before the decision."""
    from openai import OpenAI

    key_file = options.key_file or Path(".ragtune/keys/client.key")
    client = OpenAI(base_url=options.gateway, api_key=key_file.read_text().strip(), timeout=120)

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        messages = [*question["history"], {"role": "user", "content": question["question"]}]
        reply = client.chat.completions.create(model=options.model, messages=messages)
        facts = reply.model_extra["ragtune"] if reply.model_extra else {}
        return {
            "id": question["id"],
            "answer": reply.choices[0].message.content or "",
            "refused": facts["refused"],
            "own_words": own_words(reply.choices[0].message.content or "", facts["quotation"]),
            "quoted": facts["quoted"],
            "cited": [{name: cited[name] for name in ("source", "headings", "text")} for cited in facts["citations"]],
            "model_version": facts["model_version"],
        }

    with ThreadPoolExecutor(options.concurrency) as pool:
        yield from pool.map(answer, questions)


def own_words(text: str, quotation: str) -> str:
    """Return what stands before the mark of the quotation, which may name a title and a heading; all without one."""
    if not quotation:
        return text
    before = text.partition(quotation)[0]
    marks = [pack.quotation.partition("{")[0].partition(":")[0].strip() for pack in packs().values()]
    return next((before.rpartition(mark)[0] for mark in marks if mark and mark in before), text)


def scores(questions: Sequence[dict[str, Any]], answers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return shares as [mean, low, high, n], with 95% intervals.

    Answerable questions are resampled by the page that holds their answer. "model" is the text as the model wrote it,
    "right" the answer that people get; "best sentence" is the most similar sentence of the shown passages by the
    packaged embedder alone. A citation counts among the answerable questions that were answered.
    """
    values: dict[str, list[float]] = {}
    pages: dict[str, list[str]] = {}

    def add(name: str, value: bool, page: str) -> None:
        values.setdefault(name, []).append(float(value))
        pages.setdefault(name, []).append(page)

    for question in questions:
        row, accepted = answers[question["id"]], question["answers"]
        if not question["answerable"]:
            add("unanswerable refused", row["refused"], question["id"])
            continue
        page = (question["sources"] or [""])[0].partition("#")[0]
        if "model_text" in row:
            text = row["model_text"]
            add("model right", not is_refusal(text) and is_right(text, accepted), page)
            add("model refused", not text.strip() or is_refusal(text), page)
            add("best sentence right", is_right(row["best"], accepted), page)
        add("right", not row["refused"] and is_right(row["answer"], accepted), page)
        add("right in own words", not row["refused"] and is_right(row["own_words"], accepted), page)
        add("quoted", row["quoted"], page)
        add("answerable refused", row["refused"], page)
        if not row["refused"]:
            add("right passage cited", cites_source(row["cited"], question["sources"]), page)
    facts: dict[str, Any] = {name: interval(values[name], pages[name]) for name in sorted(values)}
    return {**facts, "model_version": sorted({row["model_version"] for row in answers.values()})}


def cites_source(cited: Sequence[dict[str, Any]], sources: Sequence[str]) -> bool:
    """Return whether a cited passage is part of one of the sections, which are named as `page.md#heading`."""
    for citation in cited:
        headings = [*citation["headings"], *_HEADING.findall(citation["text"])]
        anchors = {anchor(heading) for heading in headings}
        for source in sources:
            page, _, section = source.partition("#")
            if Path(citation["source"]).name == page and (section in anchors or not headings):
                return True
    return False


def anchor(heading: str) -> str:
    """Return the link target of a heading as the sets write it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def interval(values: Sequence[float], clusters: Sequence[str]) -> list[float]:
    """Return the mean, its 95% bootstrap interval and n."""
    mean, low, high = mean_interval(values, clusters, samples=2000, seed=17)
    return [round(mean, 3), round(low, 3), round(high, 3), len(values)]


def is_right(answer: str, accepted: Sequence[str]) -> bool:
    """Return whether one of the accepted strings stands in the answer as whole words, in at most 40 words."""
    text = plain(re.sub(r"\[\d+\]", "", answer))
    if len(text.split()) > MOST_WORDS:
        return False
    return any(_stands_in(plain(string), text) for string in accepted)


def _stands_in(string: str, text: str) -> bool:
    if string in _YES_NO:
        return re.match(rf"{string}\b", text) is not None
    return re.search(rf"(?<!\w){re.escape(string)}(?!\w)", text) is not None


def plain(text: str) -> str:
    """Return the text in lower case, with plain quotes and dashes, single spaces and no emphasis."""
    folded = unicodedata.normalize("NFKC", text).casefold().translate(str.maketrans("‘’“”–—−", "''\"\"---"))
    return " ".join(re.sub(r"[*_`]", "", folded).split())


if __name__ == "__main__":
    main()
