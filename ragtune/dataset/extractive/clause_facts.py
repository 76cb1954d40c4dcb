"""Reads facts whose answer is a part of a sentence: an object, a means, a purpose, a place, a reason.

`The scales are calibrated when the depot opens.` gives `When are the scales calibrated?`, answered by `when the depot
opens`. The question uses up the rest of the sentence, so it is not enough to find the sentence that looks like it.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ragtune.dataset.extractive.clause_patterns import (
    ALSO_NOUNS,
    BACKWARD,
    BASE_OF,
    BASES,
    BASIS,
    CAN_BE_DONE,
    CAN_BE_USED,
    CONDITION,
    DETERMINER,
    FIRST_PERSON,
    HAVE_PLACE,
    HELP,
    IF_YOU_WANT,
    ITSELF,
    MODAL_VERB_OBJECT,
    MUST_BE,
    NEEDED_FOR,
    NO_CONSEQUENCE,
    NO_OBJECT,
    NO_PLACE,
    NOT_PLAIN,
    PLURAL_VERB_OBJECT,
    PURPOSE,
    REASON,
    RST_LINK,
    SECOND_CLAUSE,
    STATE,
    TAKE_TO,
    UNSPECIFIED,
    USE_TO,
    VAGUE_CONDITION,
    VERB_OBJECT,
    YOU_CAN_BY,
)
from ragtune.dataset.extractive.fact import Fact
from ragtune.dataset.standalone import is_running_text, says_something_new, stands_alone
from ragtune.text.normal_form import straight_quotes
from ragtune.text.sentences import Span
from ragtune.text.whitespace import collapse_whitespace
from ragtune.text.words import content_words

# The smallest and largest answers, in words. Chosen by hand, not measured.
_FEWEST_WORDS, _FEWEST_WORDS_OF_SHORT_ANSWERS, _MOST_WORDS = 3, 2, 30

SubjectReader = Callable[[str], str]
"""Returns a noun phrase as it stands inside a question, "" if nobody would know what is meant."""


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What the text around a sentence says.

    `title` is what `the library` means in the text, "" if nothing tells. `place` (` in Dagster`) goes at the end of
    a question that does not name its document.
    """

    place: str
    title: str
    read_subject: SubjectReader


@dataclass(frozen=True, slots=True)
class _Clause:
    """What was read in a sentence: `answer` is a span of the sentence with its white space collapsed."""

    kind: str
    template_group: str
    answer: Span
    slots: dict[str, str]


def clause_facts(text: str, span: Span, place: str, read_subject: SubjectReader, title: str) -> Iterator[Fact]:
    """Yield at most one fact of the sentence at the span.

    `place` is ` in TITLE` for questions that do not name their document, `title` is what `the library` means in
    this text; both may be empty.
    """
    offsets = _collapsed_offsets(text, span)
    body = "".join(" " if text[offset].isspace() else text[offset] for offset in offsets).rstrip(".")
    if not is_running_text(body):
        return
    # The patterns and questions have straight quotes; the answer keeps those of the text.
    body = straight_quotes(body)
    if _is_unclear(body):
        return
    clause = _read_clause(body, _Surroundings(place, title, read_subject))
    if clause is None:
        return
    start, end = clause.answer
    short = clause.kind == "how_to" or clause.template_group.startswith("state.")
    fewest = _FEWEST_WORDS_OF_SHORT_ANSWERS if short else _FEWEST_WORDS
    question = " ".join(clause.slots.values())
    answer = body[start:end]
    if stands_alone(answer, fewest=fewest, most=_MOST_WORDS) and says_something_new(answer, question, fewest - 1):
        # An answer at the end of the sentence takes its full stop along.
        stop = span[1] if end == len(body) else offsets[end - 1] + 1
        yield Fact(clause.kind, clause.template_group, offsets[start], stop, clause.slots)


def _is_unclear(body: str) -> bool:
    patterns = (BACKWARD, UNSPECIFIED, RST_LINK, NOT_PLAIN)
    return any(pattern.search(body) for pattern in patterns)


def _collapsed_offsets(text: str, span: Span) -> list[int]:
    """Return the offset of every character of the sentence, with one for each run of white space."""
    return [
        offset
        for offset in range(*span)
        if not text[offset].isspace() or (offset > span[0] and not text[offset - 1].isspace())
    ]


def _read_clause(body: str, around: _Surroundings) -> _Clause | None:
    """Return what the first rule that fits reads in the sentence."""
    rules = (_means, _condition, _state, _statement)
    return next((clause for rule in rules if (clause := rule(body, around)) is not None), None)


def _means(body: str, around: _Surroundings) -> _Clause | None:
    """Read how something is done."""
    passive = CAN_BE_DONE.match(body)
    if passive:
        return _passive_means(passive, around)
    by, use = YOU_CAN_BY.match(body), USE_TO.match(body)
    match = by or use or IF_YOU_WANT.match(body)
    if match is None or not is_clear_action(match["do"]) or match["do"].endswith("ing"):
        return None
    if use and re.search(r"\b(?:users?|callers?|clients?|you|(?:allow|requir)\w*)$", use["what"]):
        # `Define a field requiring the user to choose`: the second half is not the purpose of the first.
        return None
    answer = (match.start("use"), match.end("what")) if match is use else match.span("rest")
    if not by and not is_instruction(body[answer[0] :]):
        return None
    slots = {"action": first_person(match["do"]), "place": around.place}
    return _Clause("how_to", "how_to.by" if by else "how_to", answer, slots)


