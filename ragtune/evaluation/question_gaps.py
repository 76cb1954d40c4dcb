"""What people ask that the documents do not hold: refused and poorly supported questions, grouped by similarity."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from ragtune.ports import Embedder
from ragtune.records import ResponseRecord
from ragtune.store.report_rows import QuestionGap

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]

LOW_EVIDENCE = 0.2
"""Below this probability no passage is likely to answer. Chosen by hand: most questions below it are refused, too."""
ALIKE = 0.6
"""Cosine above which two questions are grouped. Chosen by hand on MiniLM: paraphrases of one question lie above it."""
RECENT = 0.25
"""The last part of the time that counts as recent. Chosen by hand."""
_MOST_QUESTIONS = 5000
"""Questions that are grouped, the newest first: every one is compared with every group."""
_EXAMPLES = 5


def unanswered(responses: Sequence[ResponseRecord]) -> list[ResponseRecord]:
    """Return the responses that are refusals, or whose passages hardly answer the question."""
    return [
        response
        for response in responses
        if response.refused or (response.evidence is not None and response.evidence < LOW_EVIDENCE)
    ]


def question_gaps(responses: Sequence[ResponseRecord], embedder: Embedder) -> list[QuestionGap]:
    """Return groups of unanswered questions, the largest first.

    A question joins the group whose first question it is most similar to, if that is similar enough.
    """
    import numpy as np

    asked = unanswered(responses)[-_MOST_QUESTIONS:]
    if not asked:
        return []
    texts = [response.question for response in asked]
    vectors: Vectors = np.asarray(embedder.embed_questions(texts), dtype=np.float32)
    groups: list[list[int]] = []
    for place, vector in enumerate(vectors):
        leaders = vectors[[group[0] for group in groups]] if groups else vectors[:0]
        similar = leaders @ vector
        if len(similar) and similar.max() >= ALIKE:
            groups[int(similar.argmax())].append(place)
        else:
            groups.append([place])
    times = sorted(datetime.fromisoformat(response.created_at) for response in responses)
    since = times[0] + (times[-1] - times[0]) * (1 - RECENT)
    gaps = [_gap([asked[place] for place in group], vectors[group], since) for group in groups]
    return sorted(gaps, key=lambda gap: (-gap.count, gap.question))


def _gap(asked: Sequence[ResponseRecord], vectors: "Vectors", since: datetime) -> QuestionGap:
    central = int((vectors @ vectors.sum(axis=0)).argmax())
    times = [response.created_at for response in asked]
    return QuestionGap(
        question=asked[central].question,
        count=len(asked),
        users=len({response.user for response in asked}),
        first_at=min(times),
        last_at=max(times),
        recent=sum(datetime.fromisoformat(time) >= since for time in times),
        expected=round(len(asked) * RECENT, 2),
        examples=tuple(dict.fromkeys(response.question for response in asked))[:_EXAMPLES],
    )
