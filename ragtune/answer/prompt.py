"""The one prompt: training, evaluation and serving all build their messages here.

The system text comes first and is the same for every question, so that an engine with a prefix cache processes
it once. It is short because every token costs time on a CPU. The texts come from a language pack. The shipped reading
adapter was trained on exactly those of the English one: changing one means training it again.
"""

import hashlib
import json
from collections.abc import Sequence

from ragtune.answer.controls import HIGH, LOW, NEUTRAL, Controls
from ragtune.answer.evidence import Evidence
from ragtune.answer.language_packs import ENGLISH, LanguagePack
from ragtune.answer.units import Unit
from ragtune.records import Chunk, Hit, Message
from ragtune.text.whitespace import collapse_whitespace

PROMPT_VERSION = 2
"""Raise it if the words around passages and sentences change in a way that the samples of `prompt_sha256` do not show.
Which passages and sentences are chosen is no part of it."""
REFUSAL = ENGLISH.refusal


def build_messages(
    question: str,
    passages: Sequence[Hit] | None,
    history: Sequence[Message] = (),
    controls: Controls = NEUTRAL,
    closest: Sequence[Evidence] = (),
    pack: LanguagePack = ENGLISH,
) -> tuple[Message, ...]:
    """Return the messages for one question: the system text, the history, then the passages with the question.

    `passages` are in the order of their numbers; the first is `[1]`. None asks the model without retrieval. An empty
    sequence tells it that the search found nothing. `closest` are the sentences that the prompt points out.
    """
    if passages is None:
        system = " ".join([pack.prompt.without_passages, *_style_sentences(controls, pack)])
        return (Message("system", system), *history, Message("user", question.strip()))
    texts = [passage_text(hit, number) for number, hit in enumerate(passages, 1)]
    user = user_text("\n\n".join(texts or [pack.prompt.nothing_found]), question, closest, pack)
    return (Message("system", system_text(controls, pack)), *history, Message("user", user))


def user_text(passages: str, question: str, closest: Sequence[Evidence] = (), pack: LanguagePack = ENGLISH) -> str:
    """Return the text of the user's message: the rendered passages, the question, and the sentences closest to it."""
    text = f"{passages}{_question_head(pack)}{question.strip()}"
    if closest:
        text += f"\n{pack.prompt.closest}" + "".join(f"\n- {item.unit.text} [{item.number}]" for item in closest)
    return text


def passages_in(text: str) -> str:
    """Return the rendered passages of a text that `user_text` made with the English pack."""
    return text.rpartition(_question_head(ENGLISH))[0]


def passage_text(hit: Hit, number: int) -> str:
    """Return one passage as the model sees it: `[2] title > heading`, then its lines."""
    head = " > ".join([hit.chunk.title, *hit.chunk.headings[-1:]])
    return f"[{number}] {head}\n{hit.chunk.text.strip() if hit.lines is None else hit.lines}"


def system_text(controls: Controls = NEUTRAL, pack: LanguagePack = ENGLISH) -> str:
    """Return the system text for these controls."""
    texts = pack.prompt
    sentences = [texts.numbered]
    if controls.citations:
        sentences.append(texts.cite)
    sentences.append(texts.strict.format(refusal=pack.refusal) if controls.strict_grounding else texts.free)
    return " ".join([*sentences, *_style_sentences(controls, pack)])


def target_text(answer: str, passage_number: int | None) -> str:
    """Return the text that the model should write: the answer as a sentence, then its citation if there is a number.

    An empty answer gives the refusal.
    """
    answer = collapse_whitespace(answer)
    if not answer:
        return REFUSAL
    if answer[-1] not in ".!?":
        answer += "."
    return answer if passage_number is None else f"{answer} [{passage_number}]"


def prompt_sha256(pack: LanguagePack = ENGLISH) -> str:
    """Return a hash that changes with anything that shapes a prompt of the pack."""
    chunk = Chunk(
        id="c",
        document_id="d",
        source="s",
        title="pkg.call",
        heading_path=("pkg.call", "Parameters"),
        text=_SAMPLE_TEXT,
        position=0,
    )
    expert = Controls(
        depth=1.0,
        creativity=1.0,
        technical_level=1.0,
        citations=False,
        examples=True,
        step_by_step=True,
        strict_grounding=False,
    )
    newcomer = Controls(depth=0.0, creativity=0.0, technical_level=0.0)
    question = "What is the default of `limit`?"
    rendered = [
        [message.content for message in build_messages(question, hits, controls=controls, pack=pack)]
        for hits in (None, [], [Hit(chunk, 1.0)])
        for controls in (NEUTRAL, expert, newcomer)
    ]
    closest = Evidence(Unit("A sentence.", "A heading"), 1, 1.0)
    payload = [PROMPT_VERSION, pack.refusal, target_text("a", 1), rendered, user_text("", "What?", [closest], pack)]
    return hashlib.sha256(json.dumps(payload, ensure_ascii=False).encode()).hexdigest()


def _question_head(pack: LanguagePack) -> str:
    return f"\n\n{pack.prompt.question} "


def _style_sentences(controls: Controls, pack: LanguagePack) -> list[str]:
    """Return the sentences that non-neutral controls add to the system text."""
    texts = pack.prompt
    lines = []
    if controls.depth < LOW:
        lines.append(texts.brief)
    elif controls.depth > HIGH:
        lines.append(texts.detailed)
    if controls.technical_level < LOW:
        lines.append(texts.newcomer)
    elif controls.technical_level > HIGH:
        lines.append(texts.expert)
    if controls.examples:
        lines.append(texts.example)
    if controls.step_by_step:
        lines.append(texts.steps)
    return lines


_SAMPLE_TEXT = "\n".join(
    ["`pkg.call(name, limit=5)`", "", "Calls it.", "", "Parameters:"]
    + [f"- `option_{i}` (int, default {i}): One of many options that fill the passage up." for i in range(12)]
    + ["- `limit` (int, default 5): The largest number of calls. It must not be negative."]
)
