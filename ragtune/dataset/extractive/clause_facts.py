"""Reads facts whose answer is a part of a sentence: an object, a means, a purpose, a place, a reason.

`The scales are calibrated when the depot opens.` gives `When are the scales calibrated?`, answered by `when the depot
opens`. The question uses up the rest of the sentence, so it is not enough to find the sentence that looks like it.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ragtune.dataset.extractive.fact import Fact
from ragtune.dataset.extractive.verbs import VERBS, with_s_ending
from ragtune.dataset.sentences import Span, collapse_whitespace, content_words, says_something_new, stands_alone

# Verbs of running text. Those in VERBS are what code does.
_MORE_VERBS_TEXT = """
accelerate achieve address assume avoid back benefit bring capture cause combine communicate compose comprise conform
consist contribute cover deal default delegate depend derive discourage discover embed employ emulate encapsulate
encourage enforce ensure examine exceed expose extract facilitate feature focus follow guarantee hold honour inherit
inject inspire integrate introduce invoke involve lack leverage maintain match measure mimic mirror need operate
originate own permit persist possess prefer preserve promise propagate protect provision pull reach recognise
recognize recommend reject rely replicate respect rest retrieve reuse serve share show signal simplify solve speed
stand stem strip suit surround target tell throw track treat trust turn understand unify wait warn
"""
_BASES = VERBS | frozenset(_MORE_VERBS_TEXT.split())
_BASE_OF = {with_s_ending(verb): verb for verb in _BASES}
_ANY_THIRD, _ANY_BASE = "|".join(sorted(_BASE_OF)), "|".join(sorted(_BASES))
# As plural nouns these look like verbs, so they count as verbs only before a determiner.
_ALSO_NOUNS_TEXT = """
calls requests tests uses lists names sets checks logs updates changes returns prints results reports records reads
writes builds runs loads stores targets tracks documents queries starts displays measures issues feeds maps prefixes
features samples limits values types steps waits splits stops points deals
"""
_ALSO_NOUNS = frozenset(_ALSO_NOUNS_TEXT.split())
_DETERMINER = re.compile(r"(?:an?|the|all|any|no|each|every|its|several|multiple|many|one|two|both|only)\b|[`\d\"A-Z]")
# Words after a verb that begin no object, or an object that says nothing.
_NO_OBJECT = re.compile(
    r"(?:it|them|this|that|these|those|so|such|the same|us|me|him|her|more|less|all of|some of|up|out|off|on|in|at|as"
    r"|like|to|you|your|their|its|our|well|with|from|for|by|against|when|if|unless|until|while|very|also|only|not|too"
    r"|fine|just|is|are|was|were|can|will|must|should|has|have|do|does|which|what|how|and|or)\b",
    re.IGNORECASE,
)
# Words that mean something outside the sentence.
_BACKWARD = re.compile(
    r"\b(?:this|that (?:case|way|point|page|section)|these|those|they|them|here|such(?! as\b)|former|latter|"
    r"previous\w*|respectively|following|below|above|our|we|us|I|my)\b"
)
# Which ones are meant, the page says elsewhere.
_UNSPECIFIED = re.compile(r"\bthe (?:provided|appropriate|corresponding|relevant|necessary|desired) \w+")
_SUBJECT = (
    r"(?P<subject>(?:(?:The|A|An|All|Any|Each|Every|Most|Some|Both) )?[`A-Za-z][\w`.\-/+@=()\[\]]*"
    r"(?: (?:of|and|in|for|from) (?:the |an? |all |any )?[`\w][\w`.\-/+]*| [`\w][\w`.\-/+@]*){0,5}?)"
)
_LEAD = r"(?:(?P<default>By default), )?"
_ADVERB = r"(?: also| still| already| always| \w+ly)?"
# `The ramp supports parcels of every size`
_VERB_OBJECT = re.compile(
    rf"^{_LEAD}{_SUBJECT}{_ADVERB} (?P<verb>{_ANY_THIRD})(?P<prep> on| of| to| from| with| into)? (?P<rest>[^,].*)$"
)
# `Sorting machines require a steady supply of power`
_PLURAL_VERB_OBJECT = re.compile(
    rf"^{_LEAD}{_SUBJECT}(?<=[a-rtv-z]s){_ADVERB} (?P<verb>{_ANY_BASE})"
    r"(?P<prep> on| of| from| with| into)? (?P<rest>[^,].*)$"
)
# `A van can carry four pallets`
_MODAL_VERB_OBJECT = re.compile(
    rf"^{_LEAD}{_SUBJECT} (?P<modal>can|must|should|will){_ADVERB} (?P<verb>{_ANY_BASE})"
    r"(?P<prep> on| of| from| with| into)? (?P<rest>[^,].*)$"
)
# `The width must be a whole number of metres`
_MUST_BE = re.compile(
    rf"^{_SUBJECT} (?P<modal>must|should|can|will) be (?P<rest>(?:an?|the|one|at most|at least|between|either|equal to|"
    r"[`\"A-Z0-9]\S*) .+)$"
)
# `The ramp can be used to load vans`, `The ramp can be used as a table`
_CAN_BE_USED = re.compile(rf"^{_SUBJECT} can (?:also |then )?be used (?P<rest>(?:to|for) .+|(?P<role>as) .+)$")
# `Parcel lists can be printed using the print_all function`
_CAN_BE_DONE = re.compile(
    rf"^{_SUBJECT} can (?:also |then |easily )?be (?P<done>\w+ed|built|run|set|written|read|sent|given|made)"
    r"(?P<more>(?: (?!both|either|only|with|by|in)[a-z`][\w`.\-]*){0,4}?) "
    r"(?P<rest>(?:with (?!or\b)|by |using |via |through ).+)$"
)
# `The scanner is designed to read labels`
_PURPOSE = re.compile(
    rf"^{_SUBJECT} (?P<be>is|are) (?:also |mainly |primarily |only |typically |usually )?"
    r"(?P<done>used|needed|required|intended|designed|meant|made|suited|responsible|useful) (?P<rest>(?:to|for) .+)$"
)
# `The scanner is based on an old camera`
_BASIS = re.compile(
    rf"^{_SUBJECT} (?P<be>is|are) (?P<done>based on|built on|built on top of|part of|made up of|composed of|written in|"
    r"compatible with|limited to|inspired by|derived from|restricted to|"
    r"equivalent to|licensed under|implemented (?:in|as)|stored in|supported by) (?P<rest>.+)$"
)
# `The night shift is not suited for glass because drivers overlook cracks`
_REASON = re.compile(
    rf"^{_SUBJECT} (?P<be>is|are|can|cannot|must|should|will|does not|do not) (?P<rest>[^,;:]{{8,110}}?),? "
    r"(?P<why>because .{15,}|so that .{15,})$"
)
# `The scales are calibrated when the depot opens`
_STATE = re.compile(
    rf"^{_SUBJECT} (?P<be>is|are) (?:also |always |then |only |\w+ly )?(?P<done>\w+ed|built|run|set|written|read|sent|"
    r"given|made|kept|found) (?P<rest>(?:(?P<how>as (?!needed|well|usual|follows|expected)|using |via |through |"
    r"by \w+ing )|(?P<when>when |if |unless |once |only if |before |after |during )|"
    r"(?P<where>in |at |under |inside |into |on )).+)$"
)
# Verbs whose object may follow `to`: `belongs to the depot`. After others `to` begins a purpose.
_TAKE_TO_TEXT = "adapt add apply belong connect convert correspond default lead map refer relate"
_TAKE_TO = frozenset(_TAKE_TO_TEXT.split())
# What has a place: `stored in the folder`, but not `sorted in the folder`.
_HAVE_PLACE_TEXT = """
stored saved written kept located placed defined installed configured declared logged listed cached hosted published
recorded described found included implemented displayed printed
"""
_HAVE_PLACE = frozenset(_HAVE_PLACE_TEXT.split())
_NO_PLACE = re.compile(
    r"(?:in|under|on|at) (?:[\w-]+ ){0,3}(?:format|form|way|order|mode|parallel|detail|time|name)s?\b"
)
# `For heavy parcels, a second driver is required`
_NEEDED_FOR = re.compile(
    r"^For (?P<purpose>[a-z`][^,:;]{6,60}), "
    r"(?P<rest>[^,:;]{3,80}?) (?P<requirement>(?:is|are) (?:required|needed|recommended|used))$"
)
# `You can change your route by editing the map`
_YOU_CAN_BY = re.compile(
    r"^You can (?:also |now |easily )?(?P<do>[a-z]+ [^,:;]{6,90}?) "
    r"(?P<rest>(?:by \w+ing|using|via|through|with (?=`|the |an? )).{4,})$"
)
# `Use the --night option to send parcels after sunset`
_USE_TO = re.compile(
    r"^(?:(?:You can |Please |Simply |Just )?(?P<use>[Uu]se|[Cc]all|[Ss]et|[Pp]ass|[Rr]un|[Aa]dd|[Ii]nstall|[Ss]pecify"
    r"|[Ee]nable|[Dd]efine|[Cc]reate|[Ii]mport) (?P<what>[^,:;]{3,80}?)) (?:in order )?to (?P<do>[a-z]+ [^,:;]{6,90})$"
)
# `If you want to open a second depot, set depots to two`
_IF_YOU_WANT = re.compile(
    r"^If you (?:want|need|wish|would like|prefer|intend) to (?P<do>[a-z]+ [^,:;]{6,90}), "
    r"(?:then )?(?:you (?:can|should|must|need to|have to) |please |simply |just )?(?P<rest>[a-z`].{8,})$"
)
# `If you lose your badge, the gate stays locked`
_CONDITION = re.compile(r"^(?P<condition>(?:If|When|Once|Unless) [^:;]{8,90}?), (?P<rest>[^,].{12,})$")
_VAGUE_CONDITION = re.compile(r"\b(?:it|its|instead|want|need|wish|like|would|said|see|know|find|think)\b")
_ITSELF = re.compile(
    r"^(?:the|this) (?:library|package|project|tool|framework|toolkit|module|sdk|client|application|plugin|extension)$",
    re.IGNORECASE,
)
_FIRST_PERSON = (
    (r"\byou are\b", "I am"),
    (r"\byou're\b", "I am"),
    (r"\byou've\b", "I have"),
    (r"\byourself\b", "myself"),
    (r"\byours\b", "mine"),
    (r"\byour\b", "my"),
    (r"\byou\b", "I"),
)
RST_LINK = re.compile(r"[`\w\]]_(?=[\s,.;)]|$)")
"""A link in reStructuredText, such as `` `labels`_ ``: its markup was left in the text."""
# Sentences that send the reader to other people or pages.
_HELP = re.compile(
    r"\b(?:questions?|issues?|trouble|problems?|bugs?|help|contact|feedback|sponsor\w*|donat\w*|security vulnerability"
    r"|contribut\w*|pull requests?|get(?:ting)? started|more about|feel free|check out|check it|read|documentation"
    r"|guide|interested)\b",
    re.IGNORECASE,
)
_NO_CONSEQUENCE = re.compile(
    r"(?:first|we|let|it|they|then|and|or|but|please|feel|there|thanks|into|in|on|from|as|at|with|for|i\.e|either)\b",
    re.IGNORECASE,
)
_SECOND_CLAUSE = re.compile(
    r"\b(?:and|but|or)(?: then| also)? "
    r"(?:(?:\S+ ){0,3}?(?:should|can|must|will|may|is|are|has|have|does|do|doesn't|don't)\b|(?P<verb>\w+s)\b)"
    r"|, (?P<listed>\w+s)\b|, (?:to|so|but|which means)\b"
)
_NOT_PLAIN = re.compile(r"\b(?:e\.g|i\.e|etc)\b|[!?]$|: |;")

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

    Args:
        place: ` in TITLE`, or "" if the question needs none.
        title: What `the library` means in this text, or "".
    """
    offsets = _collapsed_offsets(text, span)
    body = "".join(" " if text[offset].isspace() else text[offset] for offset in offsets).rstrip(".")
    if not body.isascii() or _is_unclear(body):
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
    patterns = (_BACKWARD, _UNSPECIFIED, RST_LINK, _NOT_PLAIN)
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
    passive = _CAN_BE_DONE.match(body)
    if passive:
        return _passive_means(passive, around)
    by, use = _YOU_CAN_BY.match(body), _USE_TO.match(body)
    match = by or use or _IF_YOU_WANT.match(body)
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
    match = _CONDITION.match(body)
    if match is None or " you" not in match["condition"]:
        return None
    group = condition_group(match["rest"])
    if _VAGUE_CONDITION.search(match["condition"]) or _HELP.search(body) or not group:
        return None
    condition = match["condition"][0].lower() + match["condition"][1:]
    slots = {"condition": first_person(condition), "place": around.place}
    return _Clause("condition", group, match.span("rest"), slots)


