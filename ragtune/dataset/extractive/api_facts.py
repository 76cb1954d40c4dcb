"""Reads the facts of one API object out of its chunks: purpose, parameters, returns, raises, bases.

The layout is the one that `ragtune.knowledge.apidocs` writes; every fact keeps the offsets
of its answer in the chunk.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from ragtune.dataset.extractive.verbs import as_thing, base_form, base_of, third_person
from ragtune.dataset.standalone import first_sentence, says_something_new, stands_alone
from ragtune.records import Chunk
from ragtune.text.sentences import Span
from ragtune.text.whitespace import collapse_whitespace

_HEAD = re.compile(r"^`(?P<name>[\w.]+)(?:\((?P<signature>.*)\)| = .*)?`\s+\((?P<noun>[a-z ]+)\)\s*$")
_SECTION = re.compile(
    r"^(?:#+ )?(Parameters|Returns|Yields|Raises|Attributes|Values|Examples?|Notes?|Warnings?|Args|See also):\s*$", re.I
)
_INLINE = re.compile(r"^(Bases|Methods|Status):? ")
_ITEM = re.compile(r"^- (?=\S)")
_NAME = re.compile(r"`(\*{0,2}[\w.]+)`")
_CODE = re.compile(r"`([^`]+)`")
_NO_OBJECT = ("of", "or", "and", "for", "to", "from", "in")
_DETERMINERS = ("the", "a", "an", "all", "any", "each", "every", "which", "whether", "only", "this")
_ALSO_NOUNS_TEXT = """
call cast change check copy default display download export extract filter format function group handle hash import
increase input join label limit list load lock log look map mark match mock name object offer order output partition
pass patch print process produce query queue record release report request result return sample schedule set sort start
step stop store test type update use value wait
"""
_ALSO_NOUNS = frozenset(_ALSO_NOUNS_TEXT.split())
_CLASSES = ("class", "enum", "exception")
_VALUES = ("property", "attribute")
_DONE_BY_CLASSES_TEXT = """
add build cache configure connect create define execute expect implement launch load manage read render represent run
send store validate write
"""
_DONE_BY_CLASSES = frozenset(_DONE_BY_CLASSES_TEXT.split())


# What a sentence is no purpose with: a condition, a reason, an order to those who write a subclass.
_NO_PURPOSE = re.compile(
    r"\(?(?:Deprecated|If|When|As|Since|Because|Each|Every|Users|Overrid(?:e|ing)|How to"
    r"|Subclasses|(?:Child|Sub|Derived) ?classes)\b"
    r"|.*\bshould (?:override|return)\b"
)
_LEAD = re.compile(r"(?:Given|For|By|From|In|On|At|With) [^,]{3,120}, (?:\w+ly )?(?P<verb>\w+)")


@dataclass(frozen=True, slots=True)
class Fact:
    """An answer's span in a chunk and what fills the question's slots (`d`, `o`, `c`)."""

    kind: str
    wording: str
    start: int
    end: int
    slots: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class ApiObject:
    """What the documents say about one object, over all of its chunks."""

    title: str
    noun: str = "object"
    parameters: dict[str, str] = field(default_factory=dict)
    returns: bool = False
    raises: bool = False
    open_ended: bool = False
    text: str = ""

    @property
    def package(self) -> str:
        """The top-level package of the object."""
        return self.title.split(".")[0]

    @property
    def name(self) -> str:
        """The object's own name, without the path in front."""
        return self.title.rsplit(".", 1)[-1]


@dataclass(frozen=True, slots=True)
class _Item:
    name: str
    type: Span
    default: Span
    text: Span


def read_object(chunks: list[Chunk]) -> ApiObject:
    """Return what all chunks of one document say about their object together."""
    found = ApiObject(chunks[0].title, text="\n".join(chunk.text for chunk in chunks))
    for chunk in chunks:
        head = _HEAD.match(chunk.text.split("\n", 1)[0])
        if head:
            found.noun = head["noun"]
            found.open_ended = "*" in re.sub(r"\*,", "", head["signature"] or "")
            for name, default in signature_defaults(head["signature"] or ""):
                found.parameters.setdefault(name, default)
        for section, start, end in _sections(chunk):
            found.returns = found.returns or section in ("returns", "yields")
            found.raises = found.raises or section == "raises"
            if section in ("parameters", "attributes"):
                for item in _items(chunk.text, start, end):
                    value = chunk.text[item.default[0] : item.default[1]]
                    found.parameters[item.name] = found.parameters.get(item.name) or value
    return found


