"""Lets a language model write pairs from chunks, and judge them.

The model must quote the words that hold the answer; a quote that does not stand in the
passages makes the pair worthless and it is dropped.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ragtune.draws import draw
from ragtune.language_model import LanguageModel, Usage
from ragtune.ports import PairWriter, Progress, silent
from ragtune.records import Chunk, Message, QAPair, content_id
from ragtune.settings import JudgeSettings, WriterSettings
from ragtune.text.whitespace import collapse_whitespace

Kind = Literal["fact", "definition", "procedure", "reason", "comparison", "condition", "multi", "unanswerable"]
_DIFFICULTY = {"easy": 0.0, "medium": 0.5, "hard": 1.0}
_TOGETHER_SHARE = 0.3

_WRITE = """You write questions and answers to train an assistant that answers from documents.
Write {count} items about the passages. Rules:
- A reader who has not seen the passages must know what is asked: name the object or the subject, never write
  "the function", "this section" or "the passage".
- The answer is short (at most 40 words), true, and follows from the passages alone.
- `quotes` holds the exact words of the passages that prove the answer, one quote per passage used.
- Mix the kinds and difficulties: fact, definition, procedure, reason, comparison, condition.{together}
- {absent}
- `paraphrase` asks the same in quite different words."""
_TOGETHER = " Write at least one item of kind multi that needs two passages."
_ABSENT = (
    "One item has kind unanswerable: a plausible question on the subject that the passages do not answer, "
    "with an empty answer and no quotes."
)
_NO_ABSENT = "Every question is answered by the passages."
_JUDGE = """You judge one question and answer against the passage it was written from. Give three numbers from 0 to 1:
`grounded` (the answer follows from the passage; for an empty answer: the passage does not answer the question),
`clear` (a reader without the passage knows what is asked), `relevant` (the answer answers the question).
Add one short `reason`."""


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


class Judgement(BaseModel):
    """The shape of a judge's reply; numbers in 0..1."""

    model_config = ConfigDict(extra="ignore")

    grounded: float = Field(ge=0, le=1)
    clear: float = Field(ge=0, le=1)
    relevant: float = Field(ge=0, le=1)
    reason: str = ""


class LLMWriter(PairWriter):
    """Writes pairs by a language model; `usage` and `dropped` tell about the last call of `write`."""

    name = "llm"

    def __init__(self, settings: WriterSettings, cache: Path, seed: int, unanswerable_share: float = 0.15) -> None:
        self.settings, self.seed = settings, seed
        self.unanswerable_share = unanswerable_share
        self.model = LanguageModel(settings, WrittenItems, cache, seed)
        self.usage = Usage()
        self.dropped: list[tuple[str, str]] = []

    def write(self, chunks: Sequence[Chunk], progress: Progress = silent) -> list[QAPair]:
        """Return pairs whose quotes stand in their chunks; a budget may end the work early (`usage.stopped`).

        Raises DatasetError when the model answers nothing usable at all.
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
        """Return single chunks, and for some of them the chunk that follows in the same document with it."""
        documents: dict[str, list[Chunk]] = defaultdict(list)
        for chunk in chunks:
            if not chunk.duplicate_of:
                documents[chunk.document_id].append(chunk)
        groups = []
        for found in documents.values():
            found.sort(key=lambda chunk: chunk.position)
            for chunk, following in zip(found, [*found[1:], None], strict=True):
                together = following is not None and draw(self.seed, "together", chunk.id) < _TOGETHER_SHARE
                groups.append([chunk, following] if following is not None and together else [chunk])
        # A budget ends the work somewhere; what was done by then is a fair sample.
        return sorted(groups, key=lambda group: draw(self.seed, "order", group[0].id))

    def _conversation(self, group: Sequence[Chunk]) -> list[Message]:
        count = self.settings.pairs_per_call
        absent = draw(self.seed, "absent", group[0].id) < min(self.unanswerable_share * count, 1.0)
        system = _WRITE.format(
            count=count, together=_TOGETHER if len(group) > 1 else "", absent=_ABSENT if absent else _NO_ABSENT
        )
        passages = "\n\n".join(f"Passage {i}:\n{chunk.embedded_text}" for i, chunk in enumerate(group, 1))
        return [Message("system", system), Message("user", passages)]

    def _pairs(self, item: WrittenItem, group: Sequence[Chunk]) -> list[QAPair]:
        """Return the item as pairs (its paraphrase too), none when it is not proven by the passages."""
        answerable = item.kind != "unanswerable"
        places = [(chunk, span) for quote in item.quotes for chunk in group if (span := find_quote(quote, chunk.text))]
        if answerable and (not places or len(places) < len(item.quotes) or not item.answer.strip()):
            self.dropped.append((item.question, "its quote does not stand in the passages"))
            return []
        if not answerable and item.answer.strip():
            self.dropped.append((item.question, "unanswerable, but with an answer"))
            return []
        chunk, span = places[0] if answerable else (group[0], (0, 0))
        others = tuple(sorted({other.id for other, _ in places if other.id != chunk.id})) if answerable else ()
        questions = [item.question, *([item.paraphrase] if len(item.paraphrase.split()) > 3 else [])]
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
                evidence_ids=others,
            )
            for question in dict.fromkeys(questions)
        ]


class LLMJudge:
    """Scores pairs by a language model, in 0..1: `judge_grounded`, `judge_clear`, `judge_relevant`."""

    def __init__(self, settings: JudgeSettings, cache: Path, seed: int) -> None:
        self.model = LanguageModel(settings, Judgement, cache, seed)

    def judge(self, pairs: Sequence[QAPair], chunks: Sequence[Chunk], progress: Progress = silent) -> list[QAPair]:
        """Return the pairs in their order with the judge's scores; a pair that it did not reach keeps its own."""
        texts = {chunk.id: chunk for chunk in chunks}
        asked = [pair for pair in pairs if pair.chunk_id in texts]
        conversations = [_judging(pair, texts[pair.chunk_id]) for pair in asked]
        replies = self.model.ask_all(conversations, "judging pairs", progress)
        judged = {pair.id: reply for pair, reply in zip(asked, replies, strict=True) if reply is not None}
        return [_judged(pair, judged[pair.id]) if pair.id in judged else pair for pair in pairs]


def _judging(pair: QAPair, chunk: Chunk) -> list[Message]:
    said = f"Passage:\n{chunk.embedded_text}\n\nQuestion: {pair.question}\nAnswer: {pair.answer}"
    return [Message("system", _JUDGE), Message("user", said)]


def _judged(pair: QAPair, judgement: Judgement) -> QAPair:
    found = {f"judge_{name}": getattr(judgement, name) for name in ("grounded", "clear", "relevant")}
    return replace(pair, scores={**pair.scores, **found})


def find_quote(quote: str, text: str) -> tuple[int, int] | None:
    """Return where a quote stands in a text, whatever its white space, case and last full stop; None if nowhere."""
    words = [re.escape(word) for word in quote.strip().strip("\"'").rstrip(".").split()]
    found = re.search(r"\s+".join(words), text, re.IGNORECASE) if words else None
    return found.span() if found else None