def condition_group(consequence: str) -> str:
    """Return the templates for a condition: what to do or what happens, "" if the rest is no whole consequence."""
    first = consequence.split()[0].lower()
    refers_elsewhere = _HELP.search(consequence) or _BACKWARD.search(consequence)
    if refers_elsewhere or _NO_CONSEQUENCE.match(consequence) or first in _BASE_OF:
        return ""
    return "condition.do" if first in _BASES | {"you"} else "condition"


def _state(body: str, around: _Surroundings) -> _Clause | None:
    """Read what something needs, or how, when or where something is done."""
    needed = _NEEDED_FOR.match(body)
    if needed and not re.match(r"(?:the|a|an|most|some|all|instance|details)\b", needed["purpose"]):
        slots = {"purpose": needed["purpose"], "requirement": needed["requirement"], "place": around.place}
        return _Clause("statement", "needed_for", needed.span("rest"), slots)
    match = _STATE.match(body)
    if match is None or _has_second_clause(match["rest"]):
        return None
    if match["where"] and (match["done"] not in _HAVE_PLACE or _NO_PLACE.match(match["rest"])):
        return None
    question_word = "how" if match["how"] else "when" if match["when"] else "where"
    return _be_clause(match, f"state.{question_word}", around)


def _statement(body: str, around: _Surroundings) -> _Clause | None:
    """Read what is said of a subject: a reason, its purpose, what it rests on, or the object of its verb."""
    if match := _REASON.match(body):
        return _reason(match, around)
    purpose = _PURPOSE.match(body)
    if match := purpose or _BASIS.match(body):
        group = "used_for" if purpose else "rests_on"
        return None if _has_second_clause(match["rest"]) else _be_clause(match, group, around)
    used = _CAN_BE_USED.match(body)
    if used and not _has_second_clause(used["rest"]):
        return _modal_clause(used, "can", "be used as" if used["role"] else "be used for", around)
    must_be = None if used else _MUST_BE.match(body)
    if must_be and not _has_second_clause(must_be["rest"]):
        return _modal_clause(must_be, must_be["modal"], "be", around)
    modal = _MODAL_VERB_OBJECT.match(body)
    if modal and _is_object(modal["rest"]):
        return _modal_clause(modal, modal["modal"], modal["verb"] + _verb_ending(modal), around)
    singular = _VERB_OBJECT.match(body)
    if singular and (slots := _verb_slots(singular, _BASE_OF[singular["verb"]], around)):
        return _Clause("statement", "statement", singular.span("rest"), slots)
    plural = _PLURAL_VERB_OBJECT.match(body)
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
    begins_purpose = match["prep"] == " to" and base not in _TAKE_TO
    # `calls`, `requests`: only third persons are on this list.
    may_be_noun = match["verb"] in _ALSO_NOUNS and (match["prep"] or not _DETERMINER.match(match["rest"]))
    # `Defines run config ...`: the first word is the verb of a sentence without a subject.
    first, *more = match["subject"].lower().split()
    lacks_subject = first in _BASE_OF and not (more and first in _ALSO_NOUNS)
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
    return any(listed[1] in _BASES for listed in re.finditer(r", (?:and |or )?([a-z]+)\b", rest))


