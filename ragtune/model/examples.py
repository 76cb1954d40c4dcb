"""Turns pairs into the conversations a model is trained on.

The passages are those that the index really returns for the question, so that the wrong
ones are as hard as in use; the right one is put in where the index missed it.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ragtune.answer.prompt import REFUSAL, build_messages, passage_text, target_text
from ragtune.dataset.sentences import flat
from ragtune.dataset.wording import draw
from ragtune.ports import Progress, silent
from ragtune.records import Chunk, Hit, Message, QAPair, SplitItem
from ragtune.settings import AnswerSettings

Search = Callable[[str, int], list[Hit]]
_EXTRA = 4
_REMOVED_SHARE = 0.06
_SHUFFLED_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A conversation whose last message is what the model should say; `kind` is the pair's."""

    messages: tuple[Message, ...]
    pair_id: str
    kind: str


def build_examples(
    items: Sequence[SplitItem],
    chunks: Sequence[Chunk],
    search: Search,
    answer_settings: AnswerSettings,
    seed: int,
    progress: Progress = silent,
) -> list[TrainingExample]:
    """Return one conversation per pair, in an order whose every stretch holds all kinds in their shares.

    `search(question, limit)` returns hits as serving would. In a few percent of the answerable pairs the
    right passage is taken away and the target is the refusal. A pair is left out when trimming leaves
    its answer out of the prompt.
    """
    texts = {chunk.id: chunk for chunk in chunks}
    examples = []
    for done, item in enumerate(items):
        hits = search(item.pair.question, answer_settings.passages + _EXTRA)
        example = _example(item.pair, texts, hits, answer_settings, seed)
        if example is not None:
            examples.append(example)
        if done % 50 == 0:
            progress("building training examples", done, len(items))
    progress("building training examples", len(items), len(items))
    return _mixed(examples, seed)


def _example(
    pair: QAPair, texts: dict[str, Chunk], hits: Sequence[Hit], settings: AnswerSettings, seed: int
) -> TrainingExample | None:
    gold = texts.get(pair.chunk_id)
    if not pair.answerable or gold is None:
        if pair.answerable:
            return None
        return _refusal(pair, list(hits[: settings.passages]), settings)
    if draw(seed, "removed", pair.id) < _REMOVED_SHARE:
        # The rest of the document goes too: it may answer in other words.
        left = [hit for hit in hits if not _answers(hit.chunk, pair) and hit.chunk.document_id != pair.document_id]
        return _refusal(pair, left[: settings.passages], settings)
    passages = list(hits[: settings.passages])
    place = _best_place(pair, passages, settings)
    if place < 0:
        passages = [hit for hit in passages if hit.chunk.id != gold.id][: settings.passages - 1]
        passages.insert(int(draw(seed, "place", pair.id) * (len(passages) + 1)), Hit(gold, 0.0))
    elif draw(seed, "shuffle", pair.id) < _SHUFFLED_SHARE:
        passages.sort(key=lambda hit: draw(seed, "order", pair.id, hit.chunk.id))
    passages = _with_evidence(pair, passages, texts)
    place = _best_place(pair, passages, settings)
    if place < 0:
        return None
    messages = build_messages(pair.question, passages, passage_words=settings.passage_words)
    return TrainingExample((*messages, Message("assistant", target_text(pair.answer, place + 1))), pair.id, pair.kind)


def _refusal(pair: QAPair, passages: list[Hit], settings: AnswerSettings) -> TrainingExample:
    messages = build_messages(pair.question, passages, passage_words=settings.passage_words)
    return TrainingExample((*messages, Message("assistant", REFUSAL)), pair.id, pair.kind)


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
