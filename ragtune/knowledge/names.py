"""Names of code objects: how their titles are indexed under them, and how questions look them up.

BM25 takes `peft.LoraConfig` apart and vectors blur it, but somebody who types a name means exactly that object.
"""

import re

from ragtune.records import Chunk
from ragtune.text.normal_form import normalize_for_search

_DOTTED_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_QUOTED_NAME = re.compile(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)`")
_CODE_WORD = re.compile(r"\b(?:[A-Z]+[a-z0-9]+[A-Z]\w*|[A-Z]{2,}[a-z]\w*|[A-Za-z]\w*_\w+)\b")
_WORD_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_")
# Chosen by hand: each name costs a search of its own, and questions seldom name more than two objects.
_MOST_NAMES = 3


def object_names(title: str) -> list[str]:
    """Return what an object with this title can be called, in lower case: `a.b.C` gives a.b.c, b.c and c."""
    name = normalize_for_search(title).strip().lower()
    if not _NAME.fullmatch(name):
        return [name]
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def body_text(chunk: Chunk) -> str:
    """Return what BM25 indexes: the embedded text, then the name in the title as plain words if it is one."""
    words = " ".join(in_words(part) for part in chunk.title.split("."))
    return f"{chunk.embedded_text}\n{words}" if _NAME.fullmatch(chunk.title) else chunk.embedded_text


def in_words(name: str) -> str:
    """Return an identifier's words: `AssetCheckSpec` gives `Asset Check Spec`."""
    return " ".join(_WORD_BOUNDARY.split(name))


def names_in(question: str, limit: int = _MOST_NAMES) -> list[list[str]]:
    """Return for each object named in a question the names to look up, the most exact first.

    Dotted names come before quoted ones and CamelCase or snake_case words. `LoraConfig.r` is also looked up as
    its owner, `torch.nn.Linear` also as `linear`. A question of one word is a name.
    """
    question = normalize_for_search(question).strip()
    if _NAME.fullmatch(question):
        return [_lookup_names(question)]
    dotted = _DOTTED_NAME.findall(question)
    dotted_parts = {part for name in dotted for part in name.split(".")}
    single = _QUOTED_NAME.findall(question) + _CODE_WORD.findall(question)
    names = [*dotted, *(name for name in single if name not in dotted_parts and name not in dotted)]
    return [_lookup_names(name) for name in list(dict.fromkeys(names))[:limit]]


def shortest_name(title: str) -> str:
    """Return the shortest end of a title that reads as a name: `fit` does not, `Panel.fit` does."""
    parts = title.split(".")
    return parts[-1] if _CODE_WORD.fullmatch(parts[-1]) else ".".join(parts[-2:])


def _lookup_names(name: str) -> list[str]:
    """Return the name in lower case, and for a dotted name what to try next: a member's owner or the last part."""
    owner, _, last = name.rpartition(".")
    if not owner:
        return [name.lower()]
    is_member = owner.rpartition(".")[2][:1].isupper()
    return [name.lower(), (owner if is_member else last).lower()]
