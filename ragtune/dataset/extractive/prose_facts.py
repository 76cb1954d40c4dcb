"""Reads facts out of running text: definitions, statements, how-to steps, list items, tables.

Each rule is narrow on purpose. It would rather miss a sentence than ask a question that nobody understands without
the page.
"""

import re
from collections.abc import Iterator

from ragtune.dataset.extractive.clause_facts import (
    clause_facts,
    condition_group,
    depends_on_page,
    first_person,
    is_clear_action,
    is_instruction,
)
from ragtune.dataset.extractive.clause_patterns import RST_LINK
from ragtune.dataset.extractive.fact import Fact
from ragtune.dataset.extractive.list_facts import list_item_facts, table_facts
from ragtune.dataset.extractive.subjects import in_question, is_askable, is_order, needed_place, with_small_article
from ragtune.dataset.extractive.verbs import VERBS
from ragtune.dataset.standalone import is_running_text, says_something_new, stands_alone
from ragtune.records import Chunk
from ragtune.text.sentences import Span, sentence_spans
from ragtune.text.whitespace import collapse_whitespace
from ragtune.text.words import content_words

# The limits in these patterns and rules (words of a subject, characters of a condition, new words of an answer) were
# chosen by hand; none was measured.
_NOUN_PHRASE = r"(?:(?:The|A|An) )?(?:(?:`|[^\W\d_])[\w`.\-/+]*)(?: (?:`|[^\W\d_])[\w`.\-/+]*){0,4}"
# `A branch is a shop that keeps its own stock`
_DEFINITION = re.compile(
    rf"^(?P<subject>{_NOUN_PHRASE}) (?P<be>is|are) "
    r"(?P<rest>(?:an?|the|one of|used (?:to|for|as|by|when)|any(?:thing|one|body)?|some(?:thing|one|body)|simply|just)"
    r" .+)$",
    re.DOTALL,
)
# `The night shift has two drivers`
_REMARK = re.compile(
    r"^(?P<subject>(?:(?:The|A|An) )?(?:`|[^\W\d_])[\w`.\-/+]*(?: (?:`|[^\W\d_])[\w`.\-/+]*){0,3}?) "
    r"(?P<rest>(?:is|are|was|can|may|must|should|will|has|have|cannot) .+)$",
    re.DOTALL,
)
# `To open a branch, send the keeper a note`
_TO_DO = re.compile(
    r"^To (?P<do>[a-z]+ [^,:;]{6,90}), "
    r"(?:you (?:can|should|must|need to|have to) |please |simply |just )?(?P<rest>[a-z`].+)$",
    re.DOTALL,
)
# `When the bell rings, the warehouse opens the doors`
_CONDITION = re.compile(r"^(?P<condition>(?:If|When|Once|Unless) [^,:;]{8,90}), (?P<rest>[^,].+)$", re.DOTALL)
# Headings that could stand over any text consist of these words alone.
_GENERIC_HEADINGS_TEXT = """
introduction overview example examples usage notes note see also summary contents references license licence
installation requirements background motivation description getting started quickstart changelog faq details
conclusion credits authors contributing citation acknowledgements readme links more information further reading
parameters returns raises attributes bases methods quick start key features feature index main about guide easy to
the a of support integrate why what is how readme.md docs documentation basic advanced compatibility rationale sponsors
history roadmap status news about us welcome api apis install
"""
_GENERIC_HEADINGS = frozenset(_GENERIC_HEADINGS_TEXT.split())
_NO_DEFINITION = re.compile(
    r"^(?:the (?:most|best|only|same|first|last|next)\b|one of the (?:most|best)\b|an example\b)"
    r"|\b(?:this|these|those|that (?:data|file|value|class|object|case|way|field|type|point|text))\b"
)
_LIST_MARKER = re.compile(r"(?:[-*+]|\d+[.)]) ")
# Code, quotations and headings hold no sentences to ask about.
_NO_RUNNING_TEXT = ("```", "    ", "\t", "#", ">>>", "$ ", ">")
_INSTRUCTION = re.compile(
    rf"(?:You (?:can|should|must|need)|To |{'|'.join(sorted(verb.capitalize() for verb in VERBS))})\b"
)
# Headings of sections on releases, sponsors and people, which say little that lasts.
_PROJECT_NEWS = re.compile(
    r"change ?log|release|version|what.?s new|news|sponsor|bugs? fix|breaking|license|contribut|acknowledg|credits"
    r"|authors|funding|citation|history|roadmap|\d+\.\d+\.\d+|thanks|support(?:ing)? (?:this|the|us)|community",
    re.IGNORECASE,
)
_UNCLEAR_CONDITION = re.compile(
    r"^\w+ that\b|\b(?:this|it|both|instead|they|them|these|those|its|their|such|your?|here|so)\b"
    r"|^\w+ (?:not |\w+ed\b|\w+ing\b|in\b|on\b|at\b|set\b)",
    re.IGNORECASE,
)
# `2. Opening a branch`, `How to open a branch`
_GERUND_HEADING = re.compile(r"^(?:\d[\d.]* )?(?P<verb>[A-Z][a-z]+ing) (?P<rest>.+)$")
_HOW_TO_HEADING = re.compile(r"^(?:\d[\d.]* )?How to (?P<do>.+?)\??$")


