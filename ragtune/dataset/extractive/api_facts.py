"""Reads the facts of one API object out of a chunk: purpose, parameters, return value, exceptions, base class.

Each rule skips what it cannot read with certainty: a missing question costs less than a wrong one.
"""

import re
from collections.abc import Iterator

from ragtune.dataset.extractive.api_page import CLASSES, VALUES, ApiObject, ListItem, list_items, name_span, sections
from ragtune.dataset.extractive.fact import Fact
from ragtune.dataset.extractive.verbs import as_action, as_noun_phrase, third_person, verb_base
from ragtune.dataset.standalone import first_sentence, says_something_new, stands_alone
from ragtune.records import Chunk
from ragtune.text.sentences import Span
from ragtune.text.whitespace import collapse_whitespace

_CODE = re.compile(r"`([^`]+)`")

# These limits, and the smallest numbers of new words below, were chosen by hand; none was measured.
_MOST_WORDS_OF_ACTION = 16
_MOST_WORDS_OF_RELATION = 15
_LONGEST_DEFAULT = 40
"""Characters."""
_LONGEST_TYPE, _MOST_WORDS_OF_TYPE = 80, 12
"""Characters and words."""

# `List of shelves`, `Names or ids`: the word before is a noun, although it looks like a verb.
_FOLLOW_NOUNS = ("of", "or", "and", "for", "to", "from", "in")
_DETERMINERS = ("the", "a", "an", "all", "any", "each", "every", "which", "whether", "only", "this")
_ALSO_NOUNS_TEXT = """
call cast change check copy default display download export extract filter format function group handle hash import
increase input join label limit list load lock log look map mark match mock name object offer order output partition
pass patch print process produce query queue record release report request result return sample schedule set sort start
step stop store test type update use value wait
"""
_ALSO_NOUNS = frozenset(_ALSO_NOUNS_TEXT.split())
# A class with another verb, `Represents a cart`, is not what people look for when they want to do something.
_DONE_BY_CLASSES_TEXT = """
add build cache configure connect create define execute expect implement launch load manage read render represent run
send store validate write
"""
_DONE_BY_CLASSES = frozenset(_DONE_BY_CLASSES_TEXT.split())
# Everything derives from these, so nobody asks for them.
_COMMON_BASES = ("Exception", "Enum", "str", "NamedTuple", "Protocol", "TypedDict")

# Sentences that state no purpose: a condition, a reason, or an order to those who write a subclass.
_NO_PURPOSE = re.compile(
    r"\(?(?:Deprecated|If|When|As|Since|Because|Each|Every|Users|Overrid(?:e|ing)|How to"
    r"|Subclasses|(?:Child|Sub|Derived) ?classes)\b"
    r"|.*\bshould (?:override|return)\b"
)
# `Given a list of articles, returns the weight of each.`
_VERB_AFTER_LEAD = re.compile(r"(?:Given|For|By|From|In|On|At|With) [^,]{3,120}, (?:\w+ly )?(?P<verb>\w+)")
_UNCLEAR_ACTION = re.compile(r"\b(this|these|self|it)\b|[:;(]|\bor None\b")
_UNCLEAR_RELATION = re.compile(r"[;:\[(]|\. |e\.g|default|\b(this|these|it|can be|must be)\b", re.IGNORECASE)
# Sentinels, private names and code: `<object object>`, `_MISSING`, `lambda x: x`.
_ODD_DEFAULT = re.compile(r"\blambda\b|[<>]|_[A-Z]|^_|\*\*|[Ss]entinel|UNSET|NOT_SET")
_TYPE_VARIABLE = re.compile(r"\b_?[A-Z]_\w|\b_?T(?:[A-Z][a-z]\w*)?\b")
# A public name that is no interface such as `IContainer`.
_NAMEABLE_BASE = re.compile(r"(?!_|I[A-Z][a-z])[\w.]+")


def api_facts(chunk: Chunk, owner: ApiObject) -> Iterator[Fact]:
    """Yield the facts that one chunk of the object's page states."""
    text = chunk.text
    for section, start, end in sections(chunk):
        if section == "purpose":
            yield from _purpose(text, start, end, owner)
        elif section in ("parameters", "attributes", "values"):
            for item in list_items(text, start, end):
                yield from _parameter(text, item, owner, section)
        elif section == "returns":
            yield from _returns(text, start, end, owner)
        elif section == "raises":
            yield from _raises(text, start, end)
        elif section == "bases":
            yield from _bases(text, start, end)