def _subject_slots(match: re.Match[str], around: _Surroundings) -> dict[str, str]:
    """Return the subject and place of a question, empty if nobody would know what the subject is."""
    phrase = match["subject"]
    is_gerund = re.match(r"\w+ing\b", phrase) and not phrase.endswith("s")
    disagrees = match.groupdict().get("be") == "is" and re.search(r"[a-z]s$", phrase)
    if is_gerund or disagrees:
        return {}
    if _ITSELF.match(phrase):
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
    if _NO_OBJECT.match(rest) or re.search(r"\b(?:somewhere|somehow|something)\b", rest):
        return False
    is_adverb = re.match(r"\w+ly\b|\w+ing\b|[a-z]+ed\b|\w+ to be\b", rest)
    return not is_adverb and not _has_second_clause(rest)


def _has_second_clause(rest: str) -> bool:
    """Return whether the text says something else of the subject after the answer."""
    verbs = [clause["verb"] or clause["listed"] for clause in _SECOND_CLAUSE.finditer(rest)]
    return any(verb is None or (verb in _BASE_OF and verb not in _ALSO_NOUNS) for verb in verbs)


def is_clear_action(action: str) -> bool:
    """Return whether a reader knows what to do: a known verb, enough words, and no word that means another sentence."""
    if re.search(r"\b(?:it|its|so|this|that|these|those|them|we|learn|ensure|note)\b", action):
        return False
    return action.split()[0] in _BASES and len(content_words(action)) >= 3 and not _HELP.search(action)


def depends_on_page(sentence: str) -> bool:
    """Return whether a sentence needs the text around it: `This`, `You can also`, `Returns`, `Read more`."""
    if sentence.split()[0].lower() in _BASE_OF:
        # `Returns a list`: the subject is missing.
        return True
    continues = r"\balso\b|^(?:(?:The )?(?:first|second|next|last)|In (?:special|some) cases)\b"
    if re.search(continues, sentence, re.IGNORECASE):
        return True
    return _BACKWARD.search(sentence) is not None or _HELP.search(sentence) is not None


def is_instruction(text: str) -> bool:
    """Return whether a text tells the reader to do something."""
    begins_with_order = text.split()[0].lower() in _BASES | {"you", "do"}
    tells_users = re.match(r"(?:developers|users) (?:can|should|must)\b", text)
    return (begins_with_order or tells_users is not None) and not _HELP.search(text)


def first_person(text: str) -> str:
    """Return text that speaks to a reader as the reader would say it: `your file` becomes `my file`."""
    for pattern, word in _FIRST_PERSON:
        text = re.sub(pattern, word, text)
    return text
