"""Measures how many pairs running text gives and how many of them its best sentence answers; prints a sample to read.

Run: python benchmarks/dataset/prose.py --sample 50 --out benchmarks/dataset
Without --source it reads the Markdown descriptions of the installed packages, except that of RagTune.
"""

import argparse
import json
import random
import re
import tempfile
from dataclasses import replace
from importlib.metadata import distributions
from pathlib import Path

from ragtune.backends.catalog import embedder_from
from ragtune.dataset.checks.quality import check_pairs
from ragtune.dataset.checks.word_overlap import overlap_shares
from ragtune.dataset.extractive.prose_facts import is_project_news
from ragtune.dataset.extractive.writer import ExtractiveWriter
from ragtune.dataset.standalone import stands_alone
from ragtune.knowledge.chunking import chunk_documents
from ragtune.knowledge.sources import read_sources
from ragtune.records import Chunk, content_id
from ragtune.settings import DatasetSettings, load_settings
from ragtune.text.sentences import sentence_spans

_NO_TEXT = re.compile(r"```.*?```|^(?: {4}|\t|#|>|\||[-*+] |\d+[.)] ).*$", re.DOTALL | re.MULTILINE)


def descriptions(folder: Path, shortest: int = 800) -> None:
    """Write the Markdown description of every installed package that has one of more than `shortest` characters."""
    for distribution in distributions():
        metadata = distribution.metadata
        facts = metadata.json  # its keys are lower-case
        text = str(facts.get("description", ""))
        is_markdown = "rst" not in str(facts.get("description_content_type", ""))
        if is_markdown and metadata["Name"] != "ragtune" and len(text) > shortest:
            (folder / f"{metadata['Name']}.md").write_text(text)


def is_running_text(chunk: Chunk) -> bool:
    """Return whether a passage holds a whole sentence outside code, lists, tables and notes on releases."""
    if chunk.duplicate_of or is_project_news(chunk):
        return False
    text = _NO_TEXT.sub("", chunk.text)
    units = (text[start:end] for start, end in sentence_spans(text, 0, len(text)))
    return any(stands_alone(unit, fewest=6) and re.match(r"[A-Z`].*[.!?]$", unit, re.DOTALL) for unit in units)


def main() -> None:
    """Measure, print the results and write `prose.json`; with --sample also print pairs to read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", action="append", default=[], help="a source of documents; may be repeated")
    parser.add_argument("--sample", type=int, default=0, help="number of pairs to print")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path, help="folder for prose.json")
    arguments = parser.parse_args()
    settings = load_settings()
    with tempfile.TemporaryDirectory() as folder:
        descriptions(Path(folder))
        documents = read_sources(arguments.source or [f"folder:{folder}"]).documents
    # The seeded choices depend on the ids, so the ids must not depend on the temporary folder.
    documents = [replace(document, id=content_id("prose", Path(document.path).name)) for document in documents]
    chunks = chunk_documents(documents, settings.chunking, embedder_from(settings).count_tokens)
    written = ExtractiveWriter(arguments.seed).write(chunks)
    pairs = [pair for pair in check_pairs(written, chunks, DatasetSettings(min_pairs=1)).pairs if pair.answerable]
    shares, running = overlap_shares(pairs, chunks), sum(is_running_text(chunk) for chunk in chunks)
    result = {
        "documents": len(documents),
        "passages": len(chunks),
        "passages of running text": running,
        "pairs": len(pairs),
        "pairs per passage of running text": round(len(pairs) / max(running, 1), 3),
        "best sentence answers": round(sum(share * n for share, n in shares.values()) / max(len(pairs), 1), 3),
        "kinds": {kind: {"pairs": n, "best sentence answers": round(share, 2)} for kind, (share, n) in shares.items()},
        "seed": arguments.seed,
    }
    print(json.dumps(result, indent=2))
    if arguments.out:
        (arguments.out / "prose.json").write_text(json.dumps(result, indent=2) + "\n")
    for pair in random.Random(arguments.seed).sample(pairs, min(arguments.sample, len(pairs))):
        print(f"| {pair.kind} | {pair.question} | {pair.answer} |")


if __name__ == "__main__":
    main()
