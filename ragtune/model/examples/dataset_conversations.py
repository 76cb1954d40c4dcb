"""Builds the conversations of a dataset's splits: what training, calibration and measurements of models read."""

from collections.abc import Sequence
from dataclasses import dataclass

from ragtune.answer.lines import LineSimilarity
from ragtune.answer.passages import Search, hits_needed
from ragtune.dataset.corrections import CORRECTION
from ragtune.evaluation.out_of_domain import FixedPassages, OutOfDomainQuestion
from ragtune.knowledge.retrieval import Retriever
from ragtune.model.examples.builder import ExampleBuilder
from ragtune.model.examples.example import TrainingExample
from ragtune.model.examples.mixture import REPLAY
from ragtune.model.examples.order import interleave
from ragtune.model_settings import TrainingSettings
from ragtune.ports import EvidenceModel, Progress, silent
from ragtune.records import Chunk, Hit, Split, SplitItem, content_id
from ragtune.settings import Settings

_PACKED_ROW = 2
"""Examples in a packed row of the default `training.max_tokens`. A guess by hand; rows with more start a new epoch."""
_SEARCH_BATCH = 64
"""Questions searched for at once. Chosen by hand; larger batches hardly embed faster on two cores."""


@dataclass(frozen=True, slots=True)
class DatasetConversations:
    """What the conversations of a dataset are built from: its passages, and what finds and chooses them in use."""

    passages: Sequence[Chunk]
    retriever: Retriever
    similarity: LineSimilarity
    evidence: EvidenceModel
    settings: Settings

    def of_split(
        self, items: Sequence[SplitItem], split: Split, together: int = 1, progress: Progress = silent
    ) -> list[TrainingExample]:
        """Return a split's conversations, people's corrections first so that no time limit leaves them out.

        Questions that people asked come before written ones if there are more than training can use. Up to `together`
        questions share a prompt.
        """
        settings = self.settings
        rank, seed = {"feedback": 0, "people": 1, "writer": 2}, str(settings.seed)
        pairs = [item for item in items if item.split == split]
        pairs.sort(key=lambda item: (rank[item.pair.origin], content_id(seed, item.pair.id)))
        limit = example_limit(settings.training, split)
        pairs = pairs[: together * limit]
        questions = [item.pair.question for item in pairs]
        search = batched_search(self.retriever, questions, hits_needed(settings.answer.passages))
        builder = ExampleBuilder(
            self.passages,
            search,
            settings.answer,
            settings.seed,
            similarity=self.similarity,
            evidence=self.evidence,
        )
        conversations = builder.build(pairs, together, limit, progress)
        return sorted(conversations, key=lambda example: example.kind != CORRECTION)

    def with_replay(
        self,
        items: Sequence[SplitItem],
        split: Split,
        replay: Sequence[OutOfDomainQuestion],
        together: int = 1,
        progress: Progress = silent,
    ) -> list[TrainingExample]:
        """Return a split's conversations with questions about something else spread among them.

        Training and validation get different questions.
        """
        own, training = self.of_split(items, split, together, progress), self.settings.training
        first = replay_limit(training, "validation")
        questions = replay[first:] if split == "train" else replay[:first]
        passages = {chunk.id: chunk for question in questions for chunk in question.passages}
        builder = ExampleBuilder(
            passages.values(),
            FixedPassages(questions).search,
            self.settings.answer,
            self.settings.seed,
            REPLAY,
            self.similarity,
            self.evidence,
        )
        others = builder.build(
            [SplitItem(question.pair, split, question.pair.document_id) for question in questions], together
        )
        return interleave(own, others, training.replay_share, example_limit(training, split))


def batched_search(retriever: Retriever, questions: Sequence[str], limit: int) -> Search:
    """Return a search that looks up the questions in batches as they are needed, and any other text by itself."""
    queue = list(dict.fromkeys(questions))
    places = {question: place for place, question in enumerate(queue)}
    hits: dict[str, list[Hit]] = {}

    def search(question: str, count: int) -> list[Hit]:
        if question not in hits:
            start = places.get(question)
            batch = [question] if start is None else queue[start : start + _SEARCH_BATCH]
            hits.update(zip(batch, retriever.search_many(batch, limit), strict=True))
        return hits[question][:count]

    return search


def example_limit(settings: TrainingSettings, split: Split) -> int:
    """Return how many examples of a split training can use; a packed row is taken for two."""
    rows = settings.max_steps * settings.rows_per_step
    most = rows * (_PACKED_ROW if settings.packing else 1)
    return most if split == "train" else max(settings.validation_examples, settings.eval_answers)


def replay_limit(settings: TrainingSettings, split: Split) -> int:
    """Return how many of a split's examples are about something else."""
    return int(example_limit(settings, split) * settings.replay_share)
