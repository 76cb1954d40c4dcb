"""Names of code objects: in titles, where they are indexed whole, and in questions, where they are looked up.

BM25 takes `peft.LoraConfig` apart and vectors blur it, but whoever types a name means exactly that object.
"""

import re

from ragtune.records import Chunk

_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_QUOTED = re.compile(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)`")
_CODE_WORD = re.compile(r"\b(?:[A-Z]+[a-z0-9]+[A-Z]\w*|[A-Z]{2,}[a-z]\w*|[A-Za-z]\w*_\w+)\b")
_SPELLED = re.compile(
    r"(?:what(?: is|'s| are| does| do)|tell me about|(?:can you )?(?:explain|define|describe)(?: what)?)\s+"
    r"(?:an?\s+|the\s+)?(?:[a-z]+\s+){0,2}?"
    r"((?!(?:of|in|for|the|an?)\b)[a-z]+)\s+([a-z]+?)s?(?:\s+(?:in|of|for|mean|do|used|is|are)\b.*)?\s*[?.!]*",
    re.IGNORECASE,
)
"""A question what something is whose name is two words, with or without the product's name before them."""
_PLURAL_REST = re.compile(r"ie$|(?:x|ch|sh|ss)e$")
"""What is left of `policies` and `boxes` without their s."""
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_")


def object_names(title: str) -> list[str]:
    """Return what a title can be called, in lower case: `a.b.C` gives a.b.c, b.c and c."""
    name = title.strip().lower()
    if not _NAME.fullmatch(name):
        return [name]
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def body_text(chunk: Chunk) -> str:
    """Return what BM25 reads: the embedded text, and a name in the title once more as plain words."""
    words = " ".join(in_words(part) for part in chunk.title.split("."))
    return f"{chunk.embedded_text}\n{words}" if _NAME.fullmatch(chunk.title) else chunk.embedded_text


def in_words(name: str) -> str:
    """Return an identifier's words: `AssetCheckSpec` gives `Asset Check Spec`."""
    return " ".join(_HUMP.split(name))


def names_in(question: str, limit: int = 3) -> list[list[str]]:
    """Return for each object named in a question the ways to look it up, the most exact first.

    Dotted names come before quoted ones and CamelCase or snake_case words. `LoraConfig.r` is also
    looked up as its owner, `torch.nn.Linear` also as `linear`. A question of one word is a name. Without any
    name, `What is an asset check?` means `AssetCheck` or `asset_check`.
    """
    if _NAME.fullmatch(question.strip()):
        return [_ways(question.strip())]
    dotted = _DOTTED.findall(question)
    rest = _QUOTED.findall(question) + _CODE_WORD.findall(question)
    known = {part for name in dotted for part in name.split(".")}
    names = list(dict.fromkeys([*dotted, *(name for name in rest if name not in known and name not in dotted)]))
    if not names and (spelled := _SPELLED.fullmatch(question.strip())):
        first, second = (word.lower() for word in spelled.groups())
        single = _PLURAL_REST.sub(lambda rest: "y" if rest[0] == "ie" else rest[0][:-1], second)
        return [[f"{first}{joint}{last}" for last in dict.fromkeys([second, single]) for joint in ("", "_")]]
    return [_ways(name) for name in names[:limit]]


def shortest_name(title: str) -> str:
    """Return the shortest end of a title that reads as a name: `fit` does not, `Panel.fit` does."""
    parts = title.split(".")
    return parts[-1] if _CODE_WORD.fullmatch(parts[-1]) else ".".join(parts[-2:])


def _ways(name: str) -> list[str]:
    owner, _, last = name.rpartition(".")
    if not owner:
        return [name.lower()]
    is_member = owner.rpartition(".")[2][:1].isupper()
    return [name.lower(), (owner if is_member else last).lower()]
