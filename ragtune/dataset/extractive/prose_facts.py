"""Reads facts out of running text: definitions, statements, how-to steps, list items, tables, headings.

Each rule is narrow on purpose: it would rather miss a sentence than ask a question that
nobody could understand without the page.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

from ragtune.dataset.extractive.api_facts import Fact
from ragtune.dataset.extractive.clause_facts import (
    LINK,
    clause_facts,
    condition_wording,
    does,
    first_person,
    plain_action,
    points_back,
)
from ragtune.dataset.extractive.verbs import VERBS
from ragtune.dataset.standalone import clean, says_something_new, stands_alone
from ragtune.records import Chunk
from ragtune.text.sentences import Span, sentence_spans
from ragtune.text.whitespace import collapse_whitespace
from ragtune.text.words import STOP_WORDS, content_words

_NOUN_PHRASE = r"(?:(?:The|A|An) )?(?:[`A-Za-z][\w`.\-/+]*)(?: [`A-Za-z][\w`.\-/+]*){0,4}"
_IS = re.compile(
    rf"^(?P<np>{_NOUN_PHRASE}) (?P<be>is|are) "
    r"(?P<rest>(?:an?|the|one of|used (?:to|for|as|by|when)|any|simply|just) .+)$",
    re.DOTALL,
)
_SAYS = re.compile(
    r"^(?P<np>(?:(?:The|A|An) )?[`A-Za-z][\w`.\-/+]*(?: [`A-Za-z][\w`.\-/+]*){0,3}?) "
    r"(?P<rest>(?:is|are|was|can|may|must|should|will|has|have|cannot) .+)$",
    re.DOTALL,
)
_TO_DO = re.compile(
    r"^To (?P<do>[a-z]+ [^,:;]{6,90}), "
    r"(?:you (?:can|should|must|need to|have to) |please |simply |just )?(?P<rest>[a-z`].+)$",
    re.DOTALL,
)
_WHEN = re.compile(r"^(?P<condition>(?:If|When|Once|Unless) [^,:;]{8,90}), (?P<rest>[^,].+)$", re.DOTALL)
_VAGUE_TEXT = """
this that these those it they there he she we you even though what which who here if when in on for by at to each
every some all most many once other another one first second third next note example examples following result reason
problem difference goal purpose main same such both either neither however also then thus since because while although
with without as from after before during under where whether how why any no not only currently default
list value values name parameter parameters argument option options method function class object step steps
constructor section chapter page document table figure file code output input output thing things idea point way rest
right just latest newest unlike like given whenever sometimes certain new different assuming several
now former latter above below user users people their its our your my his her therefore otherwise instead
"""
_VAGUE = frozenset(_VAGUE_TEXT.split())
_GENERIC_HEADINGS_TEXT = """
introduction overview example examples usage notes note see also summary contents references license licence
installation requirements background motivation description getting started quickstart changelog faq details
conclusion credits authors contributing citation acknowledgements readme links more information further reading
parameters returns raises attributes bases methods quick start key features feature index main about guide easy to
the a of support integrate why what is how readme.md docs documentation basic advanced compatibility rationale sponsors
history roadmap status news about us welcome api apis install
"""
_GENERIC_HEADINGS = frozenset(_GENERIC_HEADINGS_TEXT.split())
_MORE_BEGINNINGS = """
all been being but could did each every had many may me might most must my no often or several should so some sometimes
such then they while
"""
_BEGINNINGS = STOP_WORDS["en"] | frozenset(_MORE_BEGINNINGS.split())
_NO_CELL = re.compile(
    r"<|_\(|\*\w|_\d|^(?:TK|TBD|N/A|(?:of|in|on|at|from|inside|by|with|between|after|before|or)\b)|"
    r"\b(?:see|below|above|this|these)\b",
    re.IGNORECASE,
)
_NO_DEFINITION = re.compile(
    r"^(?:the (?:most|best|only|same|first|last|next)\b|one of the (?:most|best)\b|an example\b)"
    r"|\b(?:this|these|those|that (?:data|file|value|class|object|case|way|field|type|point|text))\b"
)
_LIST_ITEM = re.compile(
    r"^(?:[-*+]|\d+[.)]) (?:\*\*(?P<bold>[^*\n]{2,50})\*\*|`(?P<code>[^`\n]{2,50})`):?(?:\*\*)?\s*(?:[:—–-]|is)?\s+"
)
_INSTRUCTS = re.compile(
    rf"(?:You (?:can|should|must|need)|To |{'|'.join(sorted(verb.capitalize() for verb in VERBS))})\b"
)
_COLUMNS_TEXT = """
description default type meaning value purpose format unit range example command alias symbol colour color size status
minimum maximum effect result explanation syntax
"""
_COLUMNS = frozenset(_COLUMNS_TEXT.split())
_PASSING = re.compile(
    r"change ?log|release|version|what.?s new|news|sponsor|bugs? fix|breaking|license|contribut|acknowledg|credits"
    r"|authors|funding|citation|history|roadmap|\d+\.\d+\.\d+|thanks|support(?:ing)? (?:this|the|us)|community",
    re.IGNORECASE,
)
_UNCLEAR = re.compile(
    r"^\w+ that\b|\b(?:this|it|both|instead|they|them|these|those|its|their|such|your?|here|so)\b"
    r"|^\w+ (?:not |\w+ed\b|\w+ing\b|in\b|on\b|at\b|set\b)",
    re.I,
)
_GERUND = re.compile(r"^(?:\d[\d.]* )?(?P<verb>[A-Z][a-z]+ing) (?P<rest>.+)$")
_HOW_TO = re.compile(r"^(?:\d[\d.]* )?How to (?P<do>.+?)\??$")


def prose_facts(chunk: Chunk, spans: list[Span], context: str) -> Iterator[Fact]:
    """Yield the facts of the running text; `context` (` in Dagster`) goes behind words that need it."""
    text, title = chunk.text, context.removeprefix(" in ")
    for start, end in spans:
        for block_start, block_end in _blocks(text, start, end):
            block = text[block_start:block_end]
            if block.startswith("|"):
                yield from _table(text, block_start, block_end, context)
            elif re.match(r"(?:[-*+]|\d+[.)]) ", block):
                yield from _list(text, block_start, block_end, context)
            elif not block.startswith(("```", "    ", "\t", "#", ">>>", "$ ", ">")):
                for span in sentence_spans(text, block_start, block_end):
                    yield from _sentence(text, span, context, title)


def heading_facts(chunk: Chunk, context: str) -> Iterator[Fact]:
    """Yield questions about the chunk's own heading, answered by the first sentence below it."""
    heading = _heading(chunk)
    first = _first_sentence(chunk.text)
    if not heading or first is None:
        return
    answer = collapse_whitespace(chunk.text[first[0] : first[1]])
    if (
        not stands_alone(answer, fewest=6)
        or not says_something_new(answer, heading, 3)
        or points_back(answer)
        or LINK.search(answer)
    ):
        return
    told, gerund = _HOW_TO.match(heading), _GERUND.match(heading)
    verb = _from_gerund(gerund["verb"]) if gerund else ""
    shared = len(content_words(heading) & content_words(answer)) / max(len(content_words(heading)), 1)
    instructs = _INSTRUCTS.match(answer) is not None
    if (told or verb) and instructs and shared >= 0.3:
        action = _lowered(told["do"]) if told else f"{verb} {gerund['rest']}" if gerund else ""
        yield Fact("how_to", "how_to", *first, {"d": action, "c": context})
    elif shared >= 0.5 and not heading.endswith(("?", "!")):
        yield Fact("heading", "heading", *first, {"d": f"“{heading}”", "c": context})


