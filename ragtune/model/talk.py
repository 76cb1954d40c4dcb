"""Turns of a conversation that are no question of their own: short follow-ups, and small talk.

A follow-up such as "And its default?" is understood from the turn before; a greeting asks for nothing.
"""

import re

from ragtune.answer.small_talk import SMALL_TALK
from ragtune.dataset.wording import draw
from ragtune.records import Chunk, QAPair

_SHORT_FORMS = {
    "parameter": ("And what is `{name}` for?", "what about {name}", "And `{name}`?", "What does {name} do there?"),
    "default": ("And the default of `{name}`?", "what does {name} default to there", "And if I leave out {name}?"),
    "type": ("And the type of `{name}`?", "which type does {name} have", "What type is `{name}` there?"),
    "raises": ("And when does it raise {name}?", "when do i get {name} from it"),
    "returns": ("And what does it return?", "what comes back", "What is the result of it?"),
    "base": ("And what is its base class?", "what does it inherit from", "From which class does it derive?"),
    "unanswerable.returns": ("And what does it return?", "what comes back", "What is the result of it?"),
}
_ITEM = re.compile(r"\s*[-*] `?(\w+)")


def short_form(pair: QAPair, chunk: Chunk, seed: int) -> str:
    """Return the pair's question as somebody asks it who has just asked about the same object; "" where none fits."""
    forms = _SHORT_FORMS.get(pair.kind, ())
    if pair.kind == "returns" and " " not in pair.answer:
        return ""  # that asks for the type of the result
    item = _ITEM.match(chunk.text, chunk.text.rfind("\n", 0, pair.span[0]) + 1)
    if not forms or ("{name}" in forms[0] and item is None):
        return ""
    chosen = forms[int(draw(seed, "short form", pair.id) * len(forms))]
    return chosen.format(name=item[1] if item else "")


def small_talk(seed: int, key: str) -> tuple[str, str]:
    """Return something that people say, and the reply."""
    said, reply = SMALL_TALK[int(draw(seed, "small talk", key) * len(SMALL_TALK))]
    return said[int(draw(seed, "said", key) * len(said))], reply
