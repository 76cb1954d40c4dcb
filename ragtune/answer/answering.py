"""The one answering path: retrieve, build the prompt, generate, review.

Offline evaluation and the gateway both use it, so that offline scores describe what users
get. The gateway generates by itself and calls `prepare` and `finish` around that.
"""

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ragtune.answer.controls import NEUTRAL, Controls, with_controls
from ragtune.answer.prompt import build_messages
from ragtune.answer.review import review
from ragtune.errors import SettingsError
from ragtune.knowledge.names import about_what_is_named
from ragtune.knowledge.trimming import content_words
from ragtune.ports import ChatModel
from ragtune.records import Answer, Completion, Hit, Message
from ragtune.settings import AnswerSettings

SPARE_HITS = 4
"""Searched for beyond the passages that are shown, since not all speak of what the question names."""
_FOLLOW_UP_WORDS = 4
_POINTS_BACK = re.compile(r"^(?:and|what about|how about)\b|\b(?:it|its|there|that one|this one)\b", re.IGNORECASE)
_POINTS_BACK_WORDS = 10


class SupportsSearch(Protocol):
    """What answering needs of a retriever."""

    def search(self, text: str, limit: int) -> list[Hit]:
        """Return up to `limit` hits, best first."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that a generation needs, and what the review needs afterwards.

    `passages` is None where the model is asked without retrieval.
    """

    question: str
    messages: tuple[Message, ...]
    passages: tuple[Hit, ...] | None
    max_tokens: int
    temperature: float
    retrieval_ms: float
    controls: Controls = NEUTRAL


class Answerer:
    """Answers questions over what a retriever finds, or without retrieval where there is none."""

    def __init__(self, retriever: SupportsSearch | None, settings: AnswerSettings) -> None:
        self.retriever, self.settings = retriever, settings
        self.controls = with_controls(NEUTRAL, settings.dials, settings.switches)

    def prepare(self, question: str, history: Sequence[Message] = (), controls: Controls | None = None) -> Prepared:
        """Return the messages for one question, with the passages that were found for it.

        `history` holds the earlier turns, oldest first; `controls` replace the defaults.
        Raises SettingsError for an empty question.
        """
        if not question.strip():
            raise SettingsError("The question is empty.", "some text", "send a question as the last user message")
        controls = controls or self.controls
        passages: tuple[Hit, ...] | None = None
        retrieval_ms = 0.0
        if self.retriever is not None:
            started = time.perf_counter()
            limit = controls.passages(self.settings.passages)
            passages = tuple(shown_passages(self.retriever.search, search_text(question, history), limit))
            retrieval_ms = (time.perf_counter() - started) * 1000
        messages = build_messages(question, passages, history, controls, self.settings.passage_words)
        max_tokens = controls.max_tokens(self.settings.max_tokens)
        return Prepared(question, messages, passages, max_tokens, controls.temperature, retrieval_ms, controls)

    def finish(self, prepared: Prepared, completion: Completion) -> Answer:
        """Return the reviewed answer for what the model wrote."""
        return review(prepared.question, prepared.passages, completion, prepared.retrieval_ms, prepared.controls)

    def answer(
        self,
        question: str,
        chat: ChatModel,
        history: Sequence[Message] = (),
        controls: Controls | None = None,
        seed: int = 0,
    ) -> Answer:
        """Return the reviewed answer; raises EngineError when the model gives none."""
        prepared = self.prepare(question, history, controls)
        return self.finish(prepared, generate(chat, prepared, seed))


class RememberingAnswerer(Answerer):
    """Prepares each question once, for several models that are asked the same ones."""

    def __init__(self, retriever: SupportsSearch | None, settings: AnswerSettings) -> None:
        super().__init__(retriever, settings)
        self._known: dict[str, Prepared] = {}
        self._lock = threading.Lock()

    def prepare(self, question: str, history: Sequence[Message] = (), controls: Controls | None = None) -> Prepared:
        """Return what was prepared before where the question stands alone."""
        if history or controls:
            return super().prepare(question, history, controls)
        with self._lock:
            if question not in self._known:
                self._known[question] = super().prepare(question)
            return self._known[question]


def shown_passages(search: Callable[[str, int], list[Hit]], text: str, limit: int) -> list[Hit]:
    """Return up to `limit` hits that speak of what the text names, best first."""
    return about_what_is_named(text, search(text, limit + SPARE_HITS))[:limit]


def generate(chat: ChatModel, prepared: Prepared, seed: int = 0) -> Completion:
    """Return what the model writes for a prepared question."""
    return chat.complete(prepared.messages, max_tokens=prepared.max_tokens, temperature=prepared.temperature, seed=seed)


def search_text(question: str, history: Sequence[Message] = ()) -> str:
    """Return what to search for: the question, with the previous one in front of a short follow-up.

    That has few words of its own, or is short and points back: "And if I leave out max_iter?"
    """
    earlier = [turn.content for turn in history if turn.role == "user"]
    few = len(content_words(question)) < _FOLLOW_UP_WORDS
    points_back = len(question.split()) <= _POINTS_BACK_WORDS and _POINTS_BACK.search(question.strip())
    return f"{earlier[-1]} {question}" if earlier and (few or points_back) else question
