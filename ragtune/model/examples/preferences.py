"""Turns feedback into preference examples: a prompt with the answer that people want, one that they do not, or both.

The prompt is the one of serving: the passages that were shown go through the same functions again. Feedback whose
prompt cannot be built again is left out, and so is what nobody may train on: held-out questions, personal data,
corrections that no reviewer accepted, thumbs of keys that nobody trusts, and more than a key's share.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ragtune.answer.answering import Answerer, Prepared
from ragtune.answer.controls import NEUTRAL
from ragtune.answer.lines import LineSimilarity
from ragtune.answer.prompt import target_text
from ragtune.answer.refusals import is_refusal
from ragtune.dataset.checks.personal import suspected_personal_data
from ragtune.dataset.corrections import CorrectionStatus
from ragtune.model_settings import PreferenceSettings
from ragtune.ports import EvidenceModel
from ragtune.records import Chunk, FeedbackEvent, Hit, Message, SplitItem
from ragtune.settings import AnswerSettings, FeedbackSettings
from ragtune.text.whitespace import collapse_whitespace
from ragtune.text.words import wording_key

Method = Literal["kto", "dpo"]
RAREST = 0.1
"""Share of `preference.min_examples` that each kind of answer must have. KTO was shown to learn with 90% of the wanted
answers left out (https://arxiv.org/abs/2402.01306)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceExample:
    """A prompt with the answer that people want (`chosen`), the one that they do not (`rejected`), or both.

    A missing answer is "". `feedback_ids` are the verdicts that it was made from.
    """

    messages: tuple[Message, ...]
    chosen: str = ""
    rejected: str = ""
    feedback_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UsableFeedback:
    """The preference examples of all feedback, and how many verdicts are left out, by reason."""

    examples: tuple[PreferenceExample, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)


class ShownPrompts:
    """Builds the prompt of a response again from the passages that it showed."""

    def __init__(
        self,
        chunks: Iterable[Chunk],
        settings: AnswerSettings,
        similarity: LineSimilarity | None = None,
        evidence: EvidenceModel | None = None,
    ) -> None:
        self.chunks = {chunk.id: chunk for chunk in chunks}
        self._hits: list[Hit] = []
        self._answerer = Answerer(self, settings, similarity, evidence)

    def search(self, text: str, limit: int) -> list[Hit]:  # noqa: ARG002
        """Return the passages of the current response, whatever the text; the answerer calls it."""
        return self._hits[:limit]

    def prepare(self, event: FeedbackEvent) -> Prepared | None:
        """Return the prompt of a rated response, or None if it would be another one today."""
        if not event.chunk_ids or any(name not in self.chunks for name in event.chunk_ids):
            return None
        self._hits = [Hit(self.chunks[name], 1.0 / rank) for rank, name in enumerate(event.chunk_ids, 1)]
        prepared = self._answerer.prepare(event.question, controls=NEUTRAL)
        shown = tuple(hit.chunk.id for hit in prepared.passages or ())
        # Small talk, and a refusal by the evidence alone, are not what the model wrote.
        return prepared if shown == event.chunk_ids and prepared.known_text is None else None


def usable_feedback(
    events: Sequence[FeedbackEvent],
    corrections: Sequence[CorrectionStatus],
    items: Iterable[SplitItem],
    prompts: ShownPrompts,
    feedback: FeedbackSettings,
    preference: PreferenceSettings,
) -> UsableFeedback:
    """Return the examples that feedback gives, oldest first, corrections before thumbs.

    Args:
        events: all verdicts, oldest first.
        corrections: what became of each correction; only accepted ones are used.
        items: the dataset with its splits; questions outside the training split are left out.
        prompts: builds the prompts.
        feedback: whether corrections and thumbs need somebody's trust, and how many of one key may train.
        preference: whose thumbs are trusted.
    """
    held_out = {wording_key(item.pair.question) for item in items if item.split != "train"}
    left_out: Counter[str] = Counter()
    examples: list[PreferenceExample] = []
    for one in corrections:
        example, reason = _from_correction(one, prompts, held_out)
        if example is None:
            left_out[reason] += 1
        else:
            examples.append(example)
    used = {name for example in examples for name in example.feedback_ids}
    thumbs = [event for event in _newest(events) if event.rating != "neutral" and event.id not in used]
    trusted = [event for event in thumbs if not feedback.approval or event.user in preference.thumbs_from]
    if untrusted := len(thumbs) - len(trusted):
        left_out["the thumb is of a key that preference.thumbs_from does not name"] = untrusted
    usable: list[tuple[FeedbackEvent, PreferenceExample]] = []
    for event in trusted:
        example, reason = _from_thumb(event, prompts, held_out)
        if example is None:
            left_out[reason] += 1
        else:
            usable.append((event, example))
    capped = _within_cap(usable, feedback.per_key)
    if over := len(usable) - len(capped):
        left_out["its key has feedback.per_key newer thumbs"] = over
    agreed, disputed = _agreed(capped)
    if disputed:
        left_out["people disagree about the answer"] = disputed
    return UsableFeedback(examples=(*examples, *agreed), left_out=dict(sorted(left_out.items())))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleCounts:
    """How many thumbs up, thumbs down and corrections can train."""

    up: int
    down: int
    corrections: int

    @property
    def rated(self) -> int:
        """Answers with a verdict for KTO: thumbs, and both answers of each correction."""
        return self.up + self.down + 2 * self.corrections


def count_examples(examples: Sequence[PreferenceExample]) -> ExampleCounts:
    """Return how many of the examples are thumbs up, thumbs down and corrections."""
    pairs = sum(bool(example.chosen and example.rejected) for example in examples)
    chosen = sum(bool(example.chosen) for example in examples)
    rejected = sum(bool(example.rejected) for example in examples)
    return ExampleCounts(up=chosen - pairs, down=rejected - pairs, corrections=pairs)


def choose_method(numbers: ExampleCounts, settings: PreferenceSettings) -> tuple[Method | None, str]:
    """Return "kto" or "dpo" and "", or None and why nothing is trained, with what was found and what is needed."""
    if not settings.enabled:
        return None, "Preference training is off (preference.enabled)."
    least, rarest = settings.min_examples, max(1, round(RAREST * settings.min_examples))
    up, down = numbers.up + numbers.corrections, numbers.down + numbers.corrections
    possible: dict[Method, bool] = {
        "dpo": numbers.corrections >= least,
        "kto": numbers.rated >= least and min(up, down) >= rarest,
    }
    wanted: tuple[Method, ...] = ("kto", "dpo")
    if settings.method != "auto":
        wanted = (settings.method,)
    elif numbers.corrections >= numbers.up + numbers.down:
        wanted = ("dpo", "kto")
    for method in wanted:
        if possible[method]:
            return method, ""
    needs: dict[Method, str] = {
        "kto": f"{least} rated answers, {rarest} or more of each kind (a correction rates two)",
        "dpo": f"{least} accepted corrections",
    }
    return None, (
        f"Preference training is skipped: {numbers.up} thumbs up, {numbers.down} thumbs down and "
        f"{numbers.corrections} accepted corrections can train. "
        f"Needed: {' or '.join(needs[method] for method in wanted)} (preference.min_examples)."
    )


def _from_correction(
    one: CorrectionStatus, prompts: ShownPrompts, held_out: set[tuple[str, ...]]
) -> tuple[PreferenceExample | None, str]:
    event, pair = one.event, one.pair
    if one.status != "accepted" or pair is None:
        return None, f"the correction is {one.status.replace('_', ' ')}"
    prepared, reason = _checked(event, prompts, held_out, pair.answer)
    if prepared is None:
        return None, reason
    # The passage that the correction was matched with is one of those shown.
    chosen = target_text(pair.answer, event.chunk_ids.index(pair.chunk_id) + 1)
    rejected = _written(event, prepared)
    if _plain(chosen) == _plain(rejected):
        return None, "the correction equals the answer"
    return _example(event, prepared, chosen, rejected), ""


def _from_thumb(
    event: FeedbackEvent, prompts: ShownPrompts, held_out: set[tuple[str, ...]]
) -> tuple[PreferenceExample | None, str]:
    prepared, reason = _checked(event, prompts, held_out)
    if prepared is None:
        return None, reason
    text = _written(event, prepared)
    is_up = event.rating == "up"
    return _example(event, prepared, text if is_up else "", "" if is_up else text), ""


def _checked(
    event: FeedbackEvent, prompts: ShownPrompts, held_out: set[tuple[str, ...]], correction: str = ""
) -> tuple[Prepared | None, str]:
    """Return the prompt of a response, or None and why it does not train."""
    if event.unlike_prompt:
        return None, f"the prompt cannot be built again: {event.unlike_prompt}"
    if wording_key(event.question) in held_out:
        return None, "the question is in a split that no training may see"
    if suspected_personal_data(f"{event.question} {event.answer} {correction}"):
        return None, "it holds personal data or a secret"
    prepared = prompts.prepare(event)
    return prepared, "" if prepared else "the prompt cannot be built again: other passages or settings"


def _example(event: FeedbackEvent, prepared: Prepared, chosen: str, rejected: str) -> PreferenceExample:
    return PreferenceExample(messages=prepared.messages, chosen=chosen, rejected=rejected, feedback_ids=(event.id,))


def _written(event: FeedbackEvent, prepared: Prepared) -> str:
    """Return the answer as the model wrote it: of a refusal, people also get the closest passages."""
    pack = prepared.frame.pack
    return pack.refusal if is_refusal(event.answer, [pack]) else event.answer.strip()


def _newest(events: Iterable[FeedbackEvent]) -> list[FeedbackEvent]:
    """Return the newest verdict of each key on each response."""
    return list({(event.user, event.response_id): event for event in events}.values())


def _within_cap(
    usable: Sequence[tuple[FeedbackEvent, PreferenceExample]], per_key: int
) -> list[tuple[FeedbackEvent, PreferenceExample]]:
    """Return the newest thumbs of each key, at most `per_key`."""
    places: Counter[str] = Counter()
    kept = []
    for event, example in reversed(usable):
        places[event.user] += 1
        if places[event.user] <= per_key:
            kept.append((event, example))
    return kept[::-1]


def _agreed(usable: Sequence[tuple[FeedbackEvent, PreferenceExample]]) -> tuple[list[PreferenceExample], int]:
    """Return one example for each rated answer, by the majority, and how many thumbs are on answers without one."""
    groups: dict[tuple[tuple[Message, ...], str], list[PreferenceExample]] = defaultdict(list)
    for _, example in usable:
        groups[example.messages, _plain(example.chosen or example.rejected)].append(example)
    agreed, disputed = [], 0
    for group in groups.values():
        up = [example for example in group if example.chosen]
        down = [example for example in group if example.rejected]
        if len(up) == len(down):
            disputed += len(group)
            continue
        winners = up if len(up) > len(down) else down
        names = tuple(name for example in winners for name in example.feedback_ids)
        first = winners[0]
        agreed.append(
            PreferenceExample(messages=first.messages, chosen=first.chosen, rejected=first.rejected, feedback_ids=names)
        )
    return agreed, disputed


def _plain(text: str) -> str:
    return collapse_whitespace(text).casefold()
