"""Writes question and answer pairs from chunks with a language model.

The model must quote the words of the passages that prove the answer. A pair with a quote that is in none of the
passages is dropped.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ragtune.draws import draw
from ragtune.language_model import LanguageModel, Usage
from ragtune.ports import PairWriter, Progress, silent
from ragtune.records import Chunk, Message, QAPair, content_id
from ragtune.settings import WriterSettings
from ragtune.text.segments import word_count
from ragtune.text.whitespace import collapse_whitespace

Kind = Literal["fact", "definition", "procedure", "reason", "comparison", "condition", "multi", "unanswerable"]
_DIFFICULTY = {"easy": 0.0, "medium": 0.5, "hard": 1.0}
# Share of the chunks that are shown together with the next one, for questions over two passages; chosen by hand.
_TWO_PASSAGES_SHARE = 0.3

_WRITE = """You write questions and answers to train an assistant that answers from documents.
Write {count} items about the passages. Rules:
- A reader who has not seen the passages must know what is asked: name the object or the subject, never write
  "the function", "this section" or "the passage".
- The answer is short (at most 40 words), true, and follows from the passages alone.
- `quotes` holds the exact words of the passages that prove the answer, one quote per passage used.
- Mix the kinds and difficulties: fact, definition, procedure, reason, comparison, condition.{together}
- {absent}
- `paraphrase` asks the same in quite different words.
- Questions and answers are in the language of the passages."""
_TOGETHER = " Write at least one item of kind multi that needs two passages."
_ABSENT = (
    "One item has kind unanswerable: a plausible question on the subject that the passages do not answer, "
    "with an empty answer and no quotes."
)
_NO_ABSENT = "Every question is answered by the passages."


class WrittenItem(BaseModel):
    """One pair as the model writes it."""

    model_config = ConfigDict(extra="ignore")

    question: str = Field(min_length=8)
    answer: str
    quotes: list[str] = Field(default_factory=list)
    kind: Kind
    difficulty: Literal["easy", "medium", "hard"] = "medium"
    paraphrase: str = ""


class WrittenItems(BaseModel):
    """The shape of a writer's reply."""

    model_config = ConfigDict(extra="ignore")

    items: list[WrittenItem] = Field(min_length=1)


class LLMWriter(PairWriter):
    """Writes pairs with a language model.

    After a call of `write`, `usage` says what it cost and `dropped` lists the questions that were dropped, with the
    reasons.
    """

    name = "llm"

    def __init__(self, settings: WriterSettings, cache: Path, seed: int, unanswerable_share: float = 0.15) -> None:
        self.settings, self.seed = settings, seed
        self.unanswerable_share = unanswerable_share
        self.model = LanguageModel(settings, WrittenItems, cache, seed)
        self.usage = Usage()
        self.dropped: list[tuple[str, str]] = []

    def write(self, chunks: Sequence[Chunk], progress: Progress = silent) -> list[QAPair]:
        """Return pairs whose quotes are in their chunks; a budget may end the work early (`usage.stopped`).

        Raises DatasetError if no request got a usable reply.
        """
        groups = self._groups(chunks)
        replies = self.model.ask_all([self._conversation(group) for group in groups], "asking the model", progress)
        self.usage, self.dropped = self.model.usage, []
        pairs: dict[str, QAPair] = {}
        for group, reply in zip(groups, replies, strict=True):
            for item in reply.items if reply else []:
                for pair in self._pairs(item, group):
                    pairs.setdefault(pair.id, pair)
        return list(pairs.values())

    def _groups(self, chunks: Sequence[Chunk]) -> list[list[Chunk]]:
        """Return groups of one chunk, or of a chunk and the next one of the same document."""
        documents: dict[str, list[Chunk]] = defaultdict(list)
        for chunk in chunks:
            if not chunk.duplicate_of:
                documents[chunk.document_id].append(chunk)
        groups = []
        for document_chunks in documents.values():
            document_chunks.sort(key=lambda chunk: chunk.position)
            for chunk, following in zip(document_chunks, [*document_chunks[1:], None], strict=True):
                if following is not None and draw(self.seed, "together", chunk.id) < _TWO_PASSAGES_SHARE:
                    groups.append([chunk, following])
                else:
                    groups.append([chunk])
        # In a random order, so that what is done when a budget ends the work is a fair sample.
        return sorted(groups, key=lambda group: draw(self.seed, "order", group[0].id))

    def _conversation(self, group: Sequence[Chunk]) -> list[Message]:
        count = self.settings.pairs_per_call
        # One unanswerable item in some requests gives the share over all of them.
        with_unanswerable = draw(self.seed, "absent", group[0].id) < min(self.unanswerable_share * count, 1.0)
        system = _WRITE.format(
            count=count,
            together=_TOGETHER if len(group) > 1 else "",
            absent=_ABSENT if with_unanswerable else _NO_ABSENT,
        )
        passages = "\n\n".join(f"Passage {i}:\n{chunk.embedded_text}" for i, chunk in enumerate(group, 1))
        return [Message("system", system), Message("user", passages)]

    def _pairs(self, item: WrittenItem, group: Sequence[Chunk]) -> list[QAPair]:
        """Return a pair for the item and one for its paraphrase, or none if the passages do not prove the answer."""
        answerable = item.kind != "unanswerable"
        quotes = [(chunk, span) for quote in item.quotes for chunk in group if (span := find_quote(quote, chunk.text))]
        if answerable and (not quotes or len(quotes) < len(item.quotes) or not item.answer.strip()):
            self.dropped.append((item.question, "its quote does not stand in the passages"))
            return []
        if not answerable and item.answer.strip():
            self.dropped.append((item.question, "unanswerable, but with an answer"))
            return []
        chunk, span = quotes[0] if answerable else (group[0], (0, 0))
        evidence = tuple(sorted({other.id for other, _ in quotes if other.id != chunk.id})) if answerable else ()
        questions = [item.question, *([item.paraphrase] if word_count(item.paraphrase) > 3 else [])]
        answer = collapse_whitespace(item.answer)
        return [
            QAPair(
                id=content_id(chunk.id, collapse_whitespace(question), answer),
                question=collapse_whitespace(question),
                answer=answer,
                kind=f"llm.{item.kind}",
                document_id=chunk.document_id,
                chunk_id=chunk.id,
                span=span,
                answerable=answerable,
                topic=chunk.topic,
                writer=self.name,
                scores={"difficulty": _DIFFICULTY[item.difficulty]},
                evidence_ids=evidence,
            )
            for question in dict.fromkeys(questions)
        ]


def find_quote(quote: str, text: str) -> tuple[int, int] | None:
    """Return the span of a quote in a text, or None if it is not there.

    White space, case, quotation marks around the quote and its last full stop may differ.
    """
    words = [re.escape(word) for word in quote.strip().strip("\"'").rstrip(".").split()]
    match = re.search(r"\s+".join(words), text, re.IGNORECASE) if words else None
    return match.span() if match else None