def _passive_means(match: re.Match[str], around: _Surroundings) -> _Clause | None:
    """Read `Lists can be printed using the function`."""
    participle = f"{match['done']}{match['more']}"
    if participle == "used" and match["rest"].startswith("by "):
        # `can be used by drivers` names who does it, not how.
        return None
    slots = _subject_slots(match, around)
    if not slots:
        return None
    return _Clause("how_to", "means.passive", match.span("rest"), {**slots, "participle": participle})


def _condition(body: str, around: _Surroundings) -> _Clause | None:
    """Read what happens, or what to do, under a condition that speaks to the reader."""
    match = CONDITION.match(body)
    if match is None or " you" not in match["condition"]:
        return None
    group = condition_group(match["rest"])
    if VAGUE_CONDITION.search(match["condition"]) or HELP.search(body) or not group:
        return None
    condition = match["condition"][0].lower() + match["condition"][1:]
    slots = {"condition": first_person(condition), "place": around.place}
    return _Clause("condition", group, match.span("rest"), slots)


def condition_group(consequence: str) -> str:
    """Return the templates for a condition: what to do or what happens, "" if the rest is no whole consequence."""
    first = consequence.split()[0].lower()
    refers_elsewhere = HELP.search(consequence) or BACKWARD.search(consequence)
    if refers_elsewhere or NO_CONSEQUENCE.match(consequence) or first in BASE_OF:
        return ""
    return "condition.do" if first in BASES | {"you"} else "condition"


def _state(body: str, around: _Surroundings) -> _Clause | None:
    """Read what something needs, or how, when or where something is done."""
    needed = NEEDED_FOR.match(body)
    if needed and not re.match(r"(?:the|a|an|most|some|all|instance|details)\b", needed["purpose"]):
        slots = {"purpose": needed["purpose"], "requirement": needed["requirement"], "place": around.place}
        return _Clause("statement", "needed_for", needed.span("rest"), slots)
    match = STATE.match(body)
    if match is None or _has_second_clause(match["rest"]):
        return None
    if match["where"] and (match["done"] not in HAVE_PLACE or NO_PLACE.match(match["rest"])):
        return None
    question_word = "how" if match["how"] else "when" if match["when"] else "where"
    return _be_clause(match, f"state.{question_word}", around)


def _statement(body: str, around: _Surroundings) -> _Clause | None:
    """Read what is said of a subject: a reason, its purpose, what it rests on, or the object of its verb."""
    if match := REASON.match(body):
        return _reason(match, around)
    purpose = PURPOSE.match(body)
    if match := purpose or BASIS.match(body):
        group = "used_for" if purpose else "rests_on"
        return None if _has_second_clause(match["rest"]) else _be_clause(match, group, around)
    can_be_used = CAN_BE_USED.match(body)
    if can_be_used and not _has_second_clause(can_be_used["rest"]):
        return _modal_clause(can_be_used, "can", "be used as" if can_be_used["role"] else "be used for", around)
    must_be = None if can_be_used else MUST_BE.match(body)
    if must_be and not _has_second_clause(must_be["rest"]):
        return _modal_clause(must_be, must_be["modal"], "be", around)
    modal = MODAL_VERB_OBJECT.match(body)
    if modal and _is_object(modal["rest"]):
        return _modal_clause(modal, modal["modal"], modal["verb"] + _verb_ending(modal), around)
    singular = VERB_OBJECT.match(body)
    if singular and (slots := _verb_slots(singular, BASE_OF[singular["verb"]], around)):
        return _Clause("statement", "statement", singular.span("rest"), slots)
    plural = PLURAL_VERB_OBJECT.match(body)
    if plural and not _lists_verbs(plural["rest"]) and (slots := _verb_slots(plural, plural["verb"], around)):
        return _Clause("statement", "statement.plural", plural.span("rest"), slots)
    return None


def _reason(match: re.Match[str], around: _Surroundings) -> _Clause | None:
    """Read `The shift is not suited for glass because drivers overlook cracks`."""
    slots = _subject_slots(match, around)
    if not slots:
        return None
    be, _, negation = match["be"].partition(" ")
    slots = {
        "inverted_clause": collapse_whitespace(f"{be} {slots['subject']} {negation} {match['rest']}"),
        "clause": f"{slots['subject']} {match['be']} {match['rest']}",
        "place": slots["place"],
    }
    return _Clause("reason", "reason", match.span("why"), slots)


def _be_clause(match: re.Match[str], template_group: str, around: _Surroundings) -> _Clause | None:
    """Read a subject with `is` or `are` and a participle: `The scanner is designed to ...`."""
    slots = _subject_slots(match, around)
    if not slots:
        return None
    slots = {**slots, "auxiliary": match["be"], "participle": match["done"]}
    return _Clause("statement", template_group, match.span("rest"), slots)


