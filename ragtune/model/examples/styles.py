"""Target answers in the style that a dial or switch asks for, made of words that the passage shows.

Nothing is invented: if the passage has no example, no signature or no further sentence, the answer stays as it is
(docs/decisions/styles-with-material.md).
"""

import re

from ragtune.answer.controls import NEUTRAL, Controls
from ragtune.answer.prompt import target_text
from ragtune.records import Chunk, QAPair
from ragtune.text.sentences import sentence_spans
from ragtune.text.whitespace import collapse_whitespace

REWORDING_STYLES = (
    Controls(depth=1.0),
    Controls(technical_level=1.0),
    Controls(technical_level=0.0),
    Controls(examples=True),
    Controls(step_by_step=True),
)
"""Styles that change an answer if its passage has the words for it."""
UNCHANGED_STYLES = (NEUTRAL, NEUTRAL, Controls(depth=0.0), Controls(citations=False), Controls(examples=True))
"""Styles that fit any answer without rewording it. `examples` is among them so that the model does not make one up.

Neutral stands twice, because most requests are neutral. Chosen by hand, not measured.
"""
REFUSAL_STYLES = (*[NEUTRAL] * 4, Controls(technical_level=1.0), Controls(technical_level=0.0))
"""Styles of refusals: only those that many answers have. Otherwise a style would come to mean that there is no answer.

Four of six are neutral. Chosen by hand, not measured.
"""

_PARAMETER_HEAD = re.compile(r"\s*[-*] (`[\w.*]+`.*?: )")
_SIGNATURE = re.compile(r"`[\w.]+\([^`\n]{0,80}\)`")
_DOTTED_NAME = re.compile(r"`?(?:[A-Za-z_]\w*\.)+([A-Za-z_]\w*)`?")
_KINDS_WITH_NAME = ("how_to", "base", "type")
"""Kinds of pairs whose answer is the name of an object. A default value may look like a name but is none."""
_PARAGRAPH_END = re.compile(r"\n\s*(?:\n|[-*] )")
_EXAMPLE_BEGINNING = re.compile(r"(?:For (?:example|instance)|E\.g\.)\b", re.IGNORECASE)


def styled_target(pair: QAPair, chunk: Chunk | None, passage: str, number: int, style: Controls) -> str:
    """Return the target for a pair whose answer is in passage `number`, in this style.

    `passage` is its text as the prompt shows it, on one line. `chunk` is the pair's own chunk, or None if
    passage `number` is another chunk of the document.
    """
    answer, citation = pair.answer, number if style.citations else None
    if style.depth == 0.0:
        start, end = next(sentence_spans(answer, 0, len(answer)))
        return target_text(answer[start:end], citation)
    if style.technical_level == 0.0:
        return target_text(_in_plain_words(pair), citation)
    if chunk is None:
        return target_text(answer, citation)
    if style.technical_level == 1.0:
        return target_text(_with_signature(pair, chunk, passage), citation)
    if style.depth == 1.0:
        return target_text(_joined(answer, _next_sentence(pair, chunk, passage)), citation)
    if style.examples:
        return target_text(_joined(answer, _example_sentence(pair, chunk, passage)), citation)
    next_sentence = _next_sentence(pair, chunk, passage)
    if style.step_by_step and next_sentence:
        steps = enumerate([answer, next_sentence], 1)
        return "\n".join(f"{step}. {target_text(text, citation)}" for step, text in steps)
    return target_text(answer, citation)


def _next_sentence(pair: QAPair, chunk: Chunk, passage: str) -> str:
    """Return the sentence after the answer if that is shown and the answer ends a sentence, else ""."""
    text = chunk.text
    end = pair.span[1] + text.startswith(".", pair.span[1])
    span = next(sentence_spans(text, end, len(text)), None)
    if span is None or not text[:end].endswith("."):
        return ""
    sentence = text[span[0] : span[1]]
    is_whole = sentence[:1].isupper() and sentence.endswith(".")
    is_same_paragraph = "\n\n" not in text[end : span[0]]
    sentence = collapse_whitespace(sentence)
    return sentence if is_whole and is_same_paragraph and sentence in passage else ""


def _example_sentence(pair: QAPair, chunk: Chunk, passage: str) -> str:
    """Return the first sentence in the rest of the answer's paragraph that gives an example and is shown, or ""."""
    text, start = chunk.text, pair.span[1]
    paragraph_end = _PARAGRAPH_END.search(text, start)
    for first, last in sentence_spans(text, start, paragraph_end.start() if paragraph_end else len(text)):
        sentence = collapse_whitespace(text[first:last])
        if _EXAMPLE_BEGINNING.match(text, first) and text[last - 1] == "." and sentence in passage:
            return sentence
    return ""


def _joined(answer: str, sentence: str) -> str:
    return f"{answer.rstrip('.')}. {sentence}" if sentence else answer


def _with_signature(pair: QAPair, chunk: Chunk, passage: str) -> str:
    """Return the answer preceded by what it describes, if that is shown.

    That is a parameter with its type and default, or the signature of a function.
    """
    text, start = chunk.text, pair.span[0]
    line_start = text.rfind("\n", 0, start) + 1
    head = _PARAMETER_HEAD.match(text, line_start)
    if head is not None and head.end() == start and collapse_whitespace(head[1]).strip() in passage:
        return collapse_whitespace(head[1] + pair.answer)
    signature = _SIGNATURE.match(text)
    if pair.kind == "purpose" and signature is not None and signature[0] in passage:
        return f"{signature[0]}: {pair.answer}"
    return pair.answer


def _in_plain_words(pair: QAPair) -> str:
    """Return the answer without backticks; of a dotted name only the last part."""
    name = _DOTTED_NAME.fullmatch(pair.answer) if pair.kind in _KINDS_WITH_NAME else None
    return name[1] if name else pair.answer.replace("`", "")
