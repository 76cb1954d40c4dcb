"""Reads the layout of an API page: its head, its sections and the items of their lists.

The layout is the one that `ragtune.knowledge.apidocs` writes:

    `shop.Cart.fetch(limit=5)` (method)

    Fetches articles from the warehouse.

    Parameters:
    - `limit` (int, default 5): How many articles to fetch.

Everything is returned as offsets into the chunk, because an answer is a span of its chunk.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from ragtune.records import Chunk
from ragtune.text.sentences import Span

CLASSES = ("class", "enum", "exception")
VALUES = ("property", "attribute")

_HEAD = re.compile(r"^`(?P<name>[\w.]+)(?:\((?P<signature>.*)\)| = .*)?`\s+\((?P<noun>[a-z ]+)\)\s*$")
_SECTION = re.compile(
    r"^(?:#+ )?(Parameters|Returns|Yields|Raises|Attributes|Values|Examples?|Notes?|Warnings?|Args|See also):\s*$", re.I
)
# Sections of one line: `Bases: Container`.
_INLINE = re.compile(r"^(Bases|Methods|Status):? ")
_ITEM_NAME = re.compile(r"`(\*{0,2}[\w.]+)`")
_DEFAULT = re.compile(r"(?:^|, )default (.+)$", re.DOTALL)
# `Args` in plain text is a docstring that the parser could not read, so its lines are no list of parameters.
_SECTION_NAMES = {"args": "prose", "example": "examples", "note": "notes"}


@dataclass(slots=True)
class ApiObject:
    """What all chunks of one page say about their object.

    `parameters` maps each name to its default, "" if none is documented. `open_ended` means that the signature
    takes arguments without naming them, such as `**kwargs`.
    """

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
        """The last part of the object's dotted path."""
        return self.title.rsplit(".", 1)[-1]


@dataclass(frozen=True, slots=True)
class ListItem:
    """One entry of a section; a span is empty if the entry lacks that part."""

    name: str
    type: Span
    default: Span
    description: Span


def is_api_page(chunks: Sequence[Chunk]) -> bool:
    """Return whether the first chunk of a document begins like an API page."""
    return _HEAD.match(_first_line(chunks[0].text)) is not None


def name_span(text: str) -> Span | None:
    """Return where the object's name stands in a chunk, or None if the chunk does not begin with the head."""
    head = _HEAD.match(_first_line(text))
    return head.span("name") if head else None


def read_object(chunks: Sequence[Chunk]) -> ApiObject:
    """Return what the chunks of one document say about their object."""
    page = ApiObject(chunks[0].title, text="\n".join(chunk.text for chunk in chunks))
    for chunk in chunks:
        head = _HEAD.match(_first_line(chunk.text))
        if head:
            signature = head["signature"] or ""
            page.noun = head["noun"]
            # A star alone, `*, key`, takes no arguments of its own.
            page.open_ended = "*" in signature.replace("*,", "")
            for name, default in signature_defaults(signature):
                page.parameters.setdefault(name, default)
        for section, start, end in sections(chunk):
            page.returns = page.returns or section in ("returns", "yields")
            page.raises = page.raises or section == "raises"
            if section in ("parameters", "attributes"):
                for item in list_items(chunk.text, start, end):
                    default = chunk.text[item.default[0] : item.default[1]]
                    page.parameters[item.name] = page.parameters.get(item.name) or default
    return page


def signature_defaults(signature: str) -> list[tuple[str, str]]:
    """Return [(parameter, its default or "")] of a signature such as `a, *, b=3, c=(1, 2)`."""
    defaults = []
    for argument in _arguments(signature):
        name, _, default = argument.strip().partition("=")
        if name.isidentifier():
            defaults.append((name, default))
    return defaults


def _arguments(signature: str) -> list[str]:
    """Return the signature cut at its commas, but not at those inside brackets or strings."""
    arguments, depth, current, quote = [], 0, "", ""
    for character in signature:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        if not quote:
            depth += _nesting(character)
        if character == "," and depth == 0 and not quote:
            arguments.append(current)
            current = ""
        else:
            current += character
    return [*arguments, current]


def prose_spans(chunk: Chunk) -> list[Span]:
    """Return the spans of running text, for the rules that read prose."""
    return [(start, end) for section, start, end in sections(chunk) if section in ("purpose", "prose")]


