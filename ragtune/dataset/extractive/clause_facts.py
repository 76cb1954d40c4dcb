"""Reads facts whose answer is a part of a sentence: an object, a means, a purpose, a reason.

The question takes the rest of the sentence, so that finding the sentence is not enough to answer.
"""

import re
from collections.abc import Callable, Iterator

from ragtune.dataset.extractive.api_facts import Fact
from ragtune.dataset.extractive.verbs import VERBS, third
from ragtune.dataset.standalone import says_something_new, stands_alone
from ragtune.text.sentences import Span
from ragtune.text.whitespace import collapse_whitespace
from ragtune.text.words import content_words

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
_BASE_OF = {third(verb): verb for verb in _BASES}
_ANY_THIRD, _ANY_BASE = "|".join(sorted(_BASE_OF)), "|".join(sorted(_BASES))
# As nouns in the plural these look like verbs: they count as verbs only before a determiner.
_ALSO_NOUNS_TEXT = """
calls requests tests uses lists names sets checks logs updates changes returns prints results reports records reads
writes builds runs loads stores targets tracks documents queries starts displays measures issues feeds maps prefixes
features samples limits values types steps waits splits stops points deals
"""
_ALSO_NOUNS = frozenset(_ALSO_NOUNS_TEXT.split())
_DETERMINER = re.compile(r"(?:an?|the|all|any|no|each|every|its|several|multiple|many|one|two|both|only)\b|[`\d\"A-Z]")
_VAGUE_OBJECT = re.compile(
    r"(?:it|them|this|that|these|those|so|such|the same|us|me|him|her|more|less|all of|some of|up|out|off|on|in|at|as"
    r"|like|to|you|your|their|its|our|well|with|from|for|by|against|when|if|unless|until|while|very|also|only|not|too|fine|just|is|are|was|were|can|will"
    r"|must|should|has|have|do|does|which|what|how|and|or)\b",
    re.IGNORECASE,
)
_BACKWARD = re.compile(
    r"\b(?:this|that (?:case|way|point|page|section)|these|those|they|them|here|such(?! as\b)|former|latter|"
    r"previous\w*|respectively|following|below|above|our|we|us|I|my)\b"
)
# Which ones, the page says elsewhere.
_UNTOLD = re.compile(r"\bthe (?:provided|appropriate|corresponding|relevant|necessary|desired) \w+")
_SUBJECT = (
    r"(?P<s>(?:(?:The|A|An|All|Any|Each|Every|Most|Some|Both) )?[`A-Za-z][\w`.\-/+@=()\[\]]*"
    r"(?: (?:of|and|in|for|from) (?:the |an? |all |any )?[`\w][\w`.\-/+]*| [`\w][\w`.\-/+@]*){0,5}?)"
)
_LEAD = r"(?:(?P<default>By default), )?"
_ADVERB = r"(?: also| still| already| always| \w+ly)?"
_OBJECT = re.compile(
    rf"^{_LEAD}{_SUBJECT}{_ADVERB} (?P<verb>{_ANY_THIRD})(?P<prep> on| of| to| from| with| into)? (?P<rest>[^,].*)$"
)
_MODAL = re.compile(
    rf"^{_LEAD}{_SUBJECT} (?P<modal>can|must|should|will){_ADVERB} (?P<verb>{_ANY_BASE})"
    r"(?P<prep> on| of| from| with| into)? (?P<rest>[^,].*)$"
)
_PLURAL = re.compile(
    rf"^{_LEAD}{_SUBJECT}(?<=[a-rtv-z]s){_ADVERB} (?P<verb>{_ANY_BASE})"
    r"(?P<prep> on| of| from| with| into)? (?P<rest>[^,].*)$"
)
_SHOULD_BE = re.compile(
    rf"^{_SUBJECT} (?P<o>must|should|can|will) be (?P<rest>(?:an?|the|one|at most|at least|between|either|equal to|"
    r"[`\"A-Z0-9]\S*) .+)$"
)
_USED = re.compile(rf"^{_SUBJECT} can (?:also |then )?be used (?P<rest>(?:to|for) .+|(?P<role>as) .+)$")
_PASSIVE_MEANS = re.compile(
    rf"^{_SUBJECT} can (?:also |then |easily )?be (?P<done>\w+ed|built|run|set|written|read|sent|given|made)"
    r"(?P<more>(?: (?!both|either|only|with|by|in)[a-z`][\w`.\-]*){0,4}?) "
    r"(?P<rest>(?:with (?!or\b)|by |using |via |through ).+)$"
)
_PURPOSE = re.compile(
    rf"^{_SUBJECT} (?P<be>is|are) (?:also |mainly |primarily |only |typically |usually )?"
    r"(?P<done>used|needed|required|intended|designed|meant|made|suited|responsible|useful) (?P<rest>(?:to|for) .+)$"
)
_BASED = re.compile(
    rf"^{_SUBJECT} (?P<be>is|are) (?P<done>based on|built on|built on top of|part of|made up of|composed of|written in|"
    r"compatible with|limited to|inspired by|derived from|restricted to|"
    r"equivalent to|licensed under|implemented (?:in|as)|stored in|supported by) (?P<rest>.+)$"
)
_REASON = re.compile(
    rf"^{_SUBJECT} (?P<be>is|are|can|cannot|must|should|will|does not|do not) (?P<rest>[^,;:]{{8,110}}?),? "
    r"(?P<why>because .{15,}|so that .{15,})$"
)
_STATE = re.compile(
    rf"^{_SUBJECT} (?P<be>is|are) (?:also |always |then |only |\w+ly )?(?P<done>\w+ed|built|run|set|written|read|sent|"
    r"given|made|kept|found) (?P<rest>(?:(?P<how>as (?!needed|well|usual|follows|expected)|using |via |through |"
    r"by \w+ing )|(?P<when>when |if |unless |once |only if |before |after |during )|"
    r"(?P<where>in |at |under |inside |into |on )).+)$"
)
_TOWARDS_TEXT = "adapt add apply belong connect convert correspond default lead map refer relate"
_TOWARDS = frozenset(_TOWARDS_TEXT.split())
_PLACED_TEXT = """
stored saved written kept located placed defined installed configured declared logged listed cached hosted published
recorded described found included implemented displayed printed
"""
_PLACED = frozenset(_PLACED_TEXT.split())
_NO_PLACE = re.compile(
    r"(?:in|under|on|at) (?:[\w-]+ ){0,3}(?:format|form|way|order|mode|parallel|detail|time|name)s?\b"
)
_FOR = re.compile(
    r"^For (?P<d>[a-z`][^,:;]{6,60}), (?P<rest>[^,:;]{3,80}?) (?P<be>is|are) (?P<o>required|needed|recommended|used)$"
)
_BY = re.compile(
    r"^You can (?:also |now |easily )?(?P<do>[a-z]+ [^,:;]{6,90}?) "
    r"(?P<rest>(?:by \w+ing|using|via|through|with (?=`|the |an? )).{4,})$"
)
_USE = re.compile(
    r"^(?:(?:You can |Please |Simply |Just )?(?P<use>[Uu]se|[Cc]all|[Ss]et|[Pp]ass|[Rr]un|[Aa]dd|[Ii]nstall|[Ss]pecify"
    r"|[Ee]nable|[Dd]efine|[Cc]reate|[Ii]mport) (?P<what>[^,:;]{3,80}?)) (?:in order )?to (?P<do>[a-z]+ [^,:;]{6,90})$"
)
_WANT = re.compile(
    r"^If you (?:want|need|wish|would like|prefer|intend) to (?P<do>[a-z]+ [^,:;]{6,90}), "
    r"(?:then )?(?:you (?:can|should|must|need to|have to) |please |simply |just )?(?P<rest>[a-z`].{8,})$"
)
_IF_YOU = re.compile(r"^(?P<condition>(?:If|When|Once|Unless) [^:;]{8,90}?), (?P<rest>[^,].{12,})$")
_ITSELF = re.compile(
    r"^(?:the|this) (?:library|package|project|tool|framework|toolkit|module|sdk|client|application|plugin|extension)$",
    re.IGNORECASE,
)
_PERSONS = (
    (r"\byou are\b", "I am"),
    (r"\byou're\b", "I am"),
    (r"\byou've\b", "I have"),
    (r"\byourself\b", "myself"),
    (r"\byours\b", "mine"),
    (r"\byour\b", "my"),
    (r"\byou\b", "I"),
)
LINK = re.compile(r"[`\w\]]_(?=[\s,.;)]|$)")
_HELP = re.compile(
    r"\b(?:questions?|issues?|trouble|problems?|bugs?|help|contact|feedback|sponsor\w*|donat\w*|security vulnerability"
    r"|contribut\w*|pull requests?|get(?:ting)? started|more about|feel free|check out|check it|read|documentation"
    r"|guide|interested)\b",
    re.IGNORECASE,
)
_STEP = re.compile(
    r"(?:first|we|let|it|they|then|and|or|but|please|feel|there|thanks|into|in|on|from|as|at|with|for|i\.e|either)\b",
    re.IGNORECASE,
)
_SECOND_CLAUSE = re.compile(
    r"\b(?:and|but|or)(?: then| also)? "
    r"(?:(?:\S+ ){0,3}?(?:should|can|must|will|may|is|are|has|have|does|do|doesn't|don't)\b|(?P<verb>\w+s)\b)"
    r"|, (?P<listed>\w+s)\b|, (?:to|so|but|which means)\b"
)
Subject = Callable[[str], str]
"""Returns how a noun phrase stands inside a question, empty where nobody would know what is meant."""


