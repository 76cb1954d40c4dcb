"""Plausible questions whose answer the documents do not hold, so that the model learns to say so.

Each one names a real object and asks for something that no chunk of its document states:
a parameter borrowed from a neighbour, an undocumented return value, a missing default.
"""

import re
from bisect import bisect
from collections.abc import Iterator, Sequence

from ragtune.dataset.extractive.api_facts import ApiObject, Fact
from ragtune.draws import choose, draw

_CALLABLE = ("function", "method", "class method", "static method")
_ABSENT = {
    "absent.version": r"version|release|since|deprecat|\d\.\d",
    "absent.author": r"author|maintain|contribut|written by",
    "absent.cost": r"second|memory|fast|slow|time|performance|complexity|cost|efficient",
    "absent.thread": r"thread|lock|concurren|parallel|process",
    "absent.environment": r"environment|config|database|http|status|log|file|write|env",
}
_BORROWED = ("parameter", "parameter.effect", "default", "type")
_ABSENT_OF_CLASS = ("absent.version", "absent.author")


class Neighbours:
    """The parameters of the objects around an object, for borrowing.

    Names stand on a ring by their hash and an object takes the next one that fits, so that
    new documents change few of the questions.
    """

    def __init__(self, objects: Sequence[ApiObject], seed: int) -> None:
        self.seed = seed
        found: dict[str, set[str]] = {}
        for owner in objects:
            names = {name for name in owner.parameters if len(name) > 3 and name not in ("args", "kwargs")}
            for place in (_scope(owner.title), owner.package):
                found.setdefault(place, set()).update(names)
        self.rings = {
            place: sorted((draw(seed, "ring", name), name) for name in names) for place, names in found.items()
        }

    def borrowed(self, owner: ApiObject) -> str:
        """Return a parameter name that neighbours have and nothing in this object's text mentions."""
        for place in (_scope(owner.title), owner.package):
            ring = self.rings.get(place, [])
            first = bisect(ring, (draw(self.seed, "borrow", owner.title), ""))
            for _, name in [*ring[first:], *ring[:first]]:
                if name not in owner.parameters and not _mentions(owner.text, name):
                    return name
        return ""


def _scope(title: str) -> str:
    return title.rsplit(".", 1)[0]


def _mentions(text: str, name: str) -> bool:
    spaced = name.replace("_", " ")
    return re.search(rf"\b(?:{re.escape(name)}|{re.escape(spaced)})\b", text, re.IGNORECASE) is not None


def unanswerable_facts(owner: ApiObject, neighbours: Neighbours, seed: int) -> Iterator[Fact]:
    """Yield questions about the object that its document cannot answer, hardest kinds first."""
    empty = (0, 0)
    if owner.parameters and not owner.open_ended and owner.noun in (*_CALLABLE, "class"):
        name = neighbours.borrowed(owner)
        if name:
            wording = choose(seed, _BORROWED, "borrowed", owner.title, name)
            yield Fact("unanswerable.parameter", wording, *empty, {"d": name})
    silent = [name for name, default in owner.parameters.items() if not default and name not in ("args", "kwargs")]
    plain = [name for name in silent if not re.search(r"default|optional", owner.text, re.IGNORECASE)]
    if plain:
        name = choose(seed, plain, "no default", owner.title)
        yield Fact("unanswerable.default", "default", *empty, {"d": name})
    told = re.search(r"\b(return|yield|result|get|give|->)", owner.text, re.IGNORECASE)
    if owner.noun in _CALLABLE and not owner.returns and not told:
        yield Fact("unanswerable.returns", "returns", *empty)
    kinds = _ABSENT if owner.noun in _CALLABLE else {name: _ABSENT[name] for name in _ABSENT_OF_CLASS}
    absent = [name for name, words in kinds.items() if not re.search(words, owner.text, re.IGNORECASE)]
    if absent and owner.noun in (*_CALLABLE, "class"):
        yield Fact("unanswerable.absent", choose(seed, absent, "absent", owner.title), *empty)


class Terms:
    """The terms that each text explains, so that a question can ask one text about another's term."""

    def __init__(self, terms: Sequence[tuple[str, str]], seed: int) -> None:
        self.seed = seed
        self.ring = sorted({(draw(seed, "term", term), document, term) for document, term in terms})

    def foreign(self, document: str, text: str) -> str:
        """Return a term of another document that nothing in this text mentions; empty for none."""
        first = bisect(self.ring, (draw(self.seed, "foreign", document, text[:80]), "", ""))
        for _, other, term in [*self.ring[first:], *self.ring[:first]][:40]:
            if other != document and not _mentions(text, term.strip("`“”")):
                return term
        return ""


_ABSENT_PROSE = {
    0: r"invent",
    1: r"[$€]|cost|price|free",
    2: r"\b(19|20)\d\d\b",
    3: r"compan|\binc\b|corporation|gmbh|founded",
    4: r"users|people|\bmillion|thousand",
    5: r"countr|founded",
}


def unanswerable_prose(document: str, term: str, text: str, context: str, terms: Terms) -> Iterator[Fact]:
    """Yield questions about the text that it cannot answer: a foreign term, or a fact that is nowhere in it."""
    foreign = terms.foreign(document, text) if context else ""
    if foreign:
        wording = "list_item.phrase" if foreign.startswith("“") and " " in foreign else "list_item"
        yield Fact("unanswerable.term", wording, 0, 0, {"d": foreign, "c": context})
    silent = [number for number, words in _ABSENT_PROSE.items() if not re.search(words, text, re.IGNORECASE)]
    if silent:
        number = silent[int(draw(terms.seed, "absent prose", document, term) * len(silent))]
        yield Fact("unanswerable.absent", f"absent.prose.{number}", 0, 0, {"d": term, "c": context})
