"""Reads what a model wrote: which passages it cites, whether it refused, what looks wrong."""

import re
from collections.abc import Sequence

from ragtune.answer.controls import NEUTRAL, Controls
from ragtune.answer.marks import CitationCorrector, cited_numbers, without_marks
from ragtune.answer.prompt import REFUSAL
from ragtune.answer.small_talk import REPLIES
from ragtune.knowledge.trimming import content_words
from ragtune.records import Answer, Citation, Completion, Hit

GROUNDED_SHARE = 0.5
"""An answer with fewer of its content words in the passages gets a warning."""

_REFUSALS = re.compile(
    r"\b(i|we) (could not|couldn't|cannot|can't|can not|am unable to|are unable to|did not|didn't) (find|answer)\b"
    r"|^(sorry|unable to (find|answer)|(the|an|no) (answer|information)( to this)? (could not|cannot|can't) be found)\b"
    r"|not (mentioned|found|stated|given|provided) in the (documents|passages|document)"
    r"|(do not|does not|don't|doesn't) (hold|contain|have|provide) the answer",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Return whether the first sentence says that there is no answer."""
    first = re.split(r"(?<=[.!?])\s", without_marks(text).strip(), maxsplit=1)[0]
    return REFUSAL.rstrip(".").lower() in text.lower() or bool(_REFUSALS.search(first))


def marks_of(passages: Sequence[Hit] | None, controls: Controls) -> CitationCorrector:
    """Return what sets the marks of one answer right; it changes nothing where no marks were asked for."""
    return CitationCorrector(passages or () if controls.citations else ())


def review(
    question: str,
    passages: Sequence[Hit] | None,
    completion: Completion,
    retrieval_ms: float = 0.0,
    controls: Controls = NEUTRAL,
) -> Answer:
    """Return the answer with its citations and warnings; of the model's text only citation marks change.

    A refusal and a friendly word claim nothing, so they need no passage.
    """
    hits = tuple(passages or ())
    marks = marks_of(passages, controls)
    text = (marks.feed(completion.text.strip()) + marks.end()).strip()
    refused = is_refusal(text)
    numbers = cited_numbers(text)
    citations = tuple(_citation(n, hits[n - 1]) for n in numbers if 1 <= n <= len(hits))
    warnings = []
    if not text:
        warnings.append("The model answered nothing.")
    if completion.finish_reason == "length":
        warnings.append("The answer was cut off at its length limit.")
    warnings += [f"It cited passage {was} for what stands in passage {now}." for was, now in dict.fromkeys(marks.moved)]
    if passages is not None and text and not refused and text not in REPLIES:
        warnings += [f"It cites passage {n}, which does not exist." for n in numbers if not 1 <= n <= len(hits)]
        if controls.citations and not citations:
            warnings.append("It cites no passage.")
        share = grounded_share(question, text, hits)
        if controls.strict_grounding and share < GROUNDED_SHARE:
            warnings.append(f"Only {share:.0%} of its words stand in its passages.")
        unrelated = [n for n in numbers if 1 <= n <= len(hits) and not _speaks_of(question, hits[n - 1])]
        warnings += [f"Passage {n}, which it cites, holds no word of the question." for n in unrelated]
    return Answer(text, citations, hits, refused, tuple(warnings), completion, retrieval_ms)


def grounded_share(question: str, text: str, passages: Sequence[Hit]) -> float:
    """Return the share of the answer's content words, beyond those of the question, that its passages hold.

    Its passages are those it cites, or all of them where it cites none. An answer that only repeats the
    question counts as grounded (1.0).
    """
    words = content_words(without_marks(text)) - content_words(question)
    if not words:
        return 1.0
    cited = [passages[n - 1] for n in cited_numbers(text) if 1 <= n <= len(passages)]
    known: set[str] = set()
    for hit in cited or passages:
        known |= content_words(hit.chunk.embedded_text)
    return len(words & known) / len(words)


def _speaks_of(question: str, hit: Hit) -> bool:
    """Return whether a passage holds a content word of the question, where that has any."""
    asked = content_words(question)
    return not asked or bool(asked & content_words(hit.chunk.embedded_text))


def _citation(number: int, hit: Hit) -> Citation:
    chunk = hit.chunk
    return Citation(number, chunk.document_id, chunk.id, chunk.title, chunk.text)