def prose_facts(chunk: Chunk, spans: list[Span], place: str) -> Iterator[Fact]:
    """Yield the facts of the running text in these spans; `place` (` in Dagster`) goes after words that need it."""
    text, title = chunk.text, place.removeprefix(" in ")
    for start, end in spans:
        for block_start, block_end in _blocks(text, start, end):
            block = text[block_start:block_end]
            if block.startswith("|"):
                yield from table_facts(text, block_start, block_end, place)
            elif _LIST_MARKER.match(block):
                yield from list_item_facts(text, block_start, block_end, place)
            elif not block.startswith(_NO_RUNNING_TEXT):
                for span in sentence_spans(text, block_start, block_end):
                    yield from _sentence(text, span, place, title)


def heading_facts(chunk: Chunk, place: str) -> Iterator[Fact]:
    """Yield a how-to question for a heading that names an action, answered by the first sentence below it.

    Any other heading gives no question: nobody asks what the section “Hours by area” is about.
    """
    heading = _askable_heading(chunk)
    span = _first_sentence(chunk.text)
    if not heading or span is None:
        return
    sentence = collapse_whitespace(chunk.text[span[0] : span[1]])
    if not stands_alone(sentence, fewest=6) or not says_something_new(sentence, heading, 3):
        return
    if depends_on_page(sentence) or RST_LINK.search(sentence):
        return
    words = content_words(heading)
    shared = len(words & content_words(sentence)) / max(len(words), 1)
    action = _heading_action(heading)
    # A sentence that shares few words with its heading is about something else.
    if action and shared >= 0.3 and _INSTRUCTION.match(sentence):
        yield Fact("how_to", "how_to", *span, {"action": action, "place": place})


def _heading_action(heading: str) -> str:
    """Return what a heading says how to do, `Opening a branch` as `open a branch`, or "" if it names no action."""
    how_to, gerund = _HOW_TO_HEADING.match(heading), _GERUND_HEADING.match(heading)
    if how_to:
        return _lower_first(how_to["do"])
    verb = _verb_of_gerund(gerund["verb"]) if gerund else ""
    return f"{verb} {gerund['rest']}" if gerund and verb else ""


def _verb_of_gerund(gerund: str) -> str:
    """Return `open` for `Opening`, `move` for `Moving`, `run` for `Running`, or "" if the verb is unknown."""
    stem = gerund.lower().removesuffix("ing")
    doubled = len(stem) > 2 and stem[-1] == stem[-2]
    candidates = (stem, f"{stem}e", stem[:-1] if doubled else stem)
    return next((verb for verb in candidates if verb in VERBS), "")


def is_project_news(chunk: Chunk) -> bool:
    """Return whether a section is about releases, sponsors and the like, which say little that lasts."""
    return any(_PROJECT_NEWS.search(heading) for heading in chunk.heading_path[1:] or chunk.heading_path)


def is_generic_title(title: str) -> bool:
    """Return whether a title could stand over any text: `Introduction`, `Quick start`, `index`."""
    if not title or title.endswith("?") or _PROJECT_NEWS.search(title):
        return True
    words = [word.strip("?!.,:").lower() for word in re.split(r"[\s_/-]+", title)]
    return all(word in _GENERIC_HEADINGS for word in words)


def is_about_a_name(fact: Fact) -> bool:
    """Return whether a fact's subject is an identifier or acronym, which needs no place to be understood."""
    subject = fact.slots.get("subject", fact.focus)
    return re.search(r"[a-z][A-Z]|[A-Z]{2}|_|\w\.\w", subject) is not None


def _askable_heading(chunk: Chunk) -> str:
    """Return the chunk's last heading without its number and markup, or "" if it is no subject for a question."""
    if not chunk.heading_path:
        return ""
    heading = re.sub(r"^[\d.]+\s+|[`*#]", "", chunk.heading_path[-1]).strip().rstrip(":")
    words = heading.split()
    is_subject = 1 < len(words) <= 9 and is_running_text(heading) and not is_generic_title(heading)
    return heading if is_subject else ""


def _first_sentence(text: str) -> Span | None:
    """Return the span of the first sentence below the headings, or None if a list, table or code comes first."""
    for start, end in _blocks(text, 0, len(text)):
        if text.startswith("#", start):
            continue
        if not text[start].isalpha() and text[start] != "`":
            return None
        return next(sentence_spans(text, start, end), None)
    return None


