"""Writes plausible questions that the documents do not answer, so that a model learns to say so.

Each question names a real object or text and asks for something that its document does not state: a parameter of a
neighbour, an undocumented return value, a missing default, a term that only another text explains.
"""

import re
from bisect import bisect
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeVar

from ragtune.dataset.extractive.api_page import ApiObject
from ragtune.dataset.extractive.fact import Fact
from ragtune.draws import choose, draw

Entry = TypeVar("Entry")
_NO_ANSWER = (0, 0)
_CALLABLES = ("function", "method", "class method", "static method")
_CATCH_ALL = ("args", "kwargs")
_BORROWED_GROUPS = ("parameter", "parameter.effect", "default", "type")
_CLASS_GROUPS = ("absent.version", "absent.author")
# Names such as `x` or `key` mean something everywhere. Chosen by hand, not sensitive.
_SHORTEST_BORROWED_NAME = 4
# Terms of other texts to try before giving up, so that one question stays cheap. Chosen by hand, not sensitive.
_FOREIGN_TERMS_TRIED = 40

# What each template group asks for, by words that would stand on a page that answers it. The question is only asked if
# the page has none of them: a question that is wrongly called unanswerable teaches a model to refuse.
_ABSENT_FROM_PAGES = {
    "absent.version": r"version|release|since|deprecat|\d\.\d",
    "absent.author": r"author|maintain|contribut|written by",
    "absent.cost": r"second|memory|fast|slow|time|performance|complexity|cost|efficient",
    "absent.thread": r"thread|lock|concurren|parallel|process",
    "absent.environment": r"environment|config|database|http|status|log|file|write|env",
}
_ABSENT_FROM_PROSE = {
    "absent.prose.0": r"invent",
    "absent.prose.1": r"[$€]|cost|price|free",
    "absent.prose.2": r"\b(19|20)\d\d\b",
    "absent.prose.3": r"compan|\binc\b|corporation|gmbh|founded",
    "absent.prose.4": r"users|people|\bmillion|thousand",
    "absent.prose.5": r"countr|founded",
}


class Neighbours:
    """The parameters of the objects in the same module or package, for borrowing.

    Names stand on a ring, ordered by their hash, and an object takes the next one that fits. So new documents
    change few of the questions.
    """

    def __init__(self, objects: Sequence[ApiObject], seed: int) -> None:
        self.seed = seed
        names_by_scope: dict[str, set[str]] = {}
        for owner in objects:
            names = {name for name in owner.parameters if len(name) >= _SHORTEST_BORROWED_NAME}
            for scope in _scopes(owner):
                names_by_scope.setdefault(scope, set()).update(names.difference(_CATCH_ALL))
        self.rings = {
            scope: sorted((draw(seed, "ring", name), name) for name in names) for scope, names in names_by_scope.items()
        }

    def borrowed_parameter(self, owner: ApiObject) -> str:
        """Return a parameter of a neighbour that this object's text never mentions, or "" if there is none."""
        for scope in _scopes(owner):
            ring = self.rings.get(scope, [])
            first = bisect(ring, (draw(self.seed, "borrow", owner.title), ""))
            for _, name in _once_around(ring, first):
                if name not in owner.parameters and not _mentions(owner.text, name):
                    return name
        return ""


def _once_around(ring: Sequence[Entry], first: int) -> Iterator[Entry]:
    """Yield the entries of a ring once, from position `first` on; the ring, which may be long, is not copied."""
    yield from (ring[(first + offset) % len(ring)] for offset in range(len(ring)))


def _scopes(owner: ApiObject) -> tuple[str, str]:
    """Return where an object's neighbours live: its class or module, then its package."""
    return owner.title.rsplit(".", 1)[0], owner.package


def _mentions(text: str, name: str) -> bool:
    """Return whether a text has a name as it is or as separate words."""
    as_words = name.replace("_", " ")
    return re.search(rf"\b(?:{re.escape(name)}|{re.escape(as_words)})\b", text, re.IGNORECASE) is not None


def unanswerable_api_facts(owner: ApiObject, neighbours: Neighbours, seed: int) -> Iterator[Fact]:
    """Yield questions about the object that its page does not answer, the hardest kinds first."""
    is_callable = owner.noun in _CALLABLES
    if owner.parameters and not owner.open_ended and (is_callable or owner.noun == "class"):
        name = neighbours.borrowed_parameter(owner)
        if name:
            group = choose(seed, _BORROWED_GROUPS, "borrowed", owner.title, name)
            yield Fact("unanswerable.parameter", group, *_NO_ANSWER, {"parameter": name})
    required = _parameters_without_default(owner)
    if required:
        name = choose(seed, required, "no default", owner.title)
        yield Fact("unanswerable.default", "default", *_NO_ANSWER, {"parameter": name})
    mentions_result = re.search(r"\b(return|yield|result|get|give|->)", owner.text, re.IGNORECASE)
    if is_callable and not owner.returns and not mentions_result:
        yield Fact("unanswerable.returns", "returns", *_NO_ANSWER)
    groups = tuple(_ABSENT_FROM_PAGES) if is_callable else _CLASS_GROUPS
    absent = [group for group in groups if not re.search(_ABSENT_FROM_PAGES[group], owner.text, re.IGNORECASE)]
    if absent and (is_callable or owner.noun == "class"):
        yield Fact("unanswerable.absent", choose(seed, absent, "absent", owner.title), *_NO_ANSWER)


def _parameters_without_default(owner: ApiObject) -> list[str]:
    """Return the parameters without a default; none if the text speaks of defaults, which may then be theirs."""
    if re.search(r"default|optional", owner.text, re.IGNORECASE):
        return []
    return [name for name, default in owner.parameters.items() if not default and name not in _CATCH_ALL]


class Terms:
    """The terms that each text explains, so that one text can be asked about a term of another.

    Args:
        terms: Pairs of a document id and a term.
    """

    def __init__(self, terms: Sequence[tuple[str, str]], seed: int) -> None:
        self.seed = seed
        self.ring = sorted({(draw(seed, "term", term), document_id, term) for document_id, term in terms})

    def foreign_term(self, document_id: str, text: str) -> str:
        """Return a term of another document that this text never mentions, or "" if there is none."""
        first = bisect(self.ring, (draw(self.seed, "foreign", document_id, text[:80]), "", ""))
        for _, other_id, term in islice(_once_around(self.ring, first), _FOREIGN_TERMS_TRIED):
            if other_id != document_id and not _mentions(text, term.strip("`“”")):
                return term
        return ""


def unanswerable_prose_facts(document_id: str, term: str, text: str, place: str, terms: Terms) -> Iterator[Fact]:
    """Yield questions that a text does not answer.

    One asks for a term of another document. The other asks for something absent about `term`, which the text explains.
    `place` is ` in TITLE`, or "" if the title does not say what the text is about.
    """
    foreign = terms.foreign_term(document_id, text) if place else ""
    if foreign:
        is_phrase = foreign.startswith("“") and " " in foreign
        group = "list_item.phrase" if is_phrase else "list_item"
        yield Fact("unanswerable.term", group, *_NO_ANSWER, {"term": foreign, "place": place})
    absent = [group for group, words in _ABSENT_FROM_PROSE.items() if not re.search(words, text, re.IGNORECASE)]
    if absent and term:
        group = choose(terms.seed, absent, "absent prose", document_id, term)
        yield Fact("unanswerable.absent", group, *_NO_ANSWER, {"term": term, "place": place})
