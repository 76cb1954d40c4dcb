"""Asks a gateway a set of questions and scores the answers: `python -m benchmarks.questions.measure manual.dev`.

Needs a home whose index holds the documents of the set, and `ragtune serve` on it. Every answer is written to
`--answers`, so that a run that was interrupted goes on and every answer can be read. How an answer is judged stands in
the README of this folder.
"""

import argparse
import json
import re
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ragtune.evaluation.resampling import mean_interval

SETS = Path(__file__).parent
MOST_WORDS = 40
_YES_NO = frozenset({"yes", "no", "ja", "nein", "oui", "non"})


def main() -> None:
    """Ask, score and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", help="manual.dev, german.locked, ...")
    parser.add_argument("--answers", type=Path, required=True, help="a JSON lines file; answers in it are kept")
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
    parser.add_argument("--key-file", type=Path, default=Path(".ragtune/keys/client.key"))
    parser.add_argument("--model", default="ragtune")
    parser.add_argument("--concurrency", type=int, default=4)
    options = parser.parse_args()
    questions = read_lines(SETS / f"{options.set}.jsonl")
    known = {row["id"] for row in read_lines(options.answers)} if options.answers.is_file() else set()
    ask(options, [question for question in questions if question["id"] not in known])
    answers = {row["id"]: row for row in read_lines(options.answers)}
    print(json.dumps({"set": options.set, **scores(questions, answers)}, indent=1))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON lines file."""
    return [json.loads(line) for line in path.read_text().split("\n") if line.strip()]


def ask(options: argparse.Namespace, questions: Sequence[dict[str, Any]]) -> None:
    """Append the answers to the questions to the file, in their order."""
    from openai import OpenAI

    client = OpenAI(base_url=options.url, api_key=options.key_file.read_text().strip(), timeout=120)

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        messages = [*question["history"], {"role": "user", "content": question["question"]}]
        reply = client.chat.completions.create(model=options.model, messages=messages)
        facts = reply.model_extra["ragtune"] if reply.model_extra else {}
        return {
            "id": question["id"],
            "answer": reply.choices[0].message.content or "",
            "refused": facts["refused"],
            "cited": [citation["title"] for citation in facts["citations"]],
            "model_version": facts["model_version"],
        }

    with ThreadPoolExecutor(options.concurrency) as pool, options.answers.open("a") as file:
        for row in pool.map(answer, questions):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()


def scores(questions: Sequence[dict[str, Any]], answers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return shares with 95% intervals and n; questions are resampled by the page that holds their answer."""
    right, refused, held = [], [], []
    pages, pages_held = [], []
    for question in questions:
        row = answers[question["id"]]
        if question["answerable"]:
            pages.append((question["sources"] or [""])[0].partition("#")[0])
            right.append(float(not row["refused"] and is_right(row["answer"], question["answers"])))
            refused.append(float(row["refused"]))
        else:
            pages_held.append(question["id"])
            held.append(float(row["refused"]))
    return {
        "right": interval(right, pages),
        "answerable refused": interval(refused, pages),
        "unanswerable refused": interval(held, pages_held),
        "model_version": sorted({row["model_version"] for row in answers.values()}),
    }


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
