"""Compares a judge with people's ratings: only a judge that agrees with people counts, and its bias is corrected.

A judge's score becomes yes or no at a threshold. The threshold is chosen on some of the rated answers and tested on the
others (cross-fitting), so that the agreement shown is that on answers it was not chosen for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ragtune.errors import DatasetError
from ragtune.evaluation.agreement import Estimate, bootstrapped, cohen_kappa, identity_weights
from ragtune.evaluation.judges import Judgement

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Bools = npt.NDArray[np.bool_]

FEWEST_RATINGS = 40
"""Rated answers that a calibration needs. Chosen by hand: the interval of a kappa of 0.6 is then about 0.3 wide to
each side, which just tells moderate agreement from none."""
LEAST_KAPPA = 0.4
"""A judge counts if the lower bound of its kappa is above this: "fair" ends and "moderate" begins (Landis and Koch
1977)."""
_FOLDS = 5
_SAMPLES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Counts of rated answers: both the judge and people say yes, only the judge does, only people do, neither does."""

    both_yes: int
    judge_yes: int
    people_yes: int
    both_no: int

    @property
    def n(self) -> int:
        """Return the number of rated answers."""
        return self.both_yes + self.judge_yes + self.people_yes + self.both_no

    @property
    def sensitivity(self) -> float:
        """Return the share of people's yes that the judge confirms; 0.0 if people never say yes."""
        yes = self.both_yes + self.people_yes
        return self.both_yes / yes if yes else 0.0

    @property
    def specificity(self) -> float:
        """Return the share of people's no that the judge confirms; 0.0 if people never say no."""
        no = self.both_no + self.judge_yes
        return self.both_no / no if no else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A judge compared with people on one question of the rubric.

    `agreement` is the share of answers on which both say the same, `bias` the judge's share of yes minus people's.
    `counts` says whether the judge's score may be used; `reason` says why not.
    """

    judge: str
    question: str
    threshold: float
    confusion: Confusion
    agreement: Estimate
    kappa: Estimate
    bias: Estimate
    counts: bool
    reason: str


def calibrate(
    judge: str, question: str, scores: Sequence[float], people: Sequence[bool], seed: int = 17
) -> Calibration:
    """Return how a judge compares with people's ratings of the same answers; raise DatasetError if there are none.

    Args:
        judge: the judge's name.
        question: the question of the rubric.
        scores: the judge's scores from 0 to 1.
        people: whether people say yes to the same answers, in the same order.
        seed: seed of the folds and of the intervals.
    """
    import numpy as np

    if not len(scores) == len(people) > 0:
        raise DatasetError(f"There are {len(scores)} scores and {len(people)} ratings.", "one rating per score")
    values, yes = np.asarray(scores, dtype=float), np.asarray(people, dtype=bool)
    verdicts = _cross_fitted(values, yes, seed)
    confusion = confusion_of(verdicts, yes)
    weights = identity_weights(2)
    kappa = bootstrapped(
        lambda draw: cohen_kappa(verdicts[draw].astype(float), yes[draw].astype(float), weights), len(yes), seed
    )
    reason = _why_not(confusion, kappa)
    return Calibration(
        judge=judge,
        question=question,
        threshold=best_threshold(values, yes),
        confusion=confusion,
        agreement=bootstrapped(lambda draw: float((verdicts[draw] == yes[draw]).mean()), len(yes), seed),
        kappa=kappa,
        bias=bootstrapped(lambda draw: float(verdicts[draw].mean() - yes[draw].mean()), len(yes), seed),
        counts=not reason,
        reason=reason,
    )


def calibrations(
    judgements: Sequence[Judgement], ratings: Mapping[tuple[str, str], bool], seed: int = 17
) -> list[Calibration]:
    """Return a calibration per judge and question with a rated answer.

    Args:
        judgements: what judges said.
        ratings: {(answer key, question of the rubric): whether people say yes}.
        seed: seed of the folds and of the intervals.
    """
    # The same answer may have been judged in several runs; the newest judgement counts.
    newest = {(j.judge, j.question, j.answer_key): j.score for j in judgements}
    rows = []
    for judge, question in sorted({(judgement.judge, judgement.question) for judgement in judgements}):
        rated = [
            (score, ratings[key, question])
            for (name, asked, key), score in newest.items()
            if (name, asked) == (judge, question) and (key, question) in ratings
        ]
        if rated:
            scores, people = zip(*rated, strict=True)
            rows.append(calibrate(judge, question, scores, people, seed))
    return rows


def best_threshold(scores: "Floats", yes: "Bools") -> float:
    """Return the threshold with the largest sensitivity + specificity (Youden 1950), halfway between two scores.

    It is 0.5 if people said only yes or only no, because then nothing can be learnt.
    """
    import numpy as np

    if yes.all() or not yes.any():
        return 0.5
    values = np.unique(scores)
    candidates = np.concatenate([[0.0], (values[1:] + values[:-1]) / 2, [1.0]])
    sums = [(scores[yes] > limit).mean() + (scores[~yes] <= limit).mean() for limit in candidates]
    return float(candidates[int(np.argmax(sums))])


def confusion_of(verdicts: "Bools", yes: "Bools") -> Confusion:
    """Return how often judge and people agree and disagree."""
    return Confusion(
        both_yes=int((verdicts & yes).sum()),
        judge_yes=int((verdicts & ~yes).sum()),
        people_yes=int((~verdicts & yes).sum()),
        both_no=int((~verdicts & ~yes).sum()),
    )


def corrected_share(yes: int, n: int, confusion: Confusion, seed: int = 17) -> Estimate:
    """Return the share of yes that people would give, from a judge's `yes` of `n` answers that nobody rated.

    This is the estimator of Rogan and Gladen (1978), cut to 0..1. The interval resamples the judged and the rated
    answers. Raises DatasetError if the judge does not tell yes from no on the rated answers.
    """
    import numpy as np

    if confusion.sensitivity + confusion.specificity <= 1:
        raise DatasetError(
            f"The judge has sensitivity {confusion.sensitivity:.2f} and specificity {confusion.specificity:.2f}.",
            "a sum above 1, as of a judge that is better than guessing",
            "rate more answers, or use another judge",
        )
    generator = np.random.default_rng(seed)
    positives, negatives = confusion.both_yes + confusion.people_yes, confusion.both_no + confusion.judge_yes
    sensitivity = generator.binomial(positives, confusion.sensitivity, _SAMPLES) / positives
    specificity = generator.binomial(negatives, confusion.specificity, _SAMPLES) / negatives
    share = generator.binomial(n, yes / n, _SAMPLES) / n
    usable = sensitivity + specificity > 1
    corrected = np.clip((share + specificity - 1)[usable] / (sensitivity + specificity - 1)[usable], 0, 1)
    low, high = np.quantile(corrected, [0.025, 0.975])
    value = (yes / n + confusion.specificity - 1) / (confusion.sensitivity + confusion.specificity - 1)
    return Estimate(min(1.0, max(0.0, value)), float(low), float(high))


def _cross_fitted(scores: "Floats", yes: "Bools", seed: int) -> "Bools":
    """Return the verdict on each answer by the threshold of the answers in the other folds."""
    import numpy as np

    folds = np.random.default_rng(seed).permutation(len(scores)) % _FOLDS
    verdicts = np.zeros(len(scores), dtype=bool)
    for fold in range(_FOLDS):
        others = folds != fold
        limit = best_threshold(scores[others], yes[others]) if others.any() else 0.5
        verdicts[~others] = scores[~others] > limit
    return verdicts


def _why_not(confusion: Confusion, kappa: Estimate) -> str:
    """Return why a judge does not count, or "" if it does."""
    if confusion.n < FEWEST_RATINGS:
        return f"{confusion.n} rated answers; {FEWEST_RATINGS} are needed."
    if kappa.low <= LEAST_KAPPA:
        return f"kappa {kappa}: the lower bound has to be above {LEAST_KAPPA}."
    return ""