def clause_facts(text: str, span: Span, context: str, subject: Subject, title: str) -> Iterator[Fact]:
    """Yield at most one fact of the sentence at the span; `context` (` in Dagster`) goes behind the question.

    `title` is what `the library` means in this text, empty when nothing tells.
    """
    places = _places(text, span)
    body = "".join(text[place] if not text[place].isspace() else " " for place in places).rstrip(".")
    unclear = (
        _BACKWARD.search(body)
        or _UNTOLD.search(body)
        or LINK.search(body)
        or re.search(r"\b(?:e\.g|i\.e|etc)\b|[!?]$|: |;", body)
    )
    if unclear or not body.isascii():
        return
    for read in (_do, _told_if, _state, _said_of):
        found = read(body, context, subject, title)
        if found is None:
            continue
        kind, wording, (start, end), slots = found
        answer = body[start:end]
        question = " ".join(slots.values())
        fewest = 2 if kind == "how_to" or wording.startswith("state.") else 3
        if stands_alone(answer, fewest=fewest, most=30) and says_something_new(answer, question, fewest - 1):
            stop = span[1] if end == len(body) else places[end - 1] + 1
            yield Fact(kind, wording, places[start], stop, slots)
        return


Found = tuple[str, str, Span, dict[str, str]] | None