def _modal_clause(match: re.Match[str], modal: str, verb: str, around: _Surroundings) -> _Clause | None:
    """Read a subject with `can`, `must`, `should` or `will`."""
    slots = _subject_slots(match, around)
    if not slots:
        return None
    return _Clause("statement", "modal", match.span("rest"), {**slots, "auxiliary": modal, "verb": verb})


def _verb_slots(match: re.Match[str], base: str, around: _Surroundings) -> dict[str, str]:
    """Return the slots for a subject, its verb and an object, empty if the sentence is not clearly that."""
    begins_purpose = match["prep"] == " to" and base not in TAKE_TO
    # `calls`, `requests`: only third persons are on this list.
    may_be_noun = match["verb"] in ALSO_NOUNS and (match["prep"] or not DETERMINER.match(match["rest"]))
    # `Defines run config ...`: the first word is the verb of a sentence without a subject.
    first, *more = match["subject"].lower().split()
    lacks_subject = first in BASE_OF and not (more and first in ALSO_NOUNS)
    if begins_purpose or may_be_noun or lacks_subject or not _is_object(match["rest"]):
        return {}
    slots = _subject_slots(match, around)
    if not slots:
        return {}
    if base == "use" and not slots["place"] and not match["default"]:
        # A whole library uses many things.
        return {}
    ending = _verb_ending(match)
    return {**slots, "verb": f"{base}{ending}", "third_person": f"{match['verb']}{ending}"}


def _verb_ending(match: re.Match[str]) -> str:
    """Return what follows the verb in a question: its preposition and `by default`."""
    return f"{match['prep'] or ''}{' by default' if match['default'] else ''}"


def _lists_verbs(rest: str) -> bool:
    """Return whether more verbs follow after commas: `machines sort parcels, print labels and close the gate`."""
    return any(listed[1] in BASES for listed in re.finditer(r", (?:and |or )?([a-z]+)\b", rest))


def _subject_slots(match: re.Match[str], around: _Surroundings) -> dict[str, str]:
    """Return the subject and place of a question, empty if nobody would know what the subject is."""
    phrase = match["subject"]
    is_gerund = re.match(r"\w+ing\b", phrase) and not phrase.endswith("s")
    disagrees = match.groupdict().get("be") == "is" and re.search(r"[a-z]s$", phrase)
    if is_gerund or disagrees:
        return {}
    if ITSELF.match(phrase):
        return {"subject": around.title, "place": ""} if around.title else {}
    subject = around.read_subject(phrase)
    if not subject:
        return {}
    object_name = around.title.split(" in ")[0].strip("`").rsplit(".", 1)[-1]
    if around.title and object_name == phrase.strip("`"):
        # `What does Cart hold in shop.Cart?` says the same twice.
        return {"subject": around.title, "place": ""}
    names_place = content_words(around.place) <= content_words(subject)
    return {"subject": subject, "place": "" if names_place else around.place}


def _is_object(rest: str) -> bool:
    """Return whether the words after a verb begin an object that answers `what`."""
    if NO_OBJECT.match(rest) or re.search(r"\b(?:somewhere|somehow|something)\b", rest):
        return False
    is_adverb = re.match(r"\w+ly\b|\w+ing\b|[a-z]+ed\b|\w+ to be\b", rest)
    return not is_adverb and not _has_second_clause(rest)


def _has_second_clause(rest: str) -> bool:
    """Return whether the text says something else of the subject after the answer."""
    verbs = [clause["verb"] or clause["listed"] for clause in SECOND_CLAUSE.finditer(rest)]
    return any(verb is None or (verb in BASE_OF and verb not in ALSO_NOUNS) for verb in verbs)


def is_clear_action(action: str) -> bool:
    """Return whether a reader knows what to do: a known verb, enough words, and no word that means another sentence."""
    if re.search(r"\b(?:it|its|so|this|that|these|those|them|we|learn|ensure|note)\b", action):
        return False
    return action.split()[0] in BASES and len(content_words(action)) >= 3 and not HELP.search(action)


def depends_on_page(sentence: str) -> bool:
    """Return whether a sentence needs the text around it: `This`, `You can also`, `Returns`, `Read more`."""
    if sentence.split()[0].lower() in BASE_OF:
        # `Returns a list`: the subject is missing.
        return True
    continues = r"\balso\b|^(?:(?:The )?(?:first|second|next|last)|In (?:special|some) cases)\b"
    if re.search(continues, sentence, re.IGNORECASE):
        return True
    return BACKWARD.search(sentence) is not None or HELP.search(sentence) is not None


def is_instruction(text: str) -> bool:
    """Return whether a text tells the reader to do something."""
    begins_with_order = text.split()[0].lower() in BASES | {"you", "do"}
    tells_users = re.match(r"(?:developers|users) (?:can|should|must)\b", text)
    return (begins_with_order or tells_users is not None) and not HELP.search(text)


def first_person(text: str) -> str:
    """Return text that speaks to a reader as the reader would say it: `your file` becomes `my file`."""
    for pattern, word in FIRST_PERSON:
        text = re.sub(pattern, word, text)
    return text
