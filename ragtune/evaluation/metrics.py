"""Metrics of one answer; each has a signature that names how it counts.

Token F1 and exact match follow SQuAD (Rajpurkar et al. 2016), but split API text into identifiers and signed numbers.
Unanswerable questions count as in SQuAD 2.0 (Rajpurkar et al. 2018): 1 for a refusal, otherwise 0. A refused answerable
question scores 0 in every metric of words, so that no metric is undefined. Metrics that need a library or an embedder
are in text_metrics.py.
"""

from collections import Counter
from collections.abc import Sequence

from ragtune.answer.citations import answer_tokens, occurs_in, without_citations
from ragtune.records import Answer, Hit, QAPair

# An expected answer with at least this many words counts as a sentence; see `holds_answer`. Chosen by hand, not
# measured.
_SENTENCE_WORDS = 6
_WORDS = "lower,no-marks,no-articles,words=identifiers-and-signed-numbers"

TEXT_METRICS = ("chrf", "rouge_1", "rouge_l", "similarity", "bertscore_f1")
"""Metrics of text_metrics.py with a value per question."""

# Stored with every score and hashed into the keys of stored answers: raise the version of a metric that changes.
SIGNATURES = {
    "token_f1": f"token_f1|v1|{_WORDS}|unanswerable:1-if-refused",
    "exact_match": f"exact_match|v1|{_WORDS}|unanswerable:1-if-refused",
    "answerable_f1": f"answerable_f1|v1|{_WORDS}|answerable-only",
    "citation": "citation|v2|right-passage-cited/passages-cited|answerable-only",
    "refusal_recall": "refusal_recall|v1|refused|unanswerable-only",
    "false_refusal": "false_refusal|v1|refused|answerable-only",
    "refusal_accuracy": "refusal_accuracy|v1|answered-if-answerable,refused-if-not",
    "retrieval_hit": "retrieval_hit|v2|right-passage-among-passages|answerable-only",
}
METRICS = (*SIGNATURES, *TEXT_METRICS)
"""Every metric with a value per question."""


def token_f1(expected: str, answer: str) -> float:
    """Return the harmonic mean of token precision and recall, 0 to 1; it is 1 for two empty texts."""
    expected_tokens, tokens = answer_tokens(expected), answer_tokens(answer)
    if not expected_tokens or not tokens:
        return float(expected_tokens == tokens)
    shared = sum((Counter(expected_tokens) & Counter(tokens)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(tokens), shared / len(expected_tokens)
    return 2 * precision * recall / (precision + recall)


def exact_match(expected: str, answer: str) -> float:
    """Return 1.0 if both texts have the same words in the same order, otherwise 0.0."""
    return float(answer_tokens(expected) == answer_tokens(answer))


def holds_answer(pair: QAPair, document_id: str, chunk_id: str, text: str) -> bool:
    """Return whether a passage answers the pair's question: it is the pair's chunk, or it contains the answer.

    A passage of another document counts only if the answer is a whole sentence: a short answer such as `bool` or `5`
    occurs everywhere.
    """
    if chunk_id == pair.chunk_id:
        return True
    tokens = answer_tokens(pair.answer)
    if not tokens or (document_id != pair.document_id and len(tokens) < _SENTENCE_WORDS):
        return False
    return occurs_in(tokens, answer_tokens(text))


def measure(pair: QAPair, answer: Answer, with_retrieval: bool = True) -> dict[str, float]:
    """Return the metrics of `SIGNATURES` that apply to the pair.

    Without retrieval there are no passages, so `citation` and `retrieval_hit` are left out.
    """
    if not pair.answerable:
        score = float(answer.refused)
        return {"token_f1": score, "exact_match": score, "refusal_recall": score, "refusal_accuracy": score}
    text = scored_text(answer)
    f1 = token_f1(pair.answer, text)
    metrics = {
        "token_f1": f1,
        "exact_match": exact_match(pair.answer, text),
        "answerable_f1": f1,
        "false_refusal": float(answer.refused),
        "refusal_accuracy": float(not answer.refused),
    }
    if with_retrieval:
        matches = [holds_answer(pair, c.document_id, c.chunk_id, c.text) for c in answer.citations]
        metrics["citation"] = sum(matches) / len(matches) if matches else 0.0
        metrics["retrieval_hit"] = float(retrieves_answer(pair, answer.passages))
    return metrics


def scored_text(answer: Answer) -> str:
    """Return the text that is compared with the expected answer: the model's own words, or else the quotation.

    It has no citation marks, and it is empty for a refusal. A quotation that follows the model's own words would count
    as superfluous words.
    """
    return "" if answer.refused else without_citations(answer.own_words or answer.quotation)


def retrieves_answer(pair: QAPair, passages: Sequence[Hit]) -> bool:
    """Return whether the pair is answerable and one of the passages holds its answer."""
    chunks = [hit.chunk for hit in passages]
    return pair.answerable and any(holds_answer(pair, c.document_id, c.id, c.text) for c in chunks)
