"""Lets a model answer held-out questions through the answering path and sums the answers up."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from ragtune.answer.answering import Answerer, Prepared, generate
from ragtune.errors import DatasetError
from ragtune.evaluation.metrics import METRICS, SIGNATURES, measure, retrieved
from ragtune.evaluation.resampling import mean_interval
from ragtune.ports import ChatModel, Progress, silent
from ragtune.records import Completion, QAPair, Score, ScoredAnswer

MIN_ITEMS_PER_METRIC = 1


def score_model(
    pairs: Sequence[QAPair],
    answerer: Answerer,
    chat: ChatModel,
    concurrency: int = 8,
    seed: int = 0,
    progress: Progress = silent,
) -> list[ScoredAnswer]:
    """Return one scored answer per pair, in the given order.

    Retrieval runs first and one by one, generation at the given concurrency. `latency_ms` is
    therefore a latency under load. An EngineError of any question ends the whole run: a score
    over the questions that happened to work would be no score.
    """
    if not pairs:
        raise DatasetError("There is no question to score.", "at least one pair", "check evaluation.test_items")
    prepared = [answerer.prepare(pair.question) for pair in pairs]
    completions: list[Completion | None] = [None] * len(pairs)
    with ThreadPoolExecutor(max_workers=concurrency) as pool:
        waiting = {pool.submit(generate, chat, ready, seed): i for i, ready in enumerate(prepared)}
        try:
            for done, future in enumerate(as_completed(waiting), 1):
                completions[waiting[future]] = future.result()
                progress(f"answers of {chat.name}", done, len(pairs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    rows = zip(pairs, prepared, completions, strict=True)
    return [_scored(pair, ready, answerer, done) for pair, ready, done in rows if done is not None]


def summarise(
    answers: Sequence[ScoredAnswer],
    *,
    model: str,
    precision: str,
    split: str,
    dataset_sha256: str,
    model_version: str,
    seed: int,
    samples: int = 2000,
) -> list[Score]:
    """Return a score per metric that applies to at least one answer, each with a 95% interval.

    Intervals are percentile bootstraps over documents (see `resampling`).
    """
    scores = []
    for metric in METRICS:
        chosen = [answer for answer in answers if metric in answer.metrics]
        if len(chosen) < MIN_ITEMS_PER_METRIC:
            continue
        value, low, high = mean_interval(
            [answer.metrics[metric] for answer in chosen], [answer.document_id for answer in chosen], samples, seed
        )
        signature = f"{SIGNATURES[metric]}|ci=95%-bootstrap-by-document,{samples}"
        scores.append(
            Score(
                model=model,
                precision=precision,
                metric=metric,
                value=value,
                low=low,
                high=high,
                n=len(chosen),
                split=split,
                dataset_sha256=dataset_sha256,
                model_version=model_version,
                seed=seed,
                signature=signature,
            )
        )
    return scores


def _scored(pair: QAPair, ready: Prepared, answerer: Answerer, completion: Completion) -> ScoredAnswer:
    answer = answerer.finish(ready, completion)
    return ScoredAnswer(
        pair_id=pair.id,
        question=pair.question,
        expected=pair.answer,
        answer=answer.text,
        kind=pair.kind,
        answerable=pair.answerable,
        refused=answer.refused,
        retrieved=retrieved(pair, answer.passages),
        cited=tuple(citation.chunk_id for citation in answer.citations),
        metrics=measure(pair, answer, with_retrieval=ready.passages is not None),
        latency_ms=ready.retrieval_ms + completion.total_seconds * 1000,
        document_id=pair.document_id,
    )
