"""Names and descriptions that mean one API object and no other.

A question must not fit two objects. So a short name or a short description is used only if no other object of the
documents has it.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

from ragtune.dataset.extractive.api_page import ApiObject
from ragtune.dataset.extractive.questions import is_identifier, quote_name
from ragtune.draws import choose, draw
from ragtune.knowledge.names import in_words
from ragtune.text.words import content_words

# How often people leave out the class of a member with a long name of its own, and how often they say a class by its
# words. Chosen by hand, not measured; docs/decisions/questions-as-people-type.md says why questions are worded so.
_MEMBER_ALONE_SHARE = 0.5
_CLASS_AS_WORDS_SHARE = 0.15
# A member is known by its own name if it has two underscores, or one and this many characters. Chosen by hand.
_LONG_MEMBER_NAME = 14
# A whole purpose is only used if it is this long and at most a third of its word triples occur elsewhere. Chosen by
# hand, not measured.
_FEWEST_WORDS_OF_WHOLE_PURPOSE = 6

# Where a description may end when people ask for it: `count every parcel | of the branch | before the carrier drives`.
_CONTINUES = re.compile(
    r",? (?:that|which|when|if|so|using|based|from|with|and|by|for|in|on|as|into|at|given|where|whose|to|of)\b"
)
# A description that is cut here is incomplete: `count the number`, `choose between the harbour`, `convert parcels`.
_INCOMPLETE = re.compile(
    r"(?:\b(?:an?|the|each|given|not|such|but|all|suitable|greater|less|more|than|pairs?|sets?|lists?|number|sequence"
    r"|kind|type|sort|part|up|is|are|be)|\w{2,}(?<!str)ing|\w+ed|[-,({\[])$"
    r"|\b(?:between|both|either)\b(?!.* (?:and|or) )"
    r"|^(?:convert|transform|translate|turn|cast|map|compare|replace)\b(?!.* (?:in)?to | with )"
)


class ObjectNames:
    """Counts what the objects are called and what they do, and from this finds what means one of them alone."""

    def __init__(self, objects: Iterable[ApiObject]) -> None:
        self.short_names: Counter[str] = Counter()
        self.phrases: Counter[str] = Counter()
        self.triples: Counter[tuple[str, ...]] = Counter()
        self.titles_by_word: dict[str, set[str]] = defaultdict(set)
        self.parameters: set[str] = set()
        for owner in objects:
            parts = owner.title.split(".")
            self.short_names.update({".".join(parts[-size:]) for size in range(1, len(parts))})
            self.phrases[_name_as_words(owner)] += 1
            self.triples.update(_purpose_triples(owner))
            for word in content_words(f"{owner.name} {_purpose(owner)}"):
                self.titles_by_word[word].add(owner.title)
            self.parameters.update(owner.parameters)

    def name_for(self, owner: ApiObject, seed: int, *draw_parts: str) -> str:
        """Return one of the names that mean this object alone, in backticks if it would read as a plain word."""
        phrase = self.class_as_words(owner)
        if phrase and draw(seed, "spaced", *draw_parts) < _CLASS_AS_WORDS_SHARE:
            return f"{article(phrase)} {phrase}"
        name, _, package = choose(seed, self._names(owner, seed, draw_parts), "name", *draw_parts).partition(" in ")
        return quote_name(name, seed, *draw_parts) + (f" in {package}" if package else "")

    def _names(self, owner: ApiObject, seed: int, draw_parts: tuple[str, ...]) -> list[str]:
        """Return the full path, and the short name alone and with its package, if it is one object's only."""
        parts = owner.title.split(".")
        is_member = len(parts) > 2 and parts[-2][:1].isupper()
        size = 2 if is_member else 1
        if is_member and self._is_known_alone(owner.name) and draw(seed, "bare", *draw_parts) < _MEMBER_ALONE_SHARE:
            size = 1
        short = ".".join(parts[-size:])
        if size >= len(parts) or self.short_names[short] != 1 or not is_identifier(short):
            return [owner.title]
        short_names = [short, f"{short} in {owner.package}"]
        # Nobody types a path of five parts.
        return short_names if len(parts) > 4 else [owner.title, *short_names]

    def _is_known_alone(self, member: str) -> bool:
        """Return whether a member's own name says which one is meant: it is long, and nothing else has it."""
        name = member.strip("_")
        is_long = name.count("_") >= 2 or ("_" in name and len(member) >= _LONG_MEMBER_NAME)
        return is_long and self.short_names[member] == 1 and member not in self.parameters

    def class_as_words(self, owner: ApiObject) -> str:
        """Return `asset check` for the class `AssetCheck`, or "" if that is one word or another object's name too."""
        phrase = _name_as_words(owner)
        return phrase if owner.noun == "class" and " " in phrase and self.phrases[phrase] == 1 else ""

    def descriptions(self, owner: ApiObject, description: str) -> list[str]:
        """Return how people can ask for an object by what it does or is, so that no other object fits.

        The description as it is, if most of its wording is this object's alone, and its shortest beginning that still
        means this object.
        """
        triples = _purpose_triples(owner)
        shared = sum(self.triples[triple] > 1 for triple in triples)
        is_long = len(content_words(description)) >= _FEWEST_WORDS_OF_WHOLE_PURPOSE
        whole = [description] if is_long and shared * 3 <= len(triples) else []
        beginnings = [*_beginnings(description), description]
        short = [beginning for beginning in beginnings if self._means_only(owner, beginning)][:1]
        return list(dict.fromkeys([*whole, *short]))

    def _means_only(self, owner: ApiObject, description: str) -> bool:
        """Return whether no other object's name and purpose have all words of the description.

        The first word does not count. It is a verb, for which people may say another, or an article.
        """
        words = content_words(description.partition(" ")[2])
        if len(words) < 2 or len(content_words(description)) < 3:
            return False
        return set.intersection(*(self.titles_by_word.get(word, set()) for word in words)) == {owner.title}


def article(phrase: str) -> str:
    """Return `a` or `an`, by the first letter of the phrase."""
    return "an" if phrase[0] in "aeiou" else "a"


def _name_as_words(owner: ApiObject) -> str:
    """Return the object's own name as people say it: `asset check spec`."""
    return in_words(owner.name).strip().lower()


def _beginnings(description: str) -> list[str]:
    """Return the beginnings of a description that are complete by themselves, the shortest first."""
    cuts = [description[: match.start()] for match in _CONTINUES.finditer(description)]
    return [cut for cut in cuts if not _INCOMPLETE.search(cut) and cut.count("`") % 2 == 0 and cut.count("'") % 2 == 0]


def _purpose(owner: ApiObject) -> str:
    """Return the paragraph after the head of the page."""
    return [*owner.text.split("\n\n", 2), ""][1]


def _purpose_triples(owner: ApiObject) -> set[tuple[str, ...]]:
    """Return the word triples of the object's purpose, without its first word, which is the verb."""
    words = _purpose(owner).lower().split()[1:40]
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}
