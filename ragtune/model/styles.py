"""What an answer looks like under a dial or a switch, made of the words that its passage shows.

Nothing is invented: where a passage holds no example, no signature or no further sentence, the answer
stays as it is.
"""

import re

from ragtune.answer.controls import NEUTRAL, Controls
from ragtune.answer.prompt import target_text
from ragtune.records import Chunk, QAPair
from ragtune.text.sentences import sentence_spans
from ragtune.text.whitespace import collapse_whitespace

REWORDED = (
    Controls(depth=1.0),
    Controls(technical_level=1.0),
    Controls(technical_level=0.0),
    Controls(examples=True),
    Controls(step_by_step=True),
)
"""Styles in which an answer says more or says it otherwise, where its passage lets it."""
KEPT = (NEUTRAL, NEUTRAL, Controls(depth=0.0), Controls(citations=False), Controls(examples=True))
"""Styles for which any answer will do as it is; where no example is shown, none is made up."""
REFUSED = (*[NEUTRAL] * 4, Controls(technical_level=1.0), Controls(technical_level=0.0))
"""Styles of refusals: of those that many answers have, or a style would come to mean that there is no answer."""

_ITEM_HEAD = re.compile(r"\s*[-*] (`[\w.*]+`.*?: )")
_SIGNATURE = re.compile(r"`[\w.]+\([^`\n]{0,80}\)`")
_DOTTED = re.compile(r"`?(?:[A-Za-z_]\w*\.)+([A-Za-z_]\w*)`?")
_NAMES = ("how_to", "base", "type")
"""Kinds of pairs whose answer is the name of an object; a default may look like one."""
_BREAK = re.compile(r"\n\s*(?:\n|[-*] )")
_EXAMPLE = re.compile(r"(?:For (?:example|instance)|E\.g\.)\b", re.IGNORECASE)


def styled_target(pair: QAPair, chunk: Chunk | None, shown: str, number: int, style: Controls) -> str:
    """Return what the model should say to a pair whose answer stands in passage `number`.

    `shown` is that passage as the prompt has it, in one line; `chunk` the pair's own chunk where it is that passage.
    """
    answer, cited = pair.answer, number if style.citations else None
    if style.depth == 0.0:
        start, end = next(sentence_spans(answer, 0, len(answer)))
        return target_text(answer[start:end], cited)
    if style.technical_level == 0.0:
        return target_text(_plain(pair), cited)
    if chunk is None:
        return target_text(answer, cited)
    if style.technical_level == 1.0:
        return target_text(_precise(pair, chunk, shown), cited)
    if style.depth == 1.0:
        return target_text(_joined(answer, _following(pair, chunk, shown)), cited)
    if style.examples:
        return target_text(_joined(answer, _example(pair, chunk, shown)), cited)
    further = _following(pair, chunk, shown)
    if style.step_by_step and further:
        return "\n".join(f"{step}. {target_text(text, cited)}" for step, text in enumerate([answer, *further], 1))
    return target_text(answer, cited)


def _following(pair: QAPair, chunk: Chunk, shown: str) -> list[str]:
    """Return the sentence after the answer, where the answer ends a sentence and the next one is shown."""
    text = chunk.text
    end = pair.span[1] + text.startswith(".", pair.span[1])
    following = next(sentence_spans(text, end, len(text)), None)
    if following is None or not text[:end].endswith("."):
        return []
    more = text[following[0] : following[1]]
    plain = more[:1].isupper() and more.endswith(".") and "\n\n" not in text[end : following[0]]
    return [collapse_whitespace(more)] if plain and collapse_whitespace(more) in shown else []


def _example(pair: QAPair, chunk: Chunk, shown: str) -> list[str]:
    """Return the first whole sentence in the rest of the answer's paragraph that gives an example and is shown."""
    text, start = chunk.text, pair.span[1]
    over = _BREAK.search(text, start)
    rest = sentence_spans(text, start, over.start() if over else len(text))
    found = (collapse_whitespace(text[a:b]) for a, b in rest if _EXAMPLE.match(text, a) and text[b - 1] == ".")
    return [sentence for sentence in found if sentence in shown][:1]


def _joined(answer: str, more: list[str]) -> str:
    return " ".join([f"{answer.rstrip('.')}.", *more]) if more else answer


def _precise(pair: QAPair, chunk: Chunk, shown: str) -> str:
    """Return the answer behind what it describes: a parameter with its type and default, or a signature."""
    text, start = chunk.text, pair.span[0]
    line = text.rfind("\n", 0, start) + 1
    head = _ITEM_HEAD.match(text, line)
    if head is not None and head.end() == start and collapse_whitespace(head[1]).strip() in shown:
        return collapse_whitespace(head[1] + pair.answer)
    signature = _SIGNATURE.match(text)
    if pair.kind == "purpose" and signature is not None and signature[0] in shown:
        return f"{signature[0]}: {pair.answer}"
    return pair.answer


def _plain(pair: QAPair) -> str:
    """Return the answer without marks of code; an object's name without what it stands in."""
    dotted = _DOTTED.fullmatch(pair.answer) if pair.kind in _NAMES else None
    return dotted[1] if dotted else pair.answer.replace("`", "")