def signature_defaults(signature: str) -> list[tuple[str, str]]:
    """Return [(parameter, default or empty)] of a signature such as `a, *, b=3, c=(1, 2)`."""
    parts, depth, current, quote = [], 0, "", ""
    for character in signature:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        depth += (character in "([{") - (character in ")]}") if not quote else 0
        if character == "," and depth == 0 and not quote:
            parts.append(current)
            current = ""
        else:
            current += character
    found = []
    for part in [*parts, current]:
        name, _, default = part.strip().partition("=")
        if name.isidentifier():
            found.append((name, default))
    return found


def api_facts(chunk: Chunk, owner: ApiObject) -> Iterator[Fact]:
    """Yield every fact that one chunk of the object's document states, good answers only."""
    for section, start, end in _sections(chunk):
        if section == "purpose":
            yield from _purpose(chunk.text, start, end, owner)
        elif section in ("parameters", "attributes", "values"):
            for item in _items(chunk.text, start, end):
                yield from _parameter(chunk.text, item, owner, section)
        elif section == "returns":
            yield from _returns(chunk.text, start, end, owner)
        elif section == "raises":
            yield from _raises(chunk.text, start, end)
        elif section == "bases":
            yield from _bases(chunk.text, start, end)


def prose_spans(chunk: Chunk) -> list[Span]:
    """Return the spans of the running text behind the first sentence, for the prose rules."""
    return [(start, end) for section, start, end in _sections(chunk) if section in ("purpose", "prose")]


def _sections(chunk: Chunk) -> Iterator[tuple[str, int, int]]:
    """Yield (section, start, end) of a chunk, bodies only; the text behind the head is `purpose`."""
    text = chunk.text
    last = chunk.heading_path[-1].lower().rstrip(":") if chunk.heading_path else ""
    section, start = last if _SECTION.match(f"{last}:") else "prose", 0
    position = 0
    for line in text.splitlines(keepends=True):
        bare = line.rstrip()
        heading = _SECTION.match(bare)
        inline = _INLINE.match(bare)
        if position == 0 and _HEAD.match(bare):
            section, start = "purpose", len(line)
        elif heading or inline:
            if start < position:
                yield _canonical(section), start, position
            if heading:
                section, start = heading[1].lower(), position + len(line)
            elif inline:
                yield inline[1].lower(), position + inline.end(), position + len(bare)
                start = position + len(line)
                section = "purpose" if inline[1] == "Status" and section == "purpose" else "after"
        elif section not in ("purpose", "prose") and bare and line[0] not in "- \t" and text[start:position].strip():
            yield _canonical(section), start, position
            section, start = "prose", position
        position += len(line)
    if start < len(text):
        yield _canonical(section), start, len(text)


def _canonical(section: str) -> str:
    return {"args": "prose", "example": "examples", "note": "notes"}.get(section, section)


def _items(text: str, start: int, end: int) -> Iterator[_Item]:
    """Yield the list items between two offsets: name, type, default and description."""
    starts = [match.start() for match in re.finditer(r"^- ", text[start:end], re.MULTILINE)]
    for here, following in pairwise([*starts, end - start]):
        yield _item(text, start + here + 2, start + following)


def _item(text: str, start: int, end: int) -> _Item:
    while end > start and text[end - 1].isspace():
        end -= 1
    none = (start, start)
    name = _NAME.match(text, start, end)
    position = name.end() if name else start
    if name and text.startswith(" (", position):
        close = _closing(text, position + 1, end)
        facts = (position + 2, close)
        kind, default = _type_and_default(text, *facts)
        position = close + 1
    elif name:
        kind = default = none
    else:
        colon = _outer_colon(text, start, end)
        kind, default, position = (start, colon if colon >= 0 else end), none, colon if colon >= 0 else end
    body = (position + 2, end) if text.startswith(": ", position) else (end, end)
    return _Item(name[1] if name else "", kind, default, body)