def _blocks(text: str, start: int, end: int) -> Iterator[Span]:
    """Yield the spans of paragraphs, list items and tables; fenced code is left out."""
    in_fence = False
    block_start: int | None = None
    position = start
    for line in text[start:end].splitlines(keepends=True):
        bare = line.strip()
        is_fence = bare.startswith("```")
        begins_block = not bare or is_fence or re.match(r"(?:[-*+]|\d+[.)]) |#", bare) is not None
        if block_start is not None and begins_block:
            yield block_start, position
            block_start = None
        if is_fence:
            in_fence = not in_fence
        elif bare and not in_fence and block_start is None:
            # Code that is indented by four keeps its indent, by which the caller knows it.
            indent = 0 if line.startswith("    ") else len(line) - len(line.lstrip())
            block_start = position + indent
        position += len(line)
    if block_start is not None and not in_fence:
        yield block_start, end


def _sentence(text: str, span: Span, place: str, title: str) -> Iterator[Fact]:
    """Yield what the first rule that fits reads in a sentence.

    A sentence with the form of a rule goes to no other rule, even if that one finds the sentence unfit to ask about.
    """
    sentence = text[span[0] : span[1]]
    if not stands_alone(sentence, fewest=5) or RST_LINK.search(sentence):
        return
    body = collapse_whitespace(sentence).rstrip(".")
    definition, to_do, condition = _DEFINITION.match(body), _TO_DO.match(body), _CONDITION.match(body)
    if definition and _is_defined(definition["subject"]):
        yield from _definition(definition, span, place)
    elif to_do and is_clear_action(to_do["do"]):
        yield from _to_do(to_do, text, span, place)
    elif condition and not _UNCLEAR_CONDITION.search(condition["condition"]) and condition_group(condition["rest"]):
        yield from _condition(condition, text, span, place)
    else:
        facts = list(clause_facts(text, span, place, lambda phrase: in_question(phrase, text, title), title))
        yield from facts or _remark(text, body, span, place)


def _is_defined(subject: str) -> bool:
    """Return whether a sentence can define its subject; one participle, `Recommended is a ...`, is no subject."""
    return is_askable(subject) and not re.fullmatch(r"[A-Z][a-z]+(?:ed|ing)", subject)


def _definition(match: re.Match[str], span: Span, place: str) -> Iterator[Fact]:
    term = with_small_article(match["subject"])
    if says_something_new(match["rest"], term, 3) and not _NO_DEFINITION.search(match["rest"]):
        group = "definition.plural" if match["be"] == "are" else "definition"
        yield Fact("definition", group, *span, {"term": term, "place": needed_place(place, term)})


def _to_do(match: re.Match[str], text: str, span: Span, place: str) -> Iterator[Fact]:
    """Yield how to do something: `To open a branch, send the keeper a note`."""
    start = _tail_start(text, span, match["rest"]) if is_instruction(match["rest"]) else None
    if start is not None and stands_alone(match["rest"], fewest=3):
        names_place = content_words(place) <= content_words(match["do"])
        slots = {"action": first_person(match["do"]), "place": "" if names_place else place}
        yield Fact("how_to", "how_to", start, span[1], slots)


def _condition(match: re.Match[str], text: str, span: Span, place: str) -> Iterator[Fact]:
    """Yield what happens under a condition: `When the bell rings, the warehouse opens the doors`."""
    condition = _lower_first(match["condition"].rstrip())
    start = _tail_start(text, span, match["rest"])
    is_answer = stands_alone(match["rest"], fewest=4) and says_something_new(match["rest"], condition, 2)
    if start is not None and is_answer:
        slots = {"condition": condition, "place": place}
        yield Fact("condition", condition_group(match["rest"]), start, span[1], slots)


def _remark(text: str, body: str, span: Span, place: str) -> Iterator[Fact]:
    """Yield a question about the subject of a sentence that is the only one in the passage to mention it."""
    match = _REMARK.match(body)
    if not match or len(body.split()) < 8 or depends_on_page(body):
        return
    if is_order(match["subject"]) or not is_askable(match["subject"]):
        return
    name = re.sub(r"^(?:The|An?) ", "", match["subject"])
    is_specific = len(name.split()) > 1 or re.search(r"[`_.]|[a-z][A-Z]|^[A-Z]{2}", name)
    if is_specific and text.lower().count(name.lower()) == 1 and says_something_new(match["rest"], name, 4):
        subject = with_small_article(match["subject"])
        # The templates use the subject alone; the term is what seeded draws have always hashed.
        yield Fact("remark", "remark", *span, {"subject": subject, "term": subject, "place": place})


def _lower_first(text: str) -> str:
    """Return the text with a small first letter, unless the second is a capital too."""
    return text[0].lower() + text[1:] if len(text) > 1 and text[1].islower() else text


def _tail_start(text: str, span: Span, tail: str) -> int | None:
    """Return where the end of a sentence begins in the text, or None if white space hides it.

    `tail` is the end of the sentence with its white space collapsed and without the full stop.
    """
    first_word = tail[:24].split(" ")[0]
    for match in re.finditer(re.escape(first_word), text[span[0] : span[1]]):
        start = span[0] + match.start()
        if collapse_whitespace(text[start : span[1]]).rstrip(".")[: len(tail)] == tail:
            return start
    return None