def _do(body: str, context: str, subject: Subject, title: str) -> Found:
    """Read how something is done: the means of a purpose."""
    by, use, want, passive = _BY.match(body), _USE.match(body), _WANT.match(body), _PASSIVE_MEANS.match(body)
    if passive:
        slots = _named(passive, context, subject, title)
        done = f"{passive['done']}{passive['more']}"
        if done == "used" and passive["rest"].startswith("by "):
            return None
        return ("how_to", "means.passive", passive.span("rest"), {**slots, "d": done}) if slots else None
    match = by or use or want
    if match is None or not plain_action(match["do"]) or match["do"].endswith("ing"):
        return None
    if use and re.search(r"\b(?:users?|callers?|clients?|you|(?:allow|requir)\w*)$", use["what"]):
        # `Define a field requiring the user to choose`: the second half is no purpose of the first.
        return None
    answer = match.span("rest") if match is not use else (match.start("use"), match.end("what"))
    if not by and not does(body[answer[0] :]):
        return None
    return "how_to", "how_to.by" if by else "how_to", answer, {"d": first_person(match["do"]), "c": context}


def _told_if(body: str, context: str, _subject: Subject, _title: str) -> Found:
    """Read what holds under a condition that speaks to the reader."""
    match = _IF_YOU.match(body)
    if match is None or " you" not in match["condition"]:
        return None
    vague = re.search(r"\b(?:it|its|instead|want|need|wish|like|would|said|see|know|find|think)\b", match["condition"])
    wording = condition_wording(match["rest"])
    if vague or _HELP.search(body) or not wording:
        return None
    said = match["condition"][0].lower() + match["condition"][1:]
    return "condition", wording, match.span("rest"), {"d": first_person(said), "c": context}