def _purpose(text: str, start: int, end: int, owner: ApiObject) -> Iterator[Fact]:
    """Yield what the first sentence says the object is for, and the ways to look for the object by it."""
    span = first_sentence(text, start, end)
    if span is None or not stands_alone(text[span[0] : span[1]]):
        return
    sentence = collapse_whitespace(text[span[0] : span[1]])
    if not says_something_new(sentence, owner.title, 3) or _NO_PURPOSE.match(sentence):
        return
    if owner.noun != "module":
        yield Fact("purpose", _purpose_group(sentence, owner), *span)
    name = name_span(text)
    if name is None or owner.noun in VALUES:
        return
    action = as_action(sentence.rstrip("."))
    if _is_clear_action(action) and _does(owner, action) and says_something_new(action, owner.name, 2):
        yield Fact("how_to", "how_to.api", *name, {"action": action})
    thing = as_noun_phrase(sentence)
    if thing and owner.noun == "class" and says_something_new(thing, owner.name, 2):
        yield Fact("how_to", "how_to.thing", *name, {"thing": thing})


def _purpose_group(sentence: str, owner: ApiObject) -> str:
    """Return the templates that fit a purpose: what it holds, what it does, or what it is."""
    if owner.noun in VALUES:
        return "purpose.value"
    lead = _VERB_AFTER_LEAD.match(sentence)
    first, second = sentence.split()[:2]
    verb = lead["verb"] if lead else second if first.endswith("ly") else first
    if not verb_base(verb):
        return "purpose.is"
    return "purpose.serves" if owner.noun in CLASSES else "purpose.does"


def _is_clear_action(action: str) -> bool:
    """Return whether an action is short and can be understood without the page."""
    if not action or len(action.split()) > _MOST_WORDS_OF_ACTION or _UNCLEAR_ACTION.search(action):
        return False
    # `return cart.shop.door` outside backticks is code.
    return not re.search(r"\w\.\w", re.sub(r"`[^`]*`", "", action))


def _does(owner: ApiObject, action: str) -> bool:
    """Return whether people would look for this sort of object to do the action."""
    if owner.noun not in CLASSES:
        return True
    return owner.noun == "class" and action.split()[0] in _DONE_BY_CLASSES


def _parameter(text: str, item: ListItem, owner: ApiObject, section: str) -> Iterator[Fact]:
    """Yield what a list item says about a parameter, attribute or enum value."""
    if not item.name or item.name.startswith("*"):
        return
    if section != "values":
        yield from _description(text, item, owner, section)
    default = text[item.default[0] : item.default[1]]
    if default and default not in ("...", "None") and _is_plain_default(default):
        yield Fact("default", "default", *item.default, {"parameter": item.name})
    kind = text[item.type[0] : item.type[1]]
    if len(kind) > 2 and kind.lower() not in ("none", "any") and _is_plain_type(kind) and section != "values":
        yield Fact("type", "type", *item.type, {"parameter": item.name})


def _description(text: str, item: ListItem, owner: ApiObject, section: str) -> Iterator[Fact]:
    """Yield what a parameter means, and the parameter as what does this."""
    span = first_sentence(text, *item.description)
    if span is None or not stands_alone(text[span[0] : span[1]]):
        return
    sentence = collapse_whitespace(text[span[0] : span[1]])
    if not says_something_new(sentence, f"{item.name} {owner.name}") or sentence.startswith(("By default", "Default")):
        return
    group = "parameter.effect" if _states_effect(sentence) else "parameter"
    yield Fact("parameter", group, *span, {"parameter": item.name})
    predicate = _predicate(sentence, item.name)
    if predicate and section == "parameters":
        name_start = text.rindex(f"`{item.name}`", 0, span[0]) + 1
        # `gives the path` and `says whether rows are sorted` come from `_predicate`; people also set `the path`.
        setting = re.sub(r"^(?:gives|says) ", "", predicate)
        group = "relation.set" if setting != predicate else "relation"
        slots = {"predicate": predicate, "setting": setting}
        yield Fact("relation", group, name_start, name_start + len(item.name), slots)


