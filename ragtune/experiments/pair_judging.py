"""What a judge and people say about the two answers of mirrored requests.

People vote in a study (`ragtune.evaluation.studies`) without knowing which version gave which answer. A judge is a
language model that compares the two answers twice, with their sides swapped.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from ragtune.draws import draw
from ragtune.errors import ExperimentError
from ragtune.evaluation.judges import Preference, PreferenceSummary, summarise_preferences
from ragtune.evaluation.studies.results import study_results
from ragtune.evaluation.studies.store import StudyStore
from ragtune.evaluation.studies.study import ShownAnswer, StudyItem
from ragtune.ports import Progress, silent
from ragtune.records import Chunk, RatedModel, ScoredAnswer, content_id
from ragtune.store.shadows import Shadow, ShadowPair, ShadowStore, Side


class Comparing(Protocol):
    """A judge that compares two answers to the same questions, such as `RubricJudge`."""

    name: str

    def compare(
        self, before: Sequence[ScoredAnswer], after: Sequence[ScoredAnswer], progress: Progress = silent
    ) -> list[Preference]:
        """Return which answers are better; a question without a usable reply is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Votes:
    """What people say in one study of the pairs.

    `preference` is 1 if they always prefer the mirrored version's answer, -1 if never, and None before the first vote.
    `agreeing` is the share of equal votes on the same pair, or None if no pair has two votes.
    """

    study: str
    votes: int
    annotators: int
    preference: RatedModel | None
    agreeing: float | None


def study_source(shadow: Shadow, version: str) -> str:
    """Return what the study of a version's pairs names as the source of its answers."""
    return f"shadow deployment {shadow.name}, version {version}"


def vote_items(pairs: Iterable[ShadowPair], chunks: Iterable[Chunk], count: int, seed: int) -> list[StudyItem]:
    """Return up to `count` pairs with different answers, for people to vote on; the live answer comes first.

    Raises:
        ExperimentError: no two answers differ.
    """
    texts = {chunk.id: chunk.text for chunk in chunks}
    items: dict[str, StudyItem] = {}
    for pair in sorted(_different(pairs), key=lambda pair: draw(seed, "votes", pair.response_id)):
        name = "i" + content_id("item", pair.question, pair.live.answer, pair.mirrored.answer)
        answers = tuple(
            ShownAnswer(one.answer, _cited(one, texts), f"version {one.version}") for one in (pair.live, pair.mirrored)
        )
        items.setdefault(name, StudyItem(id=name, question=pair.question, expected="", answers=answers))
    if not items:
        raise ExperimentError(
            "There is no pair with two different answers.", "at least one", "wait until more requests were mirrored"
        )
    return list(items.values())[:count]


def judge_pairs(
    judge: Comparing,
    shadow: Shadow,
    store: ShadowStore,
    chunks: Iterable[Chunk],
    most: int,
    progress: Progress = silent,
) -> int:
    """Let a judge compare up to `most` pairs of each version that it has not compared yet; return how many it did.

    Equal answers are not sent. What it says is stored, so it is asked once about each pair.
    """
    texts, count = {chunk.id: chunk.text for chunk in chunks}, 0
    for version in shadow.design.versions:
        judged = store.preferences(shadow, version).get(judge.name, {})
        pairs = [pair for pair in _different(store.pairs(shadow, version)) if pair.response_id not in judged][:most]
        sides = [[_scored(pair, getattr(pair, side), texts) for pair in pairs] for side in ("live", "mirrored")]
        preferences = judge.compare(sides[0], sides[1], progress) if pairs else []
        contents = {preference.pair_id: asdict(preference) for preference in preferences}
        store.add_preferences(shadow, version, judge.name, contents)
        count += len(contents)
    return count


def judged(store: ShadowStore, shadow: Shadow, version: str) -> dict[str, PreferenceSummary]:
    """Return {judge: what it prefers}; the second answer of a pair is that of the mirrored version."""
    summaries = {}
    for judge, contents in store.preferences(shadow, version).items():
        summary = summarise_preferences([Preference(**content) for content in contents.values()])
        if summary is not None:
            summaries[judge] = summary
    return summaries


def votes_on(studies: StudyStore, shadow: Shadow, version: str) -> list[Votes]:
    """Return what people say in each study of a version's pairs, the oldest study first."""
    votes = []
    for study in studies.studies():
        if study.source != study_source(shadow, version):
            continue
        results = study_results(studies, study.name)
        votes.append(
            Votes(
                study=study.name,
                votes=results.ratings,
                annotators=len(results.annotators),
                preference=next(iter(results.models), None),
                agreeing=results.overall[0].percent if results.overall else None,
            )
        )
    return votes


def preferences_in_words(
    version: str, judges: Mapping[str, PreferenceSummary], votes: Sequence[Votes]
) -> tuple[str, ...]:
    """Return a sentence for each judge and each study."""
    sentences = [
        f"The judge {name} {_preference(version, one.share.value, one.share.low, one.share.high)} in {one.n} pairs "
        f"({one.consistent:.0%} of its verdicts stay if the sides are swapped)."
        for name, one in judges.items()
    ]
    for study in votes:
        if study.preference is None:
            sentences.append(f"Nobody has voted in the study {study.study} yet.")
            continue
        row = study.preference
        agreeing = "" if study.agreeing is None else f"; two people agree on {study.agreeing:.0%} of the pairs"
        sentences.append(
            f"People {_preference(version, row.value, row.low, row.high, 'prefer')} in {row.n} pairs "
            f"(study {study.study}, {study.votes} blind votes{agreeing})."
        )
    return tuple(sentences)


def _preference(version: str, value: float, low: float, high: float, verb: str = "prefers") -> str:
    """Return which version is preferred; the balance is wins minus losses, in percent of the pairs."""
    balance = f"wins minus losses {100 * value:+.0f}% [{100 * low:+.0f}, {100 * high:+.0f}]"
    if low <= 0 <= high:
        return f"{verb} neither clearly: version {version} has {balance}"
    return f"{verb} {'version ' + version if value > 0 else 'the live version'}: version {version} has {balance}"


def _different(pairs: Iterable[ShadowPair]) -> list[ShadowPair]:
    return [pair for pair in pairs if pair.live.answer != pair.mirrored.answer]


def _cited(side: Side, texts: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(texts[name] for name in side.cited_chunk_ids if name in texts)


def _scored(pair: ShadowPair, side: Side, texts: Mapping[str, str]) -> ScoredAnswer:
    """Return one side of a pair as judges take it; the right answer is not known."""
    return ScoredAnswer(
        pair_id=pair.response_id,
        question=pair.question,
        expected="(not known)",
        answer=side.answer,
        kind="",
        answerable=True,
        refused=side.refused,
        retrieved=False,
        cited=side.cited_chunk_ids,
        metrics={},
        latency_ms=side.generation_ms,
        scored_text=side.answer,
        cited_texts=_cited(side, texts),
    )