def condition_wording(rest: str) -> str:
    """Return the wording for a condition by what follows it: what to do, what happens, or none for half a list."""
    first = rest.split()[0].lower()
    if _HELP.search(rest) or _BACKWARD.search(rest) or _STEP.match(rest) or first in _BASE_OF:
        return ""
    return "condition.do" if first in _BASES | {"you"} else "condition"


def _state(body: str, context: str, subject: Subject, title: str) -> Found:
    """Read how, when or where something is done, and what something needs."""
    needed = _FOR.match(body)
    if needed and not re.match(r"(?:the|a|an|most|some|all|instance|details)\b", needed["d"]):
        return (
            "statement",
            "needed_for",
            needed.span("rest"),
            {"d": needed["d"], "o": f"{needed['be']} {needed['o']}", "c": context},
        )
    match = _STATE.match(body)
    if match is None or _other_clause(match["rest"]):
        return None
    if match["where"] and (match["done"] not in _PLACED or _NO_PLACE.match(match["rest"])):
        return None
    slots = _named(match, context, subject, title)
    asks = "how" if match["how"] else "when" if match["when"] else "where"
    told = {**slots, "o": match["be"], "d": match["done"]}
    return ("statement", f"state.{asks}", match.span("rest"), told) if slots else None


def _said_of(body: str, context: str, subject: Subject, title: str) -> Found:
    """Read what is said of a subject: the reason, the purpose, what it rests on, the object of its verb."""
    reason, purpose, based = _REASON.match(body), _PURPOSE.match(body), _BASED.match(body)
    match = reason or purpose or based
    if match is not None:
        slots = _named(match, context, subject, title)
        if not slots:
            return None
        if reason:
            be, _, negation = reason["be"].partition(" ")
            order = f"{be} {slots['s']} {negation} {reason['rest']}"
            told = {
                "d": collapse_whitespace(order),
                "s": f"{slots['s']} {reason['be']} {reason['rest']}",
                "c": slots["c"],
            }
            return "reason", "reason", reason.span("why"), told
        if _other_clause(match["rest"]):
            return None
        wording = "used_for" if purpose else "rests_on"
        return "statement", wording, match.span("rest"), {**slots, "o": match["be"], "d": match["done"]}
    match = _USED.match(body) or _SHOULD_BE.match(body)
    if match is not None and not _other_clause(match["rest"]):
        slots = _named(match, context, subject, title)
        modal = match["o"] if match.re is _SHOULD_BE else "can"
        verb = "be" if match.re is _SHOULD_BE else "be used as" if match["role"] else "be used for"
        return ("statement", "modal", match.span("rest"), {**slots, "o": modal, "d": verb}) if slots else None
    may = _MODAL.match(body)
    if may and _object(may["rest"]):
        slots = _named(may, context, subject, title)
        verb = f"{may['verb']}{may['prep'] or ''}{' by default' if may['default'] else ''}"
        return ("statement", "modal", may.span("rest"), {**slots, "o": may["modal"], "d": verb}) if slots else None
    for pattern, wording in ((_OBJECT, "statement"), (_PLURAL, "statement.plural")):
        acts = pattern.match(body)
        asked = _acts(acts, pattern is _PLURAL, context, subject, title) if acts else {}
        if acts and asked:
            return "statement", wording, acts.span("rest"), asked
    return None