def passing(chunk: Chunk) -> bool:
    """Return whether a section speaks of releases, sponsors and the like, which say nothing that lasts."""
    return any(_PASSING.search(heading) for heading in chunk.heading_path[1:] or chunk.heading_path)


def generic(title: str) -> bool:
    """Return whether a title could stand over any text: `Introduction`, `Quick start`, `index`."""
    words = [word.strip("?!.,:").lower() for word in re.split(r"[\s_/-]+", title)]
    return (
        not title
        or title.endswith("?")
        or bool(_PASSING.search(title))
        or all(word in _GENERIC_HEADINGS for word in words)
    )


def named(fact: Fact) -> bool:
    """Return whether a fact's subject is a name that needs no context."""
    return re.search(r"[a-z][A-Z]|[A-Z]{2}|_|\w\.\w", fact.slots.get("s", fact.slots.get("d", ""))) is not None


def row_keys(text: str) -> list[str]:
    """Return the first cell of every row of the tables in a text, as a question would name it."""
    rows = re.findall(r"^\s*\|([^|\n]+)\|", text, re.MULTILINE)
    return [row.strip().strip('`*" ') for row in rows]


def _heading(chunk: Chunk) -> str:
    if not chunk.heading_path:
        return ""
    heading = re.sub(r"^[\d.]+\s+|[`*#]", "", chunk.heading_path[-1]).strip().rstrip(":")
    words = heading.split()
    return "" if generic(heading) or not 1 < len(words) <= 9 or not heading.isascii() else heading


def _first_sentence(text: str) -> Span | None:
    for start, end in _blocks(text, 0, len(text)):
        if text.startswith("#", start):
            continue
        if not text[start].isalpha() and text[start] != "`":
            return None
        return next(sentence_spans(text, start, end), None)
    return None


