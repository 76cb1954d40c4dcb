"""How much of a dataset a reader without understanding answers: the best sentence by word overlap.

A kind of question that this answers in most cases teaches a model nothing but copying.
"""

from collections import defaultdict
from collections.abc import Sequence

from ragtune.records import Chunk, QAPair
from ragtune.text.sentences import line_sentence_spans
from ragtune.text.whitespace import collapse_whitespace
from ragtune.text.words import content_words


def overlap_answer(question: str, text: str) -> str:
    """Return the sentence or line of the text that shares most words with the question, the first of equals."""
    asked = content_words(question)
    sentences = [collapse_whitespace(text[start:end]) for start, end in line_sentence_spans(text)]
    return max(sentences, key=lambda sentence: len(asked & content_words(sentence)), default="")


def overlap_shares(
    pairs: Sequence[QAPair], chunks: Sequence[Chunk], wanted: float = 0.8
) -> dict[str, tuple[float, int]]:
    """Return {kind: (share of answerable pairs that the best sentence answers, pairs)}.

    Answered means a token F1 of at least `wanted` between the sentence and the answer.
    """
    texts = {chunk.id: chunk.text for chunk in chunks}
    right: dict[str, list[bool]] = defaultdict(list)
    for pair in pairs:
        if pair.answerable and pair.chunk_id in texts:
            found = overlap_answer(pair.question, texts[pair.chunk_id])
            right[pair.kind].append(token_overlap(found, pair.answer) >= wanted)
    return {kind: (sum(each) / len(each), len(each)) for kind, each in sorted(right.items())}


def token_overlap(a: str, b: str) -> float:
    """Return the F1 of two texts as sets of lower-case words without punctuation around them."""
    one, two = ({word.strip(".,;:()[]`'\"").lower() for word in text.split()} - {""} for text in (a, b))
    shared = len(one & two)
    return 2 * shared / (len(one) + len(two)) if shared else 0.0
