"""Sentence patterns and word lists with which `clause_facts` takes a sentence apart.

The limits in the patterns (characters of a condition, words of a subject) were chosen by hand; none was measured.
"""

import re

from ragtune.dataset.extractive.verbs import VERBS, with_s_ending

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
BASES = VERBS | frozenset(_MORE_VERBS_TEXT.split())
BASE_OF = {with_s_ending(verb): verb for verb in BASES}
_ANY_THIRD, _ANY_BASE = "|".join(sorted(BASE_OF)), "|".join(sorted(BASES))
# As plural nouns these look like verbs, so they count as verbs only before a determiner.
_ALSO_NOUNS_TEXT = """
calls requests tests uses lists names sets checks logs updates changes returns prints results reports records reads
writes builds runs loads stores targets tracks documents queries starts displays measures issues feeds maps prefixes
features samples limits values types steps waits splits stops points deals
"""
ALSO_NOUNS = frozenset(_ALSO_NOUNS_TEXT.split())
DETERMINER = re.compile(r"(?:an?|the|all|any|no|each|every|its|several|multiple|many|one|two|both|only)\b|[`\d\"A-Z]")
# Words after a verb that begin no object, or an object that says nothing.
NO_OBJECT = re.compile(
    r"(?:it|them|this|that|these|those|so|such|the same|us|me|him|her|more|less|all of|some of|up|out|off|on|in|at|as"
    r"|like|to|you|your|their|its|our|well|with|from|for|by|against|when|if|unless|until|while|very|also|only|not|too"
    r"|fine|just|is|are|was|were|can|will|must|should|has|have|do|does|which|what|how|and|or)\b",
    re.IGNORECASE,
)
# Words that mean something outside the sentence.
BACKWARD = re.compile(
    r"\b(?:this|that (?:case|way|point|page|section)|these|those|they|them|here|such(?! as\b)|former|latter|"
    r"previous\w*|respectively|following|below|above|our|we|us|I|my)\b"
)
# Which ones are meant, the page says elsewhere.
UNSPECIFIED = re.compile(r"\bthe (?:provided|appropriate|corresponding|relevant|necessary|desired) \w+")
_SUBJECT = (
    r"(?P<subject>(?:(?:The|A|An|All|Any|Each|Every|Most|Some|Both) )?(?:`|[^\W\d_])[\w`.\-/+@=()\[\]]*"
    r"(?: (?:of|and|in|for|from) (?:the |an? |all |any )?[`\w][\w`.\-/+]*| [`\w][\w`.\-/+@]*){0,5}?)"
)
_LEAD = r"(?:(?P<default>By default), )?"
_ADVERB = r"(?: also| still| already| always| \w+ly)?"
# `The ramp supports parcels of every size`
VERB_OBJECT = re.compile(
    rf"^{_LEAD}{_SUBJECT}{_ADVERB} (?P<verb>{_ANY_THIRD})(?P<prep> on| of| to| from| with| into)? (?P<rest>[^,].*)$"
)
# `Sorting machines require a steady supply of power`
PLURAL_VERB_OBJECT = re.compile(
    rf"^{_LEAD}{_SUBJECT}(?<=[a-rtv-z]s){_ADVERB} (?P<verb>{_ANY_BASE})"
    r"(?P<prep> on| of| from| with| into)? (?P<rest>[^,].*)$"
)
# `A van can carry four pallets`
MODAL_VERB_OBJECT = re.compile(
    rf"^{_LEAD}{_SUBJECT} (?P<modal>can|must|should|will){_ADVERB} (?P<verb>{_ANY_BASE})"
    r"(?P<prep> on| of| from| with| into)? (?P<rest>[^,].*)$"
)
# `The width must be a whole number of metres`
MUST_BE = re.compile(
    rf"^{_SUBJECT} (?P<modal>must|should|can|will) be (?P<rest>(?:an?|the|one|at most|at least|between|either|equal to|"
    r"[`\"A-Z0-9]\S*) .+)$"
)
# `The ramp can be used to load vans`, `The ramp can be used as a table`
CAN_BE_USED = re.compile(rf"^{_SUBJECT} can (?:also |then )?be used (?P<rest>(?:to|for) .+|(?P<role>as) .+)$")
# `Parcel lists can be printed using the print_all function`
CAN_BE_DONE = re.compile(
    rf"^{_SUBJECT} can (?:also |then |easily )?be (?P<done>\w+ed|built|run|set|written|read|sent|given|made)"
    r"(?P<more>(?: (?!both|either|only|with|by|in)[a-z`][\w`.\-]*){0,4}?) "
    r"(?P<rest>(?:with (?!or\b)|by |using |via |through ).+)$"
)
# `The scanner is designed to read labels`
PURPOSE = re.compile(
    rf"^{_SUBJECT} (?P<be>is|are) (?:also |mainly |primarily |only |typically |usually )?"
    r"(?P<done>used|needed|required|intended|designed|meant|made|suited|responsible|useful) (?P<rest>(?:to|for) .+)$"
)
# `The scanner is based on an old camera`
BASIS = re.compile(
    rf"^{_SUBJECT} (?P<be>is|are) (?P<done>based on|built on|built on top of|part of|made up of|composed of|written in|"
    r"compatible with|limited to|inspired by|derived from|restricted to|"
    r"equivalent to|licensed under|implemented (?:in|as)|stored in|supported by) (?P<rest>.+)$"
)
# `The night shift is not suited for glass because drivers overlook cracks`
REASON = re.compile(
    rf"^{_SUBJECT} (?P<be>is|are|can|cannot|must|should|will|does not|do not) (?P<rest>[^,;:]{{8,110}}?),? "
    r"(?P<why>because .{15,}|so that .{15,})$"
)
# `The scales are calibrated when the depot opens`
STATE = re.compile(
    rf"^{_SUBJECT} (?P<be>is|are) (?:also |always |then |only |\w+ly )?(?P<done>\w+ed|built|run|set|written|read|sent|"
    r"given|made|kept|found) (?P<rest>(?:(?P<how>as (?!needed|well|usual|follows|expected)|using |via |through |"
    r"by \w+ing )|(?P<when>when |if |unless |once |only if |before |after |during )|"
    r"(?P<where>in |at |under |inside |into |on )).+)$"
)
# Verbs whose object may follow `to`: `belongs to the depot`. After others `to` begins a purpose.
_TAKE_TO_TEXT = "adapt add apply belong connect convert correspond default lead map refer relate"
TAKE_TO = frozenset(_TAKE_TO_TEXT.split())
# What has a place: `stored in the folder`, but not `sorted in the folder`.
_HAVE_PLACE_TEXT = """
stored saved written kept located placed defined installed configured declared logged listed cached hosted published
recorded described found included implemented displayed printed
"""
HAVE_PLACE = frozenset(_HAVE_PLACE_TEXT.split())
NO_PLACE = re.compile(
    r"(?:in|under|on|at) (?:[\w-]+ ){0,3}(?:format|form|way|order|mode|parallel|detail|time|name)s?\b"
)
# `For heavy parcels, a second driver is required`
NEEDED_FOR = re.compile(
    r"^For (?P<purpose>[a-z`][^,:;]{6,60}), "
    r"(?P<rest>[^,:;]{3,80}?) (?P<requirement>(?:is|are) (?:required|needed|recommended|used))$"
)
# `You can change your route by editing the map`
YOU_CAN_BY = re.compile(
    r"^You can (?:also |now |easily )?(?P<do>[a-z]+ [^,:;]{6,90}?) "
    r"(?P<rest>(?:by \w+ing|using|via|through|with (?=`|the |an? )).{4,})$"
)
# `Use the --night option to send parcels after sunset`
USE_TO = re.compile(
    r"^(?:(?:You can |Please |Simply |Just )?(?P<use>[Uu]se|[Cc]all|[Ss]et|[Pp]ass|[Rr]un|[Aa]dd|[Ii]nstall|[Ss]pecify"
    r"|[Ee]nable|[Dd]efine|[Cc]reate|[Ii]mport) (?P<what>[^,:;]{3,80}?)) (?:in order )?to (?P<do>[a-z]+ [^,:;]{6,90})$"
)
# `If you want to open a second depot, set depots to two`
IF_YOU_WANT = re.compile(
    r"^If you (?:want|need|wish|would like|prefer|intend) to (?P<do>[a-z]+ [^,:;]{6,90}), "
    r"(?:then )?(?:you (?:can|should|must|need to|have to) |please |simply |just )?(?P<rest>[a-z`].{8,})$"
)
# `If you lose your badge, the gate stays locked`
CONDITION = re.compile(r"^(?P<condition>(?:If|When|Once|Unless) [^:;]{8,90}?), (?P<rest>[^,].{12,})$")
VAGUE_CONDITION = re.compile(r"\b(?:it|its|instead|want|need|wish|like|would|said|see|know|find|think)\b")
ITSELF = re.compile(
    r"^(?:the|this) (?:library|package|project|tool|framework|toolkit|module|sdk|client|application|plugin|extension)$",
    re.IGNORECASE,
)
FIRST_PERSON = (
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
HELP = re.compile(
    r"\b(?:questions?|issues?|trouble|problems?|bugs?|help|contact|feedback|sponsor\w*|donat\w*|security vulnerability"
    r"|contribut\w*|pull requests?|get(?:ting)? started|more about|feel free|check out|check it|read|documentation"
    r"|guide|interested)\b",
    re.IGNORECASE,
)
NO_CONSEQUENCE = re.compile(
    r"(?:first|we|let|it|they|then|and|or|but|please|feel|there|thanks|into|in|on|from|as|at|with|for|i\.e|either)\b",
    re.IGNORECASE,
)
SECOND_CLAUSE = re.compile(
    r"\b(?:and|but|or)(?: then| also)? "
    r"(?:(?:\S+ ){0,3}?(?:should|can|must|will|may|is|are|has|have|does|do|doesn't|don't)\b|(?P<verb>\w+s)\b)"
    r"|, (?P<listed>\w+s)\b|, (?:to|so|but|which means)\b"
)
NOT_PLAIN = re.compile(r"\b(?:e\.g|i\.e|etc)\b|[!?]$|: |;")
