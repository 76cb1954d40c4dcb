"""Publishes a dataset as a folder with a Parquet file per split, a card and hashes, and compares two versions.

Hugging Face's `load_dataset(folder)` reads the folder. Equal items give equal bytes.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ragtune.dataset.checks.expectations import ExpectationResult
from ragtune.dataset.question_words import question_words
from ragtune.dataset.splits import topic_balance
from ragtune.errors import DatasetError
from ragtune.records import ORIGINS, SPLITS, Chunk, Document, QAPair, SplitItem
from ragtune.store.artifacts import file_sha256, write_json

FORMAT = 1
FIELDS = (
    ("id", "16 hex digits of the SHA-256 of chunk, question and answer"),
    ("question", "what is asked; it names its object, so that it stands alone"),
    ("answer", "the words of the span, white space folded; empty for an unanswerable question"),
    ("kind", "sort of question: purpose, parameter, default, type, returns, raises, ... or unanswerable.*"),
    ("answerable", "whether the documents answer it"),
    ("context", "the text of the chunk that holds the answer, or that looks relevant and does not"),
    ("title", "title of the document"),
    ("document_id", "id of the document"),
    ("chunk_id", "id of the chunk"),
    ("span_start", "first character of the answer in the context, 0 for unanswerable questions"),
    ("span_end", "character behind the answer"),
    ("topic", "topic of the document"),
    ("writer", "extractive, llm, people, review or feedback"),
    ("template", "wording that the question was made from, empty for others"),
    ("evidence_ids", "further chunks that the answer needs"),
    ("feedback_id", "feedback row that a correction came from"),
    ("imported_from", "file and place of a pair that people wrote before"),
    ("scores", "JSON: figures of the pair in 0..1"),
    ("split", "train, validation, gate or test"),
    ("cluster", "smallest id in the cluster of near duplicates that decided the split: of documents or of sections"),
)


@dataclass(frozen=True, slots=True)
class DatasetDiff:
    """What changed between two versions of a dataset.

    `moved` are the pairs whose split changed, `changed` those whose question stayed and whose id did not; both have
    (old item, new item). `unchanged` is the number of pairs that are as before.
    """

    added: list[SplitItem]
    removed: list[SplitItem]
    moved: list[tuple[SplitItem, SplitItem]]
    changed: list[tuple[SplitItem, SplitItem]]
    unchanged: int

    def __str__(self) -> str:
        """Return a summary in one line."""
        return (
            f"{len(self.added)} added, {len(self.removed)} removed, "
            f"{len(self.changed)} reworded or answered differently, "
            f"{len(self.moved)} moved to another split, {self.unchanged} as before"
        )


def diff_items(old: Sequence[SplitItem], new: Sequence[SplitItem]) -> DatasetDiff:
    """Return what changed; a pair with the same question but another id counts as changed, not as added."""
    before, after = ({item.pair.id: item for item in items} for items in (old, new))
    removed = {_question_key(item.pair): item for pair_id, item in before.items() if pair_id not in after}
    added, changed = [], []
    for pair_id, item in after.items():
        if pair_id in before:
            continue
        previous = removed.pop(_question_key(item.pair), None)
        if previous is None:
            added.append(item)
        else:
            changed.append((previous, item))
    same = [(before[pair_id], item) for pair_id, item in after.items() if pair_id in before]
    moved = [(previous, item) for previous, item in [*same, *changed] if previous.split != item.split]
    unchanged = sum(previous.split == item.split for previous, item in same)
    return DatasetDiff(added, list(removed.values()), moved, changed, unchanged)


def _question_key(pair: QAPair) -> tuple[str, ...]:
    return (pair.kind, *sorted(question_words(pair.question)))


def items_sha256(items: Sequence[SplitItem]) -> str:
    """Return a hash of the items that does not depend on their order."""
    lines = sorted(json.dumps(asdict(item), sort_keys=True) for item in items)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def publish(
    folder: Path,
    items: Sequence[SplitItem],
    chunks: Sequence[Chunk],
    documents: Sequence[Document],
    results: Sequence[ExpectationResult],
    seed: int,
) -> str:
    """Write `data/*.parquet`, the card `README.md` and then `dataset.json`; return the hash of the items.

    `dataset.json` comes last, so a folder that has it is complete.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    chunk_by_id = {chunk.id: chunk for chunk in chunks}
    (folder / "data").mkdir(parents=True, exist_ok=True)
    types = {
        "answerable": pa.bool_(),
        "span_start": pa.int32(),
        "span_end": pa.int32(),
        "evidence_ids": pa.list_(pa.string()),
    }
    schema = pa.schema([(name, types.get(name, pa.string())) for name, _ in FIELDS])
    files = {}
    for split in SPLITS:
        rows = [_row(item, chunk_by_id.get(item.pair.chunk_id)) for item in items if item.split == split]
        path = folder / "data" / f"{split}.parquet"
        table = pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["id"])), schema=schema)
        pq.write_table(table, path, compression="zstd")
        files[f"data/{split}.parquet"] = file_sha256(path)
    sha256 = items_sha256(items)
    (folder / "README.md").write_text(card(items, documents, results, seed, sha256), encoding="utf-8")
    files["README.md"] = file_sha256(folder / "README.md")
    counts = Counter(item.split for item in items)
    write_json(
        folder / "dataset.json",
        {"format": FORMAT, "sha256": sha256, "seed": seed, "files": files, "splits": {s: counts[s] for s in SPLITS}},
    )
    return sha256


