"""Trains the shipped reading adapter on people's questions: `python -m grounding.train DIR`.

DIR holds the public question sets that the model card names. The settings are in `grounding/people.yaml`. What is
done already is not done again: documents are read once, passages embedded once, and a killed training goes on.
"""

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from grounding.collection import STORIES, Collection, build_collection
from ragtune.answer.lines import LineSimilarity
from ragtune.answer.passages import hits_needed
from ragtune.backends.catalog import (
    embedder_from,
    evidence_from,
    line_similarity_from,
    retriever_over,
    search_index_from,
)
from ragtune.draws import draw
from ragtune.knowledge.indexing import update_index
from ragtune.knowledge.retrieval import Retriever
from ragtune.model.base.capacity import Machine
from ragtune.model.base.pretrained import resolve_base_model
from ragtune.model.examples.builder import ExampleBuilder
from ragtune.model.examples.dataset_conversations import batched_search
from ragtune.model.examples.example import TrainingExample
from ragtune.model.examples.mixture import DEFAULT
from ragtune.model.training.sft import TrainingJob, train_adapter
from ragtune.model.training.tracking import MlflowTracker
from ragtune.ports import EvidenceModel
from ragtune.records import QAPair, SplitItem
from ragtune.settings import Settings, load_settings, prepare_process
from ragtune.store.artifacts import ArtifactStore

_TEMPLATE_SHARE = 0.3
"""Share of the training pairs that the rule-based writer makes; at most a third, so that people's wording leads."""
_VALIDATION_SHARE = 0.04
"""Titles and pages whose questions only validate. Chosen by hand: they give some hundred questions."""

_ANSWERED = replace(DEFAULT, removed_lines=0.0, missed=0.0)
"""People's questions are never refused in training: a small model learns the share of refusals and not the passages
(docs/decisions/peoples-questions.md). Evidence decides about refusals."""


@dataclass(frozen=True, slots=True)
class Conversations:
    """Training and validation conversations."""

    train: list[TrainingExample]
    validation: list[TrainingExample]


def main() -> None:
    """Build the collection, its index and the conversations, and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("questions", type=Path, help="folder with the public question sets")
    parser.add_argument("--out", type=Path, help="folder for the adapter; default: `adapter` in the home")
    options = parser.parse_args()
    prepare_process()
    settings = load_settings()
    embedder = embedder_from(settings)
    collection = build_collection(options.questions, settings, embedder, report_progress)
    say(f"{len(collection.chunks):,} passages; left out: {dict(collection.left_out) or 'nothing'}")
    index = search_index_from(settings, embedder)
    update_index(index, embedder, collection.chunks, report_progress)
    retriever = retriever_over(index, embedder, settings)
    similarity = LineSimilarity(line_similarity_from(settings).embedder, kept_chunks=len(collection.chunks))
    conversations = build_conversations(collection, retriever, similarity, evidence_from(settings), settings)
    describe(conversations)
    train(conversations, settings, options.out or settings.home / "adapter")


def build_conversations(
    collection: Collection,
    retriever: Retriever,
    similarity: LineSimilarity | None,
    evidence: EvidenceModel | None,
    settings: Settings,
) -> Conversations:
    """Return the conversations for training and validation; a title is in one of them only."""
    seed = settings.seed
    people = collection.people
    held_out = {pair.document_id for pair in people if draw(seed, "validation", pair.document_id) < _VALIDATION_SHARE}
    training = [pair for pair in people if pair.answerable and pair.document_id not in held_out]
    count = round(len(training) * _TEMPLATE_SHARE / (1 - _TEMPLATE_SHARE))
    templates = [pair for pair in collection.templates if pair.document_id not in held_out]
    templates = sorted(templates, key=lambda pair: draw(seed, "template", pair.id))[:count]
    validation = [pair for pair in people if pair.document_id in held_out and pair.answerable and pair.kind != STORIES]
    validation.sort(key=lambda pair: draw(seed, "validate", pair.id))

    def conversations(pairs: Sequence[QAPair], together: int) -> list[TrainingExample]:
        search = batched_search(retriever, [pair.question for pair in pairs], hits_needed(settings.answer.passages))
        builder = ExampleBuilder(
            collection.chunks, search, settings.answer, seed, _ANSWERED, similarity=similarity, evidence=evidence
        )
        items = [SplitItem(pair, "train", pair.document_id) for pair in pairs]
        return builder.build(items, together, progress=report_progress)

    # Pairs of one document in a row search for the same passages, whose lines are embedded once.
    ordered = sorted((*training, *templates), key=lambda pair: (pair.document_id, draw(seed, "order", pair.id)))
    answerable = [
        example
        for example in conversations(validation[: 3 * settings.training.validation_examples], 1)
        if example.evidence
    ]
    return Conversations(
        conversations(ordered, settings.training.together), answerable[: settings.training.validation_examples]
    )


def describe(conversations: Conversations) -> None:
    """Print what the conversations are made of."""
    every = [x for example in conversations.train for x in (example, *example.siblings)]
    kinds = Counter(example.kind for example in every)
    refused = sum(example.messages[-1].content.startswith("I could not find") for example in every)
    say(
        f"{len(conversations.train):,} prompts with {len(every):,} questions, {refused:,} refused; "
        f"{len(conversations.validation)} for validation; {dict(kinds.most_common())}"
    )


def train(conversations: Conversations, settings: Settings, out: Path) -> None:
    """Train from `training.start_from` and write the adapter to `out`."""
    base = resolve_base_model(settings.base_model, ArtifactStore(settings.home / "artifacts"), report_progress)
    tracker = MlflowTracker(settings.tracking_url, settings.tracking.experiment, "people", settings.run_files)
    folder = ArtifactStore(settings.home / "artifacts").folder(base)
    job = TrainingJob(
        base=folder,
        settings=settings.training,
        seed=settings.seed,
        out=out,
        checkpoints=settings.home / "work" / "people",
    )
    machine = Machine(settings.device, settings.threads)
    report = train_adapter(job, conversations.train, conversations.validation, tracker, machine, report_progress)
    say(f"{report.steps} steps in {report.seconds / 60:.1f} minutes, stopped by {report.stopped_by}: {out}")


def say(text: str) -> None:
    """Print a line with the time."""
    print(time.strftime("%X"), text, flush=True)


_last_report = [0.0]


def report_progress(what: str, done: int, total: int) -> None:
    """Print progress at most every ten seconds."""
    if time.monotonic() - _last_report[0] > 10:
        _last_report[0] = time.monotonic()
        say(f"{what}: {done} of {total}")


if __name__ == "__main__":
    main()
