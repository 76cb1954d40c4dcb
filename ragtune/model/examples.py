"""Turns pairs into the conversations a model is trained on.

The passages are those that the index really returns for the question, so that the wrong
ones are as hard as in use; the right one is put in where the index missed it. A few
conversations have an earlier turn, a dial or switch that asks for another style, or are small talk.

Reading the passages is most of the cost of learning a short answer. So further questions that
the shown passages answer, or are known not to answer, are learnt along with the first one.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ragtune.answer.answering import SPARE_HITS, search_text, shown_passages
from ragtune.answer.controls import NEUTRAL, Controls
from ragtune.answer.prompt import REFUSAL, SYSTEM, asked, asked_about, build_messages, passage_text, target_text
from ragtune.draws import draw
from ragtune.knowledge.names import about_what_is_named
from ragtune.model.styles import KEPT, REFUSED, REWORDED, styled_target
from ragtune.model.talk import short_form, small_talk
from ragtune.ports import Progress, silent
from ragtune.records import Chunk, Hit, Message, QAPair, SplitItem
from ragtune.settings import AnswerSettings
from ragtune.text.whitespace import collapse_whitespace

Search = Callable[[str, int], list[Hit]]
_TURNS = 3
"""Messages of a conversation without an earlier turn."""
_REMOVED_SHARE, _REMOVED_SHARES = 0.08, {"how_to": 0.02}
_STYLED_SHARE = 0.25
_KEPT_SHARE = 0.25
_SHUFFLED_SHARE = 0.5
_FOLLOW_UP_SHARE = 0.12
_SHORT_SHARE = 0.6
"""Of the follow-ups of which there is a short form."""
_SMALL_TALK_SHARE = 0.04


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A conversation whose last message is what the model should say; `kind` is the pair's.

    `siblings` ask other questions about the very same passages.
    """

    messages: tuple[Message, ...]
    pair_id: str
    kind: str
    siblings: tuple["TrainingExample", ...] = ()


def build_examples(
    items: Sequence[SplitItem],
    chunks: Sequence[Chunk],
    search: Search,
    answer_settings: AnswerSettings,
    seed: int,
    progress: Progress = silent,
    together: int = 1,
    most: int | None = None,
    talk: bool = True,
) -> list[TrainingExample]:
    """Return a conversation for each pair, in an order whose every stretch holds all kinds in their shares.

    `search(question, limit)` returns hits as serving would. In a few percent of the answerable pairs the
    right passage is taken away and the target is the refusal. A pair is left out when trimming leaves
    its answer out of the prompt. Up to `together` pairs share one prompt; after `most` prompts the rest of
    the pairs is left alone. With `talk` there are short follow-ups and small talk, searched for in their words.
    """
    texts = {chunk.id: chunk for chunk in chunks}
    earlier = _earlier_pairs(items, seed)
    joining = [item.pair for item in items if _may_join(item.pair, seed) and item.pair.id not in earlier]
    joining.sort(key=lambda pair: draw(seed, "join", pair.id))
    waiting: dict[str, dict[str, QAPair]] = defaultdict(dict)
    for pair in joining if together > 1 else ():
        waiting[pair.chunk_id][pair.id] = pair
    examples: list[TrainingExample] = []
    small = 0
    taken: set[str] = set()
    bound = len(items) if most is None else min(most, len(items))
    for item in items:
        pair = item.pair
        if pair.id in taken:
            continue
        if len(examples) - small >= bound:
            break
        waiting[pair.chunk_id].pop(pair.id, None)
        before = earlier.get(pair.id)
        history = _turns(before, answer_settings.passages, seed) if before else ()
        if talk and before:
            pair = _cut_short(pair, before, texts.get(pair.chunk_id), seed)
        looked_up = search_text(pair.question, history) if talk else pair.question
        hits = search(looked_up, answer_settings.passages + SPARE_HITS)
        *reworded, last = _styles(pair, seed)
        tried = [*((style, True) for style in reworded), (last, False)]
        attempts = (_example(pair, texts, hits, looked_up, answer_settings, seed, history, *each) for each in tried)
        found = next((each for each in attempts if each is not None), None)
        if found is None:
            continue
        example, passages = found
        if len(example.messages) == _TURNS and example.messages[0].content == SYSTEM:
            example = _with_siblings(example, passages, waiting, pair.question, answer_settings, together - 1)
        taken.update(sibling.pair_id for sibling in example.siblings)
        examples.append(example)
        if talk and draw(seed, "talk", pair.id) < _SMALL_TALK_SHARE:
            examples.append(_small_talk(example, pair.question, search, answer_settings, seed))
            small += 1
        if len(examples) % 50 == 0:
            progress("building training examples", len(examples), bound)
    progress("building training examples", bound, bound)
    return _mixed(examples, seed)