def read_published(folder: Path) -> list[SplitItem]:
    """Return the items of a published folder, split by split.

    Raises:
        DatasetError: if the folder is not a published dataset, or a file is missing or was changed.
    """
    import pyarrow.parquet as pq

    manifest = folder / "dataset.json"
    if not manifest.is_file():
        raise DatasetError(f"{folder} holds no published dataset.", expected="a folder with dataset.json")
    for name, sha256 in json.loads(manifest.read_text())["files"].items():
        if not (folder / name).is_file() or file_sha256(folder / name) != sha256:
            raise DatasetError(f"{folder / name} is gone or was changed.", expected=f"SHA-256 {sha256}")
    rows = [row for split in SPLITS for row in pq.read_table(folder / "data" / f"{split}.parquet").to_pylist()]
    return [_item(row) for row in rows]


def _item(row: dict[str, Any]) -> SplitItem:
    plain = {name: row[name] for name, _ in FIELDS if name in QAPair.__dataclass_fields__}
    converted = {
        "span": (row["span_start"], row["span_end"]),
        "scores": json.loads(row["scores"]),
        "evidence_ids": tuple(row["evidence_ids"]),
    }
    return SplitItem(QAPair(**{**plain, **converted}), row["split"], row["cluster"])


def _row(item: SplitItem, chunk: Chunk | None) -> dict[str, object]:
    pair = item.pair
    row: dict[str, object] = {name: getattr(pair, name) for name, _ in FIELDS if hasattr(pair, name)}
    return {
        **row,
        "context": chunk.text if chunk else "",
        "title": chunk.title if chunk else "",
        "span_start": pair.span[0],
        "span_end": pair.span[1],
        "evidence_ids": list(pair.evidence_ids),
        "scores": json.dumps(pair.scores, sort_keys=True),
        "split": item.split,
        "cluster": item.cluster,
    }


def card(
    items: Sequence[SplitItem],
    documents: Sequence[Document],
    results: Sequence[ExpectationResult],
    seed: int,
    sha256: str,
) -> str:
    """Return the dataset card: Markdown with the front matter that Hugging Face reads."""
    splits = Counter(item.split for item in items)
    kinds = Counter(item.pair.kind for item in items)
    by_origin = Counter((item.split, item.pair.origin) for item in items)
    origins = {split: [by_origin[split, origin] for origin in ORIGINS] for split in SPLITS}
    document_ids = {item.pair.document_id for item in items}
    sources = Counter(document.source for document in documents if document.id in document_ids)
    topics = [(topic, *counts.values()) for topic, counts in topic_balance(items)]
    files = "\n".join(f"  - split: {split}\n    path: data/{split}.parquet" for split in SPLITS)
    parts = [
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}\ntask_categories:\n- question-answering\n---",
        "# Questions and answers on the documents",
        f"{len(items)} pairs from {len(document_ids)} documents. SHA-256 `{sha256}`, seed {seed}, format {FORMAT}.",
        "The licence of each text is that of its source.",
        "## Splits\n\n"
        + _table(("split", "pairs", *ORIGINS), [(split, splits[split], *origins[split]) for split in SPLITS]),
        "## Topics\n\n" + _table(("topic", *SPLITS), topics),
        "## Sources\n\n" + _table(("source", "documents"), sorted(sources.items())),
        "## Kinds\n\n" + _table(("kind", "pairs"), kinds.most_common()),
        "## Quality\n\n"
        + _table(
            ("expectation", "severity", "held", "observed"),
            [(result.name, result.severity, "yes" if result.success else "NO", result.observed) for result in results],
        ),
        "## Scores\n\n" + _table(("score", "pairs", "mean"), _means(items)),
        "## Fields\n\n" + _table(("field", "meaning"), FIELDS),
    ]
    return "\n\n".join(parts) + "\n"


def _means(items: Sequence[SplitItem]) -> list[tuple[str, int, str]]:
    """Return [(score, number of pairs that have it, mean)] for the card."""
    values_of: dict[str, list[float]] = defaultdict(list)
    for item in items:
        for name, value in item.pair.scores.items():
            values_of[name].append(value)
    return [(name, len(values), f"{sum(values) / len(values):.3f}") for name, values in sorted(values_of.items())]


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    lines += [" | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)
