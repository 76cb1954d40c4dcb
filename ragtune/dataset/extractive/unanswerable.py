"""Writes plausible questions that the documents do not answer, so that a model learns to say so.

Each question names a real object or text and asks for something that its document does not state: a parameter of a
neighbour, an undocumented return value, a missing default, who looks after a machine.
"""

import re
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from ragtune.dataset.extractive.api_page import ApiObject
from ragtune.dataset.extractive.fact import Fact
from ragtune.dataset.extractive.questions import is_identifier
from ragtune.dataset.extractive.subjects import needed_place
from ragtune.draws import choose, draw
from ragtune.records import Chunk
from ragtune.text.words import content_words

Entry = TypeVar("Entry")
_NO_ANSWER = (0, 0)
_CALLABLES = ("function", "method", "class method", "static method")
_CATCH_ALL = ("args", "kwargs")
_BORROWED_GROUPS = ("parameter", "parameter.effect", "default", "type")
_CLASS_GROUPS = ("absent.version", "absent.author")
# Names such as `x` or `key` mean something everywhere. Chosen by hand, not sensitive.
_SHORTEST_BORROWED_NAME = 4

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
    "absent.prose.2": r"\b(19|20)\d\d\b|\d\.\d|introduc|\bnew\b|\badd(?:s|ed)\b|since",
    "absent.prose.3": r"compan|\binc\b|corporation|gmbh|founded",
    "absent.prose.4": r"users|people|\bmillion|thousand",
    "absent.prose.5": r"countr|founded",
}
_ABSENT_OF_SUBJECTS = {
    "absent.subject.care": r"responsib|look(?:s|ed)? after|in charge|maintain|keeper|warden",
    "absent.subject.users": r"users|people|\bmillion|thousand",
    "absent.subject.change": r"chang|\blast|since|replac|renew|introduc|\bnew\b|\b(19|20)\d\d\b|\d\.\d",
}
"""For things that have no price, company or country, such as `the night shift`."""
_ABSENT_OF_CODE = {
    "absent.code.version": r"\bversion|\breleased?\b|\bsince\b|\bv\d|\d\.\d+\.\d",
    "absent.subject.change": _ABSENT_OF_SUBJECTS["absent.subject.change"],
}
_UNCLEAR_SUBJECT = re.compile(
    r"^an?\b|^(?:the )?(?!(?:request|manifest|digest|forest|harvest|interest|contest|protest)\b)\w{3,}est \w"
    r"|\b(?:for|of|in|on|at|with|from|over|around|that|which|whose|another|anyone|everyone|people|you|we|others?)\b",
    re.IGNORECASE,
)
"""Matches subjects that mean something only inside their sentence, such as `the smallest amount`, or nobody's thing."""


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


class Passages:
    """The passages of all documents, to find out whether any of them answers a question about a name.

    A question is only put if no passage that mentions the name answers it: the search may find any of them.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self._by_word: dict[str, set[int]] = {}
        for number, text in enumerate(texts):
            for word in content_words(text):
                self._by_word.setdefault(word, set()).add(number)

    def may_answer(self, name: str, words: str) -> bool:
        """Return whether a passage with all content words of the name has a match of `words`.

        A name that no passage has cannot be looked up, so it counts as answered.
        """
        numbers = [self._by_word.get(word, set()) for word in content_words(name)]
        mentions = set.intersection(*numbers) if numbers else set[int]()
        return not mentions or any(re.search(words, self.texts[number], re.IGNORECASE) for number in mentions)


def unanswerable_prose_facts(
    chunk: Chunk, terms: Sequence[str], subjects: Sequence[str], place: str, passages: Passages, seed: int
) -> Iterator[Fact]:
    """Yield a question that the documents do not answer for each term and each subject of a sentence.

    Args:
        chunk: the passage that they stand in.
        terms: what the text explains, such as `Capstan`; one with an article such as `a branch` gives no question.
        subjects: what the text says something about, such as `the night shift`.
        place: ` in TITLE`, or "" if the title does not say what the text is about.
        passages: those of all documents.
        seed: chooses the questions.
    """
    names = dict.fromkeys([*terms, *subjects])
    for name in sorted(names, key=lambda each: draw(seed, "absent name", chunk.id, each)):
        groups = _absent_groups(name, is_term=name in terms)
        absent = [group for group, words in groups.items() if not passages.may_answer(name, words)]
        if absent:
            group = choose(seed, absent, "absent prose", chunk.document_id, name)
            yield Fact("unanswerable.absent", group, *_NO_ANSWER, {"term": name, "place": needed_place(place, name)})


def _absent_groups(name: str, is_term: bool) -> Mapping[str, str]:
    """Return the questions that people might put about this name, and the words that would answer them.

    A company is behind a name such as `Capstan`, but behind no setting and no common noun. There is no such question
    about a name that means something only inside its sentence.
    """
    if is_term and name.lstrip("“")[:1].isupper():
        return _ABSENT_FROM_PROSE
    if _UNCLEAR_SUBJECT.search(name):
        return {}
    return _ABSENT_OF_CODE if name.startswith("`") or is_identifier(name) else _ABSENT_OF_SUBJECTS
