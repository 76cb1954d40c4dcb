"""Turns pairs into the conversations a model is trained on.

The passages are those that the index really returns for the question, so that the wrong
ones are as hard as in use; the right one is put in where the index missed it. A few
conversations have an earlier turn, or a dial that asks for more, less or no citation.

Reading the passages is most of the cost of learning a short answer. So further questions that
the shown passages answer, or are known not to answer, are learnt along with the first one.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ragtune.answer.controls import NEUTRAL, Controls
from ragtune.answer.prompt import REFUSAL, asked, asked_about, build_messages, passage_text, target_text
from ragtune.dataset.sentences import flat, sentences
from ragtune.dataset.wording import draw
from ragtune.ports import Progress, silent
from ragtune.records import Chunk, Hit, Message, QAPair, SplitItem
from ragtune.settings import AnswerSettings

Search = Callable[[str, int], list[Hit]]
_EXTRA = 4
_TURNS = 3
"""Messages of a conversation without an earlier turn."""
_REMOVED_SHARE = 0.06
_SHUFFLED_SHARE = 0.5
_FOLLOW_UP_SHARE = 0.08
_STYLES = (
    (0.04, Controls(depth=0.0)),
    (0.10, Controls(depth=1.0)),
    (0.13, Controls(citations=False)),
)
"""Bounds of a draw from 0 to 1, and the style of the examples below each bound."""


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
) -> list[TrainingExample]:
    """Return a conversation for each pair, in an order whose every stretch holds all kinds in their shares.

    `search(question, limit)` returns hits as serving would. In a few percent of the answerable pairs the
    right passage is taken away and the target is the refusal. A pair is left out when trimming leaves
    its answer out of the prompt. Up to `together` pairs share one prompt; after `most` prompts the rest of
    the pairs is left alone.
    """
    texts = {chunk.id: chunk for chunk in chunks}
    earlier = _earlier_turns(items, seed)
    joining = [item.pair for item in items if _may_join(item.pair, seed) and item.pair.id not in earlier]
    joining.sort(key=lambda pair: draw(seed, "join", pair.id))
    waiting: dict[str, dict[str, QAPair]] = defaultdict(dict)
    for pair in joining if together > 1 else ():
        waiting[pair.chunk_id][pair.id] = pair
    examples: list[TrainingExample] = []
    taken: set[str] = set()
    bound = len(items) if most is None else min(most, len(items))
    for item in items:
        pair = item.pair
        if pair.id in taken:
            continue
        if len(examples) == bound:
            break
        waiting[pair.chunk_id].pop(pair.id, None)
        hits = search(pair.question, answer_settings.passages + _EXTRA)
        found = _example(pair, texts, hits, answer_settings, seed, earlier.get(pair.id, ()))
        if found is None:
            continue
        example, passages = found
        if len(example.messages) == _TURNS and _style(pair, seed) == NEUTRAL:
            example = _with_siblings(example, passages, waiting, pair.question, answer_settings, together - 1)
        taken.update(sibling.pair_id for sibling in example.siblings)
        examples.append(example)
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
    hits: Sequence[Hit],
    settings: AnswerSettings,
    seed: int,
    history: tuple[Message, ...],
) -> tuple[TrainingExample, Sequence[Hit]] | None:
    """Return the pair's conversation and the passages in it."""
    gold, style = texts.get(pair.chunk_id), _style(pair, seed)
    shown = settings.model_copy(update={"passages": style.passages(settings.passages)})
    if not pair.answerable or gold is None:
        if pair.answerable:
            return None
        return _conversation(pair, hits[: shown.passages], REFUSAL, shown, history, style)
    if draw(seed, "removed", pair.id) < _REMOVED_SHARE:
        # The rest of the document goes too: it may answer in other words.
        left = [hit for hit in hits if not _answers(hit.chunk, pair) and hit.chunk.document_id != pair.document_id]
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
    answer = _deep(pair, gold, passages[place], place, shown) if style.depth == 1.0 else pair.answer
    if style.depth == 0.0:
        start, end = next(sentences(answer, 0, len(answer)))
        answer = answer[start:end]
    target = target_text(answer, place + 1 if style.citations else None)
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
        shown = flat(passage_text(hit.chunk, number, question, settings.passage_words))
        pairs = [pair for pair in waiting[hit.chunk.id].values() if not pair.answerable or flat(pair.answer) in shown]
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
    removed = pair.answerable and draw(seed, "removed", pair.id) < _REMOVED_SHARE
    return not removed and not pair.evidence_ids and not _corrected(pair) and _style(pair, seed) == NEUTRAL


def _style(pair: QAPair, seed: int) -> Controls:
    """Return the controls of an example: neutral for most; what a person wrote is never restyled."""
    if _corrected(pair):
        return NEUTRAL
    place = draw(seed, "style", pair.id)
    return next((style for bound, style in _STYLES if place < bound), NEUTRAL)


def _deep(pair: QAPair, gold: Chunk, hit: Hit, place: int, settings: AnswerSettings) -> str:
    """Return the answer with the sentence that follows it, where it ends a sentence and the next one is shown."""
    end = pair.span[1] + gold.text.startswith(".", pair.span[1])
    following = next(sentences(gold.text, end, len(gold.text)), None)
    if hit.chunk.id != gold.id or following is None or not gold.text[:end].endswith("."):
        return pair.answer
    more = gold.text[following[0] : following[1]]
    shown = flat(passage_text(hit.chunk, place + 1, pair.question, settings.passage_words))
    plain = more[:1].isupper() and more.endswith(".") and "\n\n" not in gold.text[end : following[0]]
    return f"{pair.answer.rstrip('.')}. {flat(more)}" if plain and flat(more) in shown else pair.answer


def _earlier_turns(items: Sequence[SplitItem], seed: int) -> dict[str, tuple[Message, ...]]:
    """Return for some pairs, by id, a question on the same document that was asked and answered before."""
    found: dict[str, tuple[Message, ...]] = {}
    last: dict[str, QAPair] = {}
    for item in items:
        pair = item.pair
        before = last.get(pair.document_id)
        if before is not None and draw(seed, "follow-up", pair.id) < _FOLLOW_UP_SHARE:
            said = target_text(before.answer, 1 if before.answerable else None)
            found[pair.id] = (Message("user", before.question), Message("assistant", said))
        last[pair.document_id] = pair
    return found


def _best_place(pair: QAPair, passages: Sequence[Hit], settings: AnswerSettings) -> int:
    """Return the place of the passage that shows the answer: the pair's own chunk, else its document; -1 for none."""
    own, same = -1, -1
    for place, hit in enumerate(passages):
        shown = flat(passage_text(hit.chunk, place + 1, pair.question, settings.passage_words))
        if flat(pair.answer) not in shown and not _corrected(pair):
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
    return flat(pair.answer).lower() in flat(chunk.text).lower()


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