def _closing(text: str, start: int, end: int) -> int:
    depth = 0
    for position in range(start, end):
        depth += (text[position] in "([{") - (text[position] in ")]}")
        if depth == 0:
            return position
    return end


def _outer_colon(text: str, start: int, end: int) -> int:
    depth = 0
    for position in range(start, end):
        depth += (text[position] in "([{") - (text[position] in ")]}")
        if depth == 0 and text.startswith(": ", position):
            return position
        if text[position] == "\n":
            return -1
    return -1


def _type_and_default(text: str, start: int, end: int) -> tuple[Span, Span]:
    body = text[start:end]
    match = re.search(r"(?:^|, )default (.+)$", body, re.DOTALL)
    if not match:
        return (start, end), (end, end)
    return (start, start + match.start()), (start + match.start(1), end)


def _purpose(text: str, start: int, end: int, owner: ApiObject) -> Iterator[Fact]:
    span = first_sentence(text, start, end)
    if span is None or not stands_alone(text[span[0] : span[1]]):
        return
    answer = collapse_whitespace(text[span[0] : span[1]])
    if not says_something_new(answer, owner.title, 3):
        return
    words = answer.split()
    if _NO_PURPOSE.match(answer):
        return
    lead = _LEAD.match(answer)
    verb = lead["verb"] if lead else words[1] if words[0].endswith("ly") else words[0]
    does = "serves" if owner.noun in _CLASSES else "does"
    group = "value" if owner.noun in _VALUES else does if base_of(verb) else "is"
    if owner.noun != "module":
        yield Fact("purpose", f"purpose.{group}", *span)
    action = base_form(answer.rstrip("."))
    head = _HEAD.match(text.split("\n", 1)[0])
    plain = (
        action and len(action.split()) <= 16 and not re.search(r"\b(this|these|self|it)\b|[:;(]|\bor None\b", action)
    )
    plain = plain and not re.search(r"\w\.\w", re.sub(r"`[^`]*`", "", action))
    if head is None or owner.noun in _VALUES:
        return
    name = (head.start("name"), head.end("name"))
    if (
        action
        and plain
        and (owner.noun not in _CLASSES or (owner.noun == "class" and action.split()[0] in _DONE_BY_CLASSES))
        and says_something_new(action, owner.name, 2)
    ):
        yield Fact("how_to", "how_to.api", *name, {"d": action})
    thing = as_thing(answer)
    if thing and owner.noun == "class" and says_something_new(thing, owner.name, 2):
        yield Fact("how_to", "how_to.thing", *name, {"d": thing})


def _parameter(text: str, item: _Item, owner: ApiObject, section: str) -> Iterator[Fact]:
    if not item.name or item.name.startswith("*"):
        return
    slots = {"d": item.name}
    span = first_sentence(text, *item.text)
    if span and stands_alone(text[span[0] : span[1]]) and section != "values":
        answer = collapse_whitespace(text[span[0] : span[1]])
        if says_something_new(answer, f"{item.name} {owner.name}") and not answer.startswith(("By default", "Default")):
            yield Fact("parameter", "parameter.effect" if _tells_effect(answer) else "parameter", *span, slots)
            relation = _relation(answer, item.name)
            here = text.rindex(f"`{item.name}`", 0, span[0]) + 1
            if relation and section == "parameters":
                told = re.sub(r"^(?:gives|says) ", "", relation)
                wording = "relation.set" if told != relation else "relation"
                yield Fact("relation", wording, here, here + len(item.name), {"d": relation, "o": told})
    default = text[item.default[0] : item.default[1]]
    if default and default not in ("...", "None") and _plain_value(default):
        yield Fact("default", "default", *item.default, slots)
    kind = text[item.type[0] : item.type[1]]
    if kind and len(kind) > 2 and kind.lower() not in ("none", "any") and _plain_type(kind) and section != "values":
        yield Fact("type", "type", *item.type, slots)


