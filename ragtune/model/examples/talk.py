"""Conversation turns that are not standalone questions: short follow-ups, and small talk.

A follow-up such as "And its default?" is only clear after the turn before it. Small talk, such as a greeting, asks
for nothing that is in the documents.
"""

import re

from ragtune.answer.small_talk import SMALL_TALK
from ragtune.draws import draw
from ragtune.records import Chunk, QAPair

_SHORT_FORMS = {
    "parameter": ("And what is `{name}` for?", "What does {name} do there?", "and what is {name} good for there"),
    "default": ("And the default of `{name}`?", "what does {name} default to there", "And if I leave out {name}?"),
    "type": ("And the type of `{name}`?", "which type does {name} have there", "What type is `{name}` there?"),
    "raises.when": ("And when does it raise {name}?", "when do i get {name} from it"),
    "returns": ("And what does it return?", "what comes back from it", "What is the result of it?"),
    "base": ("And what is its base class?", "what does it inherit from", "From which class does it derive?"),
}
"""Short forms of a question, by the template of the full one."""
_TEMPLATES_WITH_IT = ("raises.when", "returns", "base")
"""Templates whose short forms say "it" and mean the object of the question before."""
_KINDS_ABOUT_OBJECT = ("purpose", "how_to", "returns", "base", "raises")
"""Kinds of questions about an object as a whole. After one about a parameter, "it" would mean the parameter."""
_LIST_ITEM = re.compile(r"\s*[-*] `?([\w.]+)")


def short_form(pair: QAPair, before: QAPair, chunk: Chunk, seed: int) -> str:
    """Return the pair's question as a short follow-up to the question of `before`, or "" if no form is clear.

    Both pairs are about the same document; `chunk` is the one that answers `pair`.
    """
    template = pair.template.rpartition(".")[0]
    forms = _SHORT_FORMS.get(template, ())
    if not forms or (template in _TEMPLATES_WITH_IT and before.kind not in _KINDS_ABOUT_OBJECT):
        return ""
    line_start = chunk.text.rfind("\n", 0, pair.span[0]) + 1
    item = _LIST_ITEM.match(chunk.text, line_start)
    # The name comes from the list item that the answer is in. An unanswerable pair has no such item.
    if "{name}" in forms[0] and (item is None or not pair.answerable):
        return ""
    form = forms[int(draw(seed, "short form", pair.id) * len(forms))]
    return form.format(name=item[1] if item else "")


def choose_small_talk(seed: int, key: str) -> tuple[str, str]:
    """Return something that people say, and the reply to it; all phrases are equally likely."""
    phrases = [(phrase, reply) for group, reply in SMALL_TALK for phrase in group]
    return phrases[int(draw(seed, "small talk", key) * len(phrases))]
