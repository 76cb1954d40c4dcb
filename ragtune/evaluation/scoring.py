"""Lets a model answer held-out questions through the answering path, and summarises its answers."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace

from ragtune.answer.answering import Answerer, Prepared, generate
from ragtune.errors import DatasetError
from ragtune.evaluation.metrics import METRICS, measure, retrieves_answer, scored_text
from ragtune.evaluation.resampling import mean_interval
from ragtune.evaluation.text_metrics import BLEU, bleu_interval, signature
from ragtune.ports import ChatModel, Progress, silent
from ragtune.records import ORIGINS, Answer, Chunk, QAPair, Score, ScoredAnswer, SplitItem
from ragtune.text.language import guess_language

PART_METRICS = ("token_f1", "exact_match", "citation", "refusal_accuracy")
"""Metrics that are reported by kind, topic, source and language: what is right, what is cited, what is refused."""
FEWEST = 5
"""Questions that a part needs to be reported by itself. Chosen by hand: the interval of fewer says nothing."""
OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreIdentity:
    """What a model's scores were measured on: the model, the questions and the seed."""

    model: str
    precision: str
    split: str
    dataset_sha256: str
    model_version: str
    seed: int


def score_model(
    pairs: Sequence[QAPair],
    answerer: Answerer,
    chat: ChatModel,
    concurrency: int = 8,
    seed: int = 0,
    progress: Progress = silent,
) -> list[ScoredAnswer]:
    """Return one scored answer per pair, in the given order.

    Retrieval runs first, one question at a time; then `concurrency` questions at a time are answered, so `latency_ms`
    is a latency under load. If one question fails, its EngineError ends the whole run: a score over the questions
    that happened to work would be misleading.
    """
    if not pairs:
        raise DatasetError("There is no question to score.", "at least one pair", "check evaluation.test_items")
    prepared = [answerer.prepare(pair.question) for pair in pairs]
    answers: list[Answer | None] = [None] * len(pairs)

    def answer(prompt: Prepared) -> Answer:
        # As in serving: an answer that fails its checks is written again, then replaced.
        return answerer.conclude(prompt, generate(chat, prompt, seed), lambda again: generate(chat, again, seed + 1))

    with ThreadPoolExecutor(max_workers=concurrency) as pool:
        futures = {pool.submit(answer, prompt): i for i, prompt in enumerate(prepared)}
        try:
            for done, future in enumerate(as_completed(futures), 1):
                answers[futures[future]] = future.result()
                progress(f"answers of {chat.name}", done, len(pairs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    rows = zip(pairs, prepared, answers, strict=True)
    return [_score_answer(pair, prompt, answer) for pair, prompt, answer in rows if answer is not None]


def summarise(
    answers: Sequence[ScoredAnswer],
    identity: ScoreIdentity,
    samples: int = 2000,
    parts: Mapping[str, Mapping[str, str]] | None = None,
) -> list[Score]:
    """Return a score per metric that applies to at least one answer, each with a 95% interval.

    The scores of all answers come first, then those of the questions of each origin, then accuracy by part. Intervals
    are percentile bootstraps over documents (see `resampling`), with `samples` resamples.

    Args:
        answers: the answers of one model.
        identity: what the scores are measured on.
        samples: resamples of each interval.
        parts: {pair id: {dimension: value}}, such as `{"p1": {"topic": "billing", "language": "de"}}`.
    """
    scores = _scores(answers, identity, samples)
    for origin in ORIGINS:
        of_origin = [answer for answer in answers if answer.origin == origin]
        scores += [replace(score, origin=origin) for score in _scores(of_origin, identity, samples)]
    for name, part in _parts(answers, parts or {}).items():
        scores += [replace(score, part=name) for score in _scores(part, identity, samples, PART_METRICS)]
    return scores


def question_parts(items: Sequence[SplitItem], chunks: Sequence[Chunk]) -> dict[str, dict[str, str]]:
    """Return {pair id: {"topic": ..., "source": ..., "language": ...}}; the language is the question's."""
    by_id = {chunk.id: chunk for chunk in chunks}
    parts = {}
    for pair in (item.pair for item in items):
        chunk = by_id.get(pair.chunk_id)
        parts[pair.id] = {
            "topic": pair.topic or (chunk.topic if chunk else ""),
            "source": chunk.source if chunk else "",
            "language": guess_language(pair.question, chunk.language if chunk else "en"),
        }
    return parts


def _parts(answers: Sequence[ScoredAnswer], parts: Mapping[str, Mapping[str, str]]) -> dict[str, list[ScoredAnswer]]:
    """Return {`kind=default`: its answers, ...}; a dimension with one value says nothing and is left out.

    Values with fewer than `FEWEST` questions come together under `other`.
    """
    dimensions: dict[str, dict[str, list[ScoredAnswer]]] = defaultdict(lambda: defaultdict(list))
    for answer in answers:
        for dimension, value in {"kind": answer.kind, **parts.get(answer.pair_id, {})}.items():
            dimensions[dimension][value or "none"].append(answer)
    by_name: dict[str, list[ScoredAnswer]] = {}
    for dimension, values in dimensions.items():
        if len(values) < 2:
            continue
        for value, part in sorted(values.items()):
            by_name.setdefault(f"{dimension}={value if len(part) >= FEWEST else OTHER}", []).extend(part)
    return by_name


def _scores(
    answers: Sequence[ScoredAnswer],
    identity: ScoreIdentity,
    samples: int,
    metrics: Sequence[str] = (*METRICS, BLEU),
) -> list[Score]:
    scores = []
    for metric in metrics:
        relevant = [answer for answer in answers if ("chrf" if metric == BLEU else metric) in answer.metrics]
        if not relevant:
            continue
        groups = [answer.group or answer.document_id for answer in relevant]
        if metric == BLEU:
            value, low, high = bleu_interval(relevant, groups, samples, identity.seed)
        else:
            values = [answer.metrics[metric] for answer in relevant]
            value, low, high = mean_interval(values, groups, samples, identity.seed)
        scores.append(
            Score(
                metric=metric,
                value=value,
                low=low,
                high=high,
                n=len(relevant),
                signature=f"{signature(metric)}|ci=95%-bootstrap-by-document,{samples}",
                **asdict(identity),
            )
        )
    return scores


def _score_answer(pair: QAPair, prompt: Prepared, answer: Answer) -> ScoredAnswer:
    return ScoredAnswer(
        pair_id=pair.id,
        question=pair.question,
        expected=pair.answer,
        answer=answer.text,
        kind=pair.kind,
        answerable=pair.answerable,
        refused=answer.refused,
        retrieved=retrieves_answer(pair, answer.passages),
        cited=tuple(citation.chunk_id for citation in answer.citations),
        metrics=measure(pair, answer, with_retrieval=prompt.passages is not None),
        latency_ms=prompt.retrieval_ms + answer.completion.total_seconds * 1000,
        document_id=pair.document_id,
        origin=pair.origin,
        scored_text=scored_text(answer),
        cited_texts=tuple(citation.text for citation in answer.citations),
    )
