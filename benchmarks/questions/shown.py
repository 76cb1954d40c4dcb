"""Measures how often what a prompt shows holds the answer to the questions of a set, such as `manual.dev`.

Needs a home whose index holds the documents of the set. No model is asked. The results are in `shown.json`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.questions.measure import plain, read_lines
from ragtune.answer.lines import LineSimilarity
from ragtune.answer.passages import find_passages, search_text
from ragtune.backends.catalog import line_similarity_from, retriever_from
from ragtune.evaluation.resampling import mean_interval
from ragtune.knowledge.retrieval import Retriever
from ragtune.records import Message
from ragtune.settings import load_settings

FOLDER = Path(__file__).parent
_YES_NO = frozenset({"yes", "no", "ja", "nein", "oui", "non"})
_ALL_WORDS = 1_000_000
WAYS = {
    "3 whole passages": (3, _ALL_WORDS, False),
    "6 whole passages": (6, _ALL_WORDS, False),
    "lines of 6, 150 words, by shared words": (6, 150, False),
    "lines of 6, 150 words, by meaning and shared words": (6, 150, True),
}
"""Passages, words in all, and whether the similarity of meaning chooses as well."""


def main() -> None:
    """Measure every way and add the set to `shown.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", help="manual.dev, german.dev, ...")
    parser.add_argument("--home", type=Path, required=True)
    options = parser.parse_args()
    settings = load_settings({"home": options.home})
    questions = [row for row in read_lines(FOLDER / f"{options.set}.jsonl") if row["answerable"] and wanted(row)]
    retriever, similarity = retriever_from(settings), line_similarity_from(settings)
    result = {
        name: measure(questions, retriever, passages, words, similarity if by_meaning else None)
        for name, (passages, words, by_meaning) in WAYS.items()
    }
    path = FOLDER / "shown.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    results[options.set] = {"command": f"python -m benchmarks.questions.shown {options.set} --home HOME", **result}
    path.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
    print(json.dumps(result, indent=1))


def wanted(question: dict[str, Any]) -> list[str]:
    """Return the accepted answers that a passage can hold; a yes or a no stands in none."""
    return [plain(answer) for answer in question["answers"] if plain(answer) not in _YES_NO]


def measure(
    questions: Sequence[dict[str, Any]], retriever: Retriever, count: int, words: int, similarity: LineSimilarity | None
) -> dict[str, Any]:
    """Return the share of questions with an accepted answer in what is shown, its 95% interval, and the mean length.

    Questions are resampled by the page that holds their answer.
    """
    held, lengths = [], []
    for question in questions:
        history = [Message(**turn) for turn in question["history"]]
        text = search_text(question["question"], history)
        hits = find_passages(retriever.search, text, count, words, similarity)
        shown = [f"{hit.chunk.title} {hit.chunk.text if hit.lines is None else hit.lines}" for hit in hits]
        held.append(float(any(answer in plain(text) for text in shown for answer in wanted(question))))
        lengths.append(sum(len(text.split()) for text in shown))
    pages = [(question["sources"] or [""])[0].partition("#")[0] for question in questions]
    mean, low, high = mean_interval(held, pages, samples=2000, seed=17)
    return {
        "share": round(mean, 3),
        "low": round(low, 3),
        "high": round(high, 3),
        "n": len(held),
        "words": round(sum(lengths) / len(lengths)),
    }


if __name__ == "__main__":
    main()
