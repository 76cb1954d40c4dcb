"""The few verb forms that turn a documentation sentence into a question.

A closed list: what is not on it is left alone, because a wrong form reads worse than no question.
"""

import re

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


def third(verb: str) -> str:
    """Return the third person singular of a verb: `copy` gives `copies`."""
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return f"{verb[:-1]}ies"
    return f"{verb}es" if verb.endswith(("s", "x", "z", "ch", "sh", "o")) else f"{verb}s"


_THIRD = frozenset(third(verb) for verb in VERBS)
_BASE_OF = {third(verb): verb for verb in VERBS} | {verb: verb for verb in VERBS}


def base_of(word: str) -> str:
    """Return the base form of a verb in base form or third person; empty for an unknown word."""
    return _BASE_OF.get(word.lower(), "")


def base_form(sentence: str) -> str:
    """Return the sentence as an action, `Returns the key` as `return the key`; empty without a known verb in front."""
    first, _, rest = sentence.partition(" ")
    verb = base_of(first)
    if not verb or not rest or re.match(r"(True|False|whether)\b", rest):
        return ""
    if any(word in _THIRD for word in re.findall(r"\b(?:and|or|then) (\w+)", rest)):
        return ""
    return f"{verb} {rest}"


def third_person(word: str) -> str:
    """Return the third person of a known verb, however it stands; empty for an unknown word."""
    verb = base_of(word)
    return third(verb) if verb else ""
