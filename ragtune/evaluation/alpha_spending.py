"""Spends the gate's chance of error over many looks at the same questions.

If 20 useless candidates are each tested at 5% on independent questions, one of them is promoted in 64% of all cases.
Here each is tested at 5% / 20, and only refusals spend: a candidate that was promoted was better, or it was the one
error that the 5% allow. After `gate_looks` refusals nothing is left, and the questions have to be replaced.

Why it holds: until the first useless candidate is promoted, every useless candidate before it was a refusal, so at most
`gate_looks` useless candidates are tested. Each is promoted with a chance of at most alpha / gate_looks, whatever the
candidates have in common, so the chance that any is promoted is at most alpha (Bonferroni). A better candidate that is
promoted costs nothing, as in the fallback procedure of Wiens and Dmitrienko 2005, which passes the alpha of a rejected
hypothesis on.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

from ragtune.records import GateLook, content_id
from ragtune.settings import EvaluationSettings

POWER = 0.8
"""Share of tests that find the gain that they are planned for; the convention of Cohen 1988."""
PLANNED_SPREAD = 0.36
"""Standard deviation of a question's gain that everything plans with before both models have answered.

It is that of two models which are right or wrong and disagree on 13% of the questions: 0.351 with 12.5% in
benchmarks/experiments/gate.json, rounded up. Two versions that hardly differ have less: 0.19 token F1 between the
fine-tuned model and its base, from the interval in benchmarks/default_model/answers.json. Planning with that would
promise too much: a gain of five points alone, without a single loss, has 0.22. The page of the gate says how many
questions the spread of the models at hand needs.
"""


def gate_look(
    live_version: str, candidate_version: str, question_ids: Iterable[str], alpha: float, promoted: bool
) -> GateLook:
    """Return the record of a look; the same comparison always has the same id."""
    ids = sorted(question_ids)
    return GateLook(
        id=content_id(live_version, candidate_version, *ids),
        live_version=live_version,
        candidate_version=candidate_version,
        alpha=alpha,
        promoted=promoted,
        question_ids=json.dumps(ids),
    )


def refusals_by_question(looks: Sequence[GateLook]) -> Counter[str]:
    """Return how many candidates were refused on each question."""
    return Counter(question for look in looks if not look.promoted for question in json.loads(look.question_ids))


def refusals_on(question_ids: Iterable[str], looks: Sequence[GateLook]) -> int:
    """Return how many candidates were refused on these questions: the count of the question that was used most."""
    counts = refusals_by_question(looks)
    return max((counts[question] for question in question_ids), default=0)


def spent_questions(looks: Sequence[GateLook], settings: EvaluationSettings) -> set[str]:
    """Return the ids of the questions on which as many candidates were refused as alpha is spent over."""
    return {question for question, count in refusals_by_question(looks).items() if count >= settings.gate_looks}


def alpha_of_look(settings: EvaluationSettings) -> float:
    """Return the level of one look."""
    return settings.alpha / settings.gate_looks


def alpha_left(refusals: int, settings: EvaluationSettings) -> float:
    """Return how much of alpha is left after this many refusals."""
    return settings.alpha * max(0.0, 1 - refusals / settings.gate_looks)


def questions_needed(gain: float, spread: float, alpha: float, power: float = POWER) -> int:
    """Return the number of questions at which a one-sided test finds this gain with this power.

    Args:
        gain: true mean gain, above 0.
        spread: standard deviation of a question's gain.
        alpha: one-sided level of the test.
        power: chance of finding the gain, in (0, 1).
    """
    normal = NormalDist()
    return math.ceil(((normal.inv_cdf(1 - alpha) + normal.inv_cdf(power)) * spread / gain) ** 2)


def power_with(n: int, needed: int, alpha: float, power: float = POWER) -> float:
    """Return the chance that n questions find the gain that `needed` questions find with this power.

    It solves the formula of `questions_needed` for the power, with the same spread and gain. The exact sign test, which
    the gate asks as well, finds less with few questions: with 120 in 36% of cases instead of 45%
    (benchmarks/experiments/gate.json).
    """
    if not n or not needed:
        return 0.0
    normal = NormalDist()
    critical = normal.inv_cdf(1 - alpha)
    return normal.cdf(math.sqrt(n / needed) * (critical + normal.inv_cdf(power)) - critical)


def power_facts(gate: Mapping[str, Any]) -> dict[str, float]:
    """Return how likely a decision's questions found the planned gain, and how many find it in 80% of cases.

    `gate` holds the fields of a `GateDecision`; the result is empty for one of an early release.
    """
    needed = int(gate.get("questions_needed", 0))
    if not needed:
        return {}
    return {
        "power for the planned gain": round(power_with(int(gate["n"]), needed, float(gate["alpha"])), 3),
        "questions for a power of 0.8": needed,
    }


def gate_items(settings: EvaluationSettings) -> int:
    """Return how many questions the gate asks; for `gate_items: 0`, what 80% power for `gate_gain` takes."""
    return settings.gate_items or questions_needed(settings.gate_gain, PLANNED_SPREAD, alpha_of_look(settings))