def interleaved(
    own: Sequence[TrainingExample], others: Sequence[TrainingExample], share: float, most: int
) -> list[TrainingExample]:
    """Return up to `most` examples in which `others` are spread evenly and make up that share, as far as they go."""
    taken: list[TrainingExample] = []
    used = 0
    for place in range(most):
        wanted = int((place + 1) * share)
        if used < min(wanted, len(others)):
            taken.append(others[used])
            used += 1
        elif place - used < len(own):
            taken.append(own[place - used])
    return taken


def _example(
    pair: QAPair,
    texts: dict[str, Chunk],
    found: Sequence[Hit],
    looked_up: str,
    settings: AnswerSettings,
    seed: int,
    history: tuple[Message, ...],
    style: Controls,
    only_if_changed: bool,
) -> tuple[TrainingExample, Sequence[Hit]] | None:
    """Return the pair's conversation in that style and the passages in it, nothing where it cannot be had."""
    gold = texts.get(pair.chunk_id)
    shown = settings.model_copy(update={"passages": style.passages(settings.passages)})
    hits = about_what_is_named(looked_up, found)
    if not pair.answerable or gold is None:
        if pair.answerable:
            return None
        return _conversation(pair, hits[: shown.passages], REFUSAL, shown, history, style)
    if _removed(pair, seed):
        # The rest of the document goes too: it may answer in other words.
        rest = [hit for hit in found if not _answers(hit.chunk, pair) and hit.chunk.document_id != pair.document_id]
        left = about_what_is_named(looked_up, rest)
        return _conversation(pair, left[: shown.passages], REFUSAL, shown, history, style)
    passages = list(hits[: shown.passages])
    place = _best_place(pair, passages, shown)
    if place < 0:
        passages = [hit for hit in passages if hit.chunk.id != gold.id][: shown.passages - 1]
        passages.insert(int(draw(seed, "place", pair.id) * (len(passages) + 1)), Hit(gold, 0.0))
    elif draw(seed, "shuffle", pair.id) < _SHUFFLED_SHARE:
        passages.sort(key=lambda hit: draw(seed, "order", pair.id, hit.chunk.id))
    passages = _with_evidence(pair, passages, texts)
    place = _best_place(pair, passages, shown)
    if place < 0:
        return None
    hit, number = passages[place], place + 1
    told = collapse_whitespace(passage_text(hit.chunk, number, pair.question, shown.passage_words))
    target = styled_target(pair, gold if hit.chunk.id == gold.id else None, told, number, style)
    if only_if_changed and target == target_text(pair.answer, number):
        return None
    return _conversation(pair, passages, target, shown, history, style)


def _conversation(
    pair: QAPair,
    passages: Sequence[Hit],
    target: str,
    settings: AnswerSettings,
    history: tuple[Message, ...],
    style: Controls,
) -> tuple[TrainingExample, Sequence[Hit]]:
    messages = build_messages(pair.question, passages, history, style, settings.passage_words)
    return TrainingExample((*messages, Message("assistant", target)), pair.id, pair.kind), passages


def _small_talk(
    before: TrainingExample, question: str, search: Search, settings: AnswerSettings, seed: int
) -> TrainingExample:
    """Return a turn that asks for nothing, after that question or without it, with what a search finds for it."""
    said, reply = small_talk(seed, before.pair_id)
    history: tuple[Message, ...] = ()
    if draw(seed, "talk later", before.pair_id) < _SHUFFLED_SHARE and len(before.messages) == _TURNS:
        history = (Message("user", question), before.messages[-1])
    hits = shown_passages(search, search_text(said, history), settings.passages)
    messages = build_messages(said, hits, history, NEUTRAL, settings.passage_words)
    return TrainingExample((*messages, Message("assistant", reply)), before.pair_id, "talk")


def _with_siblings(
    first: TrainingExample,
    passages: Sequence[Hit],
    waiting: dict[str, dict[str, QAPair]],
    question: str,
    settings: AnswerSettings,
    most: int,
) -> TrainingExample:
    """Let up to `most` of the waiting pairs join that its passages answer as they are shown, or cannot answer."""
    fitting: list[tuple[int, int, QAPair]] = []
    for number, hit in enumerate(passages, 1):
        shown = collapse_whitespace(passage_text(hit.chunk, number, question, settings.passage_words))
        pairs = [
            pair
            for pair in waiting[hit.chunk.id].values()
            if not pair.answerable or collapse_whitespace(pair.answer) in shown
        ]
        fitting += [(place, number, pair) for place, pair in enumerate(pairs)]
    fitting.sort(key=lambda each: each[:2])
    siblings = []
    system, user, _ = first.messages
    for _, number, pair in fitting[:most]:
        target = target_text(pair.answer, number if pair.answerable else None)
        ask = Message("user", asked(asked_about(user.content), pair.question))
        siblings.append(TrainingExample((system, ask, Message("assistant", target)), pair.id, pair.kind))
        del waiting[pair.chunk_id][pair.id]
    return replace(first, siblings=tuple(siblings))


