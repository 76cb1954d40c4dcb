"""Scores question and answer pairs with a language model, one request per pair."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from ragtune.language_model import LanguageModel
from ragtune.ports import Progress, silent
from ragtune.records import Chunk, Message, QAPair
from ragtune.settings import JudgeSettings

_JUDGE = """You judge one question and answer against the passage it was written from. Give three numbers from 0 to 1:
`grounded` (the answer follows from the passage; for an empty answer: the passage does not answer the question),
`clear` (a reader without the passage knows what is asked), `relevant` (the answer answers the question).
Add one short `reason`."""


class Judgement(BaseModel):
    """The shape of a judge's reply; numbers in 0..1."""

    model_config = ConfigDict(extra="ignore")

    grounded: float = Field(ge=0, le=1)
    clear: float = Field(ge=0, le=1)
    relevant: float = Field(ge=0, le=1)
    reason: str = ""


class LLMJudge:
    """Gives pairs the scores `judge_grounded`, `judge_clear` and `judge_relevant`, each in 0..1."""

    def __init__(self, settings: JudgeSettings, cache: Path, seed: int) -> None:
        self.model = LanguageModel(settings, Judgement, cache, seed)

    def judge(self, pairs: Sequence[QAPair], chunks: Sequence[Chunk], progress: Progress = silent) -> list[QAPair]:
        """Return the pairs in their order with the judge's scores.

        A pair gets no new scores if its chunk is not among `chunks`, if a budget ended the work before it, or if the
        model gave no usable reply.
        """
        chunk_by_id = {chunk.id: chunk for chunk in chunks}
        candidates = [pair for pair in pairs if pair.chunk_id in chunk_by_id]
        conversations = [_conversation(pair, chunk_by_id[pair.chunk_id]) for pair in candidates]
        replies = self.model.ask_all(conversations, "judging pairs", progress)
        judgements = {pair.id: reply for pair, reply in zip(candidates, replies, strict=True) if reply is not None}
        return [_with_scores(pair, judgements[pair.id]) if pair.id in judgements else pair for pair in pairs]


def _conversation(pair: QAPair, chunk: Chunk) -> list[Message]:
    question = f"Passage:\n{chunk.embedded_text}\n\nQuestion: {pair.question}\nAnswer: {pair.answer}"
    return [Message("system", _JUDGE), Message("user", question)]


def _with_scores(pair: QAPair, judgement: Judgement) -> QAPair:
    scores = {f"judge_{name}": getattr(judgement, name) for name in ("grounded", "clear", "relevant")}
    return replace(pair, scores={**pair.scores, **scores})