def _acts(acts: re.Match[str], plural: bool, context: str, subject: Subject, title: str) -> dict[str, str]:
    """Return the question's words for a subject, its verb and an object, or nothing."""
    verb = acts["verb"] if plural else _BASE_OF[acts["verb"]]
    stray = acts["prep"] == " to" and verb not in _TOWARDS
    noun = not plural and acts["verb"] in _ALSO_NOUNS and (acts["prep"] or not _DETERMINER.match(acts["rest"]))
    # `Defines run config ...`: the first word is the verb of a sentence without a subject.
    first, *more = acts["s"].lower().split()
    bare = first in _BASE_OF and not (more and first in _ALSO_NOUNS)
    if stray or noun or bare or not _object(acts["rest"]):
        return {}
    if plural and any(found[1] in _BASES for found in re.finditer(r", (?:and |or )?([a-z]+)\b", acts["rest"])):
        return {}
    slots = _named(acts, context, subject, title)
    if verb == "use" and slots and not slots["c"] and not acts["default"]:
        # A whole library uses many things.
        return {}
    tail = f"{acts['prep'] or ''}{' by default' if acts['default'] else ''}"
    return {**slots, "d": f"{verb}{tail}", "o": f"{acts['verb']}{tail}"} if slots else {}


def _named(match: re.Match[str], context: str, subject: Subject, title: str) -> dict[str, str]:
    """Return the subject and the context of a question, or nothing."""
    phrase = match["s"]
    if (re.match(r"\w+ing\b", phrase) and not re.search(r"s$", phrase)) or (
        match.groupdict().get("be") == "is" and re.search(r"[a-z]s$", phrase)
    ):
        return {}
    if _ITSELF.match(phrase):
        return {"s": title, "c": ""} if title else {}
    named = subject(phrase)
    if not named:
        return {}
    if title and title.split(" in ")[0].strip("`").rsplit(".", 1)[-1] == phrase.strip("`"):
        # `What does Cart hold in shop.Cart?` says the same twice.
        return {"s": title, "c": ""}
    known = content_words(context) <= content_words(named)
    return {"s": named, "c": "" if known else context}


def _object(rest: str) -> bool:
    """Return whether the words behind a verb begin an object that answers `what`."""
    vague = re.search(r"\b(?:somewhere|somehow|something)\b", rest)
    adverb = re.match(r"\w+ly\b|\w+ing\b|[a-z]+ed\b|\w+ to be\b", rest)
    return not _VAGUE_OBJECT.match(rest) and not vague and not adverb and not _other_clause(rest)


def _other_clause(rest: str) -> bool:
    """Return whether something else is said of the subject behind the answer."""
    verbs = [found["verb"] or found["listed"] for found in _SECOND_CLAUSE.finditer(rest)]
    return any(verb is None or (verb in _BASE_OF and verb not in _ALSO_NOUNS) for verb in verbs)


def plain_action(action: str) -> bool:
    """Return whether a reader knows what is to be done: a known verb, enough words, and nothing that points back."""
    vague = re.search(r"\b(?:it|its|so|this|that|these|those|them|we|learn|ensure|note)\b", action)
    known = action.split()[0] in _BASES and len(content_words(action)) >= 3
    return known and not vague and not _HELP.search(action)


def points_back(sentence: str) -> bool:
    """Return whether a sentence leans on what stands elsewhere: `This`, `You can also`, `Returns`, `Read more`."""
    acts = sentence.split()[0].lower() in _BASE_OF
    leans = acts or re.search(
        r"\balso\b|^(?:(?:The )?(?:first|second|next|last)|In (?:special|some) cases)\b", sentence, re.I
    )
    return bool(leans) or _BACKWARD.search(sentence) is not None or _HELP.search(sentence) is not None


def does(rest: str) -> bool:
    """Return whether a text tells a reader to do something."""
    told = rest.split()[0].lower() in _BASES | {"you", "do"} or re.match(
        r"(?:developers|users) (?:can|should|must)\b", rest
    )
    return bool(told) and not _HELP.search(rest)


def first_person(text: str) -> str:
    """Return a text that speaks to a reader as the reader would say it: `your file` becomes `my file`."""
    for pattern, word in _PERSONS:
        text = re.sub(pattern, word, text)
    return text


def _places(text: str, span: Span) -> list[int]:
    """Return the offset of every character of the sentence when each run of white space counts once."""
    return [
        place
        for place in range(*span)
        if not text[place].isspace() or (place > span[0] and not text[place - 1].isspace())
    ]