def _may_join(pair: QAPair, seed: int) -> bool:
    """Return whether a pair is learnt as it is: no dial, nothing taken away, no further passage, not from a person."""
    return (
        not _removed(pair, seed)
        and not pair.evidence_ids
        and not _corrected(pair)
        and _styles(pair, seed) == (NEUTRAL,)
    )


def _styles(pair: QAPair, seed: int) -> tuple[Controls, ...]:
    """Return the controls to try for an example, the last of which always fits: neutral alone for most.

    What a person wrote is never restyled.
    """
    if _corrected(pair) or draw(seed, "style", pair.id) >= _STYLED_SHARE:
        return (NEUTRAL,)
    place = draw(seed, "which style", pair.id)
    if not pair.answerable or _removed(pair, seed):
        return (REFUSED[int(place * len(REFUSED))],)
    kept = KEPT[int(place * len(KEPT))]
    if draw(seed, "kept style", pair.id) < _KEPT_SHARE:
        return (kept,)
    return (*sorted(REWORDED, key=lambda style: draw(seed, "order of styles", pair.id, repr(style))), kept)


def _removed(pair: QAPair, seed: int) -> bool:
    """Return whether the right passage of an answerable pair is taken away."""
    share = _REMOVED_SHARES.get(pair.kind, _REMOVED_SHARE)
    return pair.answerable and draw(seed, "removed", pair.id) < share


def _cut_short(pair: QAPair, before: QAPair, gold: Chunk | None, seed: int) -> QAPair:
    """Return the pair with a question that leans on the one before, for some where that stays clear."""
    if gold is None or _corrected(pair) or draw(seed, "short", pair.id) >= _SHORT_SHARE:
        return pair
    return replace(pair, question=short_form(pair, before, gold, seed) or pair.question)


def _turns(before: QAPair, passages: int, seed: int) -> tuple[Message, ...]:
    """Return a question and its answer; the passage that the answer cites is no longer shown."""
    number = 1 + int(draw(seed, "earlier number", before.id) * passages)
    said = target_text(before.answer, number if before.answerable else None)
    return Message("user", before.question), Message("assistant", said)


def _earlier_pairs(items: Sequence[SplitItem], seed: int) -> dict[str, QAPair]:
    """Return for some pairs, by id, one about the same document that was asked and answered before."""
    found: dict[str, QAPair] = {}
    last: dict[str, QAPair] = {}
    for item in items:
        pair = item.pair
        before = last.get(pair.document_id)
        if before is not None and draw(seed, "follow-up", pair.id) < _FOLLOW_UP_SHARE:
            found[pair.id] = before
        last[pair.document_id] = pair
    return found


def _best_place(pair: QAPair, passages: Sequence[Hit], settings: AnswerSettings) -> int:
    """Return the place of the passage that shows the answer: the pair's own chunk, else its document; -1 for none."""
    own, same = -1, -1
    for place, hit in enumerate(passages):
        shown = collapse_whitespace(passage_text(hit.chunk, place + 1, pair.question, settings.passage_words))
        if collapse_whitespace(pair.answer) not in shown and not _corrected(pair):
            continue
        if hit.chunk.id == pair.chunk_id:
            own = place
        elif hit.chunk.document_id == pair.document_id and same < 0:
            same = place
    return own if own >= 0 else same


def _with_evidence(pair: QAPair, passages: list[Hit], texts: dict[str, Chunk]) -> list[Hit]:
    """Put the further chunks that an answer needs in the place of the last passages that it does not."""
    needed = {pair.chunk_id, *pair.evidence_ids}
    shown = list(passages)
    for name in pair.evidence_ids:
        spare = [place for place, hit in enumerate(shown) if hit.chunk.id not in needed]
        if name in texts and name not in {hit.chunk.id for hit in shown} and spare:
            shown[spare[-1]] = Hit(texts[name], 0.0)
    return shown


def _corrected(pair: QAPair) -> bool:
    """Return whether a person or a model wrote the answer, so that it need not stand word for word."""
    return bool(pair.feedback_id) or pair.writer != "extractive"


def _answers(chunk: Chunk, pair: QAPair) -> bool:
    return collapse_whitespace(pair.answer).lower() in collapse_whitespace(chunk.text).lower()


def _mixed(examples: list[TrainingExample], seed: int) -> list[TrainingExample]:
    """Interleave the kinds evenly, so that a run that stops early has seen them all."""
    by_kind: dict[str, list[TrainingExample]] = defaultdict(list)
    for example in sorted(examples, key=lambda example: draw(seed, "mix", example.pair_id)):
        by_kind[example.kind].append(example)
    placed = [
        ((place + draw(seed, "phase", kind)) / len(found), kind, place)
        for kind, found in by_kind.items()
        for place in range(len(found))
    ]
    return [by_kind[kind][place] for _, kind, place in sorted(placed)]
