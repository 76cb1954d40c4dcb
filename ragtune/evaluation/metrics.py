"""What an answer is worth, item by item; every metric has a signature that names how it counts.

Token F1 and exact match follow SQuAD (Rajpurkar et al. 2016), with words cut for API text;
unanswerable questions count as SQuAD 2.0 does (Rajpurkar et al. 2018): 1 for a refusal.
"""

from collections import Counter
from collections.abc import Sequence

from ragtune.answer.citations import answer_tokens, occurs_in
from ragtune.records import Answer, Hit, QAPair

_SENTENCE_WORDS = 6
_WORDS = "lower,no-marks,no-articles,words=identifiers-and-signed-numbers"

SIGNATURES = {
    "token_f1": f"token_f1|v1|{_WORDS}|unanswerable:1-if-refused",
    "exact_match": f"exact_match|v1|{_WORDS}|unanswerable:1-if-refused",
    "answerable_f1": f"answerable_f1|v1|{_WORDS}|answerable-only",
    "citation": "citation|v2|right-passage-cited/passages-cited|answerable-only",
    "refusal_recall": "refusal_recall|v1|refused|unanswerable-only",
    "false_refusal": "false_refusal|v1|refused|answerable-only",
    "retrieval_hit": "retrieval_hit|v2|right-passage-among-passages|answerable-only",
}
METRICS = tuple(SIGNATURES)


def token_f1(expected: str, answer: str) -> float:
    """Return the harmonic mean of token precision and recall, 0 to 1; two empty texts agree."""
    want, got = answer_tokens(expected), answer_tokens(answer)
    if not want or not got:
        return float(want == got)
    shared = sum((Counter(want) & Counter(got)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(got), shared / len(want)
    return 2 * precision * recall / (precision + recall)


def exact_match(expected: str, answer: str) -> float:
    """Return 1.0 when both texts have the same words in the same order."""
    return float(answer_tokens(expected) == answer_tokens(answer))


def holds_answer(pair: QAPair, document_id: str, chunk_id: str, text: str) -> bool:
    """Return whether a passage is the right one: the pair's chunk, or another with the answer in it.

    Another document's counts for a whole sentence only: `bool` or `5` stands anywhere.
    """
    if chunk_id == pair.chunk_id:
        return True
    want = answer_tokens(pair.answer)
    if not want or (document_id != pair.document_id and len(want) < _SENTENCE_WORDS):
        return False
    return occurs_in(want, answer_tokens(text))


def measure(pair: QAPair, answer: Answer, with_retrieval: bool = True) -> dict[str, float]:
    """Return every metric that applies to this item; keys are names of `SIGNATURES`.

    Without retrieval there is nothing to cite and nothing to find, so those two are left out.
    """
    if not pair.answerable:
        right = float(answer.refused)
        return {"token_f1": right, "exact_match": right, "refusal_recall": right}
    said = "" if answer.refused else answer.text
    f1 = token_f1(pair.answer, said)
    metrics = {
        "token_f1": f1,
        "exact_match": exact_match(pair.answer, said),
        "answerable_f1": f1,
        "false_refusal": float(answer.refused),
    }
    if with_retrieval:
        right_ones = [holds_answer(pair, c.document_id, c.chunk_id, c.text) for c in answer.citations]
        metrics["citation"] = sum(right_ones) / len(right_ones) if right_ones else 0.0
        metrics["retrieval_hit"] = float(retrieved(pair, answer.passages))
    return metrics


def retrieved(pair: QAPair, passages: Sequence[Hit]) -> bool:
    """Return whether the right passage of an answerable pair is among these."""
    chunks = [hit.chunk for hit in passages]
    return pair.answerable and any(holds_answer(pair, c.document_id, c.id, c.text) for c in chunks)