def sections(chunk: Chunk) -> Iterator[tuple[str, int, int]]:
    """Yield (section, start, end) for every section of a chunk, without its heading.

    The text after the head is `purpose`, text under no heading of its own is `prose`, and what follows a section
    of one line is `after`.
    """
    text = chunk.text
    section, start, position = _section_above(chunk), 0, 0
    for line in text.splitlines(keepends=True):
        bare = line.rstrip()
        heading, inline = _SECTION.match(bare), _INLINE.match(bare)
        line_end = position + len(line)
        if position == 0 and _HEAD.match(bare):
            section, start = "purpose", line_end
        elif heading or inline:
            if start < position:
                yield _SECTION_NAMES.get(section, section), start, position
            if heading:
                section = heading[1].lower()
            elif inline:
                yield inline[1].lower(), position + inline.end(), position + len(bare)
                # The status, such as `deprecated`, stands before the description.
                section = "purpose" if inline[1] == "Status" and section == "purpose" else "after"
            start = line_end
        elif _ends_list(section, line, text[start:position]):
            yield _SECTION_NAMES.get(section, section), start, position
            section, start = "prose", position
        position = line_end
    if start < len(text):
        yield _SECTION_NAMES.get(section, section), start, len(text)


def _section_above(chunk: Chunk) -> str:
    """Return the section that a chunk continues, from its last heading."""
    heading = chunk.heading_path[-1].lower().rstrip(":") if chunk.heading_path else ""
    return heading if _SECTION.match(f"{heading}:") else "prose"


def _ends_list(section: str, line: str, body: str) -> bool:
    """Return whether a line is running text again after the body of a section with a list."""
    is_item = not line.strip() or line[0] in "- \t"
    return section not in ("purpose", "prose") and not is_item and bool(body.strip())


def list_items(text: str, start: int, end: int) -> Iterator[ListItem]:
    """Yield the list items between two offsets."""
    starts = [match.start() for match in re.finditer(r"^- ", text[start:end], re.MULTILINE)]
    for item_start, item_end in pairwise([*starts, end - start]):
        yield _list_item(text, start + item_start + len("- "), start + item_end)


def _list_item(text: str, start: int, end: int) -> ListItem:
    """Read `` `name` (type, default value): description`` or `type: description`."""
    while end > start and text[end - 1].isspace():
        end -= 1
    nothing = (start, start)
    name = _ITEM_NAME.match(text, start, end)
    if name is None:
        colon = _colon_outside_brackets(text, start, end)
        type_end = colon if colon is not None else end
        return ListItem("", (start, type_end), nothing, _after_colon(text, type_end, end))
    position = name.end()
    if not text.startswith(" (", position):
        return ListItem(name[1], nothing, nothing, _after_colon(text, position, end))
    bracket_end = _closing_bracket(text, position + 1, end)
    type_span, default_span = _type_and_default(text, position + 2, bracket_end)
    return ListItem(name[1], type_span, default_span, _after_colon(text, bracket_end + 1, end))


def _after_colon(text: str, position: int, end: int) -> Span:
    return (position + 2, end) if text.startswith(": ", position) else (end, end)


def _closing_bracket(text: str, start: int, end: int) -> int:
    """Return where the bracket at `start` closes, or `end` if it does not."""
    depth = 0
    for position in range(start, end):
        depth += _nesting(text[position])
        if depth == 0:
            return position
    return end


def _colon_outside_brackets(text: str, start: int, end: int) -> int | None:
    """Return where the first `: ` outside brackets stands on the line, or None if there is none."""
    depth = 0
    for position in range(start, end):
        depth += _nesting(text[position])
        if depth == 0 and text.startswith(": ", position):
            return position
        if text[position] == "\n":
            return None
    return None


def _nesting(character: str) -> int:
    """Return 1 for an opening bracket, -1 for a closing one, otherwise 0."""
    return (character in "([{") - (character in ")]}")


def _type_and_default(text: str, start: int, end: int) -> tuple[Span, Span]:
    """Return the spans of `int` and `5` in `int, default 5`."""
    default = _DEFAULT.search(text[start:end])
    if not default:
        return (start, end), (end, end)
    return (start, start + default.start()), (start + default.start(1), end)


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0]
