"""The one answering path: retrieve, build the prompt, generate, check.

Offline evaluation and the gateway both use it, so that offline scores describe what users get. The gateway
generates the text itself: it calls `prepare` before, sends what `delivery` returns, and calls `finish` after. If
`Prepared.known_text` is not None, nothing has to be generated.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ragtune.answer.checking import AS_WRITTEN, check_answer, check_json
from ragtune.answer.controls import NEUTRAL, Controls, with_controls
from ragtune.answer.decision import Rules, refuses_at_once, rules_for
from ragtune.answer.delivery import Delivery
from ragtune.answer.evidence import Evidence, rank_evidence
from ragtune.answer.failures import REPLACED
from ragtune.answer.language_packs import ENGLISH_FRAME, Frame
from ragtune.answer.lines import LineSimilarity
from ragtune.answer.passages import SupportsSearch, find_passages, search_text
from ragtune.answer.prompt import build_messages
from ragtune.answer.question_language import Languages
from ragtune.errors import SettingsError
from ragtune.ports import ChatModel, EvidenceModel
from ragtune.records import Answer, Completion, Hit, Message
from ragtune.settings import AnswerSettings

NOT_GENERATED = Completion(
    text="", prompt_tokens=0, completion_tokens=0, first_token_seconds=0.0, total_seconds=0.0, finish_reason="stop"
)
"""Stands for the model's reply if the answer is known before anything is generated."""
_SECOND_TEMPERATURE = 0.4
"""Of the second try, because a greedy one would write the same again. Chosen by hand: varied, but not wild."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A question that is ready for generation, with what the check of the answer needs afterwards.

    `passages` is None if the model answers without retrieval. `evidence` ranks the units of the passages, and `rules`
    say what may be delivered. If `refused_at_once` is set, the answer is a refusal whatever the model would write.
    `reply` is the answer to a phrase of small talk, "" for any other question. `frame` is the question's language.
    `schema` is the JSON schema of the answer, or None if it need not be JSON.
    """

    question: str
    messages: tuple[Message, ...]
    passages: tuple[Hit, ...] | None
    max_tokens: int
    temperature: float
    retrieval_ms: float
    controls: Controls = NEUTRAL
    evidence: tuple[Evidence, ...] = ()
    rules: Rules = AS_WRITTEN
    refused_at_once: bool = False
    reply: str = ""
    frame: Frame = ENGLISH_FRAME
    schema: Mapping[str, Any] | None = None

    @property
    def known_text(self) -> str | None:
        """What stands for the model's text if the answer is known without it; None if the model has to write."""
        return self.reply or ("" if self.refused_at_once else None)


class Answerer:
    """Answers questions from the passages that a retriever finds, or without retrieval if `retriever` is None.

    `similarity` helps to choose the lines that are shown; without it shared words choose alone. `evidence` decides
    between an answer, a quotation and a refusal; without it every answer is delivered as the model wrote it.
    """

    def __init__(
        self,
        retriever: SupportsSearch | None,
        settings: AnswerSettings,
        similarity: LineSimilarity | None = None,
        evidence: EvidenceModel | None = None,
    ) -> None:
        self.retriever, self.settings, self.similarity, self.evidence = retriever, settings, similarity, evidence
        self.controls = with_controls(NEUTRAL, settings.dials, settings.switches)
        self.languages = Languages(settings)

    def prepare(
        self,
        question: str,
        history: Sequence[Message] = (),
        controls: Controls | None = None,
        language: str = "",
    ) -> Prepared:
        """Search for a question and return the messages for the model.

        `history` holds the earlier turns, oldest first. `controls` replace the defaults from the settings.
        `language` is the code of a language pack; "" means that of the question.
        Raises SettingsError if the question is empty.
        """
        if not question.strip():
            raise SettingsError("The question is empty.", "some text", "send a question as the last user message")
        controls = controls or self.controls
        passages: tuple[Hit, ...] | None = None
        evidence: tuple[Evidence, ...] = ()
        rules = AS_WRITTEN
        retrieval_ms, reply = 0.0, ""
        frame = self.languages.frame(question, history, wanted=language)
        if self.retriever is not None:
            started = time.perf_counter()
            count = controls.passages(self.settings.passages)
            words = controls.shown_words(self.settings.shown_words)
            text = search_text(question, history, frame)
            passages = tuple(find_passages(self.retriever.search, text, count, words, self.similarity))
            frame = self.languages.frame(question, history, passages, language)
            frame, reply = self.languages.small_talk(question, frame)
            if self.evidence is not None:
                evidence = rank_evidence(self.evidence, text, passages, frame.pack)
                rules = self._rules(self.evidence, controls, frame)
            retrieval_ms = (time.perf_counter() - started) * 1000
        return Prepared(
            question=question,
            messages=build_messages(
                question,
                passages,
                history,
                controls,
                evidence[: self.settings.pointed_out],
                self.languages.prompt_pack(frame),
            ),
            passages=passages,
            max_tokens=controls.max_tokens(self.settings.max_tokens),
            temperature=controls.temperature,
            retrieval_ms=retrieval_ms,
            controls=controls,
            evidence=evidence,
            rules=rules,
            refused_at_once=passages is not None and refuses_at_once(question, evidence, rules, frame.language),
            reply=reply,
            frame=frame,
        )

    def delivery(self, prepared: Prepared) -> Delivery:
        """Return what turns the pieces of the model's text into the text to send; one object for each answer.

        It shows no first sentence that fails its checks, if `instead` would replace it.
        """
        if prepared.schema is not None:
            return Delivery(prepared.question, None, (), AS_WRITTEN)
        return Delivery(
            prepared.question,
            prepared.passages,
            prepared.evidence,
            prepared.rules,
            controls=prepared.controls,
            frame=prepared.frame,
            checks_first=True,
        )

    def finish(self, prepared: Prepared, completion: Completion) -> Answer:
        """Return the checked answer for the text that the model generated."""
        if prepared.schema is not None:
            return check_json(
                prepared.question,
                prepared.passages,
                completion,
                prepared.schema,
                prepared.retrieval_ms,
                prepared.evidence,
                prepared.frame,
            )
        return check_answer(
            prepared.question,
            prepared.passages,
            completion,
            prepared.retrieval_ms,
            prepared.controls,
            prepared.evidence,
            prepared.rules,
            prepared.frame,
        )

    def conclude(
        self, prepared: Prepared, completion: Completion, again: Callable[[Prepared], Completion] | None = None
    ) -> Answer:
        """Return what people get: the answer, if its checks pass, or else what `instead` returns.

        `again` generates once more from what `second_try` returns; without it there is no second try.
        """
        answer = self.finish(prepared, completion)
        if acceptable(prepared, answer):
            return answer
        second = self.finish(prepared, again(second_try(prepared))) if again else None
        return self.instead(prepared, answer, second)

    def instead(self, prepared: Prepared, answer: Answer, second: Answer | None) -> Answer:
        """Return what is delivered instead of an answer that failed its checks.

        The second answer, if it is acceptable; or else the best sentence of the passages, marked as a quotation, or a
        refusal with the closest passages. Its tokens are those of both answers. JSON cannot be quoted: the last text is
        delivered, with what is wrong with it.
        """
        completion = _sum_of(answer.completion, second.completion) if second else answer.completion
        if second and (acceptable(prepared, second) or prepared.schema is not None):
            return replace(second, completion=completion, tries=(answer.failures,))
        if prepared.schema is not None:
            return answer
        tries = (answer.failures, second.failures) if second else (answer.failures,)
        # An empty text is no refusal of the model, so it becomes a quotation if the evidence allows one.
        quoting = replace(prepared, rules=replace(prepared.rules, doubtful=0.0))
        quotation = self.finish(quoting, replace(completion, text="", finish_reason="stop"))
        return replace(quotation, completion=replace(completion, finish_reason="stop"), tries=tries)

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
        completion = generate(chat, prepared, seed)
        return self.conclude(prepared, completion, lambda again: generate(chat, again, seed + 1))

    def _rules(self, model: EvidenceModel, controls: Controls, frame: Frame) -> Rules:
        is_english = frame.language == "en"
        return rules_for(
            model,
            self.settings.refused_share,
            self.settings.model_refuses if is_english else self.settings.model_refuses_foreign,
            strict=controls.strict_grounding,
            quotations=self.settings.quotations,
        )