def _tells_effect(answer: str) -> bool:
    """Return whether a description says what a parameter does, `If True, ...`, and not what it is, `The path ...`."""
    first = answer.split()[0].lower()
    verb = third_person(first) == first and base_of(first) not in _ALSO_NOUNS
    return verb or first in ("if", "whether", "when", "true")


def _plain_value(value: str) -> bool:
    odd = re.search(r"\blambda\b|[<>]|_[A-Z]|^_|\*\*|[Ss]entinel|UNSET|NOT_SET", value)
    return len(value) <= 40 and "\n" not in value and not odd


def _plain_type(kind: str) -> bool:
    if re.search(r"\b_?[A-Z]_\w|\b_?T(?:[A-Z][a-z]\w*)?\b", kind):
        return False
    return (
        "\n" not in kind
        and "Annotated[" not in kind
        and len(kind) <= 80
        and len(kind.split()) <= 12
        and not kind.startswith("[")
        and not kind.endswith((".", ":"))
    )


def _relation(answer: str, name: str) -> str:
    """Turn a description into a clause for `Which parameter ...`; empty when the words do not allow it."""
    words = answer.rstrip(".").split()
    if len(words) > 15 or re.search(r"[;:\[(]|\. |e\.g|default|\b(this|these|it|can be|must be)\b", answer, re.I):
        return ""
    if not says_something_new(answer, name, 3) or not says_something_new(name, answer, 1):
        return ""
    rest = " ".join(words[1:])
    if words[0] in ("The", "A", "An") and not rest.startswith("the "):
        return f"gives {words[0].lower()} {rest}"
    if words[0] == "Whether":
        return f"says whether {rest}"
    # `List of`, `Names or`: a noun that looks like a verb.
    noun = words[1] in _NO_OBJECT or (words[0].lower() in _ALSO_NOUNS and words[1] not in _DETERMINERS)
    verb = "" if noun else third_person(words[0])
    return f"{verb} {rest}" if verb else ""


def _returns(text: str, start: int, end: int, owner: ApiObject) -> Iterator[Fact]:
    items = list(_items(text, start, end))
    if len(items) != 1:
        return
    item = items[0]
    span = first_sentence(text, *item.text)
    said = text[span[0] : span[1]] if span else ""
    if span and stands_alone(said, fewest=2) and says_something_new(said, owner.name, 1):
        yield Fact("returns", "returns", *span)
    kind = text[item.type[0] : item.type[1]]
    if kind and _plain_type(kind) and kind != "None":
        yield Fact("returns", "returns.value" if owner.noun in _VALUES else "returns.type", *item.type)


def _raises(text: str, start: int, end: int) -> Iterator[Fact]:
    for item in _items(text, start, end):
        name = text[item.type[0] : item.type[1]].strip("`") or item.name
        span = first_sentence(text, *item.text)
        if not re.fullmatch(r"[\w.]+", name) or span is None:
            continue
        answer = collapse_whitespace(text[span[0] : span[1]])
        if not stands_alone(answer, fewest=3):
            continue
        yield Fact("raises", "raises.when", *span, {"d": name})
        where = text.find(name, start)
        condition = re.match(r"(?:If|When) (.+?)\.?$", answer)
        if condition and len(answer.split()) <= 16 and not re.search(r"\b(this|it)\b", answer):
            yield Fact(
                "raises", "raises.which", where, where + len(name), {"d": answer[0].lower() + answer[1:].rstrip(".")}
            )


def _bases(text: str, start: int, end: int) -> Iterator[Fact]:
    bases = list(_CODE.finditer(text, start, end))
    plain = [match for match in bases if re.fullmatch(r"(?!_|I[A-Z][a-z])[\w.]+", match[1])]
    if (
        len(bases) == 1
        and plain
        and plain[0][1] not in ("Exception", "Enum", "str", "NamedTuple", "Protocol", "TypedDict")
    ):
        yield Fact("base", "base", plain[0].start(1), plain[0].end(1))


def is_api(chunks: list[Chunk]) -> bool:
    """Return whether a document has the layout of an API page."""
    return bool(_HEAD.match(chunks[0].text.split("\n", 1)[0]))
