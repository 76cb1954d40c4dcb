"""The few verb forms that turn a documentation sentence into a question.

A closed list: what is not on it is left alone, because a wrong form reads worse than no question.
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

_OTHER_TEXT = """
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
_OTHER = {
    verb.strip(): [other.replace("_", " ") for other in others.split()]
    for verb, _, others in (entry.partition(":") for entry in _OTHER_TEXT.split(";"))
}
"""What people say for a verb who do not have the documentation before them."""
_OTHER_NOUNS_TEXT = """
environment variable: env var; environment variables: env vars; directory: folder; folder: directory; exception: error;
string: text; integer: number; configuration: config; dictionary: dict; database: db; repository: repo;
application: app; identifier: id; parameters: options; arguments: options; objects: things; characters: letters;
documentation: docs; dependencies: requirements; additional: more; entire: whole
"""
_OTHER_NOUN = {
    noun.strip(): other.strip() for noun, _, other in (entry.partition(":") for entry in _OTHER_NOUNS_TEXT.split(";"))
}
_NOUNS = re.compile(rf"\b(?:{'|'.join(sorted(_OTHER_NOUN, key=len, reverse=True))})\b")
_FILLERS = re.compile(
    r"\b(?:given|specified|provided|underlying|current|corresponding|respective|new|existing|appropriate|relevant"
    r"|actual|particular|specific|user-provided|optional)\s(?!to\b)"
)

_THING = re.compile(r"(?:An?|The) [a-z]")
_NO_THING = re.compile(
    r"[:;()\[\]]|\w\.\w|\. |\b(?:this|these|it|self|class|subclass|object|instance|wrapper|base|abstract|mixin"
    r"|is|are|was|were|will|can|should|must|may|has|have|comes|goes|happens|holds|means)\b",
    re.IGNORECASE,
)


def third(word: str) -> str:
    """Return the third person singular of a verb, `copy` gives `copies`; the plural of a noun is formed alike."""
    if word.endswith("y") and word[-2] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith(("s", "x", "z", "ch", "sh", "o")) else f"{word}s"


_THIRD = frozenset(third(verb) for verb in VERBS)
_BEFORE_NOUNS = frozenset({"of", "for", "in", "to", "with", "from", "that", "which", "and", "or", "the", "all"})
_BASE_OF = {third(verb): verb for verb in VERBS} | {verb: verb for verb in VERBS}


def base_of(word: str) -> str:
    """Return the base form of a verb in base form or third person; empty for an unknown word."""
    return _BASE_OF.get(word.lower(), "")


def base_form(sentence: str) -> str:
    """Return the sentence as an action, `Returns the key` as `return the key`; empty without a known verb in front."""
    first, _, rest = sentence.partition(" ")
    verb = base_of(first)
    if not verb or not rest or re.match(r"(True|False|whether|of)\b", rest) or ". " in rest:
        return ""
    if any(word in _THIRD for word in re.findall(r"\b(?:and|or|then) (\w+)", rest)):
        return ""
    return f"{verb} {rest}"


def as_thing(sentence: str, most: int = 14) -> str:
    """Return a description without a verb as a thing, `A set of weekly partitions.` as `a set of weekly partitions`."""
    thing = sentence.rstrip(".")
    words = thing.split()
    if not _THING.match(thing) or len(words) > most or _NO_THING.search(thing):
        return ""
    if any(word in _THIRD and before not in _BEFORE_NOUNS for before, word in pairwise(words[1:6])):
        return ""
    return thing[0].lower() + thing[1:]


def with_synonym_verb(action: str, place: float) -> str:
    """Return the action with another verb of the same meaning, by a number in [0, 1); as it is where none is known."""
    verb, _, rest = action.partition(" ")
    others = _OTHER.get(verb, [verb])
    return f"{others[int(place * len(others))]} {rest}"


def in_plain_nouns(action: str) -> str:
    """Return the action in words that people use for the same, without those that only a documentation needs."""
    code = re.split(r"(`[^`]*`)", action)
    return "".join(
        part if part.startswith("`") else _NOUNS.sub(lambda noun: _OTHER_NOUN[noun[0]], _FILLERS.sub("", part))
        for part in code
    )


def third_person(word: str) -> str:
    """Return the third person of a known verb, however it stands; empty for an unknown word."""
    verb = base_of(word)
    return third(verb) if verb else ""
