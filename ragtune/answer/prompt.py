"""The one prompt: training, evaluation and serving all build their messages here.

The system text comes first and is the same for every question, so that an engine with a
prefix cache reads it once; it is short because a small CPU pays for every token.
"""

import hashlib
import json
from collections.abc import Sequence

from ragtune.answer.controls import NEUTRAL, Controls
from ragtune.knowledge.trimming import trimmed
from ragtune.records import Chunk, Hit, Message
from ragtune.settings import AnswerSettings

PROMPT_VERSION = 1
REFUSAL = "I could not find this in the documents."
SYSTEM_RAW = "Answer the question briefly."
NO_PASSAGES = "(no passages were found)"
DEFAULT_PASSAGE_WORDS = AnswerSettings().passage_words

_ASKED = "\n\nQuestion: "
_HEAD = "Answer the question briefly from the numbered passages. "
_CITE = "End each sentence with the number of its passage, like [1]. "
_STRICT = f"If the passages do not hold the answer, say: {REFUSAL}"
_FREE = "If the passages do not hold the answer, answer from what you know and say so."
SYSTEM = _HEAD + _CITE + _STRICT


def build_messages(
    question: str,
    passages: Sequence[Hit] | None,
    history: Sequence[Message] = (),
    controls: Controls = NEUTRAL,
    passage_words: int = DEFAULT_PASSAGE_WORDS,
) -> tuple[Message, ...]:
    """Return the conversation for one question: system, history, then passages and question.

    `passages` in the order of their numbers, the first is `[1]`; None asks the model without
    retrieval, an empty sequence says that nothing was found.
    """
    if passages is None:
        return (Message("system", _raw_system(controls)), *history, Message("user", question.strip()))
    parts = [passage_text(hit.chunk, i, question, passage_words) for i, hit in enumerate(passages, 1)]
    user = asked("\n\n".join(parts or [NO_PASSAGES]), question)
    return (Message("system", system_text(controls)), *history, Message("user", user))


def asked(passages: str, question: str) -> str:
    """Return the user's message: the passages as text, then the question."""
    return f"{passages}{_ASKED}{question.strip()}"


def asked_about(message: str) -> str:
    """Return the passages of a user's message that `asked` made."""
    return message.rpartition(_ASKED)[0]


def passage_text(chunk: Chunk, number: int, question: str, passage_words: int = DEFAULT_PASSAGE_WORDS) -> str:
    """Return one passage as the model sees it: `[2] title > heading`, then the part that matters."""
    head = " > ".join([chunk.title, *chunk.headings[-1:]])
    return f"[{number}] {head}\n{trimmed(chunk.text, question, passage_words, head)}"


def system_text(controls: Controls = NEUTRAL) -> str:
    """Return the system text; the neutral controls give exactly `SYSTEM`."""
    text = _HEAD + (_CITE if controls.citations else "") + (_STRICT if controls.strict_grounding else _FREE)
    return " ".join([text, *_style(controls)])


def target_text(answer: str, passage_number: int | None) -> str:
    """Return what the model should say: the answer as a sentence, then its citation.

    An empty answer is the refusal; without a number the answer stands alone.
    """
    answer = " ".join(answer.split())
    if not answer:
        return REFUSAL
    if answer[-1] not in ".!?":
        answer += "."
    return answer if passage_number is None else f"{answer} [{passage_number}]"


def prompt_sha256() -> str:
    """Return the hash of everything that shapes a prompt, the trimming included."""
    chunk = Chunk(
        id="c",
        document_id="d",
        source="s",
        title="pkg.call",
        heading_path=("pkg.call", "Parameters"),
        text=_SAMPLE,
        position=0,
    )
    rendered = [
        [message.content for message in build_messages("What is the default of `limit`?", hits, controls=controls)]
        for hits in (None, [], [Hit(chunk, 1.0)])
        for controls in (NEUTRAL, Controls(1.0, 1.0, 1.0, False, True, True, False), Controls(0.0, 0.0, 0.0))
    ]
    payload = [PROMPT_VERSION, REFUSAL, target_text("a", 1), rendered]
    return hashlib.sha256(json.dumps(payload, ensure_ascii=False).encode()).hexdigest()


def _raw_system(controls: Controls) -> str:
    return " ".join([SYSTEM_RAW, *_style(controls)])


def _style(controls: Controls) -> list[str]:
    """Return the sentences that non-neutral controls add."""
    lines = []
    if controls.depth < 0.3:
        lines.append("Use as few words as you can.")
    elif controls.depth > 0.7:
        lines.append("Explain in detail.")
    if controls.technical_level < 0.3:
        lines.append("Use plain words for a newcomer.")
    elif controls.technical_level > 0.7:
        lines.append("Use precise technical terms for an expert.")
    if controls.examples:
        lines.append("Give an example.")
    if controls.step_by_step:
        lines.append("Explain step by step.")
    return lines


_SAMPLE = "\n".join(
    ["`pkg.call(name, limit=5)`", "", "Calls it.", "", "Parameters:"]
    + [f"- `option_{i}` (int, default {i}): One of many options that fill the passage up." for i in range(12)]
    + ["- `limit` (int, default 5): The largest number of calls. It must not be negative."]
)
