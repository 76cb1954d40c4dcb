"""Checks an index whose updates are killed: real `ragtune index` processes, SIGKILL at random moments.

    python -m benchmarks.retrieval.faults --kills 100

Before each kill some documents are edited. After it a reader must see a complete state that an update was started for.
At the end an update that is not killed is compared with a clean build of the same documents.
"""

import argparse
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from benchmarks.retrieval.results import chunks_sha256, scratch_settings, write_results
from ragtune.backends.catalog import embedder_from, search_index_from
from ragtune.knowledge.chunking import chunk_documents
from ragtune.knowledge.indexing import chunk_version
from ragtune.knowledge.sources import read_sources
from ragtune.ports import SearchIndex
from ragtune.records import Chunk, Document
from ragtune.settings import Settings, child_environment

WRITING = "writing the index"
State = frozenset[tuple[str, tuple[str, str]]]


@dataclass
class Update:
    """A running `ragtune index`, with the time and the text of each line of its progress."""

    process: "subprocess.Popen[str]"
    began: float = field(default_factory=time.monotonic)
    lines: list[tuple[float, str]] = field(default_factory=list)
    seconds: float = 0.0
    seconds_of_work: float = 0.0

    def watch(self) -> None:
        """Collect progress until the process ends."""
        assert self.process.stderr is not None
        self.lines += ((time.monotonic(), line.strip()) for line in self.process.stderr)

    def reached(self, stage: str) -> float | None:
        """Return the time of the first line about this stage, or None if there is none yet."""
        return next((when for when, text in list(self.lines) if text.startswith(stage)), None)

    def wait_for(self, stage: str) -> None:
        """Wait until the update reports this stage, or ends."""
        while self.reached(stage) is None and self.process.poll() is None:
            time.sleep(0.002)

    def finish(self) -> None:
        """Wait for the end; set `seconds` of the whole command and `seconds_of_work` since its first line."""
        self.process.wait()
        now = time.monotonic()
        self.seconds, self.seconds_of_work = now - self.began, now - self.lines[0][0] if self.lines else 0.0


def start(settings: Settings, source: str) -> Update:
    """Start a real update and return it once it has begun to read."""
    command = [sys.executable, "-m", "ragtune_serving.cli", "index", "--source", source]
    variables = {f"RAGTUNE_INDEX__{name.upper()}": getattr(settings.index, name) for name in ("backend", "url", "name")}
    environment = child_environment(RAGTUNE_HOME=str(settings.home), **variables)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    update = Update(process)
    threading.Thread(target=update.watch, daemon=True).start()
    while not update.lines and process.poll() is None:
        time.sleep(0.01)
    return update


def run(settings: Settings, source: str) -> Update:
    """Run an update to its end and return it; raise RuntimeError if it fails."""
    update = start(settings, source)
    update.finish()
    if update.process.returncode:
        raise RuntimeError(f"The update ended with {update.process.returncode}: {update.lines}")
    return update


def edit(docs: Path, share: float, rng: random.Random, number: int) -> None:
    """Change a share of the documents, delete one of them and add one."""
    files = sorted(docs.iterdir())
    for path in rng.sample(files, max(1, int(share * len(files)))):
        path.write_text(path.read_text() + f"\n\nRevision {number} says: {rng.random()}.\n")
    deleted = rng.choice(files)
    (docs / f"added-{number}.md").write_text(deleted.read_text() + f"\n\nCopied for revision {number}.\n")
    deleted.unlink()


def expected_state(settings: Settings, docs: Path) -> tuple[State, list[Chunk]]:
    """Return (the state of an up-to-date index of the folder, its passages)."""
    chunks = chunk_documents(
        read_sources([f"folder:{docs}"]).documents, settings.chunking, embedder_from(settings).count_tokens
    )
    distinct = [chunk for chunk in chunks if not chunk.duplicate_of]
    return frozenset((chunk.id, (chunk.document_id, chunk_version(chunk))) for chunk in distinct), distinct


def kill_once(settings: Settings, docs: Path, moment: float, allowed: set[State], stage: str = "") -> dict[str, Any]:
    """Kill an update `moment` seconds after the first line of a stage, and return what readers see then."""
    update = start(settings, f"folder:{docs}")
    update.wait_for(stage)
    time.sleep(moment)
    update.process.send_signal(signal.SIGKILL)
    update.process.wait()
    index = open_index(settings)
    is_complete = frozenset(index.versions().items()) in allowed
    hit_ids = {hit.chunk.id for hit in index.search_text("model configuration revision", 50)}
    return {
        "seconds": round(moment, 3),
        "since": stage or "the first line",
        "doing": update.lines[-1][1] if update.lines else "",
        "ended_before": update.process.returncode == 0,
        "whole_state": is_complete,
        "hits_belong_to_it": hit_ids <= index.versions().keys(),
    }