def _blocks(text: str, start: int, end: int) -> Iterator[Span]:
    """Yield paragraphs, list items and tables; fenced code is left out."""
    fence = False
    block = -1
    position = start
    for line in text[start:end].splitlines(keepends=True):
        bare = line.strip()
        opens = bare.startswith("```")
        begins = not bare or opens or re.match(r"(?:[-*+]|\d+[.)]) |#", bare) is not None
        if block >= 0 and begins:
            yield block, position
            block = -1
        if opens:
            fence = not fence
        elif bare and not fence and block < 0:
            block = position + (len(line) - len(line.lstrip()) if not line.startswith("    ") else 0)
        position += len(line)
    if block >= 0 and not fence:
        yield block, end


def _sentence(text: str, span: Span, context: str, title: str) -> Iterator[Fact]:
    sentence = text[span[0] : span[1]]
    if not stands_alone(sentence, fewest=5) or LINK.search(sentence):
        return
    body = collapse_whitespace(sentence).rstrip(".")
    defined, action, condition = _IS.match(body), _TO_DO.match(body), _WHEN.match(body)
    if defined and _subject(defined["np"]) and not re.fullmatch(r"[A-Z][a-z]+(?:ed|ing)", defined["np"]):
        subject = _as_object(defined["np"])
        if says_something_new(defined["rest"], subject, 3) and not _NO_DEFINITION.search(defined["rest"]):
            wording = "definition.plural" if defined["be"] == "are" else "definition"
            yield Fact("definition", wording, *span, {"d": subject, "c": _needed(context, subject)})
    elif action and plain_action(action["do"]):
        start = _offset(text, span, action["rest"]) if does(action["rest"]) else 0
        if start and stands_alone(action["rest"], fewest=3):
            known = content_words(context) <= content_words(action["do"])
            slots = {"d": first_person(action["do"]), "c": "" if known else context}
            yield Fact("how_to", "how_to", start, span[1], slots)
    elif condition and not _UNCLEAR.search(condition["condition"]) and condition_wording(condition["rest"]):
        said = _lowered(condition["condition"].rstrip())
        start = _offset(text, span, condition["rest"])
        if start and stands_alone(condition["rest"], fewest=4) and says_something_new(condition["rest"], said, 2):
            yield Fact("condition", condition_wording(condition["rest"]), start, span[1], {"d": said, "c": context})
    else:
        told = list(clause_facts(text, span, context, lambda phrase: _spoken(phrase, text, title), title))
        yield from told or _remark(text, body, span, context)


def _orders(phrase: str) -> bool:
    """Return whether a phrase is an order, `Keep the defaults`, and no subject."""
    return phrase.split()[0].lower() in VERBS


def _spoken(phrase: str, text: str, title: str) -> str:
    """Return the phrase as it stands inside a question; a capital goes where the text has the word without one."""
    bare = re.sub(r"^(?:All|Each|Every|Most|Some|Both) | (?:of|for|in|from)(?= )", "", phrase)
    if not _subject(bare) or " to " in phrase or _orders(phrase):
        return ""
    first, _, rest = phrase.partition(" ")
    name = not re.fullmatch(r"[A-Z][a-z]+", first) or first in title.split() or re.search(rf"[a-z,`)] {first}\b", text)
    return _as_object(phrase) if name else f"{first.lower()} {rest}".strip()


def _remark(text: str, body: str, span: Span, context: str) -> Iterator[Fact]:
    """Yield a question about the subject of a sentence that is the only one in the passage to mention it."""
    match = _SAYS.match(body)
    if not match or _orders(match["np"]) or not _subject(match["np"]) or len(body.split()) < 8 or points_back(body):
        return
    bare = re.sub(r"^(?:The|An?) ", "", match["np"])
    telling = len(bare.split()) > 1 or re.search(r"[`_.]|[a-z][A-Z]|^[A-Z]{2}", bare)
    if telling and text.lower().count(bare.lower()) == 1 and says_something_new(match["rest"], bare, 4):
        subject = _as_object(match["np"])
        yield Fact("remark", "remark", *span, {"s": subject, "d": subject, "c": context})


