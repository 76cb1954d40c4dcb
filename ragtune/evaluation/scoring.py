"""Lets a model answer held-out questions through the answering path, and summarises its answers."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass

from ragtune.answer.answering import Answerer, Prepared, generate
from ragtune.errors import DatasetError
from ragtune.evaluation.metrics import METRICS, SIGNATURES, measure, retrieves_answer
from ragtune.evaluation.resampling import mean_interval
from ragtune.ports import ChatModel, Progress, silent
from ragtune.records import ORIGINS, Completion, QAPair, Score, ScoredAnswer


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
    completions: list[Completion | None] = [None] * len(pairs)
    with ThreadPoolExecutor(max_workers=concurrency) as pool:
        futures = {pool.submit(generate, chat, prompt, seed): i for i, prompt in enumerate(prepared)}
        try:
            for done, future in enumerate(as_completed(futures), 1):
                completions[futures[future]] = future.result()
                progress(f"answers of {chat.name}", done, len(pairs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    rows = zip(pairs, prepared, completions, strict=True)
    return [
        _score_answer(pair, prompt, answerer, completion) for pair, prompt, completion in rows if completion is not None
    ]


def summarise(answers: Sequence[ScoredAnswer], identity: ScoreIdentity, samples: int = 2000) -> list[Score]:
    """Return a score per metric that applies to at least one answer, each with a 95% interval.

    If the questions have more than one origin, the scores of each origin follow. Intervals are percentile bootstraps
    over documents (see `resampling`), with `samples` resamples.
    """
    origins = [origin for origin in ORIGINS if any(answer.origin == origin for answer in answers)]
    scores = _scores(answers, identity, samples, "")
    for origin in origins if len(origins) > 1 else ():
        scores += _scores([answer for answer in answers if answer.origin == origin], identity, samples, origin)
    return scores


def _scores(answers: Sequence[ScoredAnswer], identity: ScoreIdentity, samples: int, origin: str) -> list[Score]:
    scores = []
    for metric in METRICS:
        relevant = [answer for answer in answers if metric in answer.metrics]
        if not relevant:
            continue
        values = [answer.metrics[metric] for answer in relevant]
        groups = [answer.group or answer.document_id for answer in relevant]
        value, low, high = mean_interval(values, groups, samples, identity.seed)
        signature = f"{SIGNATURES[metric]}|ci=95%-bootstrap-by-document,{samples}"
        scores.append(
            Score(
                metric=metric,
                value=value,
                low=low,
                high=high,
                n=len(relevant),
                signature=signature,
                origin=origin,
                **asdict(identity),
            )
        )
    return scores


def _score_answer(pair: QAPair, prompt: Prepared, answerer: Answerer, completion: Completion) -> ScoredAnswer:
    answer = answerer.finish(prompt, completion)
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
        latency_ms=prompt.retrieval_ms + completion.total_seconds * 1000,
        document_id=pair.document_id,
        origin=pair.origin,
    )
