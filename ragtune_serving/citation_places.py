"""Where a citation stands: in the answer, and in its document, as a URL that a browser opens at the passage."""

import re
from urllib.parse import quote

from ragtune.answer.citations import cited_numbers, sentences_with_marks, without_citations
from ragtune.text.sentences import split_sentences
from ragtune.text.whitespace import collapse_whitespace
from ragtune.text.words import content_words

_EDGE_WORDS = 5
"""Words at the beginning and at the end of a sentence that a URL names. Chosen by hand: enough to be found once."""
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_MARKUP = re.compile(r"[`*_#|>~]+")
_WEB = ("http://", "https://")


def cited_spans(text: str) -> dict[int, list[tuple[int, int]]]:
    """Return {citation number: [start, end) of each sentence of the answer that cites it, with its marks}."""
    spans: dict[int, list[tuple[int, int]]] = {}
    for start, end in sentences_with_marks(text):
        for number in cited_numbers(text[start:end]):
            spans.setdefault(number, []).append((start, end))
    return spans


def place_url(source: str, passage: str, answer: str) -> str:
    """Return a URL that a browser opens at the sentence of a passage that an answer is based on.

    It ends with a text fragment (wicg.github.io/scroll-to-text-fragment), which other programs ignore.

    Args:
        source: where the document is.
        passage: the text of the passage.
        answer: what is said of it; the sentence that shares the most words with it is the one to open.

    Returns:
        The URL, or "" if the source is nothing that a browser opens.
    """
    if not source.startswith(_WEB):
        return ""
    said = content_words(without_citations(answer))
    sentences = [plain for sentence in split_sentences(passage) if (plain := _as_shown(sentence))]
    if not sentences:
        return source
    best = max(sentences, key=lambda sentence: len(said & content_words(sentence)))
    words = best.split()
    edges = [words] if len(words) <= 2 * _EDGE_WORDS else [words[:_EDGE_WORDS], words[-_EDGE_WORDS:]]
    # A hyphen would be read as a part of the syntax, and `quote` leaves it as it is.
    encoded = [quote(" ".join(edge), safe="").replace("-", "%2D") for edge in edges]
    return f"{source}{'' if '#' in source else '#'}:~:text={','.join(encoded)}"


def _as_shown(text: str) -> str:
    """Return a line of Markdown as a browser shows it, as far as its words go."""
    return collapse_whitespace(_MARKUP.sub("", _LINK.sub(r"\1", text))).lstrip("-+ ")
