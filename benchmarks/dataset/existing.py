"""Measures how well existing answers find their passages: `python -m benchmarks.dataset.existing`.

The development questions of `benchmarks/questions` name the section that answers them. Each set is matched to its own
documents (how many are matched, and how many of these to the right page and section) and to those of another set (how
many are matched although no passage answers them).
"""

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.questions.measure import SETS, read_lines
from ragtune.backends.catalog import retriever_from
from ragtune.dataset.existing import match_pairs
from ragtune.knowledge.chunking import chunk_documents
from ragtune.knowledge.indexing import update_index
from ragtune.knowledge.retrieval import Retriever
from ragtune.knowledge.sources import read_sources
from ragtune.ports import silent
from ragtune.records import ExistingPair, Hit
from ragtune.settings import load_settings

FOLDERS = {
    "manual": "manual",
    "releases": "releases",
    "faq": "faq",
    "german": "manual-de",
    "french": "manual-fr",
}
FOREIGN = {"manual": "releases", "releases": "manual", "faq": "manual", "german": "french", "french": "german"}
ROOT = Path(__file__).parents[2]


def main() -> None:
    """Match, count and print; write the counts if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    parser.add_argument("--show", action="store_true", help="print every pair that is not matched to its section")
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        retrievers = {name: indexed(Path(folder, name), name) for name in FOLDERS}
        for name in FOLDERS:
            questions = [row for row in read_lines(SETS / f"{name}.dev.jsonl") if row["answerable"] and row["sources"]]
            questions = [row for row in questions if row["answers"] and not row["history"]]
            own = measure(questions, retrievers[name], options.show)
            foreign = measure(questions, retrievers[FOREIGN[name]], options.show)
            results[name] = {"n": len(questions), **own, "matched in other documents": foreign["matched"]}
    print(json.dumps(results, indent=1))
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")


def indexed(home: Path, name: str) -> Retriever:
    """Return a retriever over the documents of a set, in a home of its own."""
    settings = load_settings({"home": home})
    retriever = retriever_from(settings)
    documents = read_sources([f"folder:{ROOT / 'examples' / FOLDERS[name]}"]).documents
    chunks = chunk_documents(documents, settings.chunking, retriever.embedder.count_tokens)
    update_index(retriever.index, retriever.embedder, chunks, silent)
    return retriever


def measure(questions: list[dict[str, Any]], retriever: Retriever, show: bool) -> dict[str, int]:
    """Return how many questions were matched, and how many of these to the right page and the right section."""

    def search(queries: Any, limit: int) -> list[list[Hit]]:
        return retriever.search_many(queries, limit, "text")

    pairs = [
        ExistingPair(source="pairs:dev", place=row["id"], question=row["question"], answer=row["answers"][0])
        for row in questions
    ]
    matches = match_pairs(pairs, search)
    chunks = {hit.chunk.id: hit.chunk for hits in search([pair.question for pair in pairs], 200) for hit in hits}
    counts = {"matched": 0, "right page": 0, "right section": 0}
    for row, match in zip(questions, matches, strict=True):
        chunk = chunks.get(match.pair.chunk_id) if match.pair else None
        section = f"{chunk.path}#{slug(''.join(chunk.heading_path[-1:]))}" if chunk else ""
        is_right = section in row["sources"]
        counts["matched"] += chunk is not None
        counts["right page"] += section.split("#")[0] in {source.split("#")[0] for source in row["sources"]}
        counts["right section"] += is_right
        if show and not is_right:
            print(row["question"], "|", row["answers"][0], "|", row["sources"], "|", section or match.reason)
    return counts


def slug(heading: str) -> str:
    """Return a heading as the question sets name sections."""
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())


if __name__ == "__main__":
    main()
