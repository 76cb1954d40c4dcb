"""Recognises units that only repeat the signature of an object, and questions that ask for a signature.

`shop.Cart.close(force=False)` (method) proves nothing about what closing a cart does. It is the answer to "what
parameters does Cart.close take", and to "what closes a cart", which does not name it.
"""

import re
from dataclasses import dataclass
from itertools import accumulate

from ragtune.answer.language_packs import ENGLISH, LanguagePack
from ragtune.answer.units import Unit
from ragtune.knowledge.names import names_in, object_names, shortest_name

_KINDS = (
    *("attribute", "class", "constant", "constructor", "coroutine", "data", "decorator", "enum", "exception", "field"),
    *("function", "method", "module", "package", "property", "variable"),
)
_KIND = re.compile(rf"\b(?:{'|'.join(_KINDS)})\b")
_BEFORE = re.compile(
    rf"\s*(?:#+\s+)?[`*_]*(?:(?:abstract|async|{'|'.join(_KINDS)}|class ?method|def|static ?method)\s+)*[`*_]*"
)
_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_PARAMETER = re.compile(
    r"\s*(?:\*{0,2}(?!(?:None|True|False)\b)[A-Za-z_]\w*\s*(?:[:=\[]|$)|\*\s*$|/\s*$|\.\.\.\s*$|\[)"
)
"""Matches a parameter, and no value: `get("/parts")` is an example, which may be an answer."""
_TYPE = r"[\w.]+(?:\[[^\]]*\]+)?"
_RESULT = re.compile(rf"\s*(?:->|→)\s*{_TYPE}(?:\s*\|\s*{_TYPE})*")
_LINKS = re.compile(r"\[source\](?:\(\S*\))?|[¶#`*_:;.]|\((?P<kind>[a-z ]+)\)")
"""Matches what stands behind a signature and says nothing about the object; a kind is looked up in `_KINDS`."""
_KIND_WORDS = frozenset({*_KINDS, "async", "abstract", "static"})


@dataclass(frozen=True, slots=True)
class _Signature:
    """The name of an object, and whether its signature says what it returns and what kind of object it is."""

    name: str
    has_result: bool
    has_kind: bool


def repeats_signature(unit: Unit, title: str, question: str, pack: LanguagePack = ENGLISH) -> bool:
    """Return whether a unit only repeats the signature of an object that the question names, and does not ask for.

    Args:
        unit: a unit of a passage.
        title: that of the passage. A signature of the page's own object need not repeat the names of its owners.
        question: what was asked.
        pack: of the question's language; its words and the English ones tell what a question asks for.
    """
    signature = _signature_in(unit.text)
    if signature is None:
        return False
    for words in (ENGLISH.signatures, pack.signatures):
        if words is not None and (
            words.asked.search(question)
            or (signature.has_result and words.result_asked.search(question))
            or (signature.has_kind and words.kind_asked.search(question))
        ):
            return False
    if not f".{title}".endswith(f".{signature.name}"):
        # Letters as they are: `cart.close(force)` is a call of what `Cart.close` describes.
        return re.search(rf"(?<!\w){re.escape(shortest_name(signature.name))}(?!\w)", question) is not None
    names = object_names(title)
    return any(name in names for ways in names_in(question) for name in ways)


def _signature_in(text: str) -> _Signature | None:
    """Return the signature if the text is nothing else, or None.

    A name without parentheses is one only if it is code: dotted, in a code span, or with its kind before it.
    """
    before = _BEFORE.match(text)
    start = before.end() if before else 0
    name = _NAME.match(text, start)
    if name is None:
        return None
    end = _end_of_parameters(text, name.end())
    if not all(_PARAMETER.match(part) for part in _parts(text[name.end() + 1 : end - 1])):
        return None
    is_code = end > name.end() or "." in name[0] or "`" in text[:start] or _KIND.search(text[:start]) is not None
    result = _RESULT.match(text[end:])
    rest = text[end + (result.end() if result else 0) :]
    kinds = [match["kind"] for match in _LINKS.finditer(rest) if match["kind"]]
    words = {word for kind in kinds for word in kind.split()}
    if not is_code or _LINKS.sub("", rest).strip() or not words <= _KIND_WORDS:
        return None
    return _Signature(name[0], result is not None, bool(kinds or _KIND.search(text[:start])))


def _end_of_parameters(text: str, start: int) -> int:
    """Return where the parentheses that open at `start` close; `start` if none open there or they never close."""
    if text[start : start + 1] != "(":
        return start
    depths = _depths(text[start:])
    return start + depths.index(0) + 1 if 0 in depths else start


def _parts(parameters: str) -> list[str]:
    """Return the parameters of a list, which commas inside brackets do not separate; those behind "[, " count too."""
    depths = _depths(parameters)
    ends = [place for place, sign in enumerate(parameters) if sign == "," and depths[place] == 0]
    starts = [0, *(place + 1 for place in ends)]
    parts = [parameters[start:end] for start, end in zip(starts, [*ends, len(parameters)], strict=True)]
    return [part for part in parts if part.strip()]


def _depths(text: str) -> list[int]:
    """Return for each character how many brackets are open behind it."""
    return list(accumulate((sign in "([{") - (sign in ")]}") for sign in text))
