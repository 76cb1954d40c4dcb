"""How far reviewers of pairs agree, by the coefficients that studies of answers use."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ragtune.dataset.reviews.decisions import Decision, newest_verdicts
from ragtune.evaluation.agreement import Agreement, agreement, pairwise_agreement, worst_items

VERDICT, KEPT = "verdict", "kept"
"""The two questions: which verdict, and whether the pair stays in the dataset (accepted or corrected)."""
CATEGORIES: Mapping[str, tuple[str, ...]] = {VERDICT: ("reject", "correct", "accept"), KEPT: ("no", "yes")}


@dataclass(frozen=True, slots=True, kw_only=True)
class DisputedPair:
    """A pair that reviewers judge differently: its words when it was reviewed, and the newest verdict of each."""

    pair_key: str
    question: str
    answer: str
    verdicts: Mapping[str, str]
    comments: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewAgreement:
    """The agreement of all reviewers and of every two, and the disputed pairs, the most disputed first.

    `pairs` is the number of pairs with two verdicts or more. `overall` and `between` are empty before the first.
    """

    pairs: int
    overall: tuple[Agreement, ...] = ()
    between: tuple[Agreement, ...] = ()
    disputed: tuple[DisputedPair, ...] = ()


def review_agreement(decisions: Iterable[Decision], reviewers: Iterable[str] = (), seed: int = 17) -> ReviewAgreement:
    """Return how far reviewers agree on the pairs that at least two of them decided.

    Args:
        decisions: all decisions; the newest verdict of a reviewer on a pair counts, comments do not.
        reviewers: only these; empty for all.
        seed: seed of the intervals.
    """
    wanted = set(reviewers)
    own = {
        key: {name: one for name, one in of_pair.items() if not wanted or name in wanted}
        for key, of_pair in newest_verdicts(decisions).items()
    }
    several = {key: of_pair for key, of_pair in own.items() if len(of_pair) > 1}
    if not several:
        return ReviewAgreement(pairs=0)
    verdicts = {key: {name: str(one.verdict) for name, one in of_pair.items()} for key, of_pair in several.items()}
    kept = {
        key: {name: "no" if verdict == "reject" else "yes" for name, verdict in of_pair.items()}
        for key, of_pair in verdicts.items()
    }
    overall, between = [], []
    for question, ratings in ((VERDICT, verdicts), (KEPT, kept)):
        overall.append(agreement(question, ratings, CATEGORIES[question], seed=seed))
        between += pairwise_agreement(question, ratings, CATEGORIES[question], seed=seed)
    disputed = [_disputed(key, several[key]) for key, _ in worst_items(verdicts, CATEGORIES[VERDICT])]
    return ReviewAgreement(pairs=len(several), overall=tuple(overall), between=tuple(between), disputed=tuple(disputed))


def _disputed(key: str, of_pair: Mapping[str, Decision]) -> DisputedPair:
    snapshot = next(iter(of_pair.values())).pair
    return DisputedPair(
        pair_key=key,
        question=str(snapshot.get("question", "")),
        answer=str(snapshot.get("answer", "")),
        verdicts={name: one.verdict for name, one in sorted(of_pair.items())},
        comments={name: one.comment for name, one in sorted(of_pair.items()) if one.comment},
    )
