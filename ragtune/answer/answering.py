"""The one answering path: retrieve, build the prompt, generate, check.

Offline evaluation and the gateway both use it, so that offline scores describe what users get. The gateway
generates the text itself; it calls `prepare` before and `finish` after.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ragtune.answer.checking import check_answer
from ragtune.answer.controls import NEUTRAL, Controls, with_controls
from ragtune.answer.lines import LineSimilarity
from ragtune.answer.passages import SupportsSearch, find_passages
from ragtune.answer.prompt import build_messages
from ragtune.errors import SettingsError
from ragtune.ports import ChatModel
from ragtune.records import Answer, Completion, Hit, Message
from ragtune.settings import AnswerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A question that is ready for generation, with what the check of the answer needs afterwards.

    `passages` is None if the model answers without retrieval.
    """

    question: str
    messages: tuple[Message, ...]
    passages: tuple[Hit, ...] | None
    max_tokens: int
    temperature: float
    retrieval_ms: float
    controls: Controls = NEUTRAL


class Answerer:
    """Answers questions from the passages that a retriever finds, or without retrieval if `retriever` is None.

    `similarity` helps to choose the lines that are shown; without it shared words choose alone.
    """

    def __init__(
        self, retriever: SupportsSearch | None, settings: AnswerSettings, similarity: LineSimilarity | None = None
    ) -> None:
        self.retriever, self.settings, self.similarity = retriever, settings, similarity
        self.controls = with_controls(NEUTRAL, settings.dials, settings.switches)

    def prepare(self, question: str, history: Sequence[Message] = (), controls: Controls | None = None) -> Prepared:
        """Search for a question and return the messages for the model.

        `history` holds the earlier turns, oldest first. `controls` replace the defaults from the settings.
        Raises SettingsError if the question is empty.
        """
        if not question.strip():
            raise SettingsError("The question is empty.", "some text", "send a question as the last user message")
        controls = controls or self.controls
        passages: tuple[Hit, ...] | None = None
        retrieval_ms = 0.0
        if self.retriever is not None:
            started = time.perf_counter()
            count = controls.passages(self.settings.passages)
            words = controls.shown_words(self.settings.shown_words)
            hits = find_passages(self.retriever.search, question, history, count, words, self.similarity)
            passages = tuple(hits)
            retrieval_ms = (time.perf_counter() - started) * 1000
        return Prepared(
            question=question,
            messages=build_messages(question, passages, history, controls),
            passages=passages,
            max_tokens=controls.max_tokens(self.settings.max_tokens),
            temperature=controls.temperature,
            retrieval_ms=retrieval_ms,
            controls=controls,
        )

    def finish(self, prepared: Prepared, completion: Completion) -> Answer:
        """Return the checked answer for the text that the model generated."""
        return check_answer(prepared.question, prepared.passages, completion, prepared.retrieval_ms, prepared.controls)

    def answer(
        self,
        question: str,
        chat: ChatModel,
        history: Sequence[Message] = (),
        controls: Controls | None = None,
        seed: int = 0,
    ) -> Answer:
        """Return the checked answer to one question; raise EngineError if the engine fails."""
        prepared = self.prepare(question, history, controls)
        return self.finish(prepared, generate(chat, prepared, seed))


class RememberingAnswerer(Answerer):
    """Prepares each question once, so that several models can answer the same ones without searching again."""

    def __init__(
        self, retriever: SupportsSearch | None, settings: AnswerSettings, similarity: LineSimilarity | None = None
    ) -> None:
        super().__init__(retriever, settings, similarity)
        self._prepared: dict[str, Prepared] = {}
        self._lock = threading.Lock()

    def prepare(self, question: str, history: Sequence[Message] = (), controls: Controls | None = None) -> Prepared:
        """Return the stored result for a question without history and controls; prepare any other question."""
        if history or controls:
            return super().prepare(question, history, controls)
        with self._lock:
            if question not in self._prepared:
                self._prepared[question] = super().prepare(question)
            return self._prepared[question]


def generate(chat: ChatModel, prepared: Prepared, seed: int = 0) -> Completion:
    """Generate the text for a prepared question."""
    return chat.complete(prepared.messages, max_tokens=prepared.max_tokens, temperature=prepared.temperature, seed=seed)
