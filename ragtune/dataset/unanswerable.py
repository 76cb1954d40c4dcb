"""Plausible questions whose answer the documents do not hold, so that the model learns to say so.

Each one names a real object and asks for something that no chunk of its document states:
a parameter borrowed from a neighbour, an undocumented return value, a missing default.
"""

import re
from bisect import bisect
from collections.abc import Iterator, Sequence

from ragtune.dataset.api_facts import ApiObject, Fact
from ragtune.dataset.wording import choose, draw

_CALLABLE = ("function", "method", "class method", "static method")
_ABSENT = {
    "absent.version": r"version|release|since|deprecat|\d\.\d",
    "absent.author": r"author|maintain|contribut|written by",
    "absent.cost": r"second|memory|fast|slow|time|performance|complexity|cost|efficient",
    "absent.thread": r"thread|lock|concurren|parallel|process",
    "absent.environment": r"environment|config|database|http|status|log|file|write|env",
}


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
            wording = choose(seed, ("parameter", "default", "type"), "borrowed", owner.title, name)
            yield Fact("unanswerable.parameter", wording, *empty, {"d": name})
    silent = [name for name, default in owner.parameters.items() if not default and name not in ("args", "kwargs")]
    plain = [name for name in silent if not re.search(r"default|optional", owner.text, re.IGNORECASE)]
    if plain:
        name = choose(seed, plain, "no default", owner.title)
        yield Fact("unanswerable.default", "default", *empty, {"d": name})
    told = re.search(r"\b(return|yield|result|get|give|->)", owner.text, re.IGNORECASE)
    if owner.noun in _CALLABLE and not owner.returns and not told:
        yield Fact("unanswerable.returns", "returns", *empty)
    absent = [name for name, words in _ABSENT.items() if not re.search(words, owner.text, re.IGNORECASE)]
    if absent and owner.noun in (*_CALLABLE, "class"):
        yield Fact("unanswerable.absent", choose(seed, absent, "absent", owner.title), *empty)


def unanswerable_prose(term: str, text: str, context: str) -> Iterator[Fact]:
    """Yield a question about a term of the text whose kind of answer (a year, a price) is nowhere in it."""
    if not re.search(r"\b(19|20)\d\d\b|[$€]|compan|invent|people|countr|founded|cost|price", text, re.IGNORECASE):
        yield Fact("unanswerable.absent", "absent.prose", 0, 0, {"d": term, "c": context})