class RememberingAnswerer(Answerer):
    """Prepares each question once, so that several models can answer the same ones without searching again.

    Safe for several threads. Questions without history are prepared one at a time.
    """

    def __init__(
        self,
        retriever: SupportsSearch | None,
        settings: AnswerSettings,
        similarity: LineSimilarity | None = None,
        evidence: EvidenceModel | None = None,
    ) -> None:
        super().__init__(retriever, settings, similarity, evidence)
        self._prepared: dict[str, Prepared] = {}
        self._lock = threading.Lock()

    def prepare(
        self,
        question: str,
        history: Sequence[Message] = (),
        controls: Controls | None = None,
        language: str = "",
    ) -> Prepared:
        """Return the stored result for a question alone; prepare any other question."""
        if history or controls or language:
            return super().prepare(question, history, controls, language)
        with self._lock:
            if question not in self._prepared:
                self._prepared[question] = super().prepare(question)
            return self._prepared[question]


def as_json(prepared: Prepared, schema: Mapping[str, Any]) -> Prepared:
    """Return the prepared question so that its answer is delivered as the model writes it: as JSON of a schema."""
    return replace(prepared, rules=AS_WRITTEN, refused_at_once=False, reply="", schema=schema)


def acceptable(prepared: Prepared, answer: Answer) -> bool:
    """Return whether an answer may be delivered, by the failures that its checks found.

    Without `strict` and `quotations` the model's text is delivered whatever the checks say. JSON is written again if it
    is wrong, but not if it was cut off, because it would be again.
    """
    reasons = {failure.reason for failure in answer.failures}
    if prepared.schema is not None:
        return "format" not in reasons or "length" in reasons
    return not (prepared.rules.strict and prepared.rules.quotations and reasons & REPLACED)


def second_try(prepared: Prepared) -> Prepared:
    """Return the prepared question with other settings, after an answer that failed its checks."""
    return replace(prepared, temperature=max(prepared.temperature, _SECOND_TEMPERATURE))


def generate(chat: ChatModel, prepared: Prepared, seed: int = 0) -> Completion:
    """Generate the text for a prepared question, unless it is known without the model."""
    if prepared.known_text is not None:
        return replace(NOT_GENERATED, text=prepared.known_text)
    return chat.complete(prepared.messages, max_tokens=prepared.max_tokens, temperature=prepared.temperature, seed=seed)


def _sum_of(first: Completion, second: Completion) -> Completion:
    """Return the second completion with the tokens and the time of both."""
    return replace(
        second,
        prompt_tokens=first.prompt_tokens + second.prompt_tokens,
        completion_tokens=first.completion_tokens + second.completion_tokens,
        total_seconds=first.total_seconds + second.total_seconds,
    )