def _states_effect(sentence: str) -> bool:
    """Return whether a description says what a parameter does (`If True, ...`), not what it is (`The path ...`)."""
    first = sentence.split()[0].lower()
    is_verb = third_person(first) == first and verb_base(first) not in _ALSO_NOUNS
    return is_verb or first in ("if", "whether", "when", "true")


def _is_plain_default(value: str) -> bool:
    return len(value) <= _LONGEST_DEFAULT and "\n" not in value and not _ODD_DEFAULT.search(value)


def _is_plain_type(kind: str) -> bool:
    """Return whether people could say a type: short, on one line, no type variables, no sentence."""
    return (
        not _TYPE_VARIABLE.search(kind)
        and "\n" not in kind
        and "Annotated[" not in kind
        and len(kind) <= _LONGEST_TYPE
        and len(kind.split()) <= _MOST_WORDS_OF_TYPE
        and not kind.startswith("[")
        and not kind.endswith((".", ":"))
    )


def _predicate(description: str, name: str) -> str:
    """Return a description as what follows `Which parameter`: `limits the rows`; "" if its words do not allow it."""
    words = description.rstrip(".").split()
    if len(words) > _MOST_WORDS_OF_RELATION or _UNCLEAR_RELATION.search(description):
        return ""
    # A description that repeats the name would give the answer away.
    if not says_something_new(description, name, 3) or not says_something_new(name, description, 1):
        return ""
    rest = " ".join(words[1:])
    if words[0] in ("The", "A", "An") and not rest.startswith("the "):
        return f"gives {words[0].lower()} {rest}"
    if words[0] == "Whether":
        return f"says whether {rest}"
    is_noun = words[1] in _FOLLOW_NOUNS or (words[0].lower() in _ALSO_NOUNS and words[1] not in _DETERMINERS)
    verb = "" if is_noun else third_person(words[0])
    return f"{verb} {rest}" if verb else ""


def _returns(text: str, start: int, end: int, owner: ApiObject) -> Iterator[Fact]:
    """Yield the description and the type of the return value, if there is exactly one."""
    items = list(list_items(text, start, end))
    if len(items) != 1:
        return
    item = items[0]
    span = first_sentence(text, *item.description)
    description = text[span[0] : span[1]] if span else ""
    if span and stands_alone(description, fewest=2) and says_something_new(description, owner.name, 1):
        yield Fact("returns", "returns", *span)
    kind = text[item.type[0] : item.type[1]]
    if kind and _is_plain_type(kind) and kind != "None":
        yield Fact("returns", "returns.value" if owner.noun in VALUES else "returns.type", *item.type)


def _raises(text: str, start: int, end: int) -> Iterator[Fact]:
    """Yield when each exception is raised, and which one is raised under a condition."""
    for item in list_items(text, start, end):
        exception = text[item.type[0] : item.type[1]].strip("`") or item.name
        span = first_sentence(text, *item.description)
        if not re.fullmatch(r"[\w.]+", exception) or span is None:
            continue
        sentence = collapse_whitespace(text[span[0] : span[1]])
        if not stands_alone(sentence, fewest=3):
            continue
        yield Fact("raises", "raises.when", *span, {"exception": exception})
        if _is_clear_condition(sentence):
            condition = sentence[0].lower() + sentence[1:].rstrip(".")
            yield Fact("raises", "raises.which", *_find(text, exception, start), {"condition": condition})


def _is_clear_condition(sentence: str) -> bool:
    """Return whether a sentence is one short condition, such as `If the key is missing`."""
    begins = re.match(r"(?:If|When) .", sentence)
    return bool(begins) and len(sentence.split()) <= 16 and not re.search(r"\b(this|it)\b", sentence)


def _find(text: str, words: str, start: int) -> Span:
    first = text.find(words, start)
    return first, first + len(words)


def _bases(text: str, start: int, end: int) -> Iterator[Fact]:
    """Yield the base class, if there is one alone that says something about the class."""
    names = list(_CODE.finditer(text, start, end))
    if len(names) == 1 and _NAMEABLE_BASE.fullmatch(names[0][1]) and names[0][1] not in _COMMON_BASES:
        yield Fact("base", "base", *names[0].span(1))
