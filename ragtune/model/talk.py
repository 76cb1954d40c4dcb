"""Turns of a conversation that are no question of their own: short follow-ups, and small talk.

A follow-up such as "And its default?" is understood from the turn before; a greeting asks for nothing.
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
"""By the template of the full question."""
_OF_IT = ("raises.when", "returns", "base")
_ABOUT_IT = ("purpose", "how_to", "returns", "base", "raises")
"""Kinds of questions after which "it" is the object that was asked about."""
_ITEM = re.compile(r"\s*[-*] `?([\w.]+)")


def short_form(pair: QAPair, before: QAPair, chunk: Chunk, seed: int) -> str:
    """Return the pair's question as somebody asks it who asked `before` about the same document; "" if none fits."""
    template = pair.template.rpartition(".")[0]
    forms = _SHORT_FORMS.get(template, ())
    if not forms or (template in _OF_IT and before.kind not in _ABOUT_IT):
        return ""
    item = _ITEM.match(chunk.text, chunk.text.rfind("\n", 0, pair.span[0]) + 1)
    if "{name}" in forms[0] and (item is None or not pair.answerable):
        return ""
    chosen = forms[int(draw(seed, "short form", pair.id) * len(forms))]
    return chosen.format(name=item[1] if item else "")


def small_talk(seed: int, key: str) -> tuple[str, str]:
    """Return something that people say, and the reply; all of them come equally often."""
    told = [(words, reply) for said, reply in SMALL_TALK for words in said]
    return told[int(draw(seed, "small talk", key) * len(told))]
