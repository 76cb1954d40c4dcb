"""Measures how many pairs the sentence with the largest word overlap answers: a baseline without understanding.

A model learns nothing but copying from a kind of question that this baseline answers in most cases.
"""

from collections import defaultdict
from collections.abc import Sequence

from ragtune.records import Chunk, QAPair
from ragtune.text.sentences import sentence_spans
from ragtune.text.whitespace import collapse_whitespace
from ragtune.text.words import content_words


def overlap_answer(question: str, text: str) -> str:
    """Return the sentence or line of the text that shares the most words with the question, the first one on a tie."""
    question_words = content_words(question)
    candidates = []
    start = 0
    for line in text.splitlines(keepends=True):
        candidates += [collapse_whitespace(text[a:b]) for a, b in sentence_spans(text, start, start + len(line))]
        start += len(line)
    return max(candidates, key=lambda candidate: len(question_words & content_words(candidate)), default="")


def overlap_shares(
    pairs: Sequence[QAPair], chunks: Sequence[Chunk], min_f1: float = 0.8
) -> dict[str, tuple[float, int]]:
    """Return {kind: (share of its answerable pairs that the best sentence answers, number of these pairs)}.

    A pair counts as answered if its answer and the sentence have a token F1 of at least `min_f1`.
    """
    texts = {chunk.id: chunk.text for chunk in chunks}
    verdicts: dict[str, list[bool]] = defaultdict(list)
    for pair in pairs:
        if pair.answerable and pair.chunk_id in texts:
            sentence = overlap_answer(pair.question, texts[pair.chunk_id])
            verdicts[pair.kind].append(token_overlap(sentence, pair.answer) >= min_f1)
    return {kind: (sum(answered) / len(answered), len(answered)) for kind, answered in sorted(verdicts.items())}


def token_overlap(a: str, b: str) -> float:
    """Return the F1 of two texts as sets of words, in lower case and without the punctuation around them."""
    words_a, words_b = ({word.strip(".,;:()[]`'\"").lower() for word in text.split()} - {""} for text in (a, b))
    shared = len(words_a & words_b)
    return 2 * shared / (len(words_a) + len(words_b)) if shared else 0.0