def open_index(settings: Settings) -> SearchIndex:
    """Return a new handle on the index."""
    return search_index_from(settings, embedder_from(settings))


def compare(index: SearchIndex, clean: SearchIndex, chunks: list[Chunk], settings: Settings) -> dict[str, Any]:
    """Return whether two indexes have the same passages, how similar their vectors are, and whether they rank alike."""
    ids = sorted(clean.versions())
    same = index.versions() == clean.versions()
    vectors, clean_vectors = index.vectors(ids), clean.vectors(ids)
    questions = [chunk.text.split("\n")[0] for chunk in chunks[:: max(1, len(chunks) // 100)]]
    question_vectors = embedder_from(settings).embed(questions)
    by_words = [(_ids(index.search_text(q, 10)), _ids(clean.search_text(q, 10))) for q in questions]
    by_vectors = [(_ids(index.search_vector(v, 10)), _ids(clean.search_vector(v, 10))) for v in question_vectors]
    return {
        "same_passages_and_versions": same,
        "passages": len(ids),
        "least_cosine_of_vectors": min(float(np.dot(vectors[name], clean_vectors[name])) for name in ids)
        if same
        else None,
        "questions": len(questions),
        "same_first_ten_by_words": sum(a == b for a, b in by_words),
        "same_first_ten_by_vectors": sum(a == b for a, b in by_vectors),
        "mean_overlap_by_words": mean(_overlap(a, b) for a, b in by_words),
        "mean_overlap_by_vectors": mean(_overlap(a, b) for a, b in by_vectors),
        "unfinished_files": len(list(index.scratch.glob("*"))),
    }


def _ids(hits: list[Any]) -> list[str]:
    return [hit.chunk.id for hit in hits]


def _overlap(one: list[str], other: list[str]) -> float:
    return len({*one} & {*other}) / max(len(one), len(other), 1)


def write_folder(docs: Path, documents: list[Document]) -> None:
    """Write each document as a Markdown file."""
    docs.mkdir()
    for document in documents:
        (docs / f"{document.id}.md").write_text(f"# {document.title}\n\n{document.text}")


def main() -> None:
    """Kill updates, compare, and write `faults.json` next to this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="package:peft", help="the source of the documents")
    parser.add_argument("--documents", type=int, default=150, help="largest number of documents")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument(
        "--share", type=float, default=0.2, help="share of the documents that are edited before each kill"
    )
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with scratch_settings() as settings, scratch_settings() as other:
        docs = settings.home / "docs"
        write_folder(docs, read_sources([options.source]).documents[: options.documents])
        run(settings, f"folder:{docs}")
        edit(docs, options.share, rng, 0)
        undisturbed = run(settings, f"folder:{docs}")
        length = undisturbed.seconds_of_work
        writing = undisturbed.began + undisturbed.seconds - (undisturbed.reached(WRITING) or undisturbed.began)
        state, chunks = expected_state(settings, docs)
        allowed, kills = {state}, []
        for number in range(1, options.kills + 1):
            edit(docs, options.share, rng, number)
            state, chunks = expected_state(settings, docs)
            allowed.add(state)
            # Every second update is killed while it writes the index, which is a small part of its time.
            stage, duration = (WRITING, writing) if number % 2 else ("", length)
            kills.append(kill_once(settings, docs, rng.uniform(0, duration), allowed, stage))
            print(number, kills[-1], flush=True)
        run(settings, f"folder:{docs}")
        clean = other.model_copy(update={"index": other.index.model_copy(update={"name": "ragtune-benchmark-clean"})})
        run(clean, f"folder:{docs}")
        after = compare(open_index(settings), open_index(clean), chunks, settings)
    print(after)
    facts = {
        "n": options.kills,
        "seed": options.seed,
        "documents": options.documents,
        "passages_sha256": chunks_sha256(chunks),
        "undisturbed_update_seconds": round(length, 3),
        "of_which_writing_seconds": round(writing, 3),
    }
    torn = sum(not (kill["whole_state"] and kill["hits_belong_to_it"]) for kill in kills)
    write_results(options.out, settings, facts, {"torn_states": torn, "against_a_clean_build": after, "kills": kills})


if __name__ == "__main__":
    main()
