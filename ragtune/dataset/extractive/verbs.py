"""Verb forms and synonyms that turn a sentence of a documentation into a question.

The list of verbs is closed. A sentence with another verb gives no question, because a wrong form reads worse than none.
"""

import re
from itertools import pairwise

_VERBS_TEXT = """
accept access activate add adjust aggregate allocate allow analyze append apply assert assign attach authenticate
begin bind block build cache calculate call cancel capture cast change check choose clean clear clone close collect
combine compare compile complete compute configure connect construct consume contain control convert copy count create
deactivate declare decode decorate decide define delete deploy deserialize describe detach detect determine disable
discard display download drop emit enable encode end ensure enter estimate evaluate exclude execute expand expect
export extend extract fetch filter find finish fit flatten flush force format free freeze gather generate get give
group handle hide identify ignore implement import include increase indicate infer initialize inject insert inspect
install invoke iterate join keep launch let limit list load locate lock log look make manage map mark materialize
merge mock modify monitor move name normalize notify obtain offer open optimize order override overwrite parse
partition pass patch perform persist pop prepare prevent print process produce provide publish push query raise read
receive record redirect reduce refresh register release reload remove rename render replace report represent request
require reset resize resolve restart restore resume retrieve return reverse revert rollback run sample save scale
schedule search select send serialize set show shuffle skip sort specify split start stop store stream submit
subscribe subtract supply support suspend switch sync take terminate test tokenize toggle track train transform
translate transpose trigger truncate try turn uninstall unload unlock unmerge unpack unregister unset update upgrade
upload use validate verify view wait watch wrap write yield
"""
VERBS = frozenset(_VERBS_TEXT.split())

# What people say for a verb if they do not have the documentation before them. `_` stands for a space.
_SYNONYMS_TEXT = """
create: make build set_up; build: make create; construct: build make; make: create; generate: make create produce;
remove: delete drop; delete: remove get_rid_of; drop: remove; get: fetch look_up; fetch: get load; retrieve: get
fetch; obtain: get; return: get; check: test verify; verify: check; validate: check; determine: find_out; find:
look_up; compute: calculate work_out; calculate: compute work_out; show: display; display: show; print: show;
render: draw show; load: read; read: load; save: store keep; store: save keep; write: save; run: execute start;
execute: run; launch: start; start: launch; stop: end; change: modify; modify: change; choose: pick select; select:
pick choose; combine: join merge; merge: combine join; join: combine; copy: clone duplicate; clone: copy; specify:
set; initialize: set_up; parse: read; update: change; register: add; list: show; produce: make create; attach: add;
insert: put add; convert: change; enable: turn_on switch_on; disable: turn_off switch_off; extract: get pull_out;
split: cut divide; sort: order
"""
_SYNONYMS = {
    verb.strip(): [synonym.replace("_", " ") for synonym in synonyms.split()]
    for verb, _, synonyms in (entry.partition(":") for entry in _SYNONYMS_TEXT.split(";"))
}
_PLAIN_NOUNS_TEXT = """
environment variable: env var; environment variables: env vars; directory: folder; folder: directory; exception: error;
string: text; integer: number; configuration: config; dictionary: dict; database: db; repository: repo;
application: app; identifier: id; parameters: options; arguments: options; objects: things; characters: letters;
documentation: docs; dependencies: requirements; additional: more; entire: whole
"""
_PLAIN_NOUNS = {
    noun.strip(): plain.strip() for noun, _, plain in (entry.partition(":") for entry in _PLAIN_NOUNS_TEXT.split(";"))
}
# The longest first, so that `environment variables` wins over `environment variable`.
_FORMAL_NOUN = re.compile(rf"\b(?:{'|'.join(sorted(_PLAIN_NOUNS, key=len, reverse=True))})\b")
_FILLER = re.compile(
    r"\b(?:given|specified|provided|underlying|current|corresponding|respective|new|existing|appropriate|relevant"
    r"|actual|particular|specific|user-provided|optional)\s(?!to\b)"
)

_NOUN_PHRASE = re.compile(r"(?:An?|The) [a-z]")
_NO_NOUN_PHRASE = re.compile(
    r"[:;()\[\]]|\w\.\w|\. |\b(?:this|these|it|self|class|subclass|object|instance|wrapper|base|abstract|mixin"
    r"|is|are|was|were|will|can|should|must|may|has|have|comes|goes|happens|holds|means)\b",
    re.IGNORECASE,
)
_MOST_WORDS_OF_NOUN_PHRASE = 14
"""Chosen by hand, not measured."""


def with_s_ending(word: str) -> str:
    """Return the third person singular of a verb or the plural of a noun: `copies`, `passes`, `loads`."""
    if word.endswith("y") and word[-2] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith(("s", "x", "z", "ch", "sh", "o")) else f"{word}s"


_THIRD_PERSONS = frozenset(with_s_ending(verb) for verb in VERBS)
# After these a word such as `loads` or `results` is a noun.
_BEFORE_NOUNS = frozenset({"of", "for", "in", "to", "with", "from", "that", "which", "and", "or", "the", "all"})
_BASES = {with_s_ending(verb): verb for verb in VERBS} | {verb: verb for verb in VERBS}


def verb_base(word: str) -> str:
    """Return the base form of a verb that stands in base form or third person, or "" for an unknown word."""
    return _BASES.get(word.lower(), "")


def third_person(word: str) -> str:
    """Return the third person of a verb that stands in base form or third person, or "" for an unknown word."""
    verb = verb_base(word)
    return with_s_ending(verb) if verb else ""


def as_action(sentence: str) -> str:
    """Return `Returns the key` as `return the key`, or "" if the sentence does not begin with one known verb."""
    first, _, rest = sentence.partition(" ")
    verb = verb_base(first)
    if not verb or not rest or re.match(r"(True|False|whether|of)\b", rest) or ". " in rest:
        return ""
    # `Loads the table and returns it` needs two verbs changed.
    if any(word in _THIRD_PERSONS for word in re.findall(r"\b(?:and|or|then) (\w+)", rest)):
        return ""
    return f"{verb} {rest}"


def as_noun_phrase(sentence: str) -> str:
    """Return `A set of weekly partitions.` as `a set of weekly partitions`, or "" if it has a verb or over 14 words."""
    phrase = sentence.rstrip(".")
    words = phrase.split()
    if not _NOUN_PHRASE.match(phrase) or len(words) > _MOST_WORDS_OF_NOUN_PHRASE or _NO_NOUN_PHRASE.search(phrase):
        return ""
    # A verb stands near the beginning: `A keeper opens the doors`.
    if any(word in _THIRD_PERSONS and before not in _BEFORE_NOUNS for before, word in pairwise(words[1:6])):
        return ""
    return phrase[0].lower() + phrase[1:]


def with_synonym_verb(action: str, position: float) -> str:
    """Return the action with a synonym of its verb, unchanged if none is known.

    `position` chooses among several synonyms: 0 is the first, almost 1 the last.
    """
    verb, _, rest = action.partition(" ")
    synonyms = _SYNONYMS.get(verb, [verb])
    return f"{synonyms[int(position * len(synonyms))]} {rest}"


def in_plain_nouns(action: str) -> str:
    """Return the action with everyday nouns (`env var`) and without filler words (`the specified`); code stays."""
    parts = re.split(r"(`[^`]*`)", action)
    return "".join(part if part.startswith("`") else _in_plain_nouns(part) for part in parts)


def _in_plain_nouns(text: str) -> str:
    return _FORMAL_NOUN.sub(lambda noun: _PLAIN_NOUNS[noun[0]], _FILLER.sub("", text))
