"""Decides which passages the prompt shows for a question.

Training, evaluation and serving all choose passages here, so that a model is trained on what it will see, and
offline scores describe what users get. There are five steps:

1. Build the search text from the question and the turns before it, by the follow-up words of its language.
2. Search for a few more hits than are needed.
3. Keep the hits about what the question names (measured in
   docs/decisions/passages-of-what-is-named.md).
4. Cut to the number needed.
5. Choose the lines of these hits that are most related to the search text, within one budget of words; a hit without
   a chosen line is not shown (measured in docs/decisions/lines-of-all-passages.md).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from ragtune.answer.language_packs import ENGLISH_FRAME, Frame
from ragtune.answer.lines import LineSimilarity
from ragtune.knowledge.excerpts import choose_lines
from ragtune.knowledge.names import names_in, object_names, shortest_name
from ragtune.records import Hit, Message
from ragtune.text.normal_form import normalize_for_search
from ragtune.text.words import content_words

Search = Callable[[str, int], list[Hit]]
"""Takes a text and a number of hits; returns up to that many, best first."""

_SPARE_HITS = 4
"""Hits searched for in addition to those shown, because the filter may drop some. Chosen by hand, not measured."""
_FOLLOW_UP_WORDS = 4
"""A question with fewer content words needs the question before it. Chosen by hand, not measured."""
_REFERENCE_WORDS = 10
"""A longer question names its subject itself, even if it says "it" somewhere. Chosen by hand, not measured."""


class SupportsSearch(Protocol):
    """The part of a retriever that answering needs."""

    def search(self, text: str, limit: int) -> list[Hit]:
        """Return up to `limit` hits, best first."""


def find_passages(
    search: Search, text: str, count: int, words: int, similarity: LineSimilarity | None = None
) -> list[Hit]:
    """Search for a text and return the passages to show, best first: at most `count` with about `words` words."""
    hits = select_passages(text, search(text, hits_needed(count)), count, similarity)
    return with_lines(text, hits, words, similarity)


def with_lines(text: str, hits: Sequence[Hit], words: int, similarity: LineSimilarity | None = None) -> list[Hit]:
    """Return those of the hits that have a line to show, with their lines: about `words` words in all.

    Without `similarity`, words shared with the search text decide which lines are shown.
    """
    chunks = [hit.chunk for hit in hits]
    scores = similarity(text, chunks) if similarity and chunks else None
    lines = choose_lines(chunks, text, words, scores)
    return [replace(hit, lines=shown) for hit, shown in zip(hits, lines, strict=True) if shown]


def search_text(question: str, history: Sequence[Message] = (), frame: Frame = ENGLISH_FRAME) -> str:
    """Return the text to search for: the question, preceded by the user's previous one if it is a follow-up.

    A follow-up has few content words, or is short and refers back: "And if I leave out max_iter?"
    """
    earlier = [turn.content for turn in history if turn.role == "user"]
    has_few_words = len(content_words(question, frame.language)) < _FOLLOW_UP_WORDS
    is_short = len(question.split()) <= _REFERENCE_WORDS
    refers_back = is_short and frame.pack.refers_back.search(normalize_for_search(question).strip())
    return f"{earlier[-1]} {question}" if earlier and (has_few_words or refers_back) else question


def hits_needed(count: int) -> int:
    """Return how many hits to search for so that `count` passages are likely to remain after filtering."""
    return count + _SPARE_HITS


def select_passages(text: str, hits: Sequence[Hit], count: int, similarity: LineSimilarity | None = None) -> list[Hit]:
    """Return the first `count` of the hits that are about what the search text names."""
    return about_what_is_named(text, hits, similarity)[:count]


def about_what_is_named(question: str, hits: Sequence[Hit], similarity: LineSimilarity | None = None) -> list[Hit]:
    """Return the hits about the objects that the question names: their own passages and others that mention them.

    A parameter of the same name on a neighbouring page is no answer. All hits are returned if none of them is the
    page of a named object, or if the line most similar to the question stands in another passage: a question such as
    "How do I colour a Panel?" may name what it has, and seek something else.
    """
    names = {way for ways in names_in(question) for way in ways}
    titles = {hit.chunk.title for hit in hits if names.intersection(object_names(hit.chunk.title))}
    if not titles:
        return list(hits)
    alternatives = "|".join(rf"(?<!\w){re.escape(shortest_name(title))}(?!\w)" for title in sorted(titles))
    mention = re.compile(alternatives, re.IGNORECASE)
    about = [hit.chunk.title in titles or mention.search(hit.chunk.text) is not None for hit in hits]
    if similarity:
        best = [max(scores, default=-1.0) for scores in similarity(question, [hit.chunk for hit in hits])]
        if not about[best.index(max(best))]:
            return list(hits)
    return [hit for hit, is_about in zip(hits, about, strict=True) if is_about]