def _list(text: str, start: int, end: int, context: str) -> Iterator[Fact]:
    item = _LIST_ITEM.match(text[start:end])
    if not item:
        return
    span = next(sentence_spans(text, start + item.end(), end), None)
    # No picture in front: `🚀 Fast start`.
    term = re.sub(r"^[^\x20-\x7e]+\s*", "", (item["bold"] or item["code"]).strip()).rstrip(":.")
    if span is None or not 1 <= len(term.split()) <= 5 or not re.search(r"[A-Za-z]{2}", term):
        return
    answer = text[span[0] : span[1]]
    half = re.match(r"(?:for|with|of|in|to|on|by|from)\b", answer)
    if not half and stands_alone(answer, fewest=4) and says_something_new(answer, term, 2):
        named = f"`{term}`" if item["code"] else f"“{term}”"
        wording = "list_item.phrase" if item["bold"] and " " in term else "list_item"
        yield Fact("list_item", wording, *span, {"d": named, "c": context})


def _table(text: str, start: int, end: int, context: str) -> Iterator[Fact]:
    rows = []
    position = start
    for line in text[start:end].splitlines(keepends=True):
        cells, inside = [], position + 1
        for cell in line.rstrip().strip("|").split("|"):
            lead = len(cell) - len(cell.lstrip())
            cells.append((inside + lead, inside + lead + len(cell.strip())))
            inside += len(cell) + 1
        rows.append(cells)
        position += len(line)
    if len(rows) < 3 or not re.fullmatch(r"[\s|:-]+", text[rows[1][0][0] - 1 : rows[1][-1][1]] or "-"):
        return
    names = [text[a:b].strip('`*" ') for a, b in rows[0]]
    for row in rows[2:]:
        key = text[row[0][0] : row[0][1]].strip('`*" ')
        for name, (a, b) in zip(names[1:], row[1:], strict=False):
            value = text[a:b]
            known = bool(name.split()) and name.lower().split()[-1] in _COLUMNS and key.isascii()
            good = known and 1 <= len(value.split()) <= 25 and re.search(r"[A-Za-z0-9]{2}", value) and clean(value)
            good = good and not _NO_CELL.search(value)
            if (
                good
                and name
                and 2 < len(key) <= 50
                and key not in ("N/A", "RETURNS", "YIELDS", "RAISES")
                and name.lower() not in key.lower()
            ):
                yield Fact("table", "table", a, b, {"d": f"`{key}`", "o": name.lower(), "c": context})


def _subject(phrase: str) -> bool:
    """Return whether a noun phrase can be asked about: no pronoun, not a generic word alone."""
    words = [word.strip("`.,").lower() for word in phrase.split()]
    if words[0] in ("the", "a", "an"):
        words = words[1:]
    marked = phrase.removeprefix("The ").startswith("`")
    if _runs_on(phrase) or re.fullmatch(r"[a-z]+ly", " ".join(words)):
        return False
    if (
        not words
        or (words[0] in _VAGUE and not marked)
        or any(word in ("that", "which", "and", "or", "is", "of") for word in words)
    ):
        return False
    return bool(re.search(r"[A-Za-z]{3}", phrase)) and phrase.count("`") % 2 == 0 and words[-1] not in _VAGUE


def _runs_on(phrase: str) -> bool:
    """Return whether a heading runs into its text, as in a PDF: `Pallets Pallets`, `loading goods Sometimes goods`."""
    words = phrase.split()
    twice = any(one.lower() == other.lower() for one, other in pairwise(words))
    return twice or any(word[0].isupper() and word.lower() in _BEGINNINGS for word in words[1:])


def _as_object(phrase: str) -> str:
    """Lower the article and a plain first word, as they stand inside a question."""
    first, _, rest = phrase.partition(" ")
    if first in ("The", "A", "An"):
        return f"{first.lower()} {rest}"
    plain = first[1:].islower() and first.isalpha() and bool(rest) and rest.split()[0].islower()
    return f"{first.lower()} {rest}" if plain else phrase


def _needed(context: str, subject: str) -> str:
    """Return the context unless the subject already names it or is a name that shares a word with it."""
    named = re.search(r"(?<=.)[A-Z]|[._]", subject) is not None
    shared = content_words(context) & content_words(subject)
    return "" if content_words(context) <= content_words(subject) or (named and shared) else context


def _lowered(text: str) -> str:
    return text[0].lower() + text[1:] if len(text) > 1 and text[1].islower() else text


def _offset(text: str, span: Span, rest: str) -> int:
    """Return where a tail of the sentence begins in the text; 0 when white space hides it."""
    first = rest[:24].split(" ")[0]
    size = len(rest)
    for match in re.finditer(re.escape(first), text[span[0] : span[1]]):
        start = span[0] + match.start()
        if collapse_whitespace(text[start : span[1]]).rstrip(".")[:size] == rest:
            return start
    return 0


def _from_gerund(word: str) -> str:
    stem = word.lower()[:-3]
    candidates = (stem, f"{stem}e", stem[:-1] if len(stem) > 2 and stem[-1] == stem[-2] else stem)
    return next((candidate for candidate in candidates if candidate in VERBS), "")
